"""Trainings with the published settings, in the time that is given."""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ace_jax import task
from ace_jax.training import epochs, loop, parallel
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
  own = _SMALL if sizes == "small" else {}
  return {
    "nbody": functools.partial(_nbody, own),
    "mocap": functools.partial(_mocap, own, "prepared" if data_folder else "synthetic"),
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


def _nbody(own: Mapping[str, int]) -> tuple[problems.Problem, Settings]:
  settings = nbody_preset("paper", **own)
  data = nbody.first(dataset(), 300) if own else dataset()
  return nbody_run.make_problem(settings, data), settings


def _mocap(own: Mapping[str, int], source: str) -> tuple[problems.Problem, Settings]:
  settings = mocap_preset("paper", "egno", **own)
  data = mocap.load("run", source, train=24 if own else None)
  return mocap_run.make_problem(settings, data), settings


def train(make: Make, deadline: float) -> Iterator[dict[str, Any]]:
  """Trains all seeds as replicas of one program; yields what is known, and at last the tests.

  Args:
    make: Of `makers`.
    deadline: When to stop, in seconds of `time.monotonic`; tests follow.
  """
  began = time.monotonic()
  problem, settings = make()
  mesh = parallel.default_mesh(len(SEEDS))
  begin = problems.start([settings.replace(seed=seed) for seed in SEEDS], problem)
  states = parallel.shard_replicas(parallel.pad(begin, mesh), mesh)
  train_data, valid = parallel.replicate((problem.train, problem.valid), mesh)
  run_epoch = epochs.compile_epoch(
    problems.method(settings, problem), mesh, settings.training.batch_size
  )
  evaluate = epochs.compile_evaluation(
    problem.task, mesh, problem.eval_batch_size, settings.training.patience
  )
  about = {
    "model": problem.model,
    "data": problem.summary["source"],
    "train_samples": task.size(problem.train),
    "seeds": [*SEEDS],
    "published_epochs": settings.training.epochs,
  }
  done, said, first = 0, began, time.monotonic()
  while done < settings.training.epochs and (not done or time.monotonic() < deadline):
    states, _ = jax.block_until_ready(run_epoch(states, train_data))
    done += 1
    if done == 1:
      first = time.monotonic()
    if done % settings.training.eval_every == 0 or done == 1:
      states, errors = evaluate(states, valid)
      if time.monotonic() - said > _REPORT_EVERY:
        said = time.monotonic()
        yield {**about, **_progress(done, began, first), "valid": _shown(errors)}
  states, errors = evaluate(states, valid)
  alone = parallel.select(states, slice(len(SEEDS)))
  tests = loop.test_errors(problem.task, alone, problem.test, problem.eval_batch_size, mesh)
  found = {name: [test[name] for test in tests] for name in tests[0]}
  yield {
    **about,
    **_progress(done, began, first),
    "valid": _shown(errors),
    "test": _shown(found),
    "linear_test": problem.summary["linear_mse"]["test"],
    "failed": int(np.sum(np.asarray(alone.failed) > 0)),
  }


def _progress(done: int, began: float, first: float) -> dict[str, Any]:
  now = time.monotonic()
  seconds = (now - first) / (done - 1) if done > 1 else None
  return {
    "epochs": done,
    "seconds": round(now - began, 1),
    "seconds_an_epoch": None if seconds is None else float(f"{seconds:.4g}"),
  }


def _shown(errors: dict[str, Any]) -> dict[str, Any]:
  """Returns mean and standard deviation over the seeds, and each of them."""
  found = {}
  for name, values in errors.items():
    values = np.asarray(values, np.float64)[: len(SEEDS)]
    each = [float(f"{value:.5g}") for value in values]
    found[name] = {
      "mean": float(f"{values.mean():.5g}"),
      "deviation": float(f"{values.std(ddof=1):.3g}"),
      "each": each,
    }
  return found
