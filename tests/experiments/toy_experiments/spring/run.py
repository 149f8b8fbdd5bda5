"""Learns the force of a spring, which is odd: the work of the experiment."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ace_jax import Homotopic
from ace_jax.training.parallel import DATA
from experiments.harness import problems, training


class Odd(nn.Module):
  """An odd function, but for its homotopic layer."""

  features: int

  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(self.features, use_bias=False)(x))
    y = nn.Dense(1, use_bias=False)(h)
    return Homotopic(nn.Dense, axis_name=DATA, name="force")(y, x)


def odd(settings):
  """Returns the network that the settings ask for."""
  return Odd(settings.model.hidden_features)


def run(settings, folder, resume, plan):
  """Trains, and says how well."""
  splits = {}
  for seed, name in enumerate(("train", "valid", "test")):
    x = np.random.default_rng(seed).normal(size=(40, 1)).astype(np.float32)
    splits[name] = {"x": x, "targets": -settings.data.stiffness * x}
  variances = {name: float(np.mean(split["targets"] ** 2)) for name, split in splits.items()}
  problem = problems.Problem(
    **splits,
    experiment="spring",
    model=settings.model.model,
    network=odd(settings),
    inputs=lambda batch: (batch["x"],),
    loss=lambda prediction, batch: jnp.square(prediction - batch["targets"]),
    metric=None,
    summary={"linear_mse": variances},
    measured={},
    measure=lambda learned, current, batch: {},
    published={},
    draw=lambda *_: None,
  )
  training.train_and_say(problem, settings, folder, resume, plan, "no force")
