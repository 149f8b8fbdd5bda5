"""The command line of a benchmark: --help ends with 0, what is wrong in one line, with 1 or 2."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from data.errors import DataError
from experiments.harness import folders
from experiments.harness.app import open_streams, parse
from experiments.harness.usage import UsageError


def launch(main: Callable[[list[str]], None], arguments: int = 0) -> None:
  """Parses the flags and runs a benchmark.

  Args:
    main: Called with the name of the program and its arguments.
    arguments: How many there may be beside flags.
  """

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1 + arguments:
      _refuse(f"unexpected argument {argv[1 + arguments]!r}; flags start with --.")
    for name in flags.FLAGS:
      number = flags.FLAGS[name].value
      if isinstance(number, float) and not math.isfinite(number):  # absl's bounds let NaN pass
        _refuse(f"--{name}={number} must be finite.")
    try:
      main(argv)
    except (app.UsageError, UsageError) as error:
      _refuse(str(error))
    except DataError as error:
      _refuse(str(error), 1)

  open_streams()
  app.run(guarded, flags_parser=parse)


def report_path(path: str) -> Path:
  """Returns where --out says that a report goes, before anything is measured.

  Args:
    path: The file; its folder is made if missing.

  Raises:
    UsageError: it cannot be written there.
  """
  if Path(path).is_dir():
    raise UsageError(f"--out={path} is a folder; name a file in it.")
  folders.tried(Path(path).parent, "out")
  return Path(path)


def _refuse(message: str, code: int = 2) -> None:
  sys.stderr.write(f"error: {message}\n")
  sys.exit(code)
