"""Losses that say what counts: `loss(prediction, batch) -> (values, weights)`.

Padding and missing labels have the weight 0. Every mean, of training, validation and test, over all
devices that share a batch, is then

.. math:: \\sum_i w_i v_i / \\sum_i w_i

over all entries i of the values, and 0 where no weight is left in a batch. What has no weight may
be anything, a NaN too: neither it nor its gradient counts. A loss that returns values alone is not
touched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Loss = Callable[[Any, Any], Any]
"""`loss(prediction, batch)` returns values [samples, ...], or (values, weights)."""


class Weighted(NamedTuple):
  """A weighted loss, sample by sample.

  Attributes:
    total: Of every sample, the sum of weights times values.
    weight: Of every sample, the sum of weights.
  """

  total: Float[Array, "*samples"]
  weight: Float[Array, "*samples"]

  def mean(self) -> Any:
    """Returns total / weight; of sums over samples their weighted mean."""
    return self.total / self.weight


def means(sums: Any, count: Any) -> Any:
  """Returns the means of a tree of sums: weighted ones of `Weighted`, of others over a count."""
  return jax.tree.map(
    lambda s: s.mean() if is_weighted(s) else s / count, sums, is_leaf=is_weighted
  )


def is_weighted(node: Any) -> bool:
  """Whether a node of a tree is a `Weighted`."""
  return isinstance(node, Weighted)


def of_samples(returned: Any) -> Float[Array, " samples"] | Weighted:
  """Returns what a loss says of every sample: its mean, or what it adds to a weighted one.

  Args:
    returned: By a loss.
  """
  if not isinstance(returned, tuple):
    return jnp.mean(returned.reshape(returned.shape[0], -1), axis=1)
  values, weights = map(_wide, _masked(*returned))
  by_sample = (x.reshape(len(values), -1).sum(axis=1) for x in (values * weights, weights))
  return Weighted(*by_sample)


def summed(values: Array, counted: Any) -> Array:
  """Returns the sum of the entries that are counted, in float32 at least."""
  return jnp.sum(_wide(jnp.where(counted, values, 0)))


def _wide(values: Array) -> Array:
  return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def for_means(loss: Loss, axis_name: str | None = None) -> Callable[[Any, Any], Array]:
  """Returns a loss without weights whose plain mean is the weighted one.

  .. math:: v'_i = \\frac{N}{W} \\, w_i v_i, \\qquad W = \\sum_i w_i

  Args:
    loss: With or without weights.
    axis_name: Mapped axis that shares the batch: W is the mean over its devices, so that the mean
      over devices of their means is the weighted mean over all.
  """

  def unweighted(prediction: Any, batch: Any) -> Array:
    returned = loss(prediction, batch)
    if not isinstance(returned, tuple):
      return returned
    weights = jax.lax.stop_gradient(jnp.asarray(returned[1]))
    returned = loss(_guarded(prediction, weights), batch)
    values, weights = map(_wide, _masked(*returned))
    total = jnp.sum(weights)
    total = total if axis_name is None else jax.lax.pmean(total, axis_name)
    return values * weights * (values.size / jnp.where(total > 0, total, 1))

  return unweighted


def _masked(values: Array, weights: Any) -> tuple[Array, Array]:
  """Returns values, 0 where they do not count, and their weights, which are constants."""
  weights = jax.lax.stop_gradient(weights_of(values, weights))
  return jnp.where(weights != 0, values, 0), weights


def weights_of(values: Array, weights: Any) -> Array:
  """Returns weights in the shape of the values, whose leading axes they have, as real numbers.

  They are of 32 bits at least: a share is none in the type of values that are whole or true.

  Args:
    values: [samples, ...].
    weights: [samples], or with more of the values' axes, each of their length or 1.
  """
  shape = (*jnp.shape(weights), *[1] * (values.ndim - jnp.ndim(weights)))
  return _wide(jnp.broadcast_to(jnp.reshape(weights, shape), values.shape))


def _guarded(prediction: Any, weights: Array) -> Any:
  """Returns the prediction, whose gradients do not pass where no weight is.

  They would be 0 times what the loss makes of a missing label, a NaN say, and that is a NaN.
  """

  def guard(leaf: Any) -> Any:
    if not jnp.ndim(leaf):
      return leaf
    if leaf.shape[: weights.ndim] == weights.shape:
      counted = weights != 0
    elif leaf.shape[:1] == weights.shape[:1]:
      counted = jnp.any(weights.reshape(len(weights), -1) != 0, axis=1)
    else:
      return leaf
    counted = counted.reshape(*counted.shape, *[1] * (leaf.ndim - counted.ndim))
    return jnp.where(counted, leaf, jax.lax.stop_gradient(leaf))

  return jax.tree.map(guard, prediction)


def values_of(returned: Any) -> Any:
  """Returns what a loss returned, without weights."""
  return returned[0] if isinstance(returned, tuple) else returned


def problem(name: str, returned: tuple[Any, ...]) -> str:
  """Returns what is wrong with a loss that returned several things; "" if they are its weights."""
  shapes = [jnp.shape(x) for x in returned]
  if len(shapes) != 2:
    return f"the {name} returned {len(shapes)} things; it must return values, or (values, weights)"
  values, given = shapes
  pairs = zip(given[1:], values[1:], strict=False)
  if given[:1] != values[:1] or len(given) > len(values) or any(w not in (1, v) for w, v in pairs):
    return (
      f"the weights of the {name} have shape {given}, its values {values}; weights must have the "
      "leading axes of the values, each of their length or 1"
    )
  return ""
