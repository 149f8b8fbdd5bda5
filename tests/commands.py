"""Starts programs of the repository as users do: in a process, with one device."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# One device, as users have it; the rest is as tests/conftest.py sets it.
_FLAGS = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
ENVIRONMENT = {**os.environ, "XLA_FLAGS": " ".join(_FLAGS), "JAX_PLATFORMS": "cpu"}


def run(module, *flags, cwd=ROOT, environment=ENVIRONMENT):
  """Runs `python -m module` to its end."""
  return python("-m", module, *flags, cwd=cwd, environment=environment)


def python(*words, cwd=ROOT, environment=ENVIRONMENT):
  """Runs the interpreter of the tests to its end."""
  return subprocess.run(
    [sys.executable, *map(str, words)],
    cwd=cwd,
    env=environment,
    capture_output=True,
    text=True,
    timeout=1800,
  )
