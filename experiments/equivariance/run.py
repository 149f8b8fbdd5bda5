"""What `experiments.equivariance` does once its flags are checked."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import files, homotopy, plots, relaxations, symmetry, task
from ace_jax.symmetry import actions, bounds, groups
from experiments.harness import tables, workdirs
from experiments.nbody import run as nbody_run
from experiments.report import run as report_run
from experiments.report import subjects

LEVELS = np.geomspace(1e-4, 1, 9)
"""Values of every gamma at which errors and bounds are computed."""
_SMALL = LEVELS <= 1e-2  # where errors are fitted by a power of gamma


def run(folder: str, target: Path, samples: int, elements: int, seed: int) -> None:
  """Writes equivariance.json and equivariance.png of a run.

  Args:
    folder: A finished N-body run with gamma.
    target: Where to write.
    samples: Held-out samples to measure on.
    elements: Group elements to draw.
    seed: Draws them.

  Raises:
    ConfigurationError: the run has no gamma.
  """
  report_run.check_relaxed(folder, report_run.read_settings(Path(folder)))
  trained_run = report_run.restore(Path(folder))
  batch = task.take(trained_run.problem.test, slice(0, samples))
  key = jax.random.key(seed)
  by_group = errors_by_group(trained_run, batch, key, elements)
  by_layer = errors_by_layer(trained_run, batch, key, elements)
  by_gamma = errors_by_gamma(trained_run, batch, key, elements)
  bounded = bounds_by_gamma(key, elements)
  slopes = {name: _slope(values) for name, values in {**by_gamma, **bounded}.items()}
  rows = [[name, *(f"{e:.1e}" for e in errors.values())] for name, errors in by_group.items()]
  print(
    f"\nRelative equivariance errors\n{tables.table(['group', *_predictors(trained_run)], rows)}\n"
  )
  rows = [[name, *(f"{e:.1e}" for e in errors.values())] for name, errors in by_layer.items()]
  print(
    f"The same of every layer, SO(3)\n{tables.table(['layer', *_predictors(trained_run)], rows)}\n"
  )
  print("Powers of gamma: " + ", ".join(f"{name} {slope:.3f}" for name, slope in slopes.items()))
  report = {
    "run": folder,
    "samples": samples,
    "elements": elements,
    "by_group": by_group,
    "by_layer": by_layer,
    "gamma": LEVELS.tolist(),
    "by_gamma": by_gamma,
    "bounds": bounded,
    "slopes": slopes,
    "settings": trained_run.settings.to_json(),
    "environment": workdirs.environment(),
  }
  files.write_json(target / "equivariance.json", workdirs.portable(report))
  figure = plots.equivariance(by_group, by_layer, LEVELS, by_gamma, bounded)
  plots.save(figure, target / "equivariance.png")
  print(f"\nWrote {target}/equivariance.json and equivariance.png")


def _predictors(trained_run: report_run.Run) -> list[str]:
  return list(trained_run.end.current())


def errors_by_group(
  trained_run: report_run.Run, batch: Any, key: jax.Array, elements: int
) -> dict[str, dict[str, float]]:
  """Returns each predictor's relative error under each group."""
  motions = nbody_run.act_on_batch
  swap = actions.permuted(1)

  def compiled(act_input, act_output):
    @jax.jit
    def measure(variables, drawn):
      predict = partial(trained_run.problem.task.predict, variables)
      return symmetry.equivariance_error(predict, batch, drawn, act_input, act_output)

    return measure

  by_motions = compiled(motions, actions.position)
  by_swaps = compiled(swap_particles, swap)
  turned = (*map(groups.so2, "xyz"), groups.so3(), groups.o3())
  moved = (*turned, groups.translations(subjects.radius(batch)))
  cases = [
    *((group, by_motions) for group in moved),
    (groups.permutations(batch["positions"].shape[1]), by_swaps),
  ]
  return {
    group.name: {
      name: float(measure(variables, group.sample(key, elements)))
      for name, variables in trained_run.end.current().items()
    }
    for group, measure in cases
  }


