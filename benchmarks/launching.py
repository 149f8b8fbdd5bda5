"""The command line of a benchmark: --help ends with 0, what is wrong in one line and with 2."""

import sys
from collections.abc import Callable

from absl import app

from experiments.harness.app import open_streams, parse


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
    except app.UsageError as error:
      _refuse(str(error))

  open_streams()
  app.run(guarded, flags_parser=parse)


def _refuse(message: str) -> None:
  sys.stderr.write(f"error: {message}\n")
  sys.exit(2)
