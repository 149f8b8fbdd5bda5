"""What `experiments.pendulum` does once its flags are checked."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

import ace_jax
from ace_jax.models.time_reversal import TimeReversalField
from ace_jax.relaxations import Relaxation
from ace_jax.symmetry import actions, equivariance_statistics, report, verdicts
from ace_jax.training.parallel import DATA
from ace_jax.training.progress import Progress
from data import pendulum
from experiments.harness import page, tables, workdirs
from experiments.harness.replicas import exact
from experiments.harness.training import finished

CONSTRAINTS = ("strict", "equality", "resilient")
_EQUIVARIANT = 0.01
"""A resilient model with a larger relative equivariance error has broken the symmetry, ..."""
_GAIN = 2.0
"""... and the data ask for it if its test error is smaller than the strict one's by this factor."""
RULE = (
  "the data are said to break time reversal if the resilient model's test error is less than "
  f"1/{_GAIN:g} of the strict one's and its relative equivariance error above {_EQUIVARIANT:.0%}; "
  "to keep it if not. Nothing can be told before the strict model is better than a constant "
  "prediction and has stopped improving (its validation error fell by less than "
  f"{verdicts.IMPROVES:.0%} in the last quarter of the training), nor is the symmetry called kept "
  "before that holds of the resilient one too and its gamma rests"
)


class Summary(TypedDict):
  """The numbers of one training.

  `damping` is the constant c, in units of sqrt(g / l); the errors are those of the vector field, in
  units of m, l and g; `gamma` and `multipliers` are final, by layer; `equivariance_error` is
  relative, under time reversal; `training` has the fields of `verdicts.Training`; `memory` is the
  expected peak in bytes, None where it is not known.
  """

  constraint: str
  damping: float
  projection_test_mse: float
  relaxed_test_mse: float
  gamma: dict[str, float]
  multipliers: dict[str, float]
  equivariance_error: float
  training: dict[str, Any]
  memory: dict[str, Any] | None


def run(damping: list[float], epochs: int, seed: int, rho: float, folder: Path) -> None:
  """Trains every constraint at every damping, and draws and says what came out.

  Args:
    damping: Damping constants.
    epochs: Passes over the training data.
    seed: Of all trainings.
    rho: Price of slack of the resilient constraint.
    folder: Where to write.
  """
  settings = {"damping": damping, "epochs": epochs, "seed": seed, "rho": rho}
  fits: dict[str, dict[float, ace_jax.Fit]] = {name: {} for name in CONSTRAINTS}
  results: list[Summary] = []
  rows = []
  with (
    workdirs.opened(folder, settings, resume=True),
    Progress(len(damping) * len(CONSTRAINTS), "training") as shown,
  ):
    for c in damping:
      data = pendulum.load(c)
      for name in CONSTRAINTS:
        fit = fits[name][c] = train(name, data, epochs, seed, rho)
        results.append(summarise(name, c, fit, data))
        shown.advance(1, {"last": f"{name}, damping {c:g}"})
      rows += [row(result) for result in results[-len(CONSTRAINTS) :]]
    said = {c: verdict(c, results) for c in damping}
    result = {"experiment": "pendulum", "settings": settings, "results": results}
    result |= {"rule": RULE, "verdicts": {exact(c): text for c, text in said.items()}}
    workdirs.write_result(folder, result)
    (folder / "figures").mkdir(exist_ok=True)
    draw(folder / "figures", damping, fits, results)
    page.write(folder)
  header = ["constraint, damping", "f_eq test MSE", "relaxed test MSE", "max|gamma|", "max|lambda|"]
  print(f"\n{tables.table([*header, 'equiv. error'], rows)}\n")
  print("\n".join([*said.values(), f"Rule: {RULE}."]))
  print(f"\nEverything is in {folder}: result.json, {page.PAGE}, figures/")


def model() -> TimeReversalField:
  """Builds the network; the scale of its branches is fixed, so that gammas can be compared."""
  return TimeReversalField(relaxation=Relaxation(scale="fixed", axis_name=DATA))


def train(
  name: str, data: Mapping[str, pendulum.Split], epochs: int, seed: int, rho: float
) -> ace_jax.Fit:
  """Trains one network."""
  network = model()
  splits = {split: (part["state"], part["field"]) for split, part in data.items()}
  constraints = {
    "strict": ace_jax.Unconstrained(),
    "equality": ace_jax.Equality(augmented=1.0),
    "resilient": ace_jax.Resilient(augmented=1.0, rho=rho),
  }
  init = ace_jax.strict(network.init) if name == "strict" else network.init
  variables = jax.jit(init)(jax.random.key(seed), splits["train"][0][:2])
  trained = ace_jax.fit(
    network,
    squared_error,
    splits["train"],
    splits["valid"],
    splits["test"],
    constraint=constraints[name],
    variables=variables,
    lr=3e-3,
    gamma_lr=5e-3,
    slack_lr=5e-3,
    dual_lr=2e-3,
    seed=seed,
    epochs=epochs,
    batch_size=50,
    eval_every=5,
    checkpoint_every=epochs,
    progress=None,
  )
  return finished(trained, "nothing of it is saved")


