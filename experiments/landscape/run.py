"""What `experiments.landscape` does once its flags are checked."""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import files, homotopy, landscape, state, task
from ace_jax.errors import ConfigurationError
from experiments.harness import training, workdirs
from experiments.landscape import figures
from experiments.nbody import settings as nbody_settings
from experiments.report import run as report_run

LEVELS = (0.0, 1.0)
"""The values of every gamma at which landscapes are drawn: the strict model, and f_eq + f_neq."""
_TRAINED, _NEGLIGIBLE = "gamma as trained", 0.01


@dataclasses.dataclass(frozen=True)
class Request:
  """What to draw.

  Attributes:
    run: Folder of a finished N-body run with gamma.
    strict: Folder of a strict run, for the plane through it; None leaves that out.
    out: Folder of the figures.
    grid: Points along each direction.
    frames: Values of gamma in the animation.
    animation_grid: Points along each direction there, and along training.
    snapshots: Checkpoints at most that are drawn along training.
    samples: Fixed training samples.
    extent: Half the width of a slice, in norms of the filters.
    seed: Draws the directions.
  """

  run: str
  strict: str | None
  out: str
  grid: int
  frames: int
  animation_grid: int
  snapshots: int
  samples: int
  extent: float
  seed: int


class Landscape:
  """The loss of a run's model on fixed samples, at gammas that are given.

  Attributes:
    trained_run: The run.
    cut: `cut(gamma, end, first, second, a, b)`, the losses on a slice around a state; compiled.
    curvature: `curvature(gamma, end)`, (loss, top eigenvalues, trace, its error); compiled.
  """

  def __init__(self, trained_run: report_run.Run, request: Request):
    self.trained_run = trained_run
    self._task = trained_run.problem.task
    self._batch = task.take(trained_run.problem.train, slice(0, request.samples))
    self._keys = jax.random.split(jax.random.key(request.seed), 4)
    self.cut = jax.jit(self._cut)
    self.curvature = jax.jit(self._curvature, static_argnames=("iterations", "draws"))

  def gammas(self, end: state.AceState) -> dict[str, Any]:
    """Returns the gammas at which to draw a state: `LEVELS`, and the state's own.

    The latter are left out if training ended with all of them at 0, where they add nothing.
    """
    gammas = {_label(level): at(level, end) for level in LEVELS}
    largest = max(
      float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(self.trained_run.end.primal.gamma)
    )
    return gammas | ({_TRAINED: end.primal.gamma} if largest > _NEGLIGIBLE else {})

  def _loss(self, gamma, end: state.AceState, theta):
    variables = homotopy.merge(theta, gamma, end.model_state)
    return jnp.mean(self._task.losses(variables, self._batch))

  def directions(self, theta: Any) -> list[Any]:
    """Returns two filter-normalised random directions; their noise is the same for every theta."""
    return [landscape.filter_normalised_direction(key, theta) for key in self._keys[:2]]

  def _cut(self, gamma, end, first, second, a, b):
    loss = partial(self._loss, gamma, end)
    return landscape.loss_slice(loss, end.primal.theta, first, second, a, b)

  def _curvature(self, gamma, end, iterations=30, draws=30):
    loss, theta = partial(self._loss, gamma, end), end.primal.theta
    top = landscape.top_eigenvalues(loss, theta, self._keys[2], 2, iterations)
    return (loss(theta), top, *landscape.hessian_trace(loss, theta, self._keys[3], draws))


