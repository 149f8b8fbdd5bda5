"""Whether the loss of a sample is of that sample alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from ace_jax.task import Batch


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


def _equal(a: Any, b: Any) -> bool:
  """Whether numbers are the same but for rounding."""
  exact = not jnp.issubdtype(a.dtype, jnp.inexact)
  rtol = 0.0 if exact else 64 * float(jnp.finfo(a.dtype).eps)
  wide = np.complex128 if jnp.iscomplexobj(a) else np.float64
  a, b = np.asarray(a).astype(wide), np.asarray(b).astype(wide)
  return bool(np.allclose(a, b, rtol=rtol, atol=0, equal_nan=True))
