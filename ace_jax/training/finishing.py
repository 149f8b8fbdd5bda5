"""The finish of a run: gamma and branches go, and the pruned model trains on alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
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
    fresh: States of the strict model as at the start of training (`state.create`), with a leading
      axis of replicas. Their optimizers and step sizes are those of the finish; it does not take
      their weights.
    source: Which theta it begins with: "best", the projection's at its lowest validation error,
      or "last", that of the moment.

  Raises:
    ConfigurationError: `source` is something else, or there is no epoch before it.
  """

  after: int
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
    kept_theta, kept_model_state = _pruned(best.theta, best.model_state)
    theta, model_state = kept_theta, kept_model_state
    if self.source == "last":
      theta, model_state = _pruned(state.primal.theta, state.model_state)
    kept = best.replace(  # pyright: ignore[reportAttributeAccessIssue]
      theta=kept_theta, model_state=kept_model_state, stalled=jnp.zeros_like(best.stalled)
    )
    # Copies, since the state's buffers are donated: none may be there twice.
    theta, model_state = jax.tree.map(jnp.copy, (theta, model_state))
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


def _pruned(theta: Any, model_state: Any) -> tuple[Any, Any]:
  theta, _, model_state = homotopy.split(homotopy.prune(homotopy.merge(theta, {}, model_state)))
  return theta, model_state
