"""`experiments.nbody` and its like, started with flags, small ones for a training."""

from tests import commands

TINY = ["--epochs=2", "--batch_size=10", "--hidden_features=6", "--layers=1", "--eval_every=1"]


def run(*arguments):
  return run_module("nbody", *arguments)


def run_module(module, *arguments):
  return commands.run(f"experiments.{module}", *arguments)


def refuses(done, code, *says):
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ")
  for text in says:
    assert text in last
