"""What a newcomer adds: a constraint, a branch and a model, each its class and one entry.

An experiment is a package: toy_experiments/spring.

`python tests/experiments/toys.py EXPERIMENT FLAGS` runs an experiment that knows them.
"""

import runpy
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

import experiments
from ace_jax.constraints.base import Constraint
from experiments.harness import branches, constraints, models

SHRINK = constraints.Constraint(
  "shrink",
  "toys:Shrink",
  (
    constraints.Constant(
      "kappa", "Weight of shrink.", default=0.3, domain="positive", gridded=True
    ),
  ),
)
SCALED = branches.Branch("scaled", "toys:Scaled")
STILL = models.Model("nbody", "still", "toys:still", homotopic=False)


@struct.dataclass
class Shrink(Constraint):
  """Adds kappa sum abs(gamma) to the loss."""

  kappa: float = 1.0

  def cost(self, primal):
    return self.kappa * sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(primal.gamma))


class Scaled(nn.Module):
  """A weight for every feature of the input's mean."""

  features: int

  @nn.compact
  def __call__(self, x):
    return x.mean(-1, keepdims=True) * self.param("w", nn.initializers.ones, (self.features,))


class Still(nn.Module):
  """Predicts that particles stay, but for one shift of all of them."""

  @nn.compact
  def __call__(self, positions, velocities, charges):
    return positions + self.param("shift", nn.initializers.zeros, (3,))


def still(settings):
  del settings
  return Still()


if __name__ == "__main__":
  constraints.register(SHRINK)
  branches.register(SCALED)
  models.register(STILL)
  experiments.__path__.append(str(Path(__file__).parent / "toy_experiments"))
  module = f"experiments.{sys.argv.pop(1)}"
  runpy.run_module(module, run_name="__main__", alter_sys=True)
