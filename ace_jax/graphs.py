"""Connectivity of graphs: one for a whole batch, each sample its own, or a jraph.GraphsTuple.

Two layouts are understood by every function here:

- dense: arrays [batch, nodes, ...] with a `Topology`, where all graphs of a batch have the same
  edges, or with `Neighbours`, where every node of every sample has so many senders of its own.
  Nothing is scattered forwards if every node has the same in-degree, as `Neighbours` always do.
  Samples of fewer nodes, and nodes of fewer senders, are masks of `Neighbours`.
- sparse: arrays [nodes, ...] with a `jraph.GraphsTuple`, possibly padded: padding edges connect
  padding nodes only, so that real nodes never see them. Only `ace_jax.padding.PaddedGraphs` say so
  of themselves, so that statistics over nodes leave padding out too.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Topology:
  """The edges that all graphs of a batch share; static and hashable.

  Edges are sorted by (receiver, sender) on construction, so that the messages into a node lie
  together: with equal in-degrees aggregation is a reshape and a sum, which is faster than a
  scatter and deterministic on every device. Edge features must follow this order.

  Attributes:
    num_nodes: Number of nodes of every graph.
    senders: Source node of each edge.
    receivers: Target node of each edge.

  Raises:
    ValueError: senders and receivers differ in length, or name a node that does not exist.
  """

  num_nodes: int
  senders: tuple[int, ...]
  receivers: tuple[int, ...]

  def __post_init__(self):
    if len(self.senders) != len(self.receivers):
      raise ValueError(
        f"Topology has {len(self.senders)} senders but {len(self.receivers)} receivers."
      )
    edges = sorted((int(r), int(s)) for s, r in zip(self.senders, self.receivers, strict=True))
    if any(not 0 <= node < self.num_nodes for node in itertools.chain.from_iterable(edges)):
      raise ValueError(f"Topology names a node outside 0..{self.num_nodes - 1}.")
    object.__setattr__(self, "senders", tuple(s for _, s in edges))
    object.__setattr__(self, "receivers", tuple(r for r, _ in edges))

  @property
  def num_edges(self) -> int:
    """Number of edges."""
    return len(self.senders)

  @functools.cached_property
  def in_degree(self) -> int | None:
    """The in-degree that all nodes share, or None."""
    degrees = np.bincount(np.asarray(self.receivers, int), minlength=self.num_nodes)
    return int(degrees[0]) if self.num_edges and np.all(degrees == degrees[0]) else None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["senders", "edge_mask", "node_mask"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Edges that differ by sample, in equal number into every node: its K nearest, say.

  A pytree, so that the indices ride in a batch as data do. Edges are ordered by receiver, then as
  `senders` has them: aggregation is a reshape and a sum. The transpose of the gather of senders,
  in a backward pass, is a scatter-add (out-degrees differ), whose order of summation a GPU does
  not fix.

  Attributes:
    senders: Source nodes of the edges into each node, within the sample, 0 to nodes - 1 (others
      are clipped). None is all nodes of the sample in their order, itself too; `edge_mask`, which
      is symmetric then, says which are edges. Nothing is gathered, and nothing scattered.
    edge_mask: Which edges exist, where nodes have fewer; None is all. What the others carry reaches
      no sum.
    node_mask: Which nodes exist, where samples have fewer; None is all. Means over a sample are
      over its own nodes.
  """

  senders: Int[Array, "batch nodes neighbours"] | None
  edge_mask: Bool[Array, "batch nodes neighbours"] | None = None
  node_mask: Bool[Array, "batch nodes"] | None = None

  @property
  def in_degree(self) -> int:
    """K, the number of edges into every node."""
    edges = self.edge_mask if self.senders is None else self.senders
    if edges is None:
      raise ValueError("Neighbours need senders, or a mask of edges over all pairs of nodes.")
    return edges.shape[-1]


Graph = Topology | Neighbours | jraph.GraphsTuple

# Up to so many nodes the gather's transpose is a product with a constant matrix (see
# `_gather_tangent`), whose cost grows with nodes * edges; beyond, a scatter-add.
_LARGEST_INCIDENCE = 64


