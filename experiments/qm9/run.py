"""What `experiments.qm9` does once its flags are checked: data, training, figures."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import state, task
from ace_jax.symmetry import actions, equivariance_error, groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history
from ace_jax.training.progress import Progress
from data import qm9
from experiments.harness import problems, training
from experiments.harness.artifacts import Predictions
from experiments.harness.replicas import Plan
from experiments.qm9 import models as qm9_models
from experiments.qm9.settings import Settings, preset_values

_MEASURED, _ROTATIONS, _SHOWN = 50, 4, 200
_EVALUATED = 128
_BASELINE = "mean"


def run(settings: Settings, folder: Path, resume: bool, plan: Plan) -> None:
  """Trains one model, and says how well.

  Args:
    settings: All settings, from `experiments.harness.flags.settings`.
    folder: Where to write.
    resume: Continue what is there.
    plan: The replicas.
  """
  training.check_devices(settings, plan)
  data = load(settings)
  say_data(data)
  training.say_preset(settings, "minutes on two cores, a small model on a part of the molecules")
  problem = make_problem(settings, data)
  training.train_and_say(problem, settings, folder, resume, plan, _BASELINE)


def load(settings: Settings) -> qm9.Dataset:
  """Loads the data that the settings name."""
  sizes = settings.data.train_samples
  with Progress(None, "molecule", label="reading QM9", delay=2) as shown:
    return qm9.load(
      settings.data.target,
      data_dir=settings.data.data_dir,
      split=settings.data.split,
      references=settings.data.atom_references,
      train=max(sizes) if sizes else None,
      held_out=settings.data.held_out,
      progress=shown.reach,
    )


def say_data(data: qm9.Dataset) -> None:
  """Prints where the data come from and what is known of them."""
  about, sizes = data.summary, data.summary["sizes"]
  references = about["atom_references"]
  less = "" if references == "none" else f", less that of its atoms ({references})"
  print(
    f"Data: QM9, {sizes['train']} train, {sizes['valid']} valid, {sizes['test']} test molecules "
    f"({about['source']}: {about['place']}), split {about['split']}; {about['target']} in "
    f"{about['unit']}{less}; the training mean has test MAE {about['linear_mse']['test']:.4g}."
  )


def make_problem(settings: Settings, data: qm9.Dataset) -> problems.Problem:
  """Puts together model, data and figures."""
  network = qm9_models.make_model(settings, data)
  unit, valid = data.summary["unit"], model_batch(data.valid)
  return problems.Problem(
    experiment="qm9",
    model=settings.model.model,
    network=network,
    inputs=model_inputs,
    loss=lambda prediction, batch: absolute_error(prediction, batch) / network.scale,
    metric=absolute_error,
    train=model_batch(data.train),
    valid=valid,
    test=model_batch(data.test),
    summary=data.summary,
    measured=task.take(valid, slice(0, _MEASURED)),
    measure=equivariance,
    published=published(settings),
    draw=functools.partial(draw, data, settings.constraint.name),
    eval_batch_size=_EVALUATED,
    symmetry=SYMMETRY,
    rotations=ROTATIONS,
    metric_name=f"MAE ({unit})",
    predictions=functools.partial(predictions, data),
  )


def published(settings: Settings) -> dict[str, Any]:
  """Returns the published value of every setting that decides a result."""
  left_out = ("eval_every", "checkpoint_every")
  values = preset_values("paper", settings.model.model)
  segnn = {"lmax": 2, "lmax_attributes": 3, "norm": "instance", "relaxation": "mlp"}
  return {
    **{k: v for k, v in values.items() if k not in left_out},
    **(segnn if settings.model.model == "segnn" else {}),
    **{"train_samples": None, "held_out": None, "atom_references": "none"},
    **dict.fromkeys(("gamma_lr", "gamma_optimizer", "gamma", "clip_norm", "patience")),
    **dict.fromkeys(("decay_epochs", "weight_decay", "dropout", "finish_epochs")),
    "relaxation_scale": "free",
  }


def model_batch(split: qm9.Split) -> qm9.Split:
  """Returns what training needs of a split."""
  return {name: split[name] for name in ("numbers", "positions", "target")}


def model_inputs(batch: qm9.Split) -> tuple[jax.Array, ...]:
  """Returns what the model sees of a batch."""
  return batch["numbers"], batch["positions"]


def absolute_error(prediction: jax.Array, batch: qm9.Split) -> jax.Array:
  """Returns the absolute error of every molecule; their mean is the published MAE."""
  return jnp.abs(prediction - batch["target"])


_ACTION = actions.act_on(
  {"numbers": actions.invariant, "positions": actions.position, "target": actions.invariant}
)
SYMMETRY = Symmetry(groups.so3(), _ACTION, lambda element, y, batch: y)
"""Rotations about the origin of the coordinates, as they stand in the data set."""
ROTATIONS = {
  "vertical": dataclasses.replace(SYMMETRY, group=groups.so2("z")),
  "random_axes": SYMMETRY,
}


def equivariance(
  learned: task.Task, current: state.AceState, batch: qm9.Split
) -> dict[str, jax.Array]:
  """Returns the relative error of each predictor under rotations, which change no property."""
  rotations = SYMMETRY.group.sample(jax.random.key(0), _ROTATIONS)
  return {
    f"equivariance/{name}": equivariance_error(
      functools.partial(learned.predict, variables), batch, rotations, _ACTION, actions.invariant
    )
    for name, variables in current.current().items()
  }


def predictions(data: qm9.Dataset, learned: task.Task, end: state.AceState) -> Predictions:
  """Returns the first test molecules: index, truth, predictions."""
  shown = task.take(data.test, slice(0, _SHOWN))
  predict = jax.jit(learned.predict)
  batch = model_batch(shown)
  predicted = {name: predict(variables, batch) for name, variables in end.selected().items()}
  return {"index": shown["index"], "truth": shown["target"], **predicted}


def draw(
  data: qm9.Dataset,
  label: str,
  folder: Path,
  end: state.AceState,
  records: list[history.Record],
  shown: Predictions,
) -> None:
  """Draws every figure of a run."""
  from ace_jax import plots  # Matplotlib is slow to import
  from experiments.qm9 import figures

  about = data.summary
  plots.save(figures.validation(label, records, about), folder / "validation.png")
  plots.save(plots.equivariance_error(records), folder / "equivariance_error.png")
  if plots.layers(records, "gamma") or plots.layers(records, "multiplier"):
    plots.save(plots.gamma_and_multipliers(records), folder / "gamma.png")
  predicted = {name: np.asarray(shown[name]) for name in end.selected()}
  figure = figures.predictions(np.asarray(shown["truth"]), predicted, about)
  plots.save(figure, folder / "predictions.png")
