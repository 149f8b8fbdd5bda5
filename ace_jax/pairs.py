"""Sums over all pairs of nodes, each pair once, that gather and scatter nothing.

Pairs are grouped by their distance k along the ring of nodes: group k, from 1 on, holds
(i, i + k mod nodes) for every i; of an even number of nodes the last group, k = nodes / 2, has
every pair twice, and only its first half is kept. So what a group needs of the nodes is a slice.
Nodes and pairs are the *leading* axis: a slice is a contiguous part of memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def ends(nodes: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
  """Returns both nodes of every pair: nodes (nodes - 1) / 2 pairs, none of a node with itself."""
  none = [np.zeros(0, int)]
  groups = [*enumerate(_sizes(nodes), start=1)]
  first = np.concatenate(none + [np.arange(size) for _, size in groups])
  second = np.concatenate(none + [(np.arange(size) + k) % nodes for k, size in groups])
  return first, second


@jax.custom_jvp
def weighted_sum(
  weights: Float[Array, "pairs ..."], x: Float[Array, "nodes ..."]
) -> Float[Array, "nodes ..."]:
  """Sums over all other nodes, with weights that a pair has in both directions.

  .. math:: y_i = \\sum_{j \\ne i} w_{ij} \\odot x_j, \\qquad w_{ij} = w_{ji}

  Args:
    weights: Of the pairs, in the order of `ends`.
    x: Of the nodes; axes after the first are those of the weights.
  """
  nodes = x.shape[0]
  around = jnp.concatenate([x, x[: nodes - 1]])
  total = jnp.zeros_like(x)
  for k, group in enumerate(_all_groups(weights, nodes), start=1):
    total = total + group * around[k : k + nodes]
  return total


@weighted_sum.defjvp
def _tangent(primals, tangents):
  # Both terms are written so that their *transposes* are sums of slices, which JAX would transpose
  # to padding otherwise: only derivatives along a direction pad.
  (weights, x), (weights_dot, x_dot) = primals, tangents
  nodes = x.shape[0]
  moved = jnp.zeros((2 * nodes - 1, *x.shape[1:]), x.dtype)
  for k, group in enumerate(_all_groups(weights, nodes), start=1):
    # Of symmetric weights the sum over senders is that over receivers.
    moved = moved + _padded(group * x_dot, k, nodes - 1 - k)
  tangent = _wrapped(moved, nodes) + _sum_of_groups(weights_dot, x)
  return weighted_sum(weights, x), tangent


def _sum_of_groups(weights: Array, x: Array) -> Array:
  """As `weighted_sum`, linear in the weights by other operations."""
  nodes, half = x.shape[0], x.shape[0] // 2
  around = jnp.concatenate([x, x[:half]])
  to_first = jnp.zeros_like(x)
  to_second = jnp.zeros((nodes + half, *x.shape[1:]), x.dtype)
  for k, group in enumerate(jax.lax.split(weights, _sizes(nodes), 0), start=1):
    size = group.shape[0]
    to_first = to_first + _padded(group * around[k : k + size], 0, nodes - size)
    to_second = to_second + _padded(group * x[:size], k, nodes + half - k - size)
  return to_first + _wrapped(to_second, nodes)


def _all_groups(weights: Array, nodes: int) -> list[Array]:
  """Returns for k = 1, .., nodes - 1 the weights of the pairs (i, i + k mod nodes) of all i."""
  groups = jax.lax.split(weights, _sizes(nodes), 0)
  whole, rest = groups[: (nodes - 1) // 2], groups[(nodes - 1) // 2 :]
  # A split transposes to a concatenation, where slices would to padding.
  turned = [
    jnp.concatenate(jax.lax.split(group, (nodes - k, k), 0)[::-1])
    for k, group in enumerate(whole, start=1)
  ]
  return [*whole, *(jnp.concatenate([group, group]) for group in rest), *turned[::-1]]


def _wrapped(x: Array, nodes: int) -> Array:
  """Adds the rows beyond the nodes to the first ones."""
  inside, beyond = jax.lax.split(x, (nodes, x.shape[0] - nodes), 0)
  return inside + _padded(beyond, 0, nodes - beyond.shape[0])


def _padded(x: Array, before: int, after: int) -> Array:
  return jnp.pad(x, [(before, after)] + [(0, 0)] * (x.ndim - 1))


def _sizes(nodes: int) -> list[int]:
  whole = [nodes] * ((nodes - 1) // 2)
  return whole if nodes % 2 else [*whole, nodes // 2]
