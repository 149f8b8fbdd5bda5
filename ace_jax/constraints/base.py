"""What every training rule is made of: the terms of a Lagrangian, and the unconstrained problem."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.state import Primal
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch, Scalar, Task


class Terms(NamedTuple):
  """What a constraint contributes to the Lagrangian at one point.

  Attributes:
    loss: Mean training loss of the batch.
    cost: What the constraint adds to it, such as rho/2 norm(u)^2.
    violation: v, a tree like the multipliers; drives them, and is weighted by them.
    model_state: New `batch_stats` and the like.
    aux: Anything that the constraint's own `update` needs.
  """

  loss: Scalar
  cost: Scalar
  violation: Any
  model_state: dict[str, Any]
  aux: Any = None


@struct.dataclass
class Constraint:
  """Base of all constraints and rival training rules: the unconstrained problem.

  One is written by overriding what differs. Leaves (rho, epsilon, ...) are arrays or
  floats, so that they can be mapped over; nothing here is mutated.

  Attributes:
    augmented: c of the augmented Lagrangian; 0 is the plain one. Given by its name alone.
  """

  augmented: float | Scalar = struct.field(default=0.0, kw_only=True)

  def init_slack(self, gamma: Any) -> Any:
    """Returns u at the start: {} where the problem has none."""
    del gamma
    return {}

  def init_multipliers(self, gamma: Any) -> Any:
    """Returns lambda at the start: {} where the problem has no constraint."""
    del gamma
    return {}

  def init_state(self, gamma: Any) -> Any:
    """Returns the constraint's own state, carried from step to step."""
    del gamma
    return {}

  def begin_epoch(self, multipliers: Any, constraint_state: Any) -> Any:
    """Returns the constraint's own state at the start of an epoch.

    Args:
      multipliers: lambda there.
      constraint_state: What the last step of the epoch before left.
    """
    del multipliers
    return constraint_state

  def violation(self, primal: Primal) -> Any:
    """Returns v(gamma, u), a tree like the multipliers."""
    del primal
    return {}

  def cost(self, primal: Primal) -> Scalar:
    """Returns what is added to the loss."""
    del primal
    return jnp.zeros(())

  def excess(self, violation: Any) -> Any:
    """Returns what the augmented term squares: v, or [v]_+ for inequalities."""
    return violation

  def terms(
    self,
    task: Task,
    primal: Primal,
    model_state: dict[str, Any],
    batch: Batch,
    key: PRNGKeyArray,
    constraint_state: Any,
  ) -> Terms:
    """Evaluates loss, cost and violation on a batch.

    Args:
      task: The model and its loss.
      primal: The point (theta, gamma, slack).
      model_state: `batch_stats` and the like.
      batch: The samples of this device.
      key: Drives whatever is random in the model or the constraint.
      constraint_state: What `init_state` and `update` returned.
    """
    del constraint_state
    variables = homotopy.merge(primal.theta, primal.gamma, model_state)
    prediction, model_state = task.apply(variables, batch, key)
    loss = jnp.mean(task.loss(prediction, batch))
    return Terms(loss, self.cost(primal), self.violation(primal), model_state)

  def update(
    self, primal: Primal, multipliers: Any, constraint_state: Any, aux: Any, step: Array
  ) -> tuple[Primal, Any, Any]:
    """Has the last word on a step, after the optimizers moved every block: the projections.

    Args:
      primal: (theta, gamma, slack) after the descent step.
      multipliers: lambda after the ascent step.
      constraint_state: The constraint's own state.
      aux: `Terms.aux` of this step.
      step: Number of steps done before this one.

    Returns:
      (primal, multipliers, constraint_state) after projection.
    """
    del aux, step
    return primal, multipliers, constraint_state


@struct.dataclass
class Unconstrained(Constraint):
  """min loss: the relaxed model (or, without gamma, the plain one) without a constraint."""


@struct.dataclass
class UnderSymmetry(Constraint):
  """Base of the constraints that ask how a group acts on the data.

  Attributes:
    symmetry: The group and its action; static. Given by its name alone.

  Raises:
    ConfigurationError: `symmetry` is none.
  """

  symmetry: Symmetry = struct.field(pytree_node=False, kw_only=True)

  def __post_init__(self):
    if not isinstance(self.symmetry, Symmetry):
      raise ConfigurationError(
        f"{type(self).__name__}.symmetry is {self.symmetry!r}; it must be a Symmetry, which says "
        "how the group acts on these data."
      )
