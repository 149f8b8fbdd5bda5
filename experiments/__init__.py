"""Experiment binaries: `python -m experiments.NAME --help`."""

import sys

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m`
  from experiments.harness import interrupts

  interrupts.install()
