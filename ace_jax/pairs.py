"""All pairs of nodes, each once, and sums over them without a gather.

Pairs are grouped by their distance k along the ring of nodes: group k holds (i, i + k mod nodes) for
every i, k from 0 (a node and itself) to half of the nodes; the last group of an even number of nodes
has every pair once, i below half. So what a group needs of its nodes is a slice of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def ends(nodes: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
  """Returns the two nodes of every pair, in the order of this module: nodes (nodes + 1) / 2 pairs."""
  first = [np.arange(size) for size in _sizes(nodes)]
  second = [(i + k) % nodes for k, i in enumerate(first)]
  return np.concatenate(first), np.concatenate(second)


@jax.custom_jvp
def weighted_sum(
  weights: Float[Array, "batch pairs channels"], x: Float[Array, "batch nodes channels"]
) -> Float[Array, "batch nodes channels"]:
  """Sums over all nodes, with weights that a pair has in both directions.

  .. math:: y_i = \\sum_j w_{ij} \\odot x_j, \\qquad w_{ij} = w_{ji}

  Args:
    weights: Of the pairs, in the order of `ends`.
    x: Of the nodes.
  """
  nodes, half = x.shape[1], x.shape[1] // 2
  groups, ahead = _groups(weights, x)
  to_second = jnp.zeros_like(ahead)
  for k, group in enumerate(groups[1:], 1):
    to_second = to_second.at[:, k : k + group.shape[1]].add(group * x[:, : group.shape[1]])
  return _to_first(groups, ahead) + to_second[:, :nodes] + _wrapped(to_second, nodes, half)


@weighted_sum.defjvp
def _tangent(primals, tangents):
  (weights, x), (weights_dot, x_dot) = primals, tangents
  # The sum is its own transpose in x, which slices transpose to something slower.
  moved = jax.custom_derivatives.linear_call(weighted_sum, weighted_sum, weights, x_dot)
  return weighted_sum(weights, x), _transposable(weights_dot, x) + moved


def _transposable(weights: Array, x: Array) -> Array:
  """As `weighted_sum`; slower itself, but its transposes are slices, where those of `at` gather."""
  nodes, half = x.shape[1], x.shape[1] // 2
  groups, ahead = _groups(weights, x)
  result, to_second = _to_first(groups, ahead), 0
  for k, group in enumerate(groups[1:], 1):
    size = group.shape[1]
    moved = jnp.pad(group * x[:, :size], ((0, 0), (k, nodes + half - k - size), (0, 0)))
    to_second = to_second + moved
  if len(groups) == 1:
    return result
  return result + to_second[:, :nodes] + _wrapped(to_second, nodes, half)


def _groups(weights: Array, x: Array) -> tuple[list[Array], Array]:
  """Returns the weights by group, and the nodes with the first half of them once more behind."""
  nodes = x.shape[1]
  groups = jax.lax.split(weights, _sizes(nodes), 1)
  return [*groups], jnp.concatenate([x, x[:, : nodes // 2]], 1)


def _to_first(groups: list[Array], ahead: Array) -> Array:
  nodes, result = groups[0].shape[1], 0
  for k, group in enumerate(groups):
    part = group * ahead[:, k : k + group.shape[1]]
    result = result + jnp.pad(part, ((0, 0), (0, nodes - group.shape[1]), (0, 0)))
  return jnp.asarray(result)


def _wrapped(x: Array, nodes: int, half: int) -> Array:
  return jnp.pad(x[:, nodes:], ((0, 0), (0, nodes - half), (0, 0)))


def _sizes(nodes: int) -> list[int]:
  whole = [nodes] * ((nodes + 1) // 2)
  return whole if nodes % 2 else [*whole, nodes // 2]
