"""The model and settings of the runs that `benchmarks.faults` disturbs: as small as can be."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ace_jax import Homotopic, files
from ace_jax.training import parallel
from experiments.harness import problems
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

EPOCHS = 12
SETTINGS = Settings(
  Constraint("equality", augmented=1.0),
  Branch(),
  PrimalOptimizer(lr=1e-2),
  DualOptimizer("adam", dual_lr=1e-2, dual_eps=1e-8),
  Training(epochs=EPOCHS, batch_size=10, eval_every=1, checkpoint_every=2),
  Model("tiny"),
  Data(),
)


class Network(nn.Module):
  """Moves particles along their velocities by a length that depends on speeds and charges."""

  @nn.compact
  def __call__(self, x, v, q):
    invariants = jnp.concatenate([jnp.sum(v * v, -1, keepdims=True), q[..., None]], -1)
    features = jnp.concatenate([x, v], -1)
    h = nn.tanh(
      Homotopic(nn.Dense, axis_name=parallel.DATA, name="layer")(nn.Dense(4)(invariants), features)
    )
    return x + v * (1 + nn.Dense(1)(h))


def problem(data: Any) -> Any:
  """Puts together network and data."""

  def draw(folder, end, records, predictions):
    del end, predictions
    curve = [record["valid/projection"] for record in records]
    files.write_binary(folder / "curve.npy", lambda file: np.save(file, curve))

  return problems.Problem(
    experiment="faults",
    model="tiny",
    network=Network(),
    inputs=lambda batch: (batch["positions"], batch["velocities"], batch["charges"]),
    loss=lambda y, batch: jnp.square(y - batch["targets"]),
    metric=None,
    train=data.train,
    valid=data.valid,
    test=data.test,
    summary=data.summary,
    measured={},
    measure=lambda learned, current, batch: {},
    published={},
    draw=draw,
  )
