"""Measured speeds: `python -m benchmarks.NAME` ends with one line of JSON."""

import sys

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m`
  from experiments.harness import interrupts

  interrupts.install()
