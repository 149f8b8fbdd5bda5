"""`experiments.nbody` and its like, started with flags, small ones for a training."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TINY = ["--epochs=2", "--batch_size=10", "--hidden_features=6", "--layers=1", "--eval_every=1"]
# One device, as users have it; the rest is as tests/conftest.py sets it.
_FLAGS = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
ENVIRONMENT = {**os.environ, "XLA_FLAGS": " ".join(_FLAGS)}


def run(*arguments):
  return run_module("nbody", *arguments)


def run_module(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
    cwd=ROOT,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=300,
  )


def refuses(done, code, *says):
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ")
  for text in says:
    assert text in last
