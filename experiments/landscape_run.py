"""What `experiments.landscape` does once its flags are checked."""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import history, homotopy, landscape, landscape_plots, plotting, task
from ace_jax.errors import ConfigurationError
from experiments import report_run, runs


def run(
  run: str,
  strict: str | None,
  out: str | None,
  grid: int,
  frames: int,
  animation_grid: int,
  samples: int,
  extent: float,
  seed: int,
) -> None:
  """Draws the landscapes of a run, and writes landscape.json.

  Args:
    run: Folder of a finished N-body run with gamma.
    strict: Folder of a strict run, for the plane; None leaves it out.
    out: Where to write.
    grid: Points along each direction.
    frames: Values of gamma in the animation.
    animation_grid: Points along each direction there.
    samples: Fixed training samples.
    extent: Half the width of a slice.
    seed: Draws the directions.

  Raises:
    ConfigurationError: the run has no gamma.
  """
  found = report_run.restore(Path(run))
  theta, gamma, model_state = found.end.current().get("relaxed", (None, None, None))
  if not gamma:
    raise ConfigurationError(f"{run} trained a strict model; name a run with another --constraint.")
  place = Path(out) if out else Path(run) / "landscape"
  place.mkdir(parents=True, exist_ok=True)
  batch = task.take(found.problem.train, slice(0, samples))

  def loss(level, theta):
    """The training loss with every gamma at `level`, as a function of theta."""
    same = jax.tree.map(lambda g: jnp.full_like(g, level), gamma)
    variables = homotopy.merge(theta, same, model_state)
    prediction, _ = found.end.task.apply(variables, batch, None)
    return jnp.mean(found.end.task.loss(prediction, batch))

  keys = jax.random.split(jax.random.key(seed), 4)
  directions = [landscape.filter_normalised_direction(key, theta) for key in keys[:2]]
  cut = jax.jit(
    lambda level, theta, d, e, a: landscape.loss_slice(partial(loss, level), theta, d, e, a, a)
  )
  curve = jax.jit(
    lambda level, theta: (
      landscape.top_eigenvalues(partial(loss, level), theta, keys[2], 2),
      *landscape.hessian_trace(partial(loss, level), theta, keys[3]),
    )
  )
  begun = time.perf_counter()
  a = jnp.linspace(-extent, extent, grid)
  slices, notes, report = {}, {}, {"samples": samples, "grid": grid, "extent": extent}
  for level in (0.0, 1.0):
    label = f"gamma = {level:g}"
    slices[label] = np.asarray(cut(level, theta, *directions, a))
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    top, trace, error = (np.asarray(x) for x in curve(level, theta))
    notes[label] = f"top eigenvalue {top[0]:.3g}, trace {trace:.3g} +- {error:.1g}"
    report[label] = {
      "loss": float(loss(level, theta)),
      "top_eigenvalues": top.tolist(),
      "trace": float(trace),
      "trace_standard_error": float(error),
      "slice_seconds": seconds,
    }
    print(f"{label}: loss {report[label]['loss']:.5f}, {notes[label]}; slice in {seconds:.0f} s")
  b = np.asarray(a)
  center = {"end of training": np.zeros((1, 2))}
  plotting.save(landscape_plots.contours(slices, b, b, center, notes), place / "contours.png")
  for label, losses in slices.items():
    name = label.replace(" = ", "")
    plotting.save(landscape_plots.surface(losses, b, b, label), place / f"surface_{name}.png")
  levels = np.linspace(1, 0, frames)
  coarse = jnp.linspace(-extent, extent, animation_grid)
  movie = np.stack([np.asarray(cut(level, theta, *directions, coarse)) for level in levels])
  small = np.asarray(coarse)
  landscape_plots.save_animation(place / "gamma.gif", levels.tolist(), movie, small, small)
  if strict:
    plane = through_strict(found, strict, samples, grid)
    plotting.save(landscape_plots.contours(*plane), place / "plane.png")
  history.write_json(place / "landscape.json", runs.portable({"run": run, **report}))
  print(f"Everything is in {place}: contours.png, surface_*.png, gamma.gif, landscape.json")


def through_strict(found: report_run.Run, strict: str, samples: int, grid: int):
  """Returns the arguments of the figure of the plane through strict, projection and relaxed.

  Raises:
    ConfigurationError: the strict run has other sizes.
  """
  other = report_run.restore(Path(strict))
  best = found.end.selected()
  ends = {"projection": best["projection"][0], "relaxed": best["relaxed"][0]}
  plain = homotopy.prune({"params": ends["projection"]})["params"]
  own = other.end.selected()["projection"][0]
  if jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, plain):
    raise ConfigurationError(f"{strict}: its model has other sizes; name a strict run of the same.")
  # The plane lies in the strict model's parameters; the branches do not matter at gamma = 0.
  plains = {name: homotopy.prune({"params": theta})["params"] for name, theta in ends.items()}
  e1, e2, points = landscape.plane_through(own, plains["projection"], plains["relaxed"])
  low, high = points.min(0), points.max(0)
  margin = 0.4 * jnp.max(high - low)
  a = jnp.linspace(low[0] - margin, high[0] + margin, grid)
  b = jnp.linspace(low[1] - margin, high[1] + margin, grid)

  def strict_loss(theta):
    batch = task.take(found.problem.train, slice(0, samples))
    prediction, _ = other.end.task.apply({"params": theta}, batch, None)
    return jnp.mean(other.end.task.loss(prediction, batch))

  cut = jax.jit(partial(landscape.loss_slice, strict_loss))
  losses = {"strict loss": np.asarray(cut(own, e1, e2, a, b))}
  names = ("strict", "projection", "relaxed theta")
  marks = {name: np.asarray(points[i : i + 1]) for i, name in enumerate(names)}
  labels = ("distance", "distance")
  return losses, np.asarray(a), np.asarray(b), marks, None, labels
