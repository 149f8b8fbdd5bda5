"""Ctrl-C and SIGTERM at any moment: one line, which says where things are and how to go on.

`install` is called by the first import of a command. From then on a signal ends the process at
once, with the exit code of a shell, 130 or 143: what is on the disk is whole or is not counted, so
that nothing has to be put in order, and threads that would complain at the end of the interpreter
have no time to. A training takes the first signal itself, and saves; the second ends it.

Imports nothing that takes time.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM)


class _Command:
  """What this process was asked to do, and where it writes.

  Attributes:
    folder: Where it writes; None as long as that is not settled.
    flags: What is added to the command, to go on with it.
    installed: Whether the signals are handled here.
  """

  installed: bool = False
  folder: str | None = None
  flags: tuple[str, ...] = ()


def install() -> None:
  """Ends the process with one line when Ctrl-C or SIGTERM comes."""
  _Command.installed = True
  for number in _ENDING:
    signal.signal(number, _end_at_once)


def work_in(folder: os.PathLike[str] | str, flags: Sequence[str] = ()) -> None:
  """Remembers the folder in which a command works.

  Args:
    folder: Where it writes.
    flags: What the command needs to go on there, such as --resume; added where it is not given.
  """
  _Command.folder, _Command.flags = os.fspath(folder), tuple(flags)


def command() -> str:
  """Returns the command line with which to go on."""
  words = sys.orig_argv[1:]
  after = words.index("-m") + 1 if "-m" in words else 0
  module, *given = words[after:] or [""]
  end = given.index("--") if "--" in given else len(given)
  names = {word.lstrip("-").partition("=")[0] for word in given[:end]}
  added = [flag for flag in _Command.flags if flag.lstrip("-").partition("=")[0] not in names]
  start = ["python", "-m"] if after else ["python"]
  return shlex.join([*start, module, *given[:end], *added, *given[end:]])


def line(said: str) -> str:
  """Returns the line that ends an interrupted command.

  Args:
    said: By what it was interrupted, and what was saved.
  """
  if _Command.folder is None:
    return f"{said}; nothing was written yet; begin again with: {command()}"
  folder = "" if _Command.folder in said else f"; what is finished is in {_Command.folder}"
  return f"{said}{folder}; go on with: {command()}"


def end(said: str, code: int) -> NoReturn:
  """Ends the process with a line, and without the end of the interpreter.

  Args:
    said: The line.
    code: The exit code.
  """
  ignore()
  with contextlib.suppress(Exception):  # of a stream that is closed, or was just being flushed
    sys.stdout.flush()
  before = "\n" if os.isatty(2) else ""  # below a progress bar
  with contextlib.suppress(OSError):
    os.write(2, f"{before}{said}\n".encode(errors="backslashreplace"))
  os._exit(code)


def ignore() -> None:
  """Lets a command that is about to end by itself do so."""
  for number in _ENDING:
    if _Command.installed:
      signal.signal(number, signal.SIG_IGN)


def _end_at_once(number: int, frame: Any) -> NoReturn:
  del frame
  ignore()
  name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
  end(line(f"interrupted ({name})"), 128 + number)
