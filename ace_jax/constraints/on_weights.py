"""Rival training rules that penalise weights, and leave gamma at 1.

=====================  ================================================================
ResidualPathway        equivariant and free weights have an L2 penalty each
ProjectionRegulariser  the part of linear branches that is not equivariant is penalised
=====================  ================================================================

Neither method has a gamma. A learned one would undo the penalty, for (gamma / s, s f_neq) is the
same function at another size of the weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct, traverse_util

from ace_jax import homotopy
from ace_jax.constraints import linear_branches
from ace_jax.constraints.base import Constraint, Terms
from ace_jax.state import Primal
from ace_jax.symmetry import reynolds
from ace_jax.task import Scalar


@struct.dataclass
class _FullBranches(Constraint):
  """Base of the rules under which every gamma is 1."""

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    return super().terms(task, _full(primal), model_state, batch, key, constraint_state)

  def update(self, primal, multipliers, constraint_state, aux, step):
    return _full(primal), multipliers, constraint_state


@struct.dataclass
class ResidualPathway(_FullBranches):
  """Residual pathway priors: f_eq + f_neq, both kinds of weights with a normal prior of its own.

  .. math:: \\min \\; loss(f_{eq} + f_{neq}, y) + a \\|\\theta_{eq}\\|^2 + b \\|\\theta_{neq}\\|^2

  with theta_neq the weights of the branches, biases included, and theta_eq all others. For a loss
  that is a mean of negative log-likelihoods over N samples, a = 1 / (2 N sigma_eq^2), and b
  likewise: b above a says that symmetry is likely. A branch that divides by the size of its weights
  (`SpectralMLP`, EGNO's streams, a "fixed" scale) would evade the penalty.

  Attributes:
    equivariant: a. The default is ours.
    free: b. The default is ours.

  Reference: Finzi, Benton, Wilson, "Residual Pathway Priors for Soft Equivariance Constraints",
  NeurIPS 2021.
  """

  equivariant: float | Scalar = 1e-6
  free: float | Scalar = 1e-4

  def cost(self, primal):
    equivariant, free = jnp.zeros(()), jnp.zeros(())
    leaves: dict[Any, Any] = traverse_util.flatten_dict(primal.theta)
    for path, weights in leaves.items():
      square = jnp.sum(jnp.square(weights))
      if homotopy.RELAXATION in path:
        free = free + square
      else:
        equivariant = equivariant + square
    return self.equivariant * equivariant + self.free * free


@struct.dataclass
class ProjectionRegulariser(_FullBranches):
  """Penalises how far linear branches are from the equivariant maps next to them.

  .. math:: \\min \\; loss(f_{eq} + f_{neq}, y) + \\lambda \\sum_l \\|W_l - P_l W_l\\|^2

  over layers l, with P_l the mean over the group (`symmetry.reynolds.project`). It is 0 for
  branches that are equivariant themselves, which may stay: what counts is the relaxed predictor.
  The branches must be `relaxations.Linear` of a free scale, in layers that name their
  `Homotopic.irreps`.

  Attributes:
    weight: lambda. The default is ours.

  Raises:
    ConfigurationError: (in the first step) a layer has another branch, or does not name its irreps.

  Reference: Berndt, Stuehmer, 2026 (arXiv:2601.05028).
  """

  weight: float | Scalar = 1e-3

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    # A collection that is there is one that the model may write to: it sows what layers see.
    terms = super().terms(
      task, primal, {**model_state, "intermediates": {}}, batch, key, constraint_state
    )
    model_state = dict(terms.model_state)
    layers = traverse_util.flatten_dict(model_state.pop("intermediates"))
    distance = distance_to_equivariance(primal.theta, primal.gamma, layers)
    return Terms(terms.loss, self.weight * distance, terms.violation, model_state)


def distance_to_equivariance(theta: Any, gamma: Any, layers: dict[tuple[str, ...], Any]) -> Scalar:
  """Returns the sum of norm(W - P W)^2 over layers; arguments as of `linear_branches.of_layers`.

  Raises:
    ConfigurationError: a layer's branch is not linear, or its representations are not known.
  """
  total = jnp.zeros(())
  for branch in linear_branches.of_layers(theta, gamma, layers):
    equivariant = reynolds.project(branch.kernel, branch.irreps.x, branch.irreps.y)
    total = total + jnp.sum(jnp.square(branch.kernel - equivariant))
  return total


def _full(primal: Primal) -> Primal:
  return primal._replace(gamma=jax.tree.map(jnp.ones_like, primal.gamma))
