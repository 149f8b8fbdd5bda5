"""The N-body task: from frame 30 of a trajectory predict the positions at frame 40.

Simulated (`data.nbody.physics`) and cached, or read from files (`data.nbody.files`). Trajectory i
of a seed is always the same one: training sets are [0, 10000), validation [10000, 12000), test
[12000, 14000).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs

from data import cache as cached
from data.errors import RequestError
from data.machine import cores
from data.nbody import physics as simulation
from data.nbody.neighbours import nearest
from data.nbody.physics import Physics
from data.paths import expanded
from data.requests import LARGEST_TRAIN, Breaking, check_trajectories

Split = dict[str, np.ndarray]

INPUT_FRAME, TARGET_FRAME = 30, 40
FIRST_INDEX = {"train": 0, "valid": 10_000, "test": 12_000}
LARGEST = {"train": LARGEST_TRAIN, "valid": 2_000, "test": 2_000}
SHOWN = 4
"""Test trajectories whose frames between input and target are kept, for figures."""

_VERSION = 1
_CHUNK = 512
FIELDS = ("positions", "velocities", "charges", "targets")
CACHED = tuple(f"{split}_{field}" for split in FIRST_INDEX for field in FIELDS)
CACHED += ("paths", "energy_drift")
"""Arrays of a cache of simulated trajectories."""


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Trajectories, split.

  Attributes:
    train: `positions` and `velocities` [n, particles, 3] at frame 30, `charges` [n, particles]
      (masses for gravity), `targets` [n, particles, 3], the positions at frame 40; float32. Where
      not all interact, `senders` [n, particles, neighbours], int32 (`with_neighbours`).
    valid: The same, for validation.
    test: The same, for test.
    summary: Where the data come from, sizes, numbers of particles and of neighbours, errors of
      the linear prediction x + v t, and the energy drift.
    paths: Positions of the first test trajectories from frame 30 to 40, [shown, 11, particles,
      3]; None where only the end points are known.
  """

  train: Split
  valid: Split
  test: Split
  summary: dict[str, Any]
  paths: np.ndarray | None = None


