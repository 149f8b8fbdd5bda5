"""The command line of a benchmark: --help ends with 0, what is wrong in one line, with 1 or 2."""

import sys
from collections.abc import Callable

from absl import app

from data.errors import DataError
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
    try:
      main(argv)
    except (app.UsageError, UsageError) as error:
      _refuse(str(error))
    except DataError as error:
      _refuse(str(error), 1)

  open_streams()
  app.run(guarded, flags_parser=parse)


def _refuse(message: str, code: int = 2) -> None:
  sys.stderr.write(f"error: {message}\n")
  sys.exit(code)