@functools.lru_cache(maxsize=64)
def pairs(num_nodes: int) -> Topology:
  """Returns the topology in which every node sends to those after it: each pair is one edge."""
  edges = list(itertools.combinations(range(num_nodes), 2))
  return Topology(num_nodes, tuple(s for s, _ in edges), tuple(r for _, r in edges))


@functools.lru_cache(maxsize=64)
def fully_connected(num_nodes: int) -> Topology:
  """Returns the topology in which every node sends to every other node (no self-loops)."""
  edges = list(itertools.permutations(range(num_nodes), 2))
  return Topology(num_nodes, tuple(s for _, s in edges), tuple(r for r, _ in edges))


def gather_receivers(x: Float[Array, "..."], graph: Graph) -> Float[Array, "..."]:
  """Returns for each edge the features of its receiver.

  Args:
    x: Node features, [batch, nodes, ...], or [nodes, ...] with a GraphsTuple.
    graph: The connectivity.
  """
  if isinstance(graph, jraph.GraphsTuple):
    return x[_indices(graph.receivers)]
  if isinstance(graph, Topology) and graph.in_degree is None:
    return x[:, np.asarray(graph.receivers, int)]
  shape = (*x.shape[:2], graph.in_degree, *x.shape[2:])
  return jnp.broadcast_to(x[:, :, None], shape).reshape(x.shape[0], -1, *x.shape[2:])


def gather_senders(x: Float[Array, "..."], graph: Graph) -> Float[Array, "..."]:
  """Returns for each edge the features of its sender; shapes as in `gather_receivers`."""
  if isinstance(graph, jraph.GraphsTuple):
    return x[_indices(graph.senders)]
  if isinstance(graph, Neighbours):
    if graph.senders is None:
      everyone = jnp.broadcast_to(x[:, None], (*x.shape[:2], *x.shape[1:]))
      return everyone.reshape(x.shape[0], -1, *x.shape[2:])
    senders = graph.senders.reshape(x.shape[0], -1, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, senders, 1, mode="clip")
  if graph.num_nodes <= _LARGEST_INCIDENCE:
    return _gather_second(x, graph.senders)
  return x[:, np.asarray(graph.senders, int)]


def aggregate(
  messages: Float[Array, "..."],
  graph: Graph,
  num_nodes: int | None = None,
  *,
  mean: bool = False,
) -> Float[Array, "..."]:
  """Sums (or averages) messages over the edges into each node.

  Args:
    messages: [batch, edges, ...], or [edges, ...] with a GraphsTuple.
    graph: The connectivity.
    num_nodes: Number of nodes of a GraphsTuple; by default that of its `nodes`.
    mean: Whether to divide by the in-degree (of nodes without edges: by 1).

  Returns:
    [batch, nodes, ...] or [nodes, ...].
  """
  if isinstance(graph, Neighbours) or (isinstance(graph, Topology) and graph.in_degree is not None):
    shape = (messages.shape[0], -1, graph.in_degree, *messages.shape[2:])
    grouped = messages.reshape(shape)
    if isinstance(graph, Neighbours) and graph.edge_mask is not None:
      return _masked_sum(grouped, graph.edge_mask, 2, mean)
    return grouped.mean(2) if mean else grouped.sum(2)
  if isinstance(graph, Topology):
    receivers, count = np.asarray(graph.receivers, int), graph.num_nodes
    total = jnp.moveaxis(_segment_sum(jnp.moveaxis(messages, 1, 0), receivers, count), 0, 1)
    degrees = np.maximum(np.bincount(receivers, minlength=count), 1).astype(messages.dtype)
    return total / degrees.reshape(count, *[1] * (messages.ndim - 2)) if mean else total
  count = _num_nodes(graph) if num_nodes is None else num_nodes
  receivers = _indices(graph.receivers)
  total = _segment_sum(messages, receivers, count)
  if not mean:
    return total
  degrees = _segment_sum(jnp.ones(receivers.shape, messages.dtype), receivers, count)
  return total / jnp.maximum(degrees, 1).reshape(count, *[1] * (messages.ndim - 1))


