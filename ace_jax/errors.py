"""Errors that a user can cause, and the exit code with which a program should end on them."""

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or its type's name where there is none."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """Returns "did you mean NAME?" with the nearest known name, "" where none is near."""
  near = difflib.get_close_matches(name, [*known], 1, cutoff=0.5)
  return f"did you mean {near[0]}?" if near else ""


class AceError(Exception):
  """Base of every error of this package; its message is one line that says how to mend it."""

  exit_code = 1


class ConfigurationError(AceError, ValueError):
  """Settings that contradict each other, the data or the workdir."""

  exit_code = 2


class CheckpointError(AceError):
  """A checkpoint cannot be written, or none can be read."""


class MissingPackageError(AceError, ImportError):
  """An optional package is not installed; names the extra that brings it."""


class InstallationError(AceError, ImportError):
  """Another project has written into this package's folder; says how to part the two."""

  exit_code = 2


class RecordsError(AceError):
  """The records of a run cannot be read; names the line."""


class HostError(AceError):
  """Another process of the run is gone, or never came."""


class NonFiniteError(AceError, ArithmeticError):
  """Training produced a NaN or an infinity; names the epoch and the step."""


class Interrupted(AceError):
  """A program was asked to end by a signal, and has saved what it could.

  Args:
    message: What was asked for, and what was saved.
    number: The signal, from which a shell's exit code follows; None if it ended as planned.
  """

  exit_code = 0

  def __init__(self, message: str, number: int | None = None):
    super().__init__(message)
    self.number = number
    self.exit_code = 0 if number is None else 128 + number
