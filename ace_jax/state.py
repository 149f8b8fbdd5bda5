"""Everything that decides the future of a run, as one pytree."""

from typing import Any, NamedTuple

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from ace_jax import homotopy


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
  """The variables of one predictor where its validation error was best.

  Attributes:
    error: Lowest validation error so far; the highest where `Task.mode` is "max".
    epoch: Number of epochs after which it was met.
    stalled: Evaluations since then.
    variables: For `model.apply`; those of the projection have no collection `gamma`.
  """

  error: Float[Array, ""]
  epoch: Int[Array, ""]
  stalled: Int[Array, ""]
  variables: dict[str, Any]


@struct.dataclass
class AceState:
  """The state of a run, all of it arrays; a restored one continues bit for bit.

  Attributes:
    primal: theta, gamma and slack.
    multipliers: lambda, a tree like the violation.
    primal_state: State of the primal optimizer, with its step sizes.
    dual_state: State of the dual optimizer, with its step size.
    model_state: `batch_stats` and other collections that the model updates.
    constraint: The constrained problem (`ace_jax.constraints`), with its constants for leaves.
    constraint_state: The constraint's own state.
    key: Key data of the run; every random number derives from it, the epoch and the step.
    step: Steps done.
    epoch: Epochs done.
    active: Whether training still moves the state (False once stopped early, or failed).
    failed: Epoch in which a number that is not finite appeared, 0 if none did; the state is that
      before it.
    best: For each predictor, "projection" and (where gamma exists) "relaxed", its `Best`.
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

  def stream(self, name: int) -> PRNGKeyArray:
    """Returns the key of one of the run's independent random streams."""
    return jax.random.fold_in(jax.random.wrap_key_data(self.key), name)

  @property
  def projection(self) -> dict[str, Any]:
    """Variables of f_{theta,0} as it is now, for `model.apply`."""
    return homotopy.merge(self.primal.theta, {}, self.model_state)

  @property
  def relaxed(self) -> dict[str, Any]:
    """Variables of f_{theta,gamma} as it is now; of a strict model, the projection's."""
    return homotopy.merge(self.primal.theta, self.primal.gamma, self.model_state)

  def current(self) -> dict[str, dict[str, Any]]:
    """Returns the variables of each predictor as it is now; of a strict model no "relaxed"."""
    relaxed = {"relaxed": self.relaxed} if self.primal.gamma else {}
    return {"projection": self.projection, **relaxed}

  def selected(self) -> dict[str, dict[str, Any]]:
    """Returns the variables of each predictor at its lowest validation error."""
    return {name: best.variables for name, best in self.best.items()}