def swap_particles(order: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Puts the particles of a batch in another order, and renames the senders of edges."""
  swap = actions.permuted(1)
  swapped = {name: swap(order, array) for name, array in batch.items()}
  if "senders" in batch:
    swapped["senders"] = jnp.argsort(order)[swapped["senders"]]
  return swapped


def errors_by_layer(
  trained_run: report_run.Run, batch: Any, key: jax.Array, elements: int
) -> dict[str, dict[str, float]]:
  """Returns the relative error under SO(3) of the features after every homotopic layer."""
  network, inputs = trained_run.problem.network, trained_run.problem.inputs
  relaxed = trained_run.end.relaxed
  layouts = symmetry.layer_irreps(network, relaxed, *inputs(batch))
  features = {
    name: actions.irreps(layout.y, component_major=True) for name, layout in layouts.items()
  }
  drawn = groups.so3().sample(key, elements)

  @jax.jit
  def measure(variables):
    def outputs(batch):
      layers = symmetry.layer_outputs(network, variables, *inputs(batch))
      return {name: layers[name] for name in features}

    motions = nbody_run.act_on_batch
    return symmetry.equivariance_statistics(outputs, batch, drawn, motions, features)

  errors: dict[str, dict[str, float]] = {}
  for name, variables in trained_run.end.current().items():
    for layer, statistics in measure(variables).items():
      errors.setdefault(layer, {})[name] = float(statistics.relative)
  return errors


def errors_by_gamma(
  trained_run: report_run.Run, batch: Any, key: jax.Array, elements: int
) -> dict[str, list[float]]:
  """Returns relative errors under SO(3), and distances from the projection, at every level."""
  relaxed, learned = trained_run.end.relaxed, trained_run.problem.task
  drawn = groups.so3().sample(key, elements)
  motions = nbody_run.act_on_batch
  projection = learned.predict(trained_run.end.projection, batch)

  @jax.jit
  def measure(level):
    same = jax.tree.map(lambda g: jnp.full_like(g, level), relaxed[homotopy.GAMMA])
    predict = partial(learned.predict, {**relaxed, homotopy.GAMMA: same})
    error = symmetry.equivariance_error(predict, batch, drawn, motions, actions.position)
    moved = jnp.mean(jnp.linalg.norm(predict(batch) - projection, axis=-1))
    return error, moved / jnp.mean(jnp.linalg.norm(projection, axis=-1))

  errors, distances = zip(*(map(float, measure(level)) for level in LEVELS), strict=True)
  return {"equivariance error": list(errors), "distance from projection": list(distances)}


_CHANNELS, _LAYERS, _RADIUS = 2, 3, 2.0
_BRANCH = relaxations.MLP(3 * _CHANNELS, (4,), jnp.tanh)


def bounds_by_gamma(key: jax.Array, elements: int) -> dict[str, list[float]]:
  """Returns the largest error, certificate and estimate of a stack of channel mixings.

  Each of three layers mixes the two channels of vectors [3, channels] linearly, which is
  equivariant, and adds gamma times a perceptron with tanh: all constants of the bound are exact
  over the ball of radius 2.
  """
  keys = jax.random.split(key, 2 * _LAYERS + 3)
  shape = (_CHANNELS, _CHANNELS)
  mixings = [jax.random.normal(k, shape) / 1.5 for k in keys[:_LAYERS]]
  branches = [_BRANCH.init(k, jnp.zeros(3 * _CHANNELS)) for k in keys[_LAYERS : 2 * _LAYERS]]
  x = jax.random.normal(keys[-3], (200, 3, _CHANNELS))
  x = _RADIUS * x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True)
  rotations = groups.random_rotations(keys[-2], elements)

  def branch(variables, x):
    return _BRANCH.apply(variables, x.reshape(*x.shape[:-2], -1)).reshape(x.shape)  # pyright: ignore[reportAttributeAccessIssue]

  def stack(level, x, upto=_LAYERS):
    for mixing, variables in zip(mixings[:upto], branches[:upto], strict=True):
      x = x @ mixing + level * branch(variables, x)
    return x

  def constants(level, certified):
    layers, radius = [], _RADIUS
    for i, (mixing, variables) in enumerate(zip(mixings, branches, strict=True)):
      branch_function = partial(branch, variables)
      if certified:
        lipschitz = bounds.perceptron_lipschitz(variables["params"], "tanh")
        at_zero = jnp.linalg.norm(branch_function(jnp.zeros((3, _CHANNELS))))
        size = bounds.ball_size(at_zero, lipschitz, radius)
      else:
        points = stack(level, x, i)
        orbit = jnp.concatenate([points, *(g @ points for g in rotations)])
        lipschitz = bounds.estimate_lipschitz(branch_function, points, keys[-1])
        size = bounds.estimate_size(branch_function, orbit)
      mixed = bounds.operator_norm(mixing)
      layers.append(bounds.LayerConstants(level, mixed, lipschitz, size, certified))
      radius = bounds.output_radius(layers[-1], radius)
    return layers

  @jax.jit
  def measure(level):
    turned = jnp.stack([stack(level, g @ x) - g @ stack(level, x) for g in rotations])
    limits = [bounds.equivariance_bound(constants(level, sure)).value for sure in (True, False)]
    return jnp.max(jnp.linalg.norm(turned, axis=(-2, -1))), *limits

  names = ("largest error", "certificate", "estimate")
  columns = zip(*(map(float, measure(level)) for level in LEVELS), strict=True)
  return dict(zip(names, map(list, columns), strict=True))


def _slope(values: list[float]) -> float:
  return float(np.polyfit(np.log(LEVELS[_SMALL]), np.log(np.asarray(values)[_SMALL]), 1)[0])
