"""What `experiments.modelnet40` does once its flags are checked: data, training, figures."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ace_jax import state, task
from ace_jax.symmetry import actions, equivariance_error, groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history
from data import modelnet
from experiments.harness import artifacts, problems, training
from experiments.harness.artifacts import Predictions
from experiments.harness.replicas import Plan
from experiments.modelnet40 import models as modelnet_models
from experiments.modelnet40.settings import Settings, preset_values

_MEASURED, _ROTATIONS = 22, 2
_EVALUATED = 22
_BASELINE = "largest class"
_VALID_KEY, _VALID_DROP_KEY, _TEST_DROP_KEY = 1, 2, 3
SMOOTHING = 0.2


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
  training.say_preset(settings, "minutes on two cores, a small model on a part of the shapes")
  problem = make_problem(settings, data)
  training.train_and_say(problem, settings, folder, resume, plan, _BASELINE)


def load(settings: Settings) -> modelnet.Dataset:
  """Loads the data that the settings name."""
  sizes = settings.data.train_samples
  return modelnet.load(
    data_dir=settings.data.data_dir,
    points=settings.data.points,
    train=max(sizes) if sizes else None,
    held_out=settings.data.held_out,
    data_seed=settings.data.data_seed,
  )


def say_data(data: modelnet.Dataset) -> None:
  """Prints where the data come from and what is known of them."""
  about, sizes = data.summary, data.summary["sizes"]
  what = "made-up shapes, not ModelNet40" if about["made_up"] else f"ModelNet ({about['place']})"
  print(
    f"Data: {what}, {sizes['train']} train, {sizes['valid']} valid, {sizes['test']} test shapes "
    f"of {len(data.classes)} classes, {about['points']} points each; who always says the largest "
    f"class has test error rate {largest_class(data.train, data.test):.3g}."
  )


def make_problem(settings: Settings, data: modelnet.Dataset) -> problems.Problem:
  """Puts together model, data and figures.

  Validation shapes are turned as training shapes are, by rotations that never change; test shapes
  stand upright, and are turned beside that (`ROTATIONS` in result.json, "test_mse_turned"). Both
  lose points as training shapes do, always the same.
  """
  network = modelnet_models.make_model(settings, data)
  rotations, vertical = settings.data.rotations, data.summary["vertical"]
  dropout = network.dropout
  valid = thinned(_VALID_DROP_KEY, data.valid, dropout)
  key = jax.random.key(_VALID_KEY)
  valid["points"] = modelnet_models.turn(key, valid["points"], rotations, vertical)
  test = thinned(_TEST_DROP_KEY, data.test, dropout)
  summary = {
    **data.summary,
    "linear_mse": {name: largest_class(data.train, getattr(data, name)) for name in _SPLITS},
    "selection": "lowest error on validation shapes (published: on the test set)",
  }
  return problems.Problem(
    experiment="modelnet40",
    model=settings.model.model,
    network=network,
    inputs=model_inputs,
    loss=smoothed_cross_entropy,
    metric=wrong,
    train=data.train,
    valid=valid,
    test=test,
    summary=summary,
    measured=task.take(valid, slice(0, _MEASURED)),
    measure=equivariance,
    published=published(),
    draw=functools.partial(
      draw, summary["classes"], summary["linear_mse"]["valid"], settings.constraint.name
    ),
    eval_batch_size=_EVALUATED,
    symmetry=SYMMETRY,
    rotations=turned_about(vertical),
    metric_name="error rate",
    predictions=functools.partial(predictions, test, vertical),
  )


_SPLITS = ("train", "valid", "test")


def published() -> dict[str, Any]:
  """Returns the published value of every setting that decides a result."""
  left_out = ("eval_every", "checkpoint_every", "centring")
  return {
    **{k: v for k, v in preset_values("paper").items() if k not in left_out},
    **{"train_samples": None, "held_out": None, "rotations": "so3"},
    **dict.fromkeys(("gamma_lr", "gamma", "clip_norm", "patience")),
    **dict.fromkeys(("decay_epochs", "weight_decay", "finish_epochs")),
    "relaxation_scale": "free",
  }


def thinned(seed: int, split: modelnet.Split, most: float) -> dict[str, Any]:
  """Returns a split whose shapes have lost points, always the same ones."""
  points = modelnet_models.drop_points(jax.random.key(seed), jnp.asarray(split["points"]), most)
  return {**split, "points": points}


def largest_class(train: modelnet.Split, split: modelnet.Split) -> float:
  """Returns the error rate of who always says the class that is most frequent in training."""
  return float(np.mean(split["label"] != np.bincount(train["label"]).argmax()))


def model_inputs(batch: modelnet.Split) -> tuple[jax.Array, ...]:
  """Returns what the model sees of a batch."""
  return (jnp.asarray(batch["points"]),)


def smoothed_cross_entropy(
  logits: Float[Array, "samples classes"], batch: modelnet.Split
) -> Float[Array, " samples"]:
  """Returns the cross entropy of every sample with smoothed labels.

  .. math:: -\\sum_c q_c \\log p_c, \\qquad q_c = 0.8 \\ \\text{at the label}, \\quad
     0.2 / (C - 1) \\ \\text{elsewhere}

  Reference: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019.
  """
  classes = logits.shape[-1]
  labels = jax.nn.one_hot(batch["label"], classes)
  # Optax spreads its share over all classes, the label's among them.
  share = SMOOTHING * classes / (classes - 1)
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, share))


def wrong(
  logits: Float[Array, "samples classes"], batch: dict[str, Int[Array, " samples"]]
) -> Float[Array, " samples"]:
  """Returns 1 where the largest logit is not the label's, 0 elsewhere: 1 - accuracy on average."""
  return (jnp.argmax(logits, -1) != batch["label"]).astype(logits.dtype)


