"""Everything that decides the future of a run, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from ace_jax import homotopy
from ace_jax.task import Task


class Primal(NamedTuple):
  """The blocks that descend.

  Attributes:
    theta: Weights, the collection `params`.
    gamma: The collection `gamma`; {} for a strict model.
    slack: u, a tree like gamma for a resilient problem, else {}.
  """

  theta: Any
  gamma: Any
  slack: Any


@struct.dataclass
class Best:
  """The variables of one predictor where its validation error was lowest.

  Attributes:
    error: Lowest validation error so far.
    epoch: Number of epochs after which it was met.
    stalled: Evaluations since then.
    theta: Weights.
    gamma: The collection `gamma`; {} for the projection.
    model_state: `batch_stats` and the like.
  """

  error: Float[Array, ""]
  epoch: Int[Array, ""]
  stalled: Int[Array, ""]
  theta: Any
  gamma: Any
  model_state: Any


@struct.dataclass
class AceState:
  """The state of a run; a restored one continues bit for bit.

  Attributes:
    primal: theta, gamma and slack.
    multipliers: lambda, a tree like the violation.
    primal_state: State of the primal optimizer, with its step sizes.
    dual_state: State of the dual optimizer, with its step size.
    model_state: `batch_stats` and other collections that the model updates.
    constraint: The constrained problem (`ace_jax.constraints`) with its constants.
    constraint_state: The constraint's own state.
    key: Key data of the run; every random number derives from it, the epoch and the step.
    step: Steps done.
    epoch: Epochs done.
    active: Whether training still moves the state (False once stopped early, or failed).
    failed: Epoch in which a number that is not finite appeared, 0 if none did; the state is that
      before it.
    best: For each predictor, "projection" and (where gamma exists) "relaxed", its `Best`.
    task: Model and loss; static.
    primal_optimizer: Transformation of `Primal`; static.
    dual_optimizer: Transformation of the multipliers; static.
  """

  primal: Primal
  multipliers: Any
  primal_state: Any
  dual_state: Any
  model_state: Any
  constraint: Any
  constraint_state: Any
  key: UInt32[Array, "..."]
  step: Int[Array, ""]
  epoch: Int[Array, ""]
  active: Bool[Array, ""]
  failed: Int[Array, ""]
  best: dict[str, Best]
  task: Task = struct.field(pytree_node=False)
  primal_optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
  dual_optimizer: optax.GradientTransformation = struct.field(pytree_node=False)

  def stream(self, name: int) -> PRNGKeyArray:
    """Returns the key of one of the run's independent random streams."""
    return jax.random.fold_in(jax.random.wrap_key_data(self.key), name)

  def current(self) -> dict[str, tuple[Any, Any, Any]]:
    """Returns (theta, gamma, model_state) of each predictor as it is now.

    "projection" has an empty gamma; "relaxed" is missing for a strict model.
    """
    theta, gamma, model_state = self.primal.theta, self.primal.gamma, self.model_state
    relaxed = {"relaxed": (theta, gamma, model_state)} if gamma else {}
    return {"projection": (theta, {}, model_state), **relaxed}

  def selected(self) -> dict[str, tuple[Any, Any, Any]]:
    """Returns (theta, gamma, model_state) of each predictor at its lowest validation error."""
    return {name: (b.theta, b.gamma, b.model_state) for name, b in self.best.items()}


def create(
  task: Task,
  variables: homotopy.Variables,
  constraint: Any,
  primal_optimizer: optax.GradientTransformation,
  dual_optimizer: optax.GradientTransformation,
  key: PRNGKeyArray,
) -> AceState:
  """Starts a run: multipliers and slack at 0, gamma as the model initialised it.

  Args:
    task: Model and loss.
    variables: What `model.init` returned; without the collection `gamma` the model is strict.
    constraint: One of `ace_jax.constraints`.
    primal_optimizer: Transformation of a `Primal`, such as `primal_dual.primal_adam`.
    dual_optimizer: Transformation of the multipliers, such as `lagrangian.dual_optimizer`.
    key: Drives the order of samples and whatever is random in training.
  """
  # Copies, since the state's buffers are donated and must be neither shared nor the caller's.
  theta, gamma, model_state = _copy(homotopy.split(variables))
  primal = Primal(theta, gamma, constraint.init_slack(gamma))
  multipliers = constraint.init_multipliers(gamma)

  def best(variables):
    theta, gamma, model_state = _copy(variables)
    infinite = jnp.full((), jnp.inf, jnp.float32)
    return Best(infinite, jnp.int32(0), jnp.int32(0), theta, gamma, model_state)

  state = AceState(
    primal=primal,
    multipliers=multipliers,
    primal_state=primal_optimizer.init(primal),  # pyright: ignore[reportArgumentType]
    dual_state=dual_optimizer.init(multipliers),
    model_state=model_state,
    constraint=_copy(constraint),
    constraint_state=constraint.init_state(gamma),
    key=jax.random.key_data(key),
    step=jnp.int32(0),
    epoch=jnp.int32(0),
    active=jnp.array(True),
    failed=jnp.int32(0),
    best={},
    task=task,
    primal_optimizer=primal_optimizer,
    dual_optimizer=dual_optimizer,
  )
  return state.replace(best={name: best(variables) for name, variables in state.current().items()})  # pyright: ignore[reportAttributeAccessIssue]


def _copy(tree: Any) -> Any:
  # An explicit dtype, since a weakly typed leaf would compile every program twice.
  return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x)), tree)
