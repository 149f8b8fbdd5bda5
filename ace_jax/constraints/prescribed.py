"""Training rules under which nobody learns gamma: it is a function of the step, or drawn.

==============  ==============================================================
Swing           gamma is a cosine whose amplitude falls
RandomHomotopy  gamma is drawn anew in every step, and 0 in evaluations
==============  ==============================================================

Neither has multipliers. `rivals.Schedule`, which rises and falls once, is of this kind too.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax.constraints.base import Constraint
from ace_jax.errors import ConfigurationError

Scalar = Float[Array, ""]
DRAWS = ("all", "layer")


@struct.dataclass
class Swing(Constraint):
  """gamma swings about 0 as a cosine, its amplitude falling from one value to another.

  In layer l = 0, 1, .. (in the order of `homotopy.names`), t steps after the start,

  .. math:: \\gamma_l(t) = A(t) \\cos\\big(2 \\pi (t / P + l \\phi)\\big), \\qquad
    A(t) = \\big(a + (a_0 - a) e^{-t / \\tau}\\big) [1 - t / T]_+

  and gamma = 0 before the start. The relaxed predictor is the one at the gamma of the moment. The
  state holds the number of `steps` done.

  Attributes:
    amplitude: a, which the amplitude falls to.
    period: P, in steps.
    time_constant: tau, in steps.
    phase: phi, the lead of each layer over the one before it, in periods; 0 swings in phase.
    initial: a_0.
    start: Steps at gamma = 0 before it.
    steps: T, after which gamma stays at 0; infinity never ends it.
  """

  amplitude: float | Scalar = 0.4
  period: float | Scalar = 2000.0
  time_constant: float | Scalar = 900.0
  phase: float | Scalar = 0.0
  initial: float | Scalar = 1.0
  start: float | Scalar = 0.0
  steps: float | Scalar = math.inf

  def levels(self, step: Any, layers: int) -> Float[Array, " layers"]:
    """Returns gamma of every layer after so many steps."""
    since = jnp.asarray(step, jnp.result_type(float)) - self.start
    time = jnp.maximum(since, 0)
    fallen = self.amplitude + (self.initial - self.amplitude) * jnp.exp(-time / self.time_constant)
    fallen = fallen * jnp.maximum(1 - time / self.steps, 0)
    turns = time / self.period + self.phase * jnp.arange(layers)
    # Of whole turns nothing is left: many of them would leave float32 few digits for the rest.
    gamma = fallen * jnp.cos(2 * jnp.pi * (turns - jnp.floor(turns)))
    return jnp.where(since < 0, 0, gamma)

  def init_state(self, gamma):
    del gamma
    return {"steps": jnp.int32(0)}

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    # Not primal.gamma, which is still as the model initialised it in the first step.
    primal = primal._replace(gamma=self._at(primal.gamma, constraint_state["steps"]))
    return super().terms(task, primal, model_state, batch, key, constraint_state)

  def update(self, primal, multipliers, constraint_state, aux, step):
    primal = primal._replace(gamma=self._at(primal.gamma, step + 1))
    return primal, multipliers, {"steps": step + 1}

  def _at(self, gamma: Any, step: Any) -> Any:
    return _layerwise(gamma, self.levels(step, len(jax.tree.leaves(gamma))))


@struct.dataclass
class RandomHomotopy(Constraint):
  """min E loss(f_{theta, gamma}) over gamma from U[0, 1], drawn anew in every step.

  Between steps gamma is 0: both predictors are the projection.

  Attributes:
    draws: "all": one number for all layers; "layer": one a layer.
    axis_name: Mapped axis that shares the batch, all of it at one gamma; None on one device.

  Raises:
    ConfigurationError: (in the first step) `draws` is something else.
  """

  draws: str = struct.field(pytree_node=False, default="all")
  axis_name: str | None = struct.field(pytree_node=False, default=None, kw_only=True)

  def draw(self, key: PRNGKeyArray, gamma: Any) -> Any:
    """Returns a tree like gamma, of the numbers that one step takes."""
    if self.draws not in DRAWS:
      raise ConfigurationError(
        f"RandomHomotopy.draws is {self.draws!r}; it must be one of {', '.join(DRAWS)}."
      )
    layers = len(jax.tree.leaves(gamma))
    levels = jax.random.uniform(key, (layers if self.draws == "layer" else 1,))
    if self.axis_name is not None:  # the first device's, whose key is that of a device alone
      first = jax.lax.axis_index(self.axis_name) == 0
      levels = jax.lax.psum(jnp.where(first, levels, 0), self.axis_name)
    return _layerwise(gamma, jnp.broadcast_to(levels, (layers,)))

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    draw, model_key = jax.random.split(key)
    primal = primal._replace(gamma=self.draw(draw, primal.gamma))
    return super().terms(task, primal, model_state, batch, model_key, constraint_state)

  def update(self, primal, multipliers, constraint_state, aux, step):
    primal = primal._replace(gamma=jax.tree.map(jnp.zeros_like, primal.gamma))
    return primal, multipliers, constraint_state


def _layerwise(gamma: Any, levels: Sequence[Scalar] | Float[Array, " layers"]) -> Any:
  """Returns a tree like gamma, every entry of leaf l being levels[l]."""
  leaves, tree = jax.tree.flatten(gamma)
  filled = [
    jnp.broadcast_to(levels[i], leaf.shape).astype(leaf.dtype) for i, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(tree, filled)
