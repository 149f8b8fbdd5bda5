"""What `experiments.nbody` does once its flags are checked: data, model, figures."""

import contextlib
import dataclasses
import functools
import pkgutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import graphs, state, task
from ace_jax.symmetry import actions, equivariance_error, groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history, hosts
from ace_jax.training.progress import Progress
from data import nbody
from experiments.harness import (
  constraints,
  kept,
  models,
  page,
  problems,
  result_files,
  tables,
  training,
  workdirs,
)
from experiments.harness.artifacts import Predictions
from experiments.harness.replicas import Plan
from experiments.nbody.settings import PARTICLES, PRESETS, SIMULATED, Data, Settings

_MEASURED, _ROTATIONS = 100, 4


def run(settings: Settings, folder: Path, resume: bool, plan: Plan) -> None:
  """Runs one training, or a sample-efficiency curve if several training sizes are given.

  Args:
    settings: All settings, from `experiments.harness.flags.settings`.
    folder: Where to write.
    resume: Continue what is there.
    plan: The replicas.
  """
  training.check_devices(settings, plan)
  sizes = settings.data.train_samples
  data = load(settings, max(sizes) if sizes else None)
  say_data(data)
  training.say_preset(settings)
  if sizes and len(sizes) > 1:
    curve(settings, data, folder, resume, plan)
  else:
    problem = make_problem(settings, data)
    training.train_and_say(problem, settings, folder, resume, plan, "x + v t")


def load(settings: Settings, train: int | None) -> nbody.Dataset:
  """Loads the data that the settings name, with edges where not all particles interact."""
  data = _load(settings.data, train)
  neighbours = settings.data.neighbours
  return data if neighbours is None else nbody.with_neighbours(data, neighbours)


def _load(settings: Data, train: int | None) -> nbody.Dataset:
  if settings.data_file:
    return nbody.load_file(settings.data_file, train)
  if settings.data_dir:
    return nbody.load_folder(settings.data_dir, train)
  with Progress(None, "trajectory", label="simulating", delay=1) as shown:
    return nbody.load(
      system=settings.system,
      particles=settings.particles or PARTICLES,
      train=SIMULATED if train is None else train,
      data_seed=settings.data_seed,
      symmetry_breaking=settings.symmetry_breaking,
      breaking_from=settings.breaking_from,
      clip=settings.force_clip,
      progress=shown.reach,
    )


def say_data(data: nbody.Dataset) -> None:
  """Prints where the data come from and what is known of them."""
  about, sizes = data.summary, data.summary["sizes"]
  origin = about.get("file") or (about["cache"] if about["source"] == "cache" else "this machine")
  print(
    f"Data: {sizes['train']} train, {sizes['valid']} valid, {sizes['test']} test trajectories "
    f"({about['source']}: {origin}); x + v t has test MSE {about['linear_mse']['test']:.4f}."
  )
  drift = about.get("energy_drift")
  if drift:
    print(
      f"Relative energy drift of the simulation: quartiles {drift['lower_quartile']:.1e}, "
      f"{drift['median']:.1e}, {drift['upper_quartile']:.1e} (near-collisions are clipped)."
    )


def make_model(settings: Settings) -> nn.Module:
  """Builds the model of the settings."""
  return pkgutil.resolve_name(models.get("nbody", settings.model.model).make)(settings)


def model_inputs(batch: nbody.Split) -> tuple[Any, ...]:
  """Returns what the model sees of a batch: the particles, and edges where not all interact."""
  edges = [graphs.Neighbours(batch["senders"])] if "senders" in batch else []
  return batch["positions"], batch["velocities"], batch["charges"], *edges


def squared_error(prediction: jax.Array, batch: nbody.Split) -> jax.Array:
  """Returns squared errors, [samples, particles, 3]; their mean is the published MSE."""
  return jnp.square(prediction - batch["targets"])


def make_problem(settings: Settings, data: nbody.Dataset) -> problems.Problem:
  """Puts together model, data and figures."""
  symmetry = kept_symmetry(settings.model.keep)
  label, baseline = settings.constraint.name, data.summary["linear_mse"]["valid"]
  return problems.Problem(
    experiment="nbody",
    model=settings.model.model,
    network=make_model(settings),
    inputs=model_inputs,
    loss=squared_error,
    metric=None,
    train=data.train,
    valid=data.valid,
    test=data.test,
    summary=data.summary,
    measured=task.take(data.valid, slice(0, _MEASURED)),
    measure=functools.partial(equivariance, symmetry=symmetry),
    published=_PUBLISHED,
    draw=functools.partial(draw, data, label, baseline),
    symmetry=symmetry,
    rotations=ROTATIONS,
    predictions=functools.partial(predictions, data),
  )


