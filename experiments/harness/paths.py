"""Flags that are paths: a leading ~ is the home folder, which a shell leaves as it is after a =."""

import os
from typing import Any

from absl import flags

flags.disclaim_key_flags()  # they are those of the module that defines them


class _PathParser(flags.ArgumentParser):
  syntactic_help = "a path"

  def parse(self, argument: str) -> str:
    return _expanded(argument)

  def flag_type(self) -> str:
    return "string"


class _PathsParser(flags.ListParser):
  def parse(self, argument: str | list[str]) -> list[str]:
    return [_expanded(path) for path in super().parse(argument) or [""]]


def DEFINE_path(name: str, default: str | None, help: str, **options: Any) -> None:
  """Defines a flag that is a path, as `flags.DEFINE_string` does."""
  flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer(), **options)


def DEFINE_paths(name: str, default: list[str] | None, help: str) -> None:
  """Defines a flag that is several paths, by commas, as `flags.DEFINE_list` does."""
  flags.DEFINE(_PathsParser(), name, default, help, serializer=flags.CsvListSerializer(","))


def _expanded(path: str) -> str:
  if not path:  # as of a variable that the shell does not know
    raise ValueError("a path is empty; write one, or leave the flag out.")
  expanded = os.path.expanduser(path)
  if expanded.startswith("~"):
    raise ValueError(f"the home folder of {path} is not known; write the whole path.")
  return expanded
