"""How a group acts on a data set, and how far a predictor is from equivariant on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax.homotopy import Variables
from ace_jax.symmetry.groups import Group
from ace_jax.task import Batch, Scalar, Task, size


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
    moved = predict(jax.vmap(self.act_batch)(elements, batch))
    expected = jax.vmap(self.act_prediction)(elements, prediction, batch)
    return jnp.mean(jnp.square(moved - expected).reshape(size(batch), -1), axis=1)


def measure(
  task: Task,
  symmetry: Symmetry,
  variables: Variables,
  data: Batch,
  key: PRNGKeyArray,
  elements: int = 4,
  batch_size: int = 100,
) -> tuple[Scalar, Scalar, Scalar]:
  """Measures the gap of a predictor on held-out data.

  Args:
    task: The model.
    symmetry: The group and its action.
    variables: Of the predictor, such as `AceState.relaxed`.
    data: The samples.
    key: Draws the group elements.
    elements: Of the group, for every sample.
    batch_size: Samples measured at once.

  Returns:
    (gap, its standard error over samples, its root over the root mean square of the prediction):
    the error is what of the gap that many samples can resolve.
  """

  def predict(batch):
    return task.predict(variables, batch)

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
