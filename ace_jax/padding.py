"""Graphs of different sizes in arrays of few sizes, such that padding changes no number.

`batches` fills lists of `jraph.GraphsTuple` up to at most four sizes. What it yields is a
`PaddedGraphs`, whose type says that its last graphs are padding, and every model of this library
asks for that (`node_mask`): padding reaches neither real nodes, nor statistics over nodes.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float

from ace_jax import graphs, weights
from ace_jax.edges import Edges
from ace_jax.errors import ConfigurationError
from ace_jax.whole import whole

MOST_SIZES = 4
"""A batch of another size is another compiled program."""


class PaddedGraphs(jraph.GraphsTuple):
  """A `jraph.GraphsTuple` as `jraph.pad_with_graphs` pads it: real graphs, then padding.

  The first graph of padding has all its nodes, at least one, and all its edges; those after it are
  empty. A pytree like any GraphsTuple.
  """

  __slots__ = ()


def node_mask(graph: graphs.Graph, num_nodes: int) -> Bool[Array, "..."] | None:
  """Returns which nodes are real, [nodes] or [batch, nodes]; None where all are.

  Args:
    graph: The connectivity.
    num_nodes: Number of nodes of a GraphsTuple, padding included.
  """
  if isinstance(graph, PaddedGraphs):
    return jnp.arange(num_nodes) < jnp.sum(jnp.where(_real(graph), graph.n_node, 0))
  if isinstance(graph, graphs.Neighbours):
    return graph.node_mask
  return None


def row_mask(edges: Edges) -> Bool[Array, "rows 1"] | None:
  """Returns which rows of flat node features belong to real nodes; None where all do."""
  mask = node_mask(edges.graph, edges.num_nodes)
  return None if mask is None else jnp.repeat(mask, edges.rows)[:, None]


def graph_mask(graph: graphs.Graph) -> Bool[Array, " graphs"] | None:
  """Returns which graphs are real; None where all are.

  A padded batch has at least one real graph, so that losses over real graphs are means of some.
  """
  return _real(graph) if isinstance(graph, PaddedGraphs) else None


def _real(graph: PaddedGraphs) -> Bool[Array, " graphs"]:
  count = graph.n_node.shape[0]
  return jnp.arange(count) < count - 1 - jnp.argmax(jnp.asarray(graph.n_node)[::-1] > 0)


def mean(
  x: Float[Array, "..."],
  axes: tuple[int, ...] | None = None,
  *,
  where: Bool[Array, "..."] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "..."]:
  """Returns the mean over axes, over the entries that count, and over devices.

  .. math:: \\sum_i w_i x_i / \\sum_i w_i, \\qquad w_i \\in \\{0, 1\\}

  Args:
    x: Numbers; those that do not count may be anything.
    axes: Over which; all by default.
    where: Which entries count, broadcast against x; all by default. If none does, the mean is 0.
    axis_name: Mapped axis of the devices that share the entries. Each may have another number of
      them: both sums are over all.
  """

  def over_devices(value):
    return value if axis_name is None else jax.lax.pmean(value, axis_name)

  if where is None:
    return over_devices(jnp.mean(x, axes))
  where = jnp.broadcast_to(where, x.shape)
  total = over_devices(jnp.sum(jnp.where(where, x, 0), axes))
  count = over_devices(jnp.sum(where, axes, dtype=x.dtype))
  return total / jnp.where(count > 0, count, 1)


def batches(
  graph_list: Sequence[jraph.GraphsTuple],
  *,
  nodes: int | Sequence[int],
  edges: int | Sequence[int],
  count: int | None = None,
) -> Iterator[PaddedGraphs]:
  """Yields the graphs in their order, in batches that are padded to one of at most four sizes.

  A batch takes graphs as long as they fit into the largest size, and gets the smallest size that
  holds it. Shapes depend on the sizes, `count` and the smallest graph alone, not on the order, so
  that shuffled epochs compile nothing new.

  Args:
    graph_list: Each one graph, with or without edges (whose features may then be None); nodes,
      edges and globals are any pytrees, of one structure in all graphs.
    nodes: Nodes of each size, padding included, of which one is always: one number, or up to four,
      from small to large.
    edges: Edges of each size, as many numbers; where that of nodes is the same, there is one more.
    count: Real graphs in a batch, at most; None takes as many as fit.

  Raises:
    ConfigurationError: the sizes do not make sense, a graph is empty or fits into none, or features
      are not the same in all.
  """
  sizes = _sizes(nodes, edges)
  number = whole(count)
  if count is not None and (number is None or number < 1):
    raise ConfigurationError(
      f"batches: count is {count!r:.40}; it must be a whole number, at least 1."
    )
  count = number
  if isinstance(graph_list, jraph.GraphsTuple):
    raise ConfigurationError(
      "batches: given one GraphsTuple; give a list of graphs (jraph.unbatch takes a batch apart)."
    )
  checked_graphs = [_checked(i, graph, sizes[-1]) for i, graph in enumerate(graph_list)]
  if not checked_graphs:
    return
  checked_graphs = _of_one_kind(checked_graphs)
  smallest = min(int(graph.n_node[0]) for graph in checked_graphs)
  batch, filled = [], np.zeros(2, int)
  for graph in checked_graphs:
    more = np.array([graph.n_node[0], graph.n_edge[0]], int)
    full = batch and (len(batch) == count or not _fits(filled + more, sizes[-1]))
    if full:
      yield _padded(batch, filled, sizes, smallest, count)
      batch, filled = [], np.zeros(2, int)
    batch.append(graph)
    filled = filled + more
  yield _padded(batch, filled, sizes, smallest, count)


def _sizes(nodes: int | Sequence[int], edges: int | Sequence[int]) -> list[tuple[int, int]]:
  node_sizes, edge_sizes = _whole_numbers("nodes", nodes), _whole_numbers("edges", edges)
  if not 1 <= len(node_sizes) <= MOST_SIZES or len(node_sizes) != len(edge_sizes):
    raise ConfigurationError(
      f"batches: {len(node_sizes)} sizes of nodes and {len(edge_sizes)} of edges; give equally "
      f"many of both, 1 to {MOST_SIZES}."
    )
  rising = all(a < b for a, b in itertools.pairwise(node_sizes))
  rising &= all(a <= b for a, b in itertools.pairwise(edge_sizes))
  if not rising or min(node_sizes) < 2 or min(edge_sizes) < 0:
    raise ConfigurationError(
      f"batches: nodes {node_sizes} must rise from at least 2, since one node is padding, and "
      f"edges {edge_sizes} must not fall or be negative."
    )
  return [*zip(node_sizes, edge_sizes, strict=True)]


def _whole_numbers(name: str, given: Any) -> list[int]:
  single = whole(given)
  try:
    numbers = [whole(number) for number in given] if single is None else [single]
  except TypeError:
    numbers = [None]
  if None in numbers:
    raise ConfigurationError(
      f"batches: {name} is {given!r:.40}; give one whole number, or one a size."
    )
  return [number for number in numbers if number is not None]


def _checked(index: int, graph: jraph.GraphsTuple, largest: tuple[int, int]) -> jraph.GraphsTuple:
  """Returns a graph with NumPy arrays, of which none is None but features."""
  if not isinstance(graph, jraph.GraphsTuple):
    raise ConfigurationError(
      f"batches: entry {index} is a {type(graph).__name__}; each must be a jraph.GraphsTuple."
    )
  counts = np.asarray(graph.n_node), np.asarray(graph.n_edge)
  if any(array.shape != (1,) for array in counts):
    raise ConfigurationError(
      f"batches: entry {index} has n_node {counts[0].tolist()}; each must be one graph "
      "(jraph.unbatch takes a batch apart)."
    )
  nodes, edges = int(counts[0][0]), int(counts[1][0])
  if nodes < 1:
    raise ConfigurationError(f"batches: graph {index} has no nodes; leave it out.")
  if not _fits(np.array([nodes, edges]), largest):
    raise ConfigurationError(
      f"batches: graph {index} has {nodes} nodes and {edges} edges, and the largest size holds "
      f"{largest[0] - 1} (one node is padding) and {largest[1]}; raise nodes or edges."
    )
  ends = [
    np.zeros(0, np.int32) if end is None else np.asarray(end, np.int32)
    for end in (graph.senders, graph.receivers)
  ]
  beyond = any(end.size and not 0 <= end.min() <= end.max() < nodes for end in ends)
  if beyond or any(end.shape != (edges,) for end in ends):
    raise ConfigurationError(
      f"batches: the edges of graph {index} are not {edges} pairs of its nodes, 0 to {nodes - 1}."
    )
  arrays: dict[str, Any] = {
    name: jax.tree.map(np.asarray, getattr(graph, name)) for name in ("nodes", "edges", "globals")
  }
  for name, rows in {"nodes": nodes, "edges": edges, "globals": 1}.items():
    for leaf in jax.tree.leaves(arrays[name]):
      without = name == "edges" and not edges and not leaf.size  # of any shape
      if leaf.shape[:1] != (rows,) and not without:
        raise ConfigurationError(
          f"batches: {name} of graph {index} have shape {leaf.shape}; their first axis must have "
          f"{rows}, one for each{' of its ' + name if name != 'globals' else ' graph'}."
        )
  arrays |= {"n_node": counts[0].astype(np.int32), "n_edge": counts[1].astype(np.int32)}
  return graph._replace(senders=ends[0], receivers=ends[1], **arrays)


def _of_one_kind(graph_list: list[jraph.GraphsTuple]) -> list[jraph.GraphsTuple]:
  """Returns graphs whose features can be joined: where one has no edges, those of edges are none.

  A graph without edges may say so by features that are None, or by an empty array of any shape.

  Raises:
    ConfigurationError: features differ between two graphs; names both.
  """
  kinds = {name: _first_kind(name, graph_list) for name in ("nodes", "edges", "globals")}
  result = []
  for i, graph in enumerate(graph_list):
    features = {}
    for name, (first, example) in kinds.items():
      here, like = getattr(graph, name), getattr(example, name)
      if name == "edges" and not graph.n_edge[0] and not _alike(here, like):
        features[name] = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), like)
      elif not _alike(here, like):
        raise ConfigurationError(
          f"batches: {name} of graph {i} are {_said(here)}, those of graph {first} {_said(like)}; "
          "give all graphs the same features."
        )
    result.append(graph._replace(**features))
  return result


def _first_kind(name: str, graph_list: list[jraph.GraphsTuple]) -> tuple[int, jraph.GraphsTuple]:
  """Returns the first graph whose features say what those of all are, and its index."""
  counted = ((i, g) for i, g in enumerate(graph_list) if name != "edges" or g.n_edge[0])
  return next(counted, (0, graph_list[0]))


def _alike(features: Any, others: Any) -> bool:
  """Whether features have the same tree, and but for their first axis the same shapes."""
  if jax.tree.structure(features) != jax.tree.structure(others):
    return False
  pairs = zip(jax.tree.leaves(features), jax.tree.leaves(others), strict=True)
  return all(a.shape[1:] == b.shape[1:] and a.ndim == b.ndim for a, b in pairs)


def _said(features: Any) -> str:
  if features is None:
    return "None"
  leaves = jax.tree.leaves(features)
  if len(leaves) == 1 and leaves[0] is features:
    return f"of shape [n{''.join(f', {n}' for n in features.shape[1:])}]"
  return str(jax.tree.structure(features))


def _fits(filled: np.ndarray, size: tuple[int, int]) -> bool:
  return filled[0] < size[0] and filled[1] <= size[1]


def _padded(
  batch: list[jraph.GraphsTuple],
  filled: np.ndarray,
  sizes: list[tuple[int, int]],
  smallest: int,
  count: int | None,
) -> PaddedGraphs:
  size = sizes[bisect.bisect_left([_fits(filled, size) for size in sizes], True)]
  most = (size[0] - 1) // smallest
  most = most if count is None else min(most, count)
  # Numbers that are the same would leave open of which of them a loss has values (`of_real`).
  num_nodes, num_edges = size[0], size[1] + (size[0] == size[1])
  while most + 1 in (num_nodes, num_edges):
    most += 1
  return PaddedGraphs(*jraph.pad_with_graphs(jraph.batch_np(batch), num_nodes, num_edges, most + 1))


def nearest(
  positions: Float[Array, "batch nodes 3"],
  exists: Bool[Array, "batch nodes"],
  radius: float,
  count: int | None = None,
) -> graphs.Neighbours:
  """Returns edges into every node from its nearest others within a radius, within its sample.

  Args:
    positions: Of all nodes; of those that do not exist, any finite numbers.
    exists: Which nodes are real.
    radius: Largest distance.
    count: Edges into a node, at most: those from further away are left out. Where it is most of the
      nodes, None costs less: all pairs are computed, and those that are no edges carry nothing.
  """
  square = jnp.sum(jnp.square(positions[:, :, None] - positions[:, None]), -1)
  others = exists[:, None] & exists[:, :, None] & ~jnp.eye(positions.shape[1], dtype=bool)
  edges = others & (square <= radius**2)
  if count is None:
    return graphs.Neighbours(None, edge_mask=edges, node_mask=exists)
  distance = jnp.where(edges, jax.lax.stop_gradient(square), jnp.inf)
  least, senders = jax.lax.top_k(-distance, count)
  return graphs.Neighbours(senders, edge_mask=least > -jnp.inf, node_mask=exists)


def padded_graphs(batch: Any) -> PaddedGraphs | None:
  """Returns the first padded graphs in a batch; None where there are none."""
  leaves = jax.tree.leaves(batch, is_leaf=_is_padded)
  return next(filter(_is_padded, leaves), None)


def _is_padded(node: Any) -> bool:
  return isinstance(node, PaddedGraphs)


def of_real(loss: weights.Loss) -> weights.Loss:
  """Returns a loss in which padding weighs nothing, with the weights that it has where it has some.

  Its values may be of graphs, of nodes or of edges; which, their number says.

  Args:
    loss: `loss(prediction, batch)` of a batch with `PaddedGraphs`, for padding too; these may have
      another axis in front, of batches that are stacked.

  Raises:
    ConfigurationError: there are as many values as neither graphs, nodes nor edges, or as two.
  """

  def masked(prediction: Any, batch: Any) -> Any:
    returned = loss(prediction, batch)
    graph = padded_graphs(batch)
    if graph is None or not getattr(weights.values_of(returned), "ndim", 0):
      return returned  # the check of `fit` says what a loss must be
    values, given = returned if isinstance(returned, tuple) else (returned, jnp.ones(()))
    mask = _mask_of(graph, values.shape)
    given = weights.weights_of(values, given)
    return values, jnp.where(mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim)), given, 0)

  return masked


def _mask_of(graph: PaddedGraphs, shape: tuple[int, ...]) -> Any:
  """Returns which rows of an array of such a shape are of real graphs, nodes or edges."""
  if graph.n_node.ndim > 1:
    return jax.vmap(lambda graph: _mask_of(graph, shape[1:]))(graph)
  # Of graphs without features of nodes, no number but that of graphs and edges is known.
  num_nodes = graphs.num_nodes_of(graph) if jax.tree.leaves(graph.nodes) else 0
  sizes = (len(graph.n_node), num_nodes, len(graphs.edge_nodes(graph.senders)))
  same = [
    name for name, n in zip(("graphs", "nodes", "edges"), sizes, strict=True) if shape[:1] == (n,)
  ]
  if len(same) > 1:
    raise ConfigurationError(
      f"a loss or metric of {shape[0]} values may be one for each of the {' or of the '.join(same)}"
      f" of a padded batch, which has as many of both; pad to other sizes."
    )
  if shape[:1] == sizes[:1]:
    return _real(graph)
  if shape[:1] == sizes[1:2]:
    return node_mask(graph, num_nodes)
  if shape[:1] == sizes[2:]:
    return jnp.arange(sizes[2]) < jnp.sum(jnp.where(_real(graph), graph.n_edge, 0))
  raise ConfigurationError(
    f"a loss or metric of shape {list(shape)} belongs to neither the {sizes[0]} graphs, the "
    f"{sizes[1]} nodes nor the {sizes[2]} edges of a padded batch; its leading axis must be one of "
    "them."
  )