def pool_mean(x: Float[Array, "..."], graph: Graph) -> Float[Array, "graphs ..."]:
  """Averages node features over each graph; graphs without nodes give 0.

  Args:
    x: Node features, [batch, nodes, ...] or [nodes, ...].
    graph: The connectivity.
  """
  if isinstance(graph, Neighbours) and graph.node_mask is not None:
    return _masked_sum(x, graph.node_mask, 1, mean=True)
  if not isinstance(graph, jraph.GraphsTuple):
    return x.mean(1)
  num_graphs = graph.n_node.shape[0]
  total = _segment_sum(x, _graph_of_node(graph, x.shape[0]), num_graphs)
  counts = jnp.maximum(graph.n_node, 1).astype(x.dtype)
  return total / counts.reshape(num_graphs, *[1] * (x.ndim - 1))


def pool_sum(x: Float[Array, "..."], graph: Graph) -> Float[Array, "graphs ..."]:
  """Sums node features over each graph; arguments as of `pool_mean`."""
  if isinstance(graph, jraph.GraphsTuple):
    return _segment_sum(x, _graph_of_node(graph, x.shape[0]), graph.n_node.shape[0])
  if isinstance(graph, Neighbours) and graph.node_mask is not None:
    return _masked_sum(x, graph.node_mask, 1, mean=False)
  return x.sum(1)


def to_nodes(pooled: Float[Array, "graphs ..."], graph: Graph, num_nodes: int) -> Array:
  """Gives every node the value of its graph, in a shape that broadcasts against node features.

  Args:
    pooled: One value a graph, [graphs, ...] or [batch, ...].
    graph: The connectivity.
    num_nodes: Number of nodes of a GraphsTuple.

  Returns:
    [batch, 1, ...], or [nodes, ...] with a GraphsTuple.
  """
  if not isinstance(graph, jraph.GraphsTuple):
    return pooled[:, None]
  return pooled[_graph_of_node(graph, num_nodes)]


def nodes_first(x: Float[Array, "..."], graph: Graph) -> Array:
  """Moves the axis of nodes (or edges) to the front: [nodes, batch, ...] or [nodes, ...]."""
  return x if isinstance(graph, jraph.GraphsTuple) else jnp.moveaxis(x, 1, 0)


def nodes_back(x: Float[Array, "nodes ..."], graph: Graph) -> Array:
  """Inverse of `nodes_first`."""
  return x if isinstance(graph, jraph.GraphsTuple) else jnp.moveaxis(x, 0, 1)


def flat(x: Float[Array, "*axes channels"]) -> Float[Array, "rows channels"]:
  """Joins all axes but the last.

  Two-dimensional arrays cost a CPU less than those of more axes: a derivative that is transposed
  on its way into a weight's gradient is one loop then, without index arithmetic.
  """
  return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@dataclasses.dataclass(frozen=True)
