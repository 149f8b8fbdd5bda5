"""Whether the loss of a sample is of that sample alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from ace_jax import task, weights
from ace_jax.task import Batch

_FEW = 2


def mixes_samples(loss: Callable[[Any, Batch], jax.Array], prediction: Any, batch: Batch) -> bool:
  """Whether the loss of a sample changes with the prediction or the target of another one.

  So does that of a prediction [n, 1] and a target [n], which compares every sample with every
  other, also where a mean hides it. Asked twice of each sample: with all others replaced by it, and
  with their numbers moved. A loss over graphs, whose arrays have no common axis of samples, is not
  asked.

  Args:
    loss: `loss(prediction, batch) -> [samples, ...]`; it is called, and not compiled.
    prediction: Of a few samples, two at least, as concrete arrays: any tree of them.
    batch: Of the same samples.
  """
  leaves, is_graph = jax.tree.leaves(batch), lambda node: isinstance(node, jraph.GraphsTuple)
  whole = any(map(is_graph, jax.tree.leaves((prediction, batch), is_leaf=is_graph)))
  sizes = {jnp.shape(leaf)[:1] for leaf in leaves}
  if whole or len(sizes) != 1 or sizes == {()}:
    return False
  ((samples,),) = sizes
  values = loss(prediction, batch)
  if samples < 2 or jnp.shape(values)[:1] != (samples,):
    return False

  def changes(i: int, moved: bool) -> bool:
    others = np.arange(samples) != i

    def replaced(leaf: Any) -> Any:
      if jnp.shape(leaf)[:1] != (samples,):  # not one for each sample
        return leaf
      same = leaf[np.full(samples, i)]
      if not moved or not jnp.issubdtype(same.dtype, jnp.inexact):
        return same
      return jnp.where(others.reshape(-1, *[1] * (same.ndim - 1)), 2 * same + 1, same)

    return not _equal(values[i], loss(*jax.tree.map(replaced, (prediction, batch)))[i])

  return any(changes(i, moved) for moved in (False, True) for i in range(samples))


def broadcasts(loss: Callable[[Any, Batch], Any], prediction: Any, batch: Batch) -> bool:
  """Whether a loss mixes samples where prediction and batch have arrays [n, 1] and [n].

  Others that mix them, such as one that is divided by the mean of a batch, may be meant.

  Args:
    loss: As of `mixes_samples`, with weights or without.
    prediction: Its arrays, or their shapes and dtypes.
    batch: Samples.
  """
  shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (prediction, batch)]
  longer = [
    max(a, b, key=len)
    for a in shapes[0]
    for b in shapes[1]
    if a and a[:1] == b[:1] and len(a) != len(b)
  ]
  if all(any(n != 1 for n in shape[1:]) for shape in longer):
    return False
  samples = task.size(batch)
  few = jax.tree.map(lambda x: _some(x.shape, x.dtype, samples), prediction)
  return mixes_samples(
    lambda p, b: weights.values_of(loss(p, b)), few, task.take(batch, slice(0, _FEW))
  )


def _some(shape: tuple[int, ...], dtype: Any, samples: int) -> jax.Array:
  """Returns numbers that differ, of a few samples."""
  if shape[:1] == (samples,):
    shape = (min(samples, _FEW), *shape[1:])
  return jnp.asarray(np.linspace(0.2, 0.8, int(np.prod(shape))).reshape(shape)).astype(dtype)


def _equal(a: Any, b: Any) -> bool:
  """Whether numbers are the same but for rounding."""
  exact = not jnp.issubdtype(a.dtype, jnp.inexact)
  rtol = 0.0 if exact else 64 * float(jnp.finfo(a.dtype).eps)
  wide = np.complex128 if jnp.iscomplexobj(a) else np.float64
  a, b = np.asarray(a).astype(wide), np.asarray(b).astype(wide)
  return bool(np.allclose(a, b, rtol=rtol, atol=0, equal_nan=True))
