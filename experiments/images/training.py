"""The training of one network on digits, and how shifts act on them."""

from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import ace_jax
from ace_jax import homotopy
from ace_jax.symmetry import actions, groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import checkpoints, loop
from data import digits
from experiments.harness import build
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
from experiments.harness.training import finished
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
_OF_FIT = (
  *("epochs", "seed"),
  *(name for name in RECORDED if name not in ("dual_optimizer", "dual_eps", "augmented")),
)
"""Settings that `fit` takes under the same name."""

shifted = actions.shifted((-3, -2))
"""How a shift acts on an image, [height, width, channels], or on a batch of them."""

SYMMETRY = Symmetry(
  groups.cyclic_shifts(CANVAS, CANVAS),
  actions.act_on({"image": shifted, "label": actions.invariant}),
  lambda element, prediction, batch: prediction,
)


def cross_entropy(logits: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
  """Returns the loss of every sample."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def visible(split: digits.Split) -> digits.Split:
  """Returns images and labels of a split, without what no network may see."""
  return {name: split[name] for name in ("image", "label")}


def train(
  network: nn.Module,
  data: Mapping[str, digits.Split],
  constraint: str,
  seed: int,
  flags: Flags,
  folder: Path,
) -> ace_jax.Fit:
  """Trains one network, or reads it back where it was trained before.

  Seeds are trained one after the other, not as replicas: convolutions with kernels of their own for
  every replica take twice the time on a CPU.

  Args:
    network: Returns logits.
    data: Splits, see `data.digits.load`.
    constraint: "strict", "none", "equality" or "resilient".
    seed: Of this training.
    flags: Of the command.
    folder: A folder of its own, for its checkpoint and history.
  """
  settings = SETTINGS.replace(constraint=constraint, seed=seed, epochs=flags.epochs, rho=flags.rho)
  flat = settings.to_json()
  strict = settings.constraint.entry.gamma == "absent"
  init = homotopy.strict(network.init) if strict else network.init
  # The first of the two keys that `fit` draws, with which it would make them itself.
  key, _ = jax.random.split(jax.random.key(seed))
  variables = jax.jit(init)(key, data["train"]["image"][:2])
  steps_an_epoch = len(data["train"]["label"]) // settings.training.batch_size
  trained = ace_jax.fit(
    network,
    cross_entropy,
    *(visible(data[name]) for name in ("train", "valid", "test")),
    constraint=build.constraint(settings.constraint, SYMMETRY, steps_an_epoch),
    inputs=lambda batch: (batch["image"],),
    variables=variables,
    dual=settings.dual.dual_optimizer,
    workdir=folder,
    resume=checkpoints.exists(folder / loop.CHECKPOINTS),
    progress=None,
    **{name: flat[name] for name in _OF_FIT},
  )
  return finished(trained, f"saved in {folder}")


def accuracy(logits: jax.Array, labels: jax.Array | np.ndarray) -> jax.Array:
  """Returns the share of samples whose largest logit is the label's."""
  return jnp.mean(jnp.argmax(logits, -1) == labels)