class Edges:
  """Gathers and sums over edges, for arrays whose *leading* axis runs over nodes or edges.

  The layout [nodes, time, batch, channels] lets a `Topology` gather and sum whole slabs of memory;
  nothing is scattered, forwards or in a gradient. With `Neighbours` the second axis (or the rows)
  must be the batch's: they gather along the axis of nodes, and sum by a reshape.

  Attributes:
    graph: The connectivity.
    num_nodes: Number of nodes (of all graphs together for a GraphsTuple).
    rows: Rows of the leading axis that belong to one node (edge): 1, or time * batch where
      arrays are two-dimensional, [nodes * time * batch, channels].
  """

  graph: Graph
  num_nodes: int
  rows: int = 1

  def __post_init__(self):
    if isinstance(self.graph, Neighbours):
      masked = self.graph.edge_mask is not None or self.graph.node_mask is not None
      if masked or self.graph.senders is None:
        raise ValueError("Edges: Neighbours with masks are for the layout [batch, nodes, ...].")

  def at_senders(self, x: Float[Array, "nodes ..."]) -> Float[Array, "edges ..."]:
    """Returns for each edge the features of its sender."""
    slabs = self._slabs(x)
    if isinstance(self.graph, Neighbours):
      senders = jnp.moveaxis(jnp.asarray(self.graph.senders), 0, -1)
      senders = senders.reshape(-1, senders.shape[-1], *[1] * (slabs.ndim - 2))
      return self._joined(jnp.take_along_axis(slabs, senders, 0, mode="clip"))
    return self._joined(self._gather(slabs, self.graph.senders))

  def at_receivers(self, x: Float[Array, "nodes ..."]) -> Float[Array, "edges ..."]:
    """Returns for each edge the features of its receiver."""
    slabs = self._slabs(x)
    if isinstance(self.graph, Neighbours):
      return self._joined(jnp.repeat(slabs, self.graph.in_degree, axis=0))
    return self._joined(self._gather(slabs, self.graph.receivers))

  def sum(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Sums messages over the edges into each node."""
    return self._joined(self._sum(self._slabs(messages)))

  def sum_at_senders(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Sums messages over the edges out of each node; not with `Neighbours`."""
    slabs, senders = self._slabs(messages), self.graph.senders
    if isinstance(self.graph, Topology):
      return self._joined(_sum_constant(slabs, self.graph.senders, self.num_nodes))
    if isinstance(self.graph, Neighbours):
      raise ValueError("Edges.sum_at_senders: Neighbours are ordered by receiver.")
    return self._joined(_segment_sum(slabs, _indices(senders), self.num_nodes))

  def mean(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Averages messages over the edges into each node; nodes without edges give 0."""
    slabs = self._slabs(messages)
    if isinstance(self.graph, Neighbours):
      return self._joined(self._grouped(slabs).mean(1))
    if isinstance(self.graph, Topology):
      degrees = np.bincount(np.asarray(self.graph.receivers, int), minlength=self.num_nodes)
      degrees = degrees.astype(messages.dtype)
    else:
      receivers = _indices(self.graph.receivers)
      degrees = _segment_sum(jnp.ones(receivers.shape, messages.dtype), receivers, self.num_nodes)
    degrees = jnp.maximum(degrees, 1).reshape(-1, *[1] * (slabs.ndim - 1))
    return self._joined(self._sum(slabs) / degrees)

  def max(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Returns the largest message into each node, a constant of the gradient; 0 without edges."""
    slabs = self._slabs(jax.lax.stop_gradient(messages))
    if isinstance(self.graph, Neighbours):
      return self._joined(self._grouped(slabs).max(1))
    receivers = self.graph.receivers
    dense = isinstance(self.graph, Topology)
    receivers = np.asarray(receivers, int) if dense else _indices(receivers)
    largest = jax.ops.segment_max(slabs, receivers, self.num_nodes)
    return self._joined(jnp.where(jnp.isfinite(largest), largest, 0))

  def graph_mean(self, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """Returns the mean over the nodes of each graph, at every node."""
    slabs = self._slabs(x)
    if isinstance(self.graph, jraph.GraphsTuple):
      means = pool_mean(slabs, self.graph)
      return self._joined(means[_graph_of_node(self.graph, self.num_nodes)])
    return self._joined(jnp.broadcast_to(slabs.mean(0, keepdims=True), slabs.shape))

  def _gather(self, slabs, indices):
    if isinstance(self.graph, Topology):
      return _gather_constant(slabs, indices)
    return slabs[_indices(indices)]

  def _sum(self, slabs):
    if isinstance(self.graph, Neighbours):
      return self._grouped(slabs).sum(1)
    if isinstance(self.graph, Topology):
      return _sum_constant(slabs, self.graph.receivers, self.num_nodes)
    return _segment_sum(slabs, _indices(self.graph.receivers), self.num_nodes)

  def _grouped(self, slabs):
    return slabs.reshape(self.num_nodes, -1, *slabs.shape[1:])

  def _slabs(self, x):
    # The last axis stays what it is: a reshape that splits it would, fused into a loop, cost index
    # arithmetic for every element.
    if self.rows == 1:
      return x
    return x.reshape(x.shape[0] // self.rows, self.rows, *x.shape[1:])

  def _joined(self, slabs):
    if self.rows == 1:
      return slabs
    return slabs.reshape(slabs.shape[0] * self.rows, *slabs.shape[2:])


# Gathers and sums by constant indices are each other's transposes, and JAX would transpose a gather
# to a scatter, which is slow on CPUs and not deterministic on GPUs. So each has a tangent that is
# written as the other's transpose: a gradient gathers, and only a derivative along a direction
# scatters.


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _gather_constant(x: Array, indices: tuple[int, ...]) -> Array:
  return x[np.asarray(indices, int)]


@_gather_constant.defjvp
def _gather_tangent(indices, primals, tangents):
  (x,), (tangent,) = primals, tangents
  slots = _slots(indices, x.shape[0])
  if len(slots) > _MOST_SLOTS:
    return _gather_constant(x, indices), _product(_incidence(indices, x.shape[0]).T, tangent)
  moved = jnp.zeros((len(indices), *x.shape[1:]), x.dtype)
  for slot in slots:
    moved = moved.at[slot].add(tangent, mode="drop", unique_indices=True)
  return _gather_constant(x, indices), moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _sum_constant(x: Array, indices: tuple[int, ...], count: int) -> Array:
  slots = _slots(indices, count)
  if len(slots) > _MOST_SLOTS:
    return _product(_incidence(indices, count), x)
  total = jnp.zeros((count, *x.shape[1:]), x.dtype)
  for slot in slots:
    total = total + x.at[slot].get(mode="fill", fill_value=0)
  return total


@_sum_constant.defjvp
def _sum_tangent(indices, count, primals, tangents):
  (x,), (tangent,) = primals, tangents
  return _sum_constant(x, indices, count), _segment_sum(tangent, np.asarray(indices, int), count)


_MOST_SLOTS = 16
"""Up to so many edges a node, sums are sums of gathers, and products with a matrix above."""


def _slots(indices: tuple[int, ...], count: int) -> np.ndarray:
  """Returns [k, node], where a node's k-th edge stands; len(indices) where it has fewer."""
  degrees = np.bincount(np.asarray(indices, int), minlength=count)
  order = np.append(np.argsort(np.asarray(indices, int), kind="stable"), len(indices))
  ranks = np.arange(degrees.max(initial=0))[:, None]
  position = np.minimum(np.cumsum(degrees) - degrees + ranks, len(indices))
  return order[np.where(ranks < degrees, position, len(indices))]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _gather_second(x: Array, indices: tuple[int, ...]) -> Array:
  return x[:, np.asarray(indices, int)]


@_gather_second.defjvp
def _gather_second_tangent(indices, primals, tangents):
  (x,), (tangent,) = primals, tangents
  incidence = _incidence(indices, x.shape[1]).T
  moved = _product(incidence, jnp.moveaxis(tangent, 1, 0))
  return x[:, np.asarray(indices, int)], jnp.moveaxis(moved, 0, 1)


def _incidence(indices: tuple[int, ...], num_nodes: int) -> np.ndarray:
  return np.equal.outer(np.arange(num_nodes), np.asarray(indices, int)).astype(np.float64)


def _product(matrix: np.ndarray, x: Array) -> Array:
  flat = x.reshape(x.shape[0], -1)
  product = jnp.dot(matrix.astype(x.dtype), flat, precision=jax.lax.Precision.HIGHEST)
  return product.reshape(matrix.shape[0], *x.shape[1:])


def _masked_sum(x: Array, mask: Array, axis: int, mean: bool) -> Array:
  """Sums (or averages) what the mask, over the axes up to `axis`, lets through; 0 where nothing."""
  total = jnp.sum(jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, 0), axis)
  if not mean:
    return total
  counts = jnp.maximum(mask.sum(axis), 1).astype(x.dtype)
  return total / counts.reshape(*counts.shape, *[1] * (total.ndim - counts.ndim))


def _segment_sum(x, segments, count: int):
  return jax.ops.segment_sum(x, segments, count, indices_are_sorted=False)


def _graph_of_node(graph: jraph.GraphsTuple, num_nodes: int) -> Array:
  graphs = jnp.arange(graph.n_node.shape[0])
  return jnp.repeat(graphs, graph.n_node, total_repeat_length=num_nodes)


def _num_nodes(graph: jraph.GraphsTuple) -> int:
  return jax.tree.leaves(graph.nodes)[0].shape[0]


def _indices(indices) -> Array:
  # None is how jraph writes that there are no edges.
  return jnp.zeros(0, int) if indices is None else jnp.asarray(indices, int)
