"""Constraints on a network's own equivariance error, for networks without any equivariant part.

===================  =====================================  =================  ==================
constraint           problem                                violation v        domains
===================  =====================================  =================  ==================
Functional           min loss, gap <= eps                   gap - eps          lambda >= 0
ResilientFunctional  min loss + rho/2 u^2, gap <= u         gap - u            lambda >= 0, u >= 0
===================  =====================================  =================  ==================

The gap is one number, so there is one constraint with one multiplier:

.. math:: gap(f) = E_{g, x} \\, \\tfrac{1}{d} \\|f(\\rho_X(g) x) - \\rho_Y(g) f(x)\\|^2

with g drawn by Haar in every step, one for each sample, and d coordinates: in units of the MSE.
Of a prediction with several entries, such as energy and forces, it is the mean over them of
gap_k / units_k^2, with the sizes that `Symmetry.units` names.

At constant step sizes the bound holds on average over iterates, and noise moves every single one
off it; let them fall towards the end (`optimizers.primal_adam(decay=...)`), and the last one
meets it.

Reference: Manolache et al., NeurIPS 2025, Sec. 7 (equivariance out of non-equivariant
architectures, posed as an open question).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import PRNGKeyArray

from ace_jax import homotopy
from ace_jax.constraints.base import Terms, UnderSymmetry
from ace_jax.state import Primal
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch, Scalar, Task

EQUIVARIANCE = "equivariance"
"""Name of the one constraint, of its multiplier and of its slack."""


def loss_and_gap(
  symmetry: Symmetry,
  task: Task,
  primal: Primal,
  model_state: dict[str, Any],
  batch: Batch,
  key: PRNGKeyArray,
) -> tuple[Scalar, Scalar, dict[str, Any]]:
  """Returns (mean loss, gap, new model state) on a batch; both differentiable in theta and gamma.

  Args:
    symmetry: Whose gap.
    task: The model and its loss.
    primal: The point.
    model_state: `batch_stats` and the like; only the unmoved batch changes it.
    batch: The samples of this device.
    key: Draws group elements, and whatever is random in the model (the same for both calls).

  Raises:
    ConfigurationError: the prediction has several entries, and the symmetry names no units.
  """
  variables = homotopy.merge(primal.theta, primal.gamma, model_state)
  draw, model_key = jax.random.split(key)
  prediction, updated = task.apply(variables, batch, model_key)
  gaps = symmetry.gaps(
    lambda moved: task.apply(variables, moved, model_key)[0], prediction, batch, draw
  )
  gap = jnp.mean(symmetry.joined(gaps))
  return jnp.mean(task.loss(prediction, batch)), gap, updated


@struct.dataclass
class _OnTheGap(UnderSymmetry):
  def init_multipliers(self, gamma):
    return {EQUIVARIANCE: jnp.zeros(())}

  def bound(self, primal: Primal) -> Scalar:
    """Returns the largest gap that the constraint admits."""
    raise NotImplementedError

  def excess(self, violation):
    return jax.tree.map(lambda v: jnp.maximum(v, 0), violation)

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    del constraint_state
    loss, gap, updated = loss_and_gap(self.symmetry, task, primal, model_state, batch, key)
    return Terms(loss, self.cost(primal), {EQUIVARIANCE: gap - self.bound(primal)}, updated)

  def update(self, primal, multipliers, constraint_state, aux, step):
    return primal, {EQUIVARIANCE: jnp.maximum(multipliers[EQUIVARIANCE], 0)}, constraint_state


@struct.dataclass
class Functional(_OnTheGap):
  """min loss subject to gap <= epsilon, for any network.

  Attributes:
    epsilon: Largest admitted gap, in the units of the mean squared error; of several entries in
      those of `Symmetry.units`.
    symmetry: The group and its action.
  """

  epsilon: float | Scalar = 1e-3

  def bound(self, primal):
    return jnp.asarray(self.epsilon)


@struct.dataclass
class ResilientFunctional(_OnTheGap):
  """min loss + rho/2 u^2 subject to gap <= u, with a learned slack u >= 0.

  Attributes:
    rho: Price of slack; at a stationary point u = lambda / rho.
    symmetry: The group and its action.
  """

  rho: float | Scalar = 1.0

  def init_slack(self, gamma):
    return {EQUIVARIANCE: jnp.zeros(())}

  def bound(self, primal):
    return primal.slack[EQUIVARIANCE]

  def cost(self, primal):
    return 0.5 * self.rho * jnp.square(primal.slack[EQUIVARIANCE])

  def update(self, primal, multipliers, constraint_state, aux, step):
    primal, multipliers, constraint_state = super().update(
      primal, multipliers, constraint_state, aux, step
    )
    slack = {EQUIVARIANCE: jnp.maximum(primal.slack[EQUIVARIANCE], 0)}
    return primal._replace(slack=slack), multipliers, constraint_state