_KINDS = {
  "positions": actions.position,
  "velocities": actions.vector,
  "charges": actions.invariant,
  "targets": actions.position,
  "senders": actions.invariant,
}


def act_on_batch(element: groups.Motion, batch: nbody.Split) -> nbody.Split:
  """Moves a batch in space."""
  return actions.act_on({name: _KINDS[name] for name in batch})(element, batch)


# Rotations about the origin; of a model that keeps translations, those about any point.
SYMMETRY = Symmetry(
  groups.so3(),
  act_on_batch,
  lambda element, prediction, batch: actions.position(element, prediction),
)
ROTATIONS = {
  "vertical": dataclasses.replace(SYMMETRY, group=groups.so2("z")),  # gravity is along -z
  "random_axes": SYMMETRY,
}


def kept_symmetry(keep: str | None) -> Symmetry:
  """Returns the rotations that the network keeps (all, or those about an axis), and their action.

  Constraints on the equivariance error and rivals that move samples are about these, and so are the
  errors that are recorded.
  """
  axis = kept.axis(keep)
  return SYMMETRY if axis is None else dataclasses.replace(SYMMETRY, group=groups.so2(axis))


def equivariance(
  learned: task.Task, current: state.AceState, batch: nbody.Split, symmetry: Symmetry
) -> dict[str, jax.Array]:
  """Returns the relative equivariance error of each predictor under rotations about the origin."""
  rotations = symmetry.group.sample(jax.random.key(0), _ROTATIONS)
  errors = {}
  for name, variables in current.current().items():
    predict = functools.partial(learned.predict, variables)
    errors[f"equivariance/{name}"] = equivariance_error(
      predict, batch, rotations, symmetry.act_batch, actions.position
    )
  return errors


_PUBLISHED = {
  **{k: v for k, v in PRESETS["paper"].items() if k not in ("eval_every", "checkpoint_every")},
  **{"norm": "none", "lmax": 1, "keep": None, "system": "charged", "relaxation_scale": "free"},
  **{
    "gamma_lr": None,
    "gamma_optimizer": None,
    "clip_norm": None,
    "patience": None,
    "relaxation": "mlp",
  },
  **{"particles": None, "neighbours": None},
  **{"relaxation_features": None, "gamma": None, "decay_epochs": None},
  **{"weight_decay": None, "dropout": None, "finish_epochs": None},
}


def predictions(data: nbody.Dataset, learned: task.Task, end: state.AceState) -> Predictions:
  """Returns the first test trajectories: start, velocities, charges, truth and predicted ends.

  With `paths`, the true positions on the way, where the data have them.
  """
  shown = task.take(data.test, slice(0, nbody.SHOWN))
  predict = jax.jit(learned.predict)  # operation by operation, hundreds would be compiled
  predicted = {name: predict(variables, shown) for name, variables in end.selected().items()}
  inputs = {name: shown[name] for name in ("velocities", "charges")}
  paths = {} if data.paths is None else {"paths": data.paths}
  return {"start": shown["positions"], **inputs, "truth": shown["targets"], **paths, **predicted}


def draw(
  data: nbody.Dataset,
  label: str,
  baseline: float,
  folder: Path,
  end: state.AceState,
  records: list[history.Record],
  shown: Predictions,
) -> None:
  """Draws every figure of a run."""
  from ace_jax import plots  # Matplotlib is slow to import

  curve = plots.validation_curve({label: records}, baseline=baseline, unit="length$^2$")
  plots.save(curve, folder / "validation.png")
  plots.save(plots.equivariance_error(records), folder / "equivariance_error.png")
  if plots.layers(records, "gamma") or plots.layers(records, "multiplier"):
    plots.save(plots.gamma_and_multipliers(records), folder / "gamma.png")
  predicted = {name: np.asarray(shown[name]) for name in end.selected()}
  figure = plots.trajectories(
    data.paths,
    np.asarray(shown["start"]),
    np.asarray(shown["velocities"]),
    np.asarray(shown["truth"]),
    predicted,
    "length",
  )
  plots.save(figure, folder / "trajectories.png")


