"""Gathers and sums over edges for arrays whose leading axis runs over nodes or edges."""

import dataclasses

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float

from ace_jax import gathers, graphs
from ace_jax.graphs import Graph, Neighbours, Topology


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
    slabs = self._slabs(messages)
    if isinstance(self.graph, Topology):
      return self._joined(gathers.sum_into(slabs, self.graph.senders, self.num_nodes))
    if isinstance(self.graph, Neighbours):
      raise ValueError("Edges.sum_at_senders: Neighbours are ordered by receiver.")
    return self._joined(
      gathers.segment_sum(slabs, graphs.edge_nodes(self.graph.senders), self.num_nodes)
    )

  def mean(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Averages messages over the edges into each node; nodes without edges give 0."""
    slabs = self._slabs(messages)
    if isinstance(self.graph, Neighbours):
      return self._joined(self._grouped(slabs).mean(1))
    if isinstance(self.graph, Topology):
      degrees = np.bincount(np.asarray(self.graph.receivers, int), minlength=self.num_nodes)
      degrees = degrees.astype(messages.dtype)
    else:
      receivers = graphs.edge_nodes(self.graph.receivers)
      degrees = gathers.segment_sum(
        jnp.ones(receivers.shape, messages.dtype), receivers, self.num_nodes
      )
    degrees = jnp.maximum(degrees, 1).reshape(-1, *[1] * (slabs.ndim - 1))
    return self._joined(self._sum(slabs) / degrees)

  def max(self, messages: Float[Array, "edges ..."]) -> Float[Array, "nodes ..."]:
    """Returns the largest message into each node, a constant of the gradient; 0 without edges."""
    slabs = self._slabs(jax.lax.stop_gradient(messages))
    if isinstance(self.graph, Neighbours):
      return self._joined(self._grouped(slabs).max(1))
    if isinstance(self.graph, Topology):
      receivers = np.asarray(self.graph.receivers, int)
    else:
      receivers = graphs.edge_nodes(self.graph.receivers)
    largest = jax.ops.segment_max(slabs, receivers, self.num_nodes)
    return self._joined(jnp.where(jnp.isfinite(largest), largest, 0))

  def graph_mean(self, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """Returns the mean over the nodes of each graph, at every node."""
    slabs = self._slabs(x)
    if isinstance(self.graph, jraph.GraphsTuple):
      means = graphs.pool_mean(slabs, self.graph)
      return self._joined(means[graphs.graph_of_node(self.graph, self.num_nodes)])
    return self._joined(jnp.broadcast_to(slabs.mean(0, keepdims=True), slabs.shape))

  def _gather(self, slabs, indices):
    if isinstance(self.graph, Topology):
      return gathers.take(slabs, indices)
    return slabs[graphs.edge_nodes(indices)]

  def _sum(self, slabs):
    if isinstance(self.graph, Neighbours):
      return self._grouped(slabs).sum(1)
    if isinstance(self.graph, Topology):
      return gathers.sum_into(slabs, self.graph.receivers, self.num_nodes)
    return gathers.segment_sum(slabs, graphs.edge_nodes(self.graph.receivers), self.num_nodes)

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
