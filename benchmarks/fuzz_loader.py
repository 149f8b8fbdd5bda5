"""A loader under attack, and what it may answer."""

import contextlib
import dataclasses
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ace_jax import signals

LONGEST = 10
"""Seconds after which a case counts as hung."""


class Finding(AssertionError):
  """A loader answered what it may not."""


@dataclasses.dataclass(frozen=True)
class Loader:
  """A loader under attack.

  Attributes:
    cases: Broken files.
    load: Gives one to the loader, and checks what comes back; raises Finding.
    errors: What the loader may raise.
    outside: Folder that must stay empty: files appear there if something escapes or is unpickled.
  """

  cases: st.SearchStrategy[bytes]
  load: Callable[[bytes], None]
  errors: tuple[type[Exception], ...]
  outside: Path

  def answers(self, content: bytes) -> bool:
    """Whether a case is loaded (else refused); raises Finding."""
    try:
      with _limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        self.load(content)
        loaded = True
    except self.errors as error:
      loaded = False
      if "\n" in str(error) or not str(error):
        raise Finding(f"an error of no or several lines: {error!r}") from error
    except Finding:
      raise
    except Exception as error:
      raise Finding(f"{type(error).__name__}: {error}"[:300]) from error
    escaped = [*self.outside.iterdir()]
    if escaped:
      for path in escaped:
        path.unlink()
      raise Finding(f"something wrote {escaped[0].name}")
    return loaded


class _Hang(BaseException):
  pass


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  def stop(*_: Any) -> None:
    raise _Hang

  with signals.handling(stop, signal.SIGALRM):
    signal.alarm(LONGEST)
    try:
      yield
    except _Hang as hang:
      raise Finding(f"hung for {LONGEST} s") from hang
    finally:
      signal.alarm(0)


def expect(holds: Any, what: str) -> None:
  """Raises Finding if something does not hold; says what is wrong then."""
  if not holds:
    raise Finding(what)


def sound(splits: list[dict[str, np.ndarray]]) -> None:
  """Raises Finding unless splits hold finite float32 arrays, of one length in a split."""
  for split in splits:
    for name, array in split.items():
      expect(array.dtype == np.float32, f"{name} is {array.dtype}")
      expect(array.size and np.isfinite(array).all(), f"{name} is empty or not finite")
    expect(len({len(array) for array in split.values()}) == 1, "fields of different lengths")


def packed(content: bytes) -> bytes:
  """Takes the blanks after commas out again, which tell `broken_text` where words end."""
  return content.replace(b", ", b",")
