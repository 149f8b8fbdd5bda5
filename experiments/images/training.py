"""The training of one network on digits, and how shifts act on them."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ace_jax import state
from ace_jax.symmetry import actions, data, groups
from ace_jax.training import checkpoints, history, loop, parallel
from experiments.harness import problems, results, training
from experiments.harness.settings import (
  Branch,
  Constraint,
  Data,
  DualOptimizer,
  Model,
  PrimalOptimizer,
  Settings,
  Training,
)
from experiments.images.settings import Flags

CANVAS = 24
SETTINGS = Settings(
  Constraint("strict", augmented=1.0),
  Branch(relaxation_scale="fixed"),
  PrimalOptimizer(lr=3e-3, gamma_lr=1e-2, slack_lr=1e-2),
  DualOptimizer("adam", dual_lr=1e-3, dual_eps=1e-8),
  Training(epochs=15, batch_size=20, eval_every=3, checkpoint_every=1000),
  Model("cnn"),
  Data(),
)
"""What flags do not move is the same for every network."""
RECORDED = (
  *("batch_size", "eval_every", "checkpoint_every", "patience", "lr", "gamma_lr", "slack_lr"),
  *("dual_lr", "dual_optimizer", "dual_eps", "clip_norm", "augmented"),
)
"""Settings that no flag moves, as they stand in config.json and result.json."""

shifted = actions.shifted((-3, -2))
"""How a shift acts on an image, [height, width, channels], or on a batch of them."""

SYMMETRY = data.Symmetry(
  groups.cyclic_shifts(CANVAS, CANVAS),
  actions.act_on({"image": shifted, "label": actions.invariant}),
  lambda element, prediction, batch: prediction,
)


class Trained(NamedTuple):
  """A trained network.

  Attributes:
    projection: Variables of f_{theta,0} at its lowest validation loss.
    relaxed: Of f_{theta,gamma} at its own; of a strict model, the projection's.
    end: The final state.
    records: One an epoch.
    test: Test loss of each predictor.
    memory: Expected at the peak, by `memory.Peak.record`; None where it was trained before.
  """

  projection: dict[str, Any]
  relaxed: dict[str, Any]
  end: state.AceState
  records: list[history.Record]
  test: dict[str, float]
  memory: dict[str, Any] | None


def cross_entropy(logits: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
  """Returns the loss of every sample."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def visible(split: dict[str, Any]) -> dict[str, Any]:
  """Returns images and labels of a split, without what no network may see."""
  return {name: split[name] for name in ("image", "label")}


def train(
  network: nn.Module,
  data: dict[str, dict[str, Any]],
  constraint: str,
  seed: int,
  flags: Flags,
  place: Path,
) -> Trained:
  """Trains one network, or reads it back where it was trained before.

  Seeds are trained one after the other, not as replicas: convolutions with kernels of their own for
  every replica take twice the time on a CPU.

  Args:
    network: Returns logits.
    data: Splits, see `data.digits.load`.
    constraint: "strict", "none", "equality" or "resilient".
    seed: Of this training.
    flags: Of the command.
    place: A folder of its own, for its checkpoint and history.
  """
  splits = {name: visible(split) for name, split in data.items()}
  settings = SETTINGS.replace(constraint=constraint, seed=seed, epochs=flags.epochs, rho=flags.rho)
  problem = problems.Problem(
    experiment="images",
    model="cnn",
    network=network,
    inputs=lambda batch: (batch["image"],),
    loss=cross_entropy,
    metric=None,
    **splits,
    summary={},
    measure=lambda learned, current: {},
    published={},
    draw=lambda folder, end, records, predictions: None,
    symmetry=SYMMETRY,
  )
  report_memory, peaks = results.keep_memory()
  end, records = loop.train(
    problems.method(settings, problem),
    problems.start([settings], problem),
    problem.train,
    problem.valid,
    problems.training_settings(settings.training, problem),
    workdir=place,
    resume=checkpoints.exists(place / loop.CHECKPOINTS),
    report_memory=report_memory,
    ends_on=training.ENDING,
  )
  test = loop.test_errors(problem.task, end, problem.test)[0]
  end = parallel.select(end, 0)
  best = end.selected()
  relaxed = best.get("relaxed", best["projection"])
  return Trained(best["projection"], relaxed, end, records[0], test, results.memory(peaks))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the share of samples whose largest logit is the label's."""
  return jnp.mean(jnp.argmax(logits, -1) == labels)
