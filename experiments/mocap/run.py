"""What `experiments.mocap` does once its flags are checked: data, training, figures."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import state, task
from ace_jax.symmetry import actions, equivariance_error, groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history
from data import mocap
from experiments.harness import kept, models, problems, result_files, training
from experiments.harness.artifacts import Predictions
from experiments.harness.replicas import Plan
from experiments.mocap import models as mocap_models
from experiments.mocap.settings import Settings, preset_values

_MEASURED, _ROTATIONS = 20, 2
_SCALE = 100.0  # errors are published in units of 10^-2


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
  training.say_preset(settings)
  remark = ""
  if data.summary["source"] == "synthetic":
    remark = "SYNTHETIC DATA: these errors say nothing about people (see --source)."
  problem = make_problem(settings, data)
  training.train_and_say(problem, settings, folder, resume, plan, "x + 30 v", _SCALE, remark)


def load(settings: Settings) -> mocap.Dataset:
  """Loads the data that the settings name."""
  sizes = settings.data.train_samples
  return mocap.load(
    settings.data.subject,
    settings.data.source,
    settings.data.data_dir,
    max(sizes) if sizes else None,
    models.get("mocap", settings.model.model).predicts,
  )


def say_data(data: mocap.Dataset) -> None:
  """Prints where the data come from and what is known of them."""
  about, sizes = data.summary, data.summary["sizes"]
  if about["source"] == "synthetic":
    print(
      "SYNTHETIC DATA: no motion capture was found, so a made-up walker is used. For real data "
      "add --source=download, or --data_dir=FOLDER of Acclaim files."
    )
  else:
    print("Data from mocap.cs.cmu.edu, created with funding from NSF EIA-0196217.")
  print(
    f"Data: {sizes['train']} train, {sizes['valid']} valid, {sizes['test']} test windows "
    f"({about['source']}: {about['place']}), split by trial ({about['split']}); x + 30 v has test "
    f"MSE {about['linear_mse']['test']:.1f}."
  )


def make_problem(settings: Settings, data: mocap.Dataset) -> problems.Problem:
  """Puts together model, data and figures."""
  index = np.linspace(0, len(data.valid["positions"]) - 1, _MEASURED).astype(int)
  symmetry = kept_symmetry(settings.model.keep)
  published = preset_values("paper", settings.model.model)
  unpublished = {"eval_every", "checkpoint_every", "patience"}
  published = {k: v for k, v in published.items() if k not in unpublished}
  published |= {
    "gamma_lr": None,
    "gamma_optimizer": None,
    "gamma": None,
    "height": True,
    "keep": None,
    "relaxation_scale": "free",
  }
  published |= {"decay_epochs": None, "weight_decay": None, "finish_epochs": None}
  return problems.Problem(
    experiment="mocap",
    model=settings.model.model,
    network=mocap_models.make_model(settings, data),
    inputs=model_inputs,
    loss=squared_error,
    metric=last_frame_error,
    train=data.train,
    valid=data.valid,
    test=data.test,
    summary=data.summary,
    measured=task.take(data.valid, index),
    measure=functools.partial(
      equivariance, largest_height=data.summary["largest_height"], symmetry=symmetry
    ),
    published=published,
    draw=functools.partial(draw, data, settings.constraint.name),
    eval_batch_size=60,
    symmetry=symmetry,
    rotations=rotations(data.summary["largest_height"]),
    error_name=result_files.ERROR_ABOUT_ORIGIN,
    predictions=functools.partial(predictions, data),
  )


def turn(element: groups.Motion, batch: mocap.Split) -> mocap.Split:
  """Turns positions, velocities and targets about the mean joint; the height feature is held."""
  velocities = actions.vector(element, batch["velocities"])
  positions = _turn_about(batch, element, batch["positions"])
  targets = turn_prediction(element, batch["targets"], batch)
  return {**batch, "positions": positions, "velocities": velocities, "targets": targets}


def turn_prediction(element: groups.Motion, prediction: jax.Array, batch: mocap.Split) -> jax.Array:
  """Turns positions at future frames, [..., joints, T, 3], about the mean joint of the input."""
  return jnp.swapaxes(_turn_about(batch, element, jnp.swapaxes(prediction, -2, -3)), -2, -3)


def _turn_about(batch: mocap.Split, element: groups.Motion, points: jax.Array) -> jax.Array:
  centre = batch["positions"].mean(-2, keepdims=True)
  centre = jnp.expand_dims(centre, tuple(range(centre.ndim - 2, points.ndim - 2)))
  return centre + actions.vector(element, points - centre)


SYMMETRY = Symmetry(groups.so3(), turn, turn_prediction)
"""SO(3) about the mean joint."""


def kept_symmetry(keep: str | None) -> Symmetry:
  """Returns the rotations that the network keeps, all or those about an axis, and their action."""
  axis = kept.axis(keep)
  return SYMMETRY if axis is None else dataclasses.replace(SYMMETRY, group=groups.so2(axis))


def rotations(largest_height: float) -> dict[str, Symmetry]:
  """Returns how test windows are turned about their mean joint to measure robustness.

  About the vertical, y, which changes no height; and about random axes with the height feature
  held fixed ("random_axes"), or computed from the turned input ("random_axes_recomputed").
  """

  def recomputed(element, batch):
    turned = turn(element, batch)
    return {**turned, "heights": turned["positions"][..., 1:2] / largest_height}

  return {
    "vertical": dataclasses.replace(SYMMETRY, group=groups.so2("y")),
    "random_axes": SYMMETRY,
    "random_axes_recomputed": dataclasses.replace(SYMMETRY, act_batch=recomputed),
  }


def model_inputs(batch: mocap.Split) -> tuple[jax.Array, ...]:
  """Returns what the model sees of a batch."""
  return batch["positions"], batch["velocities"], batch["heights"]


def squared_error(prediction: jax.Array, batch: mocap.Split) -> jax.Array:
  """Returns squared errors of all frames, [windows, joints, T, 3]: the training loss."""
  return jnp.square(prediction - batch["targets"])


def last_frame_error(prediction: jax.Array, batch: mocap.Split) -> jax.Array:
  """Returns squared errors of the last frame, [windows, joints, 3]: what is reported."""
  return jnp.square(prediction[:, :, -1] - batch["targets"][:, :, -1])


def equivariance(
  learned: task.Task,
  current: state.AceState,
  batch: mocap.Split,
  largest_height: float,
  symmetry: Symmetry,
) -> dict[str, jax.Array]:
  """Returns each predictor's relative errors under the symmetry's rotations, in two readings.

  "equivariance" holds the height feature fixed while positions and velocities turn, as
  published; "equivariance_recomputed" computes it from the turned positions, and so shows that
  the feature knows the vertical.
  """
  rotations = symmetry.group.sample(jax.random.key(0), _ROTATIONS).matrix

  def held(rotation, batch):
    turned = {name: batch[name] @ rotation.T for name in ("positions", "velocities")}
    return {**batch, **turned}

  def recomputed(rotation, batch):
    turned = held(rotation, batch)
    return {**turned, "heights": turned["positions"][..., 1:2] / largest_height}

  errors = {}
  for name, variables in current.current().items():
    for label, act in (("equivariance", held), ("equivariance_recomputed", recomputed)):
      errors[f"{label}/{name}"] = equivariance_error(
        functools.partial(learned.predict, variables),
        batch,
        rotations,
        act,
        lambda rotation, y: y @ rotation.T,
      )
  return errors


def predictions(data: mocap.Dataset, learned: task.Task, end: state.AceState) -> Predictions:
  """Returns bones, and start, true and predicted poses of one window of each test trial."""
  ends = np.cumsum(list(data.summary["trials"]["test"].values()))
  shown = task.take(data.test, ends - 1)
  predict = jax.jit(learned.predict)  # operation by operation, hundreds would be compiled
  predicted = {name: predict(variables, shown) for name, variables in end.selected().items()}
  poses = {"start": shown["positions"], "truth": shown["targets"]}
  return {"bones": data.bones, **poses, **predicted}


def draw(
  data: mocap.Dataset,
  label: str,
  folder: Path,
  end: state.AceState,
  records: list[history.Record],
  shown: Predictions,
) -> None:
  """Draws every figure of a run."""
  from ace_jax import plots
  from experiments.mocap import figures as skeleton_plots

  curve = plots.validation_curve({label: records}, unit="31.9 cm$^2$")
  plots.save(curve, folder / "validation.png")
  plots.save(plots.equivariance_error(records), folder / "equivariance_error.png")
  if plots.layers(records, "gamma") or plots.layers(records, "multiplier"):
    plots.save(plots.gamma_and_multipliers(records), folder / "gamma.png")
  labels = {f"{label}, {name}": np.asarray(shown[name]) for name in end.selected()}
  start, truth = np.asarray(shown["start"]), np.asarray(shown["truth"])
  figure = skeleton_plots.stick_figures(data.bones, start, truth, labels)
  plots.save(figure, folder / "poses.png")