_LENGTHS = (
  *("epochs", "eval_every", "checkpoint_every", "keep_period"),
  *("decay_epochs", "finish_epochs"),
)


def lengths(settings: Settings, largest: int, steps: int) -> dict[str, int]:
  """Returns the settings that count epochs for another training set: of as many steps as before.

  Where the steps of an epoch do not divide them, the nearest number of epochs, and one at least.

  Args:
    settings: All settings, for the largest training set.
    largest: Steps of an epoch with that.
    steps: Steps of an epoch with the other.
  """
  flat = settings.to_json()
  counted = [name for name, constant in constraints.constants().items() if constant.too_long]
  scaled = {
    name: max(1, (2 * flat[name] * largest + steps) // (2 * steps))
    for name in (*_LENGTHS, *counted)
    if flat.get(name)
  }
  if "keep_period" in scaled:  # a multiple, whatever rounding made of the two
    interval = scaled["checkpoint_every"]
    scaled["keep_period"] = interval * max(1, round(scaled["keep_period"] / interval))
  return scaled


def curve(
  settings: Settings,
  data: nbody.Dataset,
  folder: Path,
  resume: bool,
  plan: Plan,
) -> None:
  """Trains on every size of `train_samples`, and strictly too, for the same number of steps.

  Epochs in the settings, those between evaluations too, are of the largest size (`lengths`). Each
  training has its own folder in `folder`; finished ones are not repeated on `--resume`.
  """
  from ace_jax import plots  # Matplotlib is slow to import

  identity = {**settings.to_json(), **plan.identity()}
  first = hosts.first()
  with workdirs.opened(folder, identity, resume) if first else contextlib.nullcontext():
    test, steps, rows = _curve(settings, data, folder, resume, plan)
    if first:
      result = {"experiment": "nbody_samples", "settings": settings.to_json()}
      workdirs.write_result(folder, {**result, "steps": steps, "test_mse": test})
      (folder / "figures").mkdir(exist_ok=True)
      figure = plots.sample_efficiency(test, "length$^2$")
      plots.save(figure, folder / "figures" / "sample_efficiency.png")
      page.write(folder)
  print(f"\n{tables.table(['predictor', 'trajectories', 'steps', 'test MSE'], rows)}")
  print(
    f"\nEverything is in {folder}: result.json, {page.PAGE}, figures/sample_efficiency.png, ..."
  )


def _curve(
  settings: Settings, data: nbody.Dataset, folder: Path, resume: bool, plan: Plan
) -> tuple[dict[str, dict[int, list[float]]], dict[int, int], list[list[str]]]:
  """Returns test errors by predictor and size, the steps of each size, and rows of a table."""
  names = dict.fromkeys([settings.constraint.name, "strict"])
  test: dict[str, dict[int, list[float]]] = {}
  steps, rows = {}, []
  batch = settings.training.batch_size
  for size in settings.data.train_samples or ():
    subset = nbody.first(data, size)
    batch_size = min(batch, size)
    scaled = lengths(settings, len(data.train["positions"]) // batch, size // batch_size)
    steps[size] = scaled["epochs"] * (size // batch_size)
    for constraint in names:
      changed = {"constraint": constraint, "train_samples": [size], "batch_size": batch_size}
      varied = settings.replace(**scaled, **changed)
      workdir = folder / f"{constraint}_{size}"
      print(
        f"\n{constraint}, {size} training trajectories, {varied.training.epochs} epochs: {workdir}"
      )
      finished = [workdir / name / workdirs.RESULT for name, _ in plan.expand(varied)]
      if resume and all(path.exists() for path in finished):
        results = [*map(result_files.read_training, finished)]
      else:
        problem = make_problem(varied, subset)
        results = training.train(problem, varied, workdir, resume and workdir.exists(), plan)
      for name in results[0]["predictors"]:
        errors = [result["predictors"][name]["test_mse"] for result in results]
        test.setdefault(f"{constraint}, {name}", {})[size] = errors
        rows.append(
          [f"{constraint}, {name}", str(size), str(steps[size]), f"{np.mean(errors):.5f}"]
        )
  return test, steps, rows
