"""Trainings with the published settings, in the time that is given."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ace_jax import task
from ace_jax.training import history, loop, measuring, parallel
from benchmarks import steps
from data import mocap, nbody
from experiments.harness import problems
from experiments.harness.settings import Settings
from experiments.mocap import run as mocap_run
from experiments.mocap.settings import preset as mocap_preset
from experiments.nbody import run as nbody_run
from experiments.nbody.settings import preset as nbody_preset

SEEDS = (0, 1, 2, 3, 4)
_REPORT_EVERY = 15.0  # seconds

_SMALL = {"hidden_features": 8, "layers": 1, "epochs": 6, "eval_every": 2}

Make = Callable[[], tuple[problems.Problem, Settings]]


def makers(sizes: str, data_folder: str | None) -> dict[str, Make]:
  """Returns the trainings; each makes its problem and its settings.

  Args:
    sizes: "published" or "small".
    data_folder: Folder with prepared motion capture; without it the walker is synthetic.
  """
  reduced = _SMALL if sizes == "small" else {}
  return {
    "nbody": functools.partial(_nbody, reduced),
    "mocap": functools.partial(_mocap, reduced, "prepared" if data_folder else "synthetic"),
  }


@functools.cache
def dataset() -> nbody.Dataset:
  """Simulates the N-body data set, or takes it from before."""
  with tempfile.TemporaryDirectory() as folder:
    return nbody.load(cache=Path(folder))


def segnn() -> steps.Problem:
  """Returns the published N-body step on simulated data."""
  data = dataset()
  problem = steps.segnn()
  return steps.Problem("segnn", problem.network, problem.inputs, data.train, problem.batch_size)


def _nbody(reduced: Mapping[str, int]) -> tuple[problems.Problem, Settings]:
  settings = nbody_preset("paper", **reduced)
  data = nbody.first(dataset(), 300) if reduced else dataset()
  return nbody_run.make_problem(settings, data), settings


def _mocap(reduced: Mapping[str, int], source: str) -> tuple[problems.Problem, Settings]:
  settings = mocap_preset("paper", "egno", **reduced)
  data = mocap.load("run", source, train=24 if reduced else None)
  return mocap_run.make_problem(settings, data), settings


class _Said:
  """Prints how far a training is, every now and then.

  Args:
    model: What it is called.
  """

  def __init__(self, model: str):
    self._model, self._said = model, time.monotonic()

  def log(self, record: history.Record) -> None:
    """Prints the epoch and the means over the seeds of what was evaluated after it."""
    if time.monotonic() - self._said > _REPORT_EVERY:
      self._said = time.monotonic()
      valid = {name: f"{error:.5g}" for name, error in history.of_kind(record, "valid").items()}
      print(f"{self._model}: epoch {record['epoch']}, validation errors {valid}", flush=True)

  def close(self) -> None:
    """Has nothing to do."""


def train(make: Make, deadline: float) -> dict[str, Any]:
  """Trains all seeds as replicas of one program, and returns what came out.

  Args:
    make: Of `makers`.
    deadline: When to stop, in seconds of `time.monotonic`; tests follow.
  """
  began = time.monotonic()
  problem, settings = make()
  mesh = parallel.default_mesh(len(SEEDS))
  end, records = loop.train(
    problems.method(settings, problem),
    problems.start([settings.replace(seed=seed) for seed in SEEDS], problem),
    problem.train,
    problem.valid,
    problems.training_settings(settings.training, problem),
    mesh=mesh,
    names=[f"seed{seed}" for seed in SEEDS],
    progress=lambda done: _Said(problem.model),
    until=lambda epoch: time.monotonic() >= deadline,
  )
  tests = measuring.test_errors(problem.task, end, problem.test, problem.eval_batch_size, mesh)
  evaluated = [
    next(r for r in reversed(curve) if "valid/projection" in r) for curve in records if curve
  ]
  longest = max(records, key=len)
  after_first = [record["seconds"] for record in longest[1:]]
  return {
    "model": problem.model,
    "data": problem.summary["source"],
    "train_samples": task.size(problem.train),
    "seeds": [*SEEDS],
    "published_epochs": settings.training.epochs,
    "epochs": len(longest),
    "seconds": round(time.monotonic() - began, 1),
    "seconds_an_epoch": float(f"{statistics.mean(after_first):.4g}") if after_first else None,
    "valid": _shown([history.of_kind(record, "valid") for record in evaluated]),
    "test": _shown(tests),
    "linear_test": problem.summary["linear_mse"]["test"],
    "failed": int(np.sum(np.asarray(end.failed) > 0)),
  }


def _shown(errors: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  """Returns mean and standard deviation over the seeds, and each of them, of every predictor."""
  shown = {}
  for name in errors[0]:
    values = [seed[name] for seed in errors]
    shown[name] = {
      "mean": float(f"{statistics.mean(values):.5g}"),
      "deviation": float(f"{statistics.stdev(values):.3g}") if len(values) > 1 else 0.0,
      "each": [float(f"{value:.5g}") for value in values],
    }
  return shown
