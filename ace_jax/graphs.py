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
import importlib
import itertools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ace_jax import gathers

if TYPE_CHECKING:
  from ace_jax.padding import batches as batches


def __getattr__(name: str) -> Any:
  if name == "batches":  # of a module that itself needs this one
    return importlib.import_module("ace_jax.padding").batches
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
# `gathers.take_second`), whose cost grows with nodes * edges; beyond, a scatter-add.
_LARGEST_INCIDENCE = 64


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
    return x[edge_nodes(graph.receivers)]
  if isinstance(graph, Topology) and graph.in_degree is None:
    return x[:, np.asarray(graph.receivers, int)]
  shape = (*x.shape[:2], graph.in_degree, *x.shape[2:])
  return jnp.broadcast_to(x[:, :, None], shape).reshape(x.shape[0], -1, *x.shape[2:])


def gather_senders(x: Float[Array, "..."], graph: Graph) -> Float[Array, "..."]:
  """Returns for each edge the features of its sender; shapes as in `gather_receivers`."""
  if isinstance(graph, jraph.GraphsTuple):
    return x[edge_nodes(graph.senders)]
  if isinstance(graph, Neighbours):
    if graph.senders is None:
      everyone = jnp.broadcast_to(x[:, None], (*x.shape[:2], *x.shape[1:]))
      return everyone.reshape(x.shape[0], -1, *x.shape[2:])
    senders = graph.senders.reshape(x.shape[0], -1, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, senders, 1, mode="clip")
  if graph.num_nodes <= _LARGEST_INCIDENCE:
    return gathers.take_second(x, graph.senders)
  return x[:, np.asarray(graph.senders, int)]


def one_direction(x: Float[Array, "..."], graph: Graph) -> Float[Array, "..."]:
  """Returns features of edges once for both directions, where a layout has all pairs twice.

  What is the same in both directions, such as all that follows from a distance, is computed for
  half of the edges between this and `both_directions`.

  Args:
    x: Features of edges, [batch, edges, ...] or [edges, ...], the same in both directions.
    graph: The connectivity.

  Returns:
    [batch, pairs, ...] for `Neighbours` of all nodes, a node paired with itself too; x for others.
  """
  if isinstance(graph, Neighbours) and graph.senders is None:
    return x[:, gathers.upper(graph.in_degree)]
  return x


def both_directions(x: Float[Array, "..."], graph: Graph) -> Float[Array, "..."]:
  """Returns the features of all edges from those of `one_direction`."""
  if isinstance(graph, Neighbours) and graph.senders is None:
    return gathers.mirror(x, graph.in_degree)
  return x


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
    total = jnp.moveaxis(gathers.segment_sum(jnp.moveaxis(messages, 1, 0), receivers, count), 0, 1)
    degrees = np.maximum(np.bincount(receivers, minlength=count), 1).astype(messages.dtype)
    return total / degrees.reshape(count, *[1] * (messages.ndim - 2)) if mean else total
  count = num_nodes_of(graph) if num_nodes is None else num_nodes
  receivers = edge_nodes(graph.receivers)
  total = gathers.segment_sum(messages, receivers, count)
  if not mean:
    return total
  degrees = gathers.segment_sum(jnp.ones(receivers.shape, messages.dtype), receivers, count)
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
  total = gathers.segment_sum(x, graph_of_node(graph, x.shape[0]), num_graphs)
  counts = jnp.maximum(graph.n_node, 1).astype(x.dtype)
  return total / counts.reshape(num_graphs, *[1] * (x.ndim - 1))


def pool_sum(x: Float[Array, "..."], graph: Graph) -> Float[Array, "graphs ..."]:
  """Sums node features over each graph; arguments as of `pool_mean`."""
  if isinstance(graph, jraph.GraphsTuple):
    return gathers.segment_sum(x, graph_of_node(graph, x.shape[0]), graph.n_node.shape[0])
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
  return pooled[graph_of_node(graph, num_nodes)]


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


def _masked_sum(x: Array, mask: Array, axis: int, mean: bool) -> Array:
  """Sums (or averages) what the mask, over the axes up to `axis`, lets through; 0 where nothing."""
  total = jnp.sum(jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, 0), axis)
  if not mean:
    return total
  counts = jnp.maximum(mask.sum(axis), 1).astype(x.dtype)
  return total / counts.reshape(*counts.shape, *[1] * (total.ndim - counts.ndim))


def graph_of_node(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, " nodes"]:
  """Returns for each node the number of its graph."""
  graphs = jnp.arange(graph.n_node.shape[0])
  return jnp.repeat(graphs, graph.n_node, total_repeat_length=num_nodes)


def num_nodes_of(graph: jraph.GraphsTuple) -> int:
  """Returns the number of nodes of a GraphsTuple, padding included."""
  return jax.tree.leaves(graph.nodes)[0].shape[0]


def edge_nodes(nodes: Int[Array, " edges"] | None) -> Int[Array, " edges"]:
  """Returns the senders or receivers of a GraphsTuple as an array; none where it has no edges."""
  # None is how jraph writes that there are no edges.
  return jnp.zeros(0, int) if nodes is None else jnp.asarray(nodes, int)
