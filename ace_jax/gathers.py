"""Gathers and sums by constant indices whose gradients scatter nothing.

They are each other's transposes, and JAX would transpose a gather to a scatter, which is slow on
CPUs and not deterministic on GPUs. So each has a tangent that is written as the other's transpose:
a gradient gathers, and only a derivative along a direction scatters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_MOST_SLOTS = 16
"""Up to so many edges a node, sums are sums of gathers, and products with a matrix above."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def take(x: Array, indices: tuple[int, ...]) -> Array:
  """Returns the rows of x [rows, ...] that are named: [indices, ...]."""
  return x[np.asarray(indices, int)]


@take.defjvp
def _take_tangent(indices, primals, tangents):
  (x,), (tangent,) = primals, tangents
  slots = _slots(indices, x.shape[0])
  if len(slots) > _MOST_SLOTS:
    return take(x, indices), _product(_incidence(indices, x.shape[0]).T, tangent)
  moved = jnp.zeros((len(indices), *x.shape[1:]), x.dtype)
  for slot in slots:
    moved = moved.at[slot].add(tangent, mode="drop", unique_indices=True)
  return take(x, indices), moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def sum_into(x: Array, indices: tuple[int, ...], count: int) -> Array:
  """Returns [count, ...]: row k is the sum of the rows of x [rows, ...] whose index is k."""
  slots = _slots(indices, count)
  if len(slots) > _MOST_SLOTS:
    return _product(_incidence(indices, count), x)
  total = jnp.zeros((count, *x.shape[1:]), x.dtype)
  for slot in slots:
    total = total + x.at[slot].get(mode="fill", fill_value=0)
  return total


@sum_into.defjvp
def _sum_into_tangent(indices, count, primals, tangents):
  (x,), (tangent,) = primals, tangents
  return sum_into(x, indices, count), segment_sum(tangent, np.asarray(indices, int), count)


def _slots(indices: tuple[int, ...], count: int) -> np.ndarray:
  """Returns [k, node], where a node's k-th edge stands; len(indices) where it has fewer."""
  degrees = np.bincount(np.asarray(indices, int), minlength=count)
  order = np.append(np.argsort(np.asarray(indices, int), kind="stable"), len(indices))
  ranks = np.arange(degrees.max(initial=0))[:, None]
  position = np.minimum(np.cumsum(degrees) - degrees + ranks, len(indices))
  return order[np.where(ranks < degrees, position, len(indices))]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def take_second(x: Array, indices: tuple[int, ...]) -> Array:
  """Returns what the second axis of x [batch, rows, ...] has at the indices."""
  return x[:, np.asarray(indices, int)]


@take_second.defjvp
def _take_second_tangent(indices, primals, tangents):
  (x,), (tangent,) = primals, tangents
  incidence = _incidence(indices, x.shape[1]).T
  moved = _product(incidence, jnp.moveaxis(tangent, 1, 0))
  return x[:, np.asarray(indices, int)], jnp.moveaxis(moved, 0, 1)


def upper(count: int) -> np.ndarray:
  """Returns where in a flattened [count, count] the pairs i <= j stand: [pairs]."""
  i, j = np.triu_indices(count)
  return i * count + j


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def mirror(x: Array, count: int) -> Array:
  """Returns [batch, count * count, ...] of pairs in both orders from [batch, pairs, ...].

  Args:
    x: Of the pairs i <= j, in the order of `upper`.
    count: Of nodes.
  """
  index = np.zeros((count, count), int)
  i, j = np.triu_indices(count)
  index[i, j] = index[j, i] = np.arange(len(i))
  return x[:, index.reshape(-1)]


@mirror.defjvp
def _mirror_tangent(count, primals, tangents):
  (x,), (tangent,) = primals, tangents
  i, j = np.triu_indices(count)
  # A node and itself is there once.
  others = jnp.asarray(i != j, x.dtype).reshape(-1, *[1] * (x.ndim - 2))
  moved = jnp.zeros((x.shape[0], count * count, *x.shape[2:]), x.dtype)
  moved = moved.at[:, i * count + j].add(tangent, unique_indices=True)
  moved = moved.at[:, j * count + i].add(tangent * others, unique_indices=True)
  return mirror(x, count), moved


def _incidence(indices: tuple[int, ...], num_nodes: int) -> np.ndarray:
  return np.equal.outer(np.arange(num_nodes), np.asarray(indices, int)).astype(np.float64)


def _product(matrix: np.ndarray, x: Array) -> Array:
  flat = x.reshape(x.shape[0], -1)
  product = jnp.dot(matrix.astype(x.dtype), flat, precision=jax.lax.Precision.HIGHEST)
  return product.reshape(matrix.shape[0], *x.shape[1:])


def segment_sum(x: Array, segments: Array | np.ndarray, count: int) -> Array:
  """Sums rows by segment, as `sum_into` does, where indices are not constants: a scatter-add."""
  return jax.ops.segment_sum(x, segments, count, indices_are_sorted=False)
