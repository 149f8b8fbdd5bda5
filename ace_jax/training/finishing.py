"""The finish of a run: gamma and branches go, and the pruned model trains on alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import AceState
from ace_jax.training import parallel

SOURCES = ("best", "last")


@dataclasses.dataclass(frozen=True)
class Finish:
  """When the finish of a run begins, and from what.

  From then on the run is that of a strict model, at its cost: no gamma, no constraint, and new
  optimizers. The best of the relaxed predictor stays as it was; that of the projection stays
  until the finish has a lower validation error.

  Attributes:
    after: Epochs before it.
    method: Task and optimizers of the finish.
    fresh: States of the strict model as at the start of training (`method.init`), with a leading
      axis of replicas. Their step sizes are those of the finish; it does not take their weights.
    source: Which theta it begins with: "best", the projection's at its lowest validation error,
      or "last", that of the moment.

  Raises:
    ConfigurationError: `source` is something else, or there is no epoch before it.
  """

  after: int
  method: PrimalDual
  fresh: AceState
  source: str = "best"

  def __post_init__(self):
    if self.source not in SOURCES:
      raise ConfigurationError(
        f"Finish.source is {self.source!r}; it must be one of {', '.join(SOURCES)}."
      )
    if self.after < 1:
      raise ConfigurationError(f"Finish.after is {self.after}; it must be at least 1.")

  def begin(self, state: AceState) -> AceState:
    """Returns the state after the last epoch of a constrained run, as the finish begins with it.

    Args:
      state: The run, with as many replicas as `fresh`.
    """
    best = state.best["projection"]
    pruned = homotopy.prune({**best.variables, homotopy.GAMMA: state.primal.gamma})
    kept = best.replace(  # pyright: ignore[reportAttributeAccessIssue]
      variables=pruned, stalled=jnp.zeros_like(best.stalled)
    )
    if self.source == "last":
      pruned = homotopy.prune(state.relaxed)
    # Copies, since the state's buffers are donated: none may be there twice.
    theta, _, model_state = homotopy.split(jax.tree.map(jnp.copy, pruned))
    return self.fresh.replace(  # pyright: ignore[reportAttributeAccessIssue]
      primal=self.fresh.primal._replace(theta=theta),
      model_state=model_state,
      best={**state.best, "projection": kept},
      **{name: getattr(state, name) for name in ("key", "step", "epoch", "active", "failed")},
    )

  def after_epochs(self, state: AceState, epoch: int) -> AceState:
    """Returns a fresh state in the structure that the run's checkpoint after `epoch` has."""
    return self.begin(state) if epoch > self.after else state

  def on(self, mesh: Any) -> "Finish":
    """Returns the finish with its states padded and put on a mesh, as those of the run are."""
    fresh = parallel.shard_replicas(parallel.pad(self.fresh, mesh), mesh)
    return dataclasses.replace(self, fresh=fresh)
