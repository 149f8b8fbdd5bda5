"""Constraints on a network's own equivariance error, for networks without any equivariant part.

===================  =====================================  =================  ==================
formulation          problem                                violation v        domains
===================  =====================================  =================  ==================
Functional           min loss, gap <= eps                   gap - eps          lambda >= 0
ResilientFunctional  min loss + rho/2 u^2, gap <= u         gap - u            lambda >= 0, u >= 0
===================  =====================================  =================  ==================

The gap is one number, so there is one constraint with one multiplier:

.. math:: gap(f) = E_{g, x} \\, \\tfrac{1}{d} \\|f(\\rho_X(g) x) - \\rho_Y(g) f(x)\\|^2

with g drawn by Haar in every step, one for each sample, and d coordinates: in units of the MSE.

At constant step sizes the bound holds on average over iterates, and noise moves every single one
off it; let them fall towards the end (`primal_dual.primal_adam(decay=...)`), and the last one
meets it.

Reference: Manolache et al., NeurIPS 2025, Sec. 7 (equivariance out of non-equivariant
architectures, posed as an open question).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax import homotopy
from ace_jax.constraints import Formulation, Terms
from ace_jax.errors import ConfigurationError
from ace_jax.state import Primal
from ace_jax.symmetry.groups import Group
from ace_jax.task import Batch, Task, size

Scalar = Float[Array, ""]
EQUIVARIANCE = "equivariance"
"""Name of the one constraint, of its multiplier and of its slack."""


@dataclasses.dataclass(frozen=True, eq=False)
class Symmetry:
  """How a group acts on a batch and on predictions; static, and equal only to itself.

  Attributes:
    group: Whose elements are drawn.
    act_batch: rho_X on inputs and rho_Y on targets, `act_batch(element, batch) -> batch`. Written
      for any number of leading axes: it is mapped over samples.
    act_prediction: rho_Y, `act_prediction(element, prediction, batch) -> prediction`; the batch is
      the one before it was moved, for actions about a point of it.
  """

  group: Group
  act_batch: Callable[[Any, Batch], Batch]
  act_prediction: Callable[[Any, Any, Batch], Any]

  def move(self, key: PRNGKeyArray, batch: Batch) -> Batch:
    """Moves every sample of a batch, inputs and targets, by an element of its own."""
    return jax.vmap(self.act_batch)(self.group.sample(key, size(batch)), batch)

  def move_together(self, key: PRNGKeyArray, batch: Batch) -> Batch:
    """Moves all samples of a batch, inputs and targets, by one element."""
    return self.act_batch(jax.tree.map(lambda x: x[0], self.group.sample(key, 1)), batch)

  def gaps(
    self, predict: Callable[[Batch], Any], prediction: Any, batch: Batch, key: PRNGKeyArray
  ) -> Float[Array, " samples"]:
    """Returns the mean square of f(rho_X(g) x) - rho_Y(g) f(x) of every sample, for one g each.

    Args:
      predict: f, from a batch to predictions.
      prediction: f(x).
      batch: x.
      key: Draws the elements.
    """
    return self.gaps_at(self.group.sample(key, size(batch)), predict, prediction, batch)

  def gaps_at(
    self, elements: Any, predict: Callable[[Batch], Any], prediction: Any, batch: Batch
  ) -> Float[Array, " samples"]:
    """Returns `gaps` for given elements, a leading axis of one for each sample."""
    found = predict(jax.vmap(self.act_batch)(elements, batch))
    expected = jax.vmap(self.act_prediction)(elements, prediction, batch)
    return jnp.mean(jnp.square(found - expected).reshape(size(batch), -1), axis=1)


def required(symmetry: Symmetry | None, what: str) -> Symmetry:
  """Returns the symmetry.

  Raises:
    ConfigurationError: there is none.
  """
  if symmetry is None:
    raise ConfigurationError(
      f"{what} needs to know how the group acts on these data; give it a Symmetry (of an "
      "experiment: Problem.symmetry)."
    )
  return symmetry


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
  """
  variables = homotopy.merge(primal.theta, primal.gamma, model_state)
  draw, model_key = jax.random.split(key)
  prediction, updated = task.apply(variables, batch, model_key)
  gaps = symmetry.gaps(
    lambda moved: task.apply(variables, moved, model_key)[0], prediction, batch, draw
  )
  return jnp.mean(task.loss(prediction, batch)), jnp.mean(gaps), updated


