"""Stand-ins for packages that a machine does not have, so that what does not use them runs."""

import importlib.util
import sys
import types
from collections.abc import Sequence


def allow_absent(names: Sequence[str]) -> list[str]:
  """Makes packages that are not installed importable; returns their names.

  A stand-in's attributes exist, but using one raises ModuleNotFoundError with the package's name.
  """
  absent = [name for name in names if importlib.util.find_spec(name) is None]
  for name in absent:
    sys.modules[name] = _Absent(name)
  return absent


class _Absent(types.ModuleType):
  def __getattr__(self, name: str) -> type:
    if name.startswith("__"):
      raise AttributeError(name)
    return _Unusable(name, (), {"__module__": self.__name__})


class _Unusable(type):
  """Classes that can stand in a type annotation and do nothing else."""

  def __call__(cls, *_, **__):
    raise ModuleNotFoundError(f"needs {cls.__module__}, which is not installed")

  def __getattr__(cls, name: str):
    if name.startswith("__"):
      raise AttributeError(name)
    return cls()