def squared_error(prediction: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Returns squared errors, [samples, 2]."""
  return jnp.square(prediction - batch[1])


def summarise(name: str, c: float, fit: ace_jax.Fit, data: Mapping[str, pendulum.Split]) -> Summary:
  """Returns the numbers of one training."""
  flip = jnp.array([1.0, -1.0])
  errors = equivariance_statistics(
    lambda z: model().apply(fit.relaxed, z),
    data["test"]["state"],
    jnp.array([-1.0]),
    # R acts on states, -R on the field.
    lambda g, z: actions.odd(g, z).at[:, 0].set(z[:, 0]),
    lambda g, f: jnp.where(g < 0, -flip * f, f),
  )
  relaxed = "relaxed" if "relaxed" in fit.test else "projection"
  mean = np.mean(data["train"]["field"], axis=0)
  baseline = float(np.mean(np.square(data["valid"]["field"] - mean)))
  return {
    "constraint": name,
    "damping": c,
    "projection_test_mse": fit.test["projection"],
    "relaxed_test_mse": fit.test[relaxed],
    "gamma": {layer: float(value) for layer, value in fit.gamma.items()},
    "multipliers": {layer: float(value) for layer, value in fit.multipliers.items()},
    "equivariance_error": float(errors.relative),
    "training": dataclasses.asdict(report.evidence(fit.history, baseline)),
    "memory": fit.memory and fit.memory.record(),
  }


def row(result: Summary) -> list[str]:
  """Formats a row of the final table."""
  by_layer = (result["gamma"], result["multipliers"])
  largest = [max((abs(v) for v in values.values()), default=None) for values in by_layer]
  return [
    f"{result['constraint']}, {result['damping']:g}",
    f"{result['projection_test_mse']:.2e}",
    f"{result['relaxed_test_mse']:.2e}",
    *("" if value is None else f"{value:.3f}" for value in largest),
    f"{result['equivariance_error']:.1e}",
  ]


def verdict(c: float, results: list[Summary]) -> str:
  """Says what the data do to time reversal, by `RULE`: breaks it, keeps it, or cannot tell why."""
  here = {r["constraint"]: r for r in results if r["damping"] == c}
  strict, free = here["strict"], here["resilient"]
  share = free["relaxed_test_mse"] / max(strict["projection_test_mse"], 1e-30)
  broken = share < 1 / _GAIN and free["equivariance_error"] > _EQUIVARIANT
  numbers = (
    f"the resilient model's error is {share:.2g} of the strict one's, its equivariance error "
    f"{free['equivariance_error']:.1e}"
  )
  doubts = {
    name: verdicts.doubts(verdicts.Training(**here[name]["training"]))
    for name in (("strict",) if broken else ("strict", "resilient"))
  }
  reasons = [f"{', '.join(said)} ({name})" for name, said in doubts.items() if said]
  if reasons:
    return f"damping {c:g}: cannot tell whether the data break time reversal: {'; '.join(reasons)}."
  said = "the data break time reversal" if broken else "the data keep time reversal"
  return f"damping {c:g}: {said} ({numbers})."


def draw(
  folder: Path,
  damping: list[float],
  fits: Mapping[str, Mapping[float, ace_jax.Fit]],
  results: list[Summary],
) -> None:
  """Draws phase portraits, gamma and multipliers, and error against damping."""
  from ace_jax import plots
  from experiments.pendulum import figures as pendulum_plots

  strongest = damping[-1]
  grid = np.stack(
    np.meshgrid(
      np.linspace(-np.pi, np.pi, 31),
      np.linspace(-pendulum.LARGEST_MOMENTUM, pendulum.LARGEST_MOMENTUM, 27),
    ),
    -1,
  ).astype(np.float32)
  fields = {"truth": pendulum.field(grid, strongest)}
  for name in CONSTRAINTS:
    fit = fits[name][strongest]
    variables = fit.relaxed if name == "resilient" else fit.projection
    flat = model().apply(variables, grid.reshape(-1, 2))
    fields[name] = np.asarray(flat).reshape(grid.shape)
  portraits = pendulum_plots.phase_portraits(grid, fields, strongest)
  plots.save(portraits, folder / "phase_portraits.png")
  for name in CONSTRAINTS[1:]:
    for c in (damping[0], strongest):
      figure = plots.gamma_and_multipliers(fits[name][c].history)
      plots.save(figure, folder / f"gamma_{name}_damping{exact(c)}.png")
  plots.save(pendulum_plots.error_by_damping(results), folder / "error_by_damping.png")