_ACTION = actions.act_on({"points": actions.vector, "label": actions.invariant})
SYMMETRY = Symmetry(groups.so3(), _ACTION, lambda element, logits, batch: logits)
"""Rotations about the mean of a shape's points, which change no class."""


def turned_about(vertical: str) -> dict[str, Symmetry]:
  """Returns how test shapes are turned, by name: about the vertical, and in any way."""
  return {
    "vertical": dataclasses.replace(SYMMETRY, group=groups.so2(vertical)),
    "random_axes": SYMMETRY,
  }


def equivariance(
  learned: task.Task, current: state.AceState, batch: modelnet.Split
) -> dict[str, jax.Array]:
  """Returns the relative error of each predictor under rotations, which change no class."""
  rotations = SYMMETRY.group.sample(jax.random.key(0), _ROTATIONS)
  return {
    f"equivariance/{name}": equivariance_error(
      functools.partial(learned.predict, variables), batch, rotations, _ACTION, actions.invariant
    )
    for name, variables in current.current().items()
  }


def predictions(
  test: modelnet.Split, vertical: str, learned: task.Task, end: state.AceState
) -> Predictions:
  """Returns the class of every test shape: the truth, and what each predictor says of it.

  What it says of shapes turned about random axes has "_random_axes" after its name.
  """
  chosen = {"random_axes": turned_about(vertical)["random_axes"]}
  sets = {"": test} | {f"_{name}": s for name, s in artifacts.turned(chosen, test).items()}

  @jax.jit
  def classes(variables, batch):
    return jnp.argmax(learned.predict(variables, batch), -1)

  count = task.size(test)

  def of_all(variables, split):
    chunks = []
    for start in range(0, count, _EVALUATED):
      # The last batch is filled up with the first shapes, so that there is one program.
      index = np.arange(start, start + _EVALUATED) % count
      chunks.append(np.asarray(classes(variables, task.take(split, index))))
    return np.concatenate(chunks)[:count].astype(np.int32)

  predicted = {
    f"{name}{turned}": of_all(variables, split)
    for turned, split in sets.items()
    for name, variables in end.selected().items()
  }
  return {"truth": np.asarray(test["label"]), **predicted}


def draw(
  classes: Sequence[str],
  baseline: float,
  label: str,
  folder: Path,
  end: state.AceState,
  records: list[history.Record],
  shown: Predictions,
) -> None:
  """Draws every figure of a run."""
  from ace_jax import plots  # Matplotlib is slow to import
  from experiments.modelnet40 import figures

  plots.save(figures.accuracy(label, records, baseline), folder / "accuracy.png")
  plots.save(plots.equivariance_error(records), folder / "equivariance_error.png")
  if plots.layers(records, "gamma") or plots.layers(records, "multiplier"):
    plots.save(plots.gamma_and_multipliers(records), folder / "gamma.png")
  predicted = {name: np.asarray(array) for name, array in shown.items() if name != "truth"}
  figure = figures.confusion(classes, np.asarray(shown["truth"]), predicted)
  plots.save(figure, folder / "confusion.png")