def run(request: Request) -> None:
  """Draws the landscapes of a run, and writes landscape.json.

  Raises:
    ConfigurationError: the run has no gamma, or the strict run has other sizes.
  """
  settings = report_run.read_settings(Path(request.run))
  report_run.check_relaxed(request.run, settings)
  if request.strict:
    _check_strict(request.strict, settings)
  trained_run = report_run.restore(Path(request.run))
  folder = Path(request.out)
  drawn = Landscape(trained_run, request)
  path = training.trajectory(Path(request.run), trained_run.settings, trained_run.problem)
  path = [path[i] for i in _spread(len(path), request.snapshots)]
  surfaces: dict[str, Any] = {}
  if request.strict:
    surfaces["plane"] = through_strict(drawn, path, request)
  report = {**dataclasses.asdict(request), "settings": trained_run.settings.to_json()}
  surfaces["end"], report["end"] = around_end(drawn, request)
  surfaces["animation"] = animation(drawn, request)
  if len(path) > 2:
    surfaces["training"], report["training"] = along_training(drawn, path, request)
    surfaces["trajectory"], report["explained_by_plane"] = trajectory_plane(drawn, path, request)
  else:
    print("landscapes along training need a run with --keep_period; this one kept its last alone.")
  report = workdirs.portable({**report, "environment": workdirs.environment()})
  figures.write_surfaces(folder, surfaces)
  files.write_json(folder / figures.NUMBERS, report)
  figures.draw(surfaces, report, folder)
  print(f"Everything is in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def _check_strict(folder: str, settings: nbody_settings.Settings) -> None:
  """Refuses a run that the plane cannot go through, before its data are there.

  Raises:
    ConfigurationError: it is no strict one, or has another model.
  """
  other = report_run.read_settings(Path(folder))
  if other.constraint.entry.gamma != "absent":
    raise ConfigurationError(f"{folder} is no strict run; name one with --constraint=strict.")
  if other.model != settings.model:
    raise ConfigurationError(f"{folder}: its model has other sizes; name a strict run of the same.")


def around_end(drawn: Landscape, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the surfaces around the end of training, and loss and curvature there."""
  end = drawn.trained_run.end
  directions = drawn.directions(end.primal.theta)
  a = jnp.linspace(-request.extent, request.extent, request.grid)
  losses, report = {}, {}
  for label, gamma in drawn.gammas(end).items():
    begun = time.perf_counter()
    losses[label] = np.asarray(drawn.cut(gamma, end, *directions, a, a))
    seconds = time.perf_counter() - begun
    numbers = report[label] = {**_numbers(drawn.curvature(gamma, end)), "slice_seconds": seconds}
    print(
      f"{label}: loss {numbers['loss']:.5f}, top eigenvalue {numbers['top_eigenvalues'][0]:.3g}, "
      f"trace {numbers['trace']:.3g} +- {numbers['trace_standard_error']:.1g}; slice in "
      f"{seconds:.0f} s"
    )
  return {"a": np.asarray(a), "b": np.asarray(a), "losses": losses}, report


def animation(drawn: Landscape, request: Request) -> dict[str, Any]:
  """Returns the surfaces around the end of training while gamma goes from 1 to 0."""
  end = drawn.trained_run.end
  directions = drawn.directions(end.primal.theta)
  a = jnp.linspace(-request.extent, request.extent, request.animation_grid)
  levels = np.linspace(1, 0, request.frames)
  slices = [drawn.cut(at(level, end), end, *directions, a, a) for level in levels]
  losses = np.stack([np.asarray(frame) for frame in slices])
  return {"a": np.asarray(a), "b": np.asarray(a), "levels": levels, "losses": losses}


def along_training(
  drawn: Landscape, path: list[state.AceState], request: Request
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Returns the surfaces around every checkpoint, and loss and curvature there."""
  a = jnp.linspace(-request.extent, request.extent, request.animation_grid)
  rows: dict[str, list[np.ndarray]] = {label: [] for label in drawn.gammas(drawn.trained_run.end)}
  report = []
  for end in path:
    entry: dict[str, Any] = {"epoch": int(end.epoch)}
    directions = drawn.directions(end.primal.theta)
    for label, gamma in drawn.gammas(end).items():
      rows[label].append(np.asarray(drawn.cut(gamma, end, *directions, a, a)))
      entry[label] = _numbers(drawn.curvature(gamma, end, iterations=15, draws=10))
    report.append(entry)
  losses = {label: np.stack(slices) for label, slices in rows.items()}
  return {"a": np.asarray(a), "b": np.asarray(a), "losses": losses}, report


def trajectory_plane(
  drawn: Landscape, path: list[state.AceState], request: Request
) -> tuple[dict[str, Any], list[float]]:
  """Returns the surfaces in the plane in which training moved most, around its end.

  Also the shares of the trajectory's squared distance from its end that the plane's two directions
  explain.
  """
  end = drawn.trained_run.end
  center = end.primal.theta
  points = [visited.primal.theta for visited in path]
  first, second, shares = landscape.principal_directions(center, points)
  coordinates = np.stack(
    [np.asarray(landscape.coordinates(center, p, first, second)) for p in [*points, center]]
  )
  a, b = _around(coordinates, request.grid)
  losses = {
    label: np.asarray(drawn.cut(gamma, end, first, second, a, b))
    for label, gamma in drawn.gammas(end).items()
  }
  plane = {"a": np.asarray(a), "b": np.asarray(b), "losses": losses}
  return {**plane, "points": {"training": coordinates}}, [float(share) for share in shares]


def through_strict(
  drawn: Landscape, path: list[state.AceState], request: Request
) -> dict[str, Any]:
  """Returns the surface in the plane through the strict and the relaxed optimum.

  The plane lies in the strict model's parameters, of which the loss is drawn. Its third point is
  one principal direction of the trajectory away from the relaxed optimum; of a run that kept no
  trajectory it is the projection's optimum.

  Raises:
    ConfigurationError: the strict run has other sizes, or there is no third point.
  """
  other = report_run.restore(Path(request.strict or ""))
  strict = other.end.selected()["projection"]["params"]
  ends = {name: _plain(best["params"]) for name, best in drawn.trained_run.end.selected().items()}
  relaxed = ends["relaxed"]
  if jax.tree.map(jnp.shape, strict) != jax.tree.map(jnp.shape, relaxed):
    raise ConfigurationError(
      f"{request.strict}: its model has other sizes; name a strict run of the same."
    )
  points = [_plain(checkpoint.primal.theta) for checkpoint in path]
  third = ends["projection"]
  if len(points) > 2:
    direction, _, _ = landscape.principal_directions(relaxed, points)
    third = jax.tree.map(jnp.add, relaxed, direction)
  elif all(map(np.array_equal, *map(jax.tree.leaves, (relaxed, third)))):
    raise ConfigurationError(
      f"{request.run}: both predictors were best after the same epoch, so that they make no plane "
      "with the strict model; train with --keep_period for one along the trajectory."
    )
  e1, e2, corners = landscape.plane_through(strict, relaxed, third)
  marks = {name: np.asarray(corners[i : i + 1]) for i, name in enumerate(("strict", "relaxed"))}
  if len(points) > 2:
    marks["training, projected"] = np.stack(
      [np.asarray(landscape.coordinates(strict, point, e1, e2)) for point in points]
    )
  else:
    marks["projection"] = np.asarray(corners[2:])
  a, b = _around(np.concatenate([*marks.values()]), request.grid)
  batch = task.take(drawn.trained_run.problem.train, slice(0, request.samples))

  def loss(theta):
    return jnp.mean(other.problem.task.losses({"params": theta}, batch))

  losses = jax.jit(partial(landscape.loss_slice, loss))(strict, e1, e2, a, b)
  plane = {"a": np.asarray(a), "b": np.asarray(b), "losses": {"strict loss": np.asarray(losses)}}
  return {**plane, "points": marks}


def _plain(theta: Any) -> Any:
  return homotopy.prune({"params": theta})["params"]


def at(level: float | np.floating, end: state.AceState) -> Any:
  """Returns the gammas of a state, all of them at one value."""
  return jax.tree.map(lambda g: jnp.full_like(g, level), end.primal.gamma)


def _label(level: float) -> str:
  return f"gamma = {level:g}"


def _numbers(curvature: tuple[Any, ...]) -> dict[str, Any]:
  loss, top, trace, error = (np.asarray(x) for x in curvature)
  return {
    "loss": float(loss),
    "top_eigenvalues": top.tolist(),
    "trace": float(trace),
    "trace_standard_error": float(error),
  }


def _around(points: np.ndarray, grid: int) -> tuple[jax.Array, jax.Array]:
  """Returns coordinates of a square that holds all points, with a margin of a quarter."""
  low, high = points.min(0), points.max(0)
  middle, half = (low + high) / 2, 0.75 * float(np.max(high - low))
  return tuple(jnp.linspace(m - half, m + half, grid) for m in middle)  # pyright: ignore[reportReturnType]


def _spread(count: int, most: int) -> list[int]:
  """Returns at most `most` indices below `count`, evenly spread, the first and last among them."""
  return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})