@struct.dataclass
class _OnTheGap(Formulation):
  symmetry: Symmetry | None = struct.field(pytree_node=False, default=None)

  def init_multipliers(self, gamma):
    return {EQUIVARIANCE: jnp.zeros(())}

  def bound(self, primal: Primal) -> Scalar:
    """Returns the largest gap that the constraint admits."""
    raise NotImplementedError

  def excess(self, violation):
    return jax.tree.map(lambda v: jnp.maximum(v, 0), violation)

  def terms(self, task, primal, model_state, batch, key, own_state):
    del own_state
    symmetry = required(self.symmetry, "a constraint on the equivariance error")
    loss, gap, updated = loss_and_gap(symmetry, task, primal, model_state, batch, key)
    return Terms(loss, self.cost(primal), {EQUIVARIANCE: gap - self.bound(primal)}, updated)

  def update(self, primal, multipliers, own_state, aux, step):
    return primal, {EQUIVARIANCE: jnp.maximum(multipliers[EQUIVARIANCE], 0)}, own_state


@struct.dataclass
class Functional(_OnTheGap):
  """min loss subject to gap <= epsilon, for any network.

  Attributes:
    symmetry: The group and its action.
    epsilon: Largest admitted gap, in the units of the mean squared error.

  Raises:
    ConfigurationError: (in the first step) there is no symmetry.
  """

  epsilon: float | Scalar = 1e-3

  def bound(self, primal):
    return jnp.asarray(self.epsilon)


@struct.dataclass
class ResilientFunctional(_OnTheGap):
  """min loss + rho/2 u^2 subject to gap <= u, with a learned slack u >= 0.

  Attributes:
    symmetry: The group and its action.
    rho: Price of slack; at a stationary point u = lambda / rho.

  Raises:
    ConfigurationError: (in the first step) there is no symmetry.
  """

  rho: float | Scalar = 1.0

  def init_slack(self, gamma):
    return {EQUIVARIANCE: jnp.zeros(())}

  def bound(self, primal):
    return primal.slack[EQUIVARIANCE]

  def cost(self, primal):
    return 0.5 * self.rho * jnp.square(primal.slack[EQUIVARIANCE])

  def update(self, primal, multipliers, own_state, aux, step):
    primal, multipliers, own_state = super().update(primal, multipliers, own_state, aux, step)
    slack = {EQUIVARIANCE: jnp.maximum(primal.slack[EQUIVARIANCE], 0)}
    return primal._replace(slack=slack), multipliers, own_state


def measure(
  task: Task,
  symmetry: Symmetry,
  variables: tuple[Any, Any, Any],
  data: Batch,
  key: PRNGKeyArray,
  elements: int = 4,
  batch_size: int = 100,
) -> tuple[Scalar, Scalar, Scalar]:
  """Measures the gap of a predictor on held-out data.

  Args:
    task: The model.
    symmetry: The group and its action.
    variables: (theta, gamma, model_state), an entry of `AceState.current()` or `selected()`.
    data: The samples.
    key: Draws the group elements.
    elements: Of the group, for every sample.
    batch_size: Samples measured at once.

  Returns:
    (gap, its standard error over samples, its root over the root mean square of the prediction):
    the error is what of the gap that many samples can resolve.
  """

  def predict(batch):
    return task.apply(homotopy.merge(*variables), batch, None)[0]

  def draw(key):
    return jax.tree.map(lambda element: element[0], symmetry.group.sample(key, 1))

  def chunk(samples, keys):
    # The network sees whole batches. Mapped over single samples, its products have an axis more,
    # which is slower, and ends jaxlib 0.10.2 with a segmentation fault on some CPUs.
    prediction = predict(samples)

    def gaps(keys):
      return symmetry.gaps_at(jax.vmap(draw)(keys), predict, prediction, samples)

    draws = jax.vmap(lambda key: jax.random.split(key, elements), out_axes=1)(keys)
    squares = jnp.square(prediction).reshape(size(samples), -1)
    return jnp.mean(jax.lax.map(gaps, draws), 0), jnp.mean(squares, 1)

  count = size(data)
  keys = jax.random.split(key, count)
  whole = count // batch_size * batch_size
  parts = []
  if whole:
    shape = (whole // batch_size, batch_size)
    head = jax.tree.map(lambda x: x[:whole].reshape(*shape, *x.shape[1:]), (data, keys))
    parts.append([x.reshape(-1) for x in jax.lax.map(lambda part: chunk(*part), head)])
  if whole < count:
    parts.append(chunk(*jax.tree.map(lambda x: x[whole:], (data, keys))))
  gaps, squares = (jnp.concatenate(values) for values in zip(*parts, strict=True))
  gap = jnp.mean(gaps)
  return gap, jnp.std(gaps) / jnp.sqrt(count), jnp.sqrt(gap / jnp.mean(squares))
