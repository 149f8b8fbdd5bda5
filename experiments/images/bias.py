"""The second part of `experiments.images`: constraints, with and without a position bias."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

import ace_jax
from ace_jax import symmetry
from ace_jax.models import cnn
from ace_jax.relaxations import Relaxation
from ace_jax.symmetry import actions, report, verdicts
from ace_jax.training import history
from ace_jax.training.parallel import DATA
from data import digits
from experiments.images import training as images_training
from experiments.images.settings import Flags

CANVAS = images_training.CANVAS
NETWORK = cnn.ConvNet(relaxation=Relaxation(scale="fixed", axis_name=DATA))
"""Circular, with a branch that knows the position in every layer."""
BROKEN = {"none": set(), "x": {"shift_x"}, "y": {"shift_y"}}
"""The truth: generators that the labels break."""
_POINTS = 8


class Judged(TypedDict):
  """The verdicts on a training.

  Generators that are `called_broken`; the verdict on each, in words; and their `outcome` together:
  "right", "wrong" or "cannot tell".
  """

  called_broken: list[str]
  verdicts: dict[str, str]
  outcome: str


class Summary(TypedDict):
  """The numbers of one training, and those of `Judged` where the model has a gamma.

  Losses are cross-entropies, accuracies shares of the test images; gamma, multipliers and slack are
  final, by layer; `memory` is the expected peak in bytes, if that is known.
  """

  bias: str
  constraint: str
  seed: int
  projection_test_loss: float
  relaxed_test_loss: float
  projection_test_accuracy: float
  relaxed_test_accuracy: float
  gamma: dict[str, float]
  multipliers: dict[str, float]
  slack: dict[str, float]
  memory: dict[str, Any] | None
  called_broken: NotRequired[list[str]]
  verdicts: NotRequired[dict[str, str]]
  outcome: NotRequired[str]


class Results(NamedTuple):
  """What came of the second part.

  Attributes:
    rows: Numbers of every bias, constraint and seed.
    reports: By (bias, constraint), over the seeds: the generators.
    layers: By (bias, constraint), of the first seed: the layers.
    records: By (bias, constraint), of the first seed: the history.
  """

  rows: list[Summary]
  reports: dict[tuple[str, str], list[report.GeneratorReport]]
  layers: dict[tuple[str, str], list[report.LayerReport]]
  records: dict[tuple[str, str], list[history.Record]]


def run(settings: Flags, folder: Path, progress: Callable[[str], None]) -> Results:
  """Trains every constraint on every data set, and reports on what has a gamma.

  Args:
    settings: Of the command.
    folder: Gets a folder a training.
    progress: Called after each training.
  """
  results = Results([], {}, {}, {})
  measure = compile_measure()
  for bias in settings.bias:
    data = digits.load(bias, canvas=CANVAS, data_seed=settings.data_seed)
    test = images_training.visible(data["test"])
    baseline = constant_error(data["train"]["label"], data["valid"]["label"])
    for constraint in settings.constraint:
      measured, trainings = [], []
      for seed in settings.seeds:
        workdir = folder / f"{constraint}_bias_{bias}_seed{seed}_epochs{settings.epochs}"
        fit = images_training.train(NETWORK, data, constraint, seed, settings, workdir)
        row: Summary = summarise(bias, constraint, seed, fit, test)
        if fit.state.primal.gamma:
          measured.append(jax.device_get(measure(fit.relaxed, test)))
          trainings.append(report.evidence(fit.history, baseline))
          reports = report.generator_reports(measured[-1:], trainings[-1:])
          row = {**row, **judged(reports, BROKEN[bias])}
          if seed == settings.seeds[0]:
            inputs = (test["image"],)
            layers = report.layer_reports(NETWORK, fit.state.relaxed, inputs, fit.history)
            results.layers[bias, constraint] = layers
            results.records[bias, constraint] = fit.history
        results.rows.append(row)
        progress(f"bias {bias}, {constraint}, seed {seed}")
      if measured:
        results.reports[bias, constraint] = report.generator_reports(measured, trainings)
  return results


def constant_error(
  train: Int[np.ndarray, " samples"], labels: Int[np.ndarray, " samples"]
) -> float:
  """Returns the cross-entropy of predicting how often each class is, whatever the image.

  Args:
    train: Labels that the frequencies are counted in, each class once more than it is there.
    labels: Labels that are predicted.
  """
  counts = np.bincount(train, minlength=int(labels.max()) + 1) + 1.0
  return float(-np.mean(np.log(counts / counts.sum())[labels]))


def judged(generators: Sequence[report.GeneratorReport], truth: set[str]) -> Judged:
  """Returns whether the verdicts on a training are right, and what they are."""
  judgements = {reported.name: reported.judgement for reported in generators}
  return {
    "called_broken": sorted(reported.name for reported in generators if reported.broken),
    "verdicts": {name: reported.describe() for name, reported in judgements.items()},
    "outcome": verdicts.outcome(judgements, truth),
  }


def summarise(
  bias: str, constraint: str, seed: int, fit: ace_jax.Fit, test: digits.Split
) -> Summary:
  """Returns the numbers of one training."""
  network = jax.jit(NETWORK.apply)
  relaxed = "relaxed" if "relaxed" in fit.test else "projection"
  last = fit.history[-1]

  def share_right(variables: Any) -> float:
    logits: Any = network(variables, test["image"])
    return float(images_training.accuracy(logits, test["label"]))

  return {
    "bias": bias,
    "constraint": constraint,
    "seed": seed,
    "projection_test_loss": fit.test["projection"],
    "relaxed_test_loss": fit.test[relaxed],
    "projection_test_accuracy": share_right(fit.projection),
    "relaxed_test_accuracy": share_right(fit.relaxed),
    "gamma": history.of_kind(last, "gamma"),
    "multipliers": history.of_kind(last, "multiplier"),
    "slack": history.of_kind(last, "slack"),
    "memory": fit.memory and fit.memory.record(),
  }


def compile_measure():
  """Compiles what a report needs of a predictor.

  Returns:
    `measure(variables, batch)`: for every generator the relative error of one step, and what every
    sample loses, on average over shifts around the torus.
  """
  group, act = images_training.SYMMETRY.group, images_training.SYMMETRY.act_batch
  times = jnp.arange(1, _POINTS) * (CANVAS // _POINTS)

  @jax.jit
  def measure(variables, batch) -> report.Measured:
    def predict(batch) -> Any:
      return NETWORK.apply(variables, batch["image"])

    def loss(batch):
      return images_training.cross_entropy(predict(batch), batch)

    errors = {
      name: symmetry.equivariance_error(
        predict, batch, curve(jnp.ones((), int))[None], act, actions.invariant
      )
      for name, curve in group.generators.items()
    }
    lost = {
      name: symmetry.data_fit_loss(loss, batch, curve, act, times)
      for name, curve in group.generators.items()
    }
    return report.Measured(errors, lost, jnp.mean(loss(batch)))

  return measure


def table(results: Results) -> tuple[list[str], list[list[str]]]:
  """Returns header and rows of the table: means over seeds, and how often verdicts are right."""
  header = ["bias, constraint", "f_eq accuracy", "relaxed accuracy", "max|gamma|", "max|lambda|"]
  header += ["called broken (seeds)", "right, wrong, cannot tell"]
  shown = []
  for key in dict.fromkeys((row["bias"], row["constraint"]) for row in results.rows):
    of_key = [row for row in results.rows if (row["bias"], row["constraint"]) == key]
    outcomes = [row["outcome"] for row in of_key if "outcome" in row]
    names = sorted({name for row in of_key for name in row.get("called_broken", ())})
    counts = [
      f"{name} {sum(name in row.get('called_broken', ()) for row in of_key)}" for name in names
    ]
    kinds = ("right", "wrong", "cannot tell")
    shown.append(
      [
        ", ".join(key),
        _percent([row["projection_test_accuracy"] for row in of_key]),
        _percent([row["relaxed_test_accuracy"] for row in of_key]),
        _largest([row["gamma"] for row in of_key]),
        _largest([row["multipliers"] for row in of_key]),
        ", ".join(counts),
        ", ".join(str(outcomes.count(kind)) for kind in kinds) if outcomes else "",
      ]
    )
  return header, shown


def _percent(shares: list[float]) -> str:
  return f"{100 * np.mean(shares):.1f}%"


def _largest(by_layer: list[dict[str, float]]) -> str:
  """Returns the largest absolute value of each seed, the mean over seeds; "" where one has none."""
  values = [max((abs(v) for v in layers.values()), default=None) for layers in by_layer]
  largest = [value for value in values if value is not None]
  return f"{np.mean(largest):.3f}" if len(largest) == len(values) else ""