def load(
  system: str = "charged",
  particles: int = 5,
  train: int = 3000,
  data_seed: int = 0,
  symmetry_breaking: str | None = None,
  breaking_from: str = "input",
  clip: str = "component",
  cache: str | Path | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
  """Simulates the data set, or reads it from the cache of an earlier simulation.

  Args:
    system: "charged" or "gravity".
    particles: Particles in a trajectory.
    train: Training trajectories (validation and test have 2000 each).
    data_seed: Seed of the initial values.
    symmetry_breaking: "gravity:G", "wind:W", "anisotropy:A" or None.
    breaking_from: "input": the field acts after frame 30 only, so that the input does not show
      it. "start": from the beginning.
    clip: Force clip by "component" or by "norm".
    cache: Folder of cached simulations, in which a leading ~ is the home folder; the user's cache
      folder by default.
    progress: Called with (trajectories done, all) while simulating.

  Raises:
    DataError: sizes or settings out of range.
  """
  sizes = {"train": train, "valid": LARGEST["valid"], "test": LARGEST["test"]}
  check_trajectories(train)
  if particles < 2:
    raise RequestError(f"{particles} particles asked for; a trajectory needs at least 2.")
  breaking = Breaking.parse(symmetry_breaking)
  settings = {
    "version": _VERSION,
    "system": system,
    "particles": particles,
    "sizes": sizes,
    "data_seed": data_seed,
    "breaking": dataclasses.asdict(breaking),
    "breaking_from": breaking_from if breaking.kind else None,
    "clip": clip,
  }
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
  folder = platformdirs.user_cache_path("ace_jax") / "nbody" if cache is None else expanded(cache)
  path = folder / f"{system}{particles}_{digest}.npz"
  arrays = cached.read(path, CACHED)
  source = "cache"
  if arrays is None:
    source = "simulation"
    physics = Physics(system, clip, breaking)
    arrays = _simulate(physics, particles, sizes, data_seed, breaking_from, progress)
    cached.write(path, arrays)
  splits = as_splits(arrays)
  summary = {
    "source": source,
    "cache": str(path),
    "sizes": sizes,
    "particles": particles,
    "energy_drift": None if breaking.kind else _drift(arrays["energy_drift"]),
    "linear_mse": {name: linear_error(split) for name, split in splits.items()},
  }
  return Dataset(**splits, summary=summary, paths=arrays["paths"])


def first(data: Dataset, train: int) -> Dataset:
  """Returns the data set with its first so many training trajectories.

  Raises:
    DataError: there are fewer.
  """
  available = len(data.train["positions"])
  if not 1 <= train <= available:
    raise RequestError(
      f"{train} training trajectories asked for, but there are {available}: lower --train_samples."
    )
  split = {field: array[:train] for field, array in data.train.items()}
  sizes = {**data.summary["sizes"], "train": train}
  linear = {**data.summary["linear_mse"], "train": linear_error(split)}
  return dataclasses.replace(
    data, train=split, summary={**data.summary, "sizes": sizes, "linear_mse": linear}
  )


def as_splits(arrays: dict[str, np.ndarray]) -> dict[str, Split]:
  """Returns arrays SPLIT_FIELD as splits, float32."""
  return {
    name: {field: arrays[f"{name}_{field}"].astype(np.float32) for field in FIELDS}
    for name in FIRST_INDEX
  }


def with_neighbours(data: Dataset, count: int) -> Dataset:
  """Returns the data set with edges: into every particle from its nearest at the input frame.

  Args:
    data: Of any number of particles.
    count: Neighbours of a particle. With all the others nothing is added: all pairs interact, as
      they do without edges.

  Raises:
    RequestError: a particle has not so many others.
  """
  others = data.train["positions"].shape[1] - 1
  summary = {**data.summary, "neighbours": count}
  if count == others:
    return dataclasses.replace(data, summary=summary)
  splits: dict[str, Split] = {}
  for name in FIRST_INDEX:
    split: Split = getattr(data, name)
    splits[name] = {**split, "senders": nearest(split["positions"], count)}
  return dataclasses.replace(data, **splits, summary=summary)


def linear_error(split: Split) -> float:
  """Returns the mean squared error of predicting x + v t, t = 1 being the time between frames."""
  time = (TARGET_FRAME - INPUT_FRAME) * simulation.STEPS_PER_FRAME * simulation.DT
  error = split["positions"] + time * split["velocities"] - split["targets"]
  return float(np.mean(np.square(error, dtype=np.float64)))


def simulate(
  physics: Physics,
  particles: int,
  index: np.ndarray,
  data_seed: int,
  breaking_from: str = "input",
  progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
  """Simulates trajectories from the start to frame 40.

  Args:
    physics: Which forces; without its breaking before frame 30 if `breaking_from` is "input".
    particles: Particles in a trajectory.
    index: Which trajectories, [n].
    data_seed: Seed of the initial values.
    breaking_from: "input" or "start".
    progress: Called with the number of trajectories that a chunk has finished.

  Returns:
    `positions`, `velocities`, `charges`, `targets` as in `Dataset`, `frames` [n, 11, particles,
    3] from frame 30 to 40, and `energy_drift` [n].
  """
  chunks = [index[i : i + _CHUNK] for i in range(0, len(index), _CHUNK)]

  def run(chunk):
    # Filled up to one size, so that one compiled program serves all chunks.
    full = np.resize(chunk, min(_CHUNK, len(index)))
    result = _simulate_chunk(physics, breaking_from, particles, data_seed, full)
    result = {name: np.asarray(array)[: len(chunk)] for name, array in result.items()}
    progress(len(chunk))
    return result

  # One kernel is too small for all cores; one thread a core keeps each busy with its own chunk.
  with ThreadPoolExecutor(cores()) as pool:
    parts = [run(chunks[0]), *pool.map(run, chunks[1:])]
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _simulate_chunk(physics, breaking_from, particles, data_seed, index):
  positions, velocities, charges = simulation.initial(physics.system, particles, data_seed, index)
  begin = simulation.start(positions, velocities)
  before = dataclasses.replace(physics, breaking=Breaking())
  if breaking_from == "start":
    before = physics
  # Frame k of the published charged data is at t = 0.1 (k + 1), of gravity at t = 0.1 k.
  offset = 1 if physics.system == "charged" else 0
  steps = (INPUT_FRAME + offset) * simulation.STEPS_PER_FRAME
  motion = simulation.advance(before, begin, charges, steps)
  given = motion

  def frame(motion, _):
    motion = simulation.advance(physics, motion, charges, simulation.STEPS_PER_FRAME)
    return motion, motion.positions

  motion, frames = jax.lax.scan(frame, motion, length=TARGET_FRAME - INPUT_FRAME)
  frames = jax.numpy.concatenate([given.positions[None], frames])
  first, scale = simulation.energy(physics, begin, charges)
  last, _ = simulation.energy(physics, motion, charges)
  return {
    "positions": given.positions.transpose(2, 1, 0),
    "velocities": given.velocities.transpose(2, 1, 0),
    "charges": charges.T,
    "targets": motion.positions.transpose(2, 1, 0),
    "frames": frames.transpose(3, 0, 2, 1),
    "energy_drift": jax.numpy.abs(last - first) / scale,
  }


def _simulate(physics, particles, sizes, data_seed, breaking_from, progress):
  index = np.concatenate([FIRST_INDEX[name] + np.arange(size) for name, size in sizes.items()])
  done = 0

  def advance(count):
    nonlocal done
    done += count
    progress(done, len(index))

  result = simulate(physics, particles, index, data_seed, breaking_from, advance)
  bounds = np.cumsum([0, *sizes.values()])
  arrays = {
    f"{name}_{field}": result[field][bounds[i] : bounds[i + 1]]
    for i, name in enumerate(sizes)
    for field in FIELDS
  }
  arrays["paths"] = result["frames"][bounds[2] : bounds[2] + SHOWN]
  arrays["energy_drift"] = result["energy_drift"]
  return arrays


def _drift(drift: np.ndarray) -> dict[str, float]:
  return {
    "lower_quartile": float(np.percentile(drift, 25)),
    "median": float(np.median(drift)),
    "upper_quartile": float(np.percentile(drift, 75)),
  }
