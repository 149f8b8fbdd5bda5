"""The constrained problems on gamma, each a pytree of its constants and a few pure functions.

==================  ======================================  ==================  ==================
constraint          problem                                 violation v         domains
==================  ======================================  ==================  ==================
Unconstrained       min loss                                none
Equality            min loss, gamma = 0                     gamma               lambda real
Inequality          min loss, abs(gamma) <= eps             abs(gamma) - eps    lambda >= 0
Resilient           min loss + rho/2 norm(u)^2,             abs(gamma) - u      lambda >= 0, u >= 0
                    abs(gamma) <= u
OneSided            min loss, gamma <= 0                    gamma               lambda >= 0
PublishedResilient  min loss + 1/2 norm(c)^2,               abs(gamma) - c      lambda >= 0
                    abs(gamma) <= c, c an earlier lambda
Ridge               min loss + rho/2 norm(gamma)^2          none
==================  ======================================  ==================  ==================

Every entry of every gamma is one constraint. Reference: Manolache et al., NeurIPS 2025 (equality
and resilient); Hounie et al., "Resilient Constrained Learning", NeurIPS 2023 (slack).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ace_jax.constraints.base import Constraint
from ace_jax.task import Scalar


@struct.dataclass
class Equality(Constraint):
  """min loss subject to gamma = 0; violation gamma, multipliers of either sign."""

  def init_multipliers(self, gamma):
    return _zeros_like(gamma)

  def violation(self, primal):
    return primal.gamma


@struct.dataclass
class _OneSidedMultipliers(Constraint):
  """Inequality constraints v <= 0: multipliers are projected to lambda >= 0."""

  def init_multipliers(self, gamma):
    return _zeros_like(gamma)

  def excess(self, violation):
    return _positive(violation)

  def update(self, primal, multipliers, constraint_state, aux, step):
    return primal, _positive(multipliers), constraint_state


@struct.dataclass
class Inequality(_OneSidedMultipliers):
  """min loss subject to abs(gamma) <= epsilon.

  Attributes:
    epsilon: Largest admitted absolute value. Binds only where the scale of f_neq is fixed.
  """

  epsilon: float | Scalar = 0.1

  def violation(self, primal):
    return jax.tree.map(lambda gamma: magnitude(gamma) - self.epsilon, primal.gamma)


@struct.dataclass
class Resilient(_OneSidedMultipliers):
  """min loss + rho/2 norm(u)^2 subject to abs(gamma) <= u, with a learned slack u >= 0.

  Attributes:
    rho: Price of slack; at a stationary point u = lambda / rho.

  Reference: Hounie, Ribeiro, Chamon, "Resilient Constrained Learning", NeurIPS 2023.
  """

  rho: float | Scalar = 1.0

  def init_slack(self, gamma):
    return _zeros_like(gamma)

  def violation(self, primal):
    return jax.tree.map(lambda gamma, u: magnitude(gamma) - u, primal.gamma, primal.slack)

  def cost(self, primal):
    return 0.5 * self.rho * _squared_norm(primal.slack)

  def update(self, primal, multipliers, constraint_state, aux, step):
    return primal._replace(slack=_positive(primal.slack)), _positive(multipliers), constraint_state


@struct.dataclass
class OneSided(_OneSidedMultipliers):
  """min loss subject to gamma <= 0, what the published motion-capture code solves.

  The sign of f_neq is free, so this constrains next to nothing once gamma has crossed 0; it is
  here to understand the published numbers.
  """

  def violation(self, primal):
    return primal.gamma


@struct.dataclass
class PublishedResilient(_OneSidedMultipliers):
  """The other rule that the published motion-capture code calls resilient.

  With c = lambda as it was at the start of the epoch, a constant until the next one,

  .. math:: L = loss + \\sum_i \\lambda_i v_i + \\tfrac{1}{2} \\|c\\|^2, \\qquad
     v = |\\gamma| - c, \\qquad \\lambda \\leftarrow [\\lambda + opt(v)]_+

  It is `Resilient` with the slack eliminated at rho = 1, u = lambda, and ends where `Ridge` with
  rho = 1 does. There is no other rho, and the published eps only switches the rule on: no value of
  it enters. The state holds the `bound`, c; `epochs.compile_epoch` moves it, so that steps outside
  an epoch keep c = 0.
  """

  def init_state(self, gamma):
    return {"bound": _zeros_like(gamma)}

  def begin_epoch(self, multipliers, constraint_state):
    del constraint_state
    return {"bound": multipliers}

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    terms = super().terms(task, primal, model_state, batch, key, constraint_state)
    bound = constraint_state["bound"]
    violation = jax.tree.map(lambda gamma, c: magnitude(gamma) - c, primal.gamma, bound)
    return terms._replace(cost=0.5 * _squared_norm(bound), violation=violation)


@struct.dataclass
class Ridge(Constraint):
  """min loss + rho/2 norm(gamma)^2: where `Resilient` ends, without its path and multipliers.

  Attributes:
    rho: Weight of the penalty.
  """

  rho: float | Scalar = 1.0

  def cost(self, primal):
    return 0.5 * self.rho * _squared_norm(primal.gamma)


def magnitude(gamma: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns abs(gamma), with sign(gamma) for its gradient: 0 at 0."""
  return gamma * jax.lax.stop_gradient(jnp.sign(gamma))


def _zeros_like(tree: Any) -> Any:
  return jax.tree.map(jnp.zeros_like, tree)


def _positive(tree: Any) -> Any:
  return jax.tree.map(lambda x: jnp.maximum(x, 0), tree)


def _squared_norm(tree: Any) -> Scalar:
  return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))
