"""Times `experiments.nbody` from the launch of Python to its first training steps, cold and warm.

Cold has an empty cache folder, so that everything is compiled and the data are simulated; warm
has the folder that the cold start left. A training set of 200 makes the first epoch, which is one
device program, end after two steps. Beside it, the seconds of --help, and what part of the time to
the first two steps of `fit` its check of model and loss takes, cold and warm too. The last line of
the output is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

import ace_jax
from ace_jax import checking, task
from ace_jax.training import history
from benchmarks import launching, machine, steps


def first_steps(home: str) -> float:
  """Returns the seconds from launch to the second step of a run, its caches below `home`."""
  environment = {**os.environ, "XDG_CACHE_HOME": home}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, "-m", "experiments.nbody", "--train_samples=200", "--epochs=1"]
    launched = time.time()
    command.append(f"--workdir={workdir}")
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return round(history.read(Path(workdir) / history.FILE)[0]["time"] - launched, 1)


def help_seconds(experiment: str) -> float:
  """Returns the median time of three calls of an experiment's --help."""
  times = []
  for _ in range(3):
    begin = time.perf_counter()
    command = [sys.executable, "-m", f"experiments.{experiment}", "--help"]
    subprocess.run(command, capture_output=True, check=True)
    times.append(time.perf_counter() - begin)
  return round(statistics.median(times), 2)


def check() -> dict[str, float]:
  """Returns the seconds of the check of `fit`, of `fit` to its first epoch, and their ratio in %.

  Of the SEGNN of published size; an epoch is two steps.
  """
  problem = steps.segnn(batches=2)
  sample = task.take(problem.data, slice(0, 2))
  variables = jax.jit(problem.network.init)(jax.random.key(0), *problem.inputs(sample))
  learned = task.from_model(problem.network, steps.squared_error, problem.inputs)
  begin = time.time()
  checking.require(learned, variables, sample, ace_jax.Equality(), strict=False)
  checked = time.time()
  run = ace_jax.fit(
    problem.network,
    steps.squared_error,
    problem.data,
    sample,
    inputs=problem.inputs,
    batch_size=problem.batch_size,
    epochs=1,
    progress=None,
  )
  seconds, whole = checked - begin, run.history[0]["time"] - checked
  return {
    "check_seconds": round(seconds, 2),
    "fit_seconds": round(whole, 2),
    "check_percent": round(100 * seconds / whole, 1),
  }


def check_afresh(folder: str) -> dict[str, float]:
  """Returns `check()` of a new process whose compiled programs are kept in a folder."""
  environment = {
    **os.environ,
    "JAX_COMPILATION_CACHE_DIR": folder,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  code = "import json; from benchmarks import startup; print(json.dumps(startup.check()))"
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  answers = {name: help_seconds(name) for name in ("nbody", "mocap", "sweep")}
  with tempfile.TemporaryDirectory() as home:
    cold = first_steps(home)
    warm = first_steps(home)
  product = round(machine.product_ms(), 1)
  report = {"benchmark": "startup", "cold_seconds": cold, "warm_seconds": warm}
  report["help_seconds"] = answers
  with tempfile.TemporaryDirectory() as folder:
    report["check"] = check_afresh(folder)
    report["check_warm"] = check_afresh(folder)
  print(json.dumps({**report, "product_ms": product, "machine": machine.describe()}))


if __name__ == "__main__":
  launching.launch(main)
