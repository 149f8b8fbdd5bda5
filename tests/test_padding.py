"""Batches of graphs of different sizes: what padding may not change."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import graphs, padding
from ace_jax.edges import Edges
from ace_jax.errors import ConfigurationError
from ace_jax.models import steerable
from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.radial_field import RadialField
from ace_jax.models.schnet import SchNet
from ace_jax.models.segnn import SEGNN
from ace_jax.models.tfn import TFN
from ace_jax.relaxations import Relaxation
from tests.marks import with_slow
from tests.values import drawn

CLOSE = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)


def graph_of(nodes, seed, edges=True):
  """A graph with random positions, velocities and atomic numbers; all pairs are edges, or none."""
  random = np.random.default_rng(seed)
  receivers, senders = np.nonzero(~np.eye(nodes, dtype=bool) & edges)
  return jraph.GraphsTuple(
    nodes={
      "positions": random.normal(size=(nodes, 3)),
      "velocities": random.normal(size=(nodes, 3)),
      "numbers": random.integers(1, 10, nodes),
    },
    edges=None,
    globals=np.array([[float(seed)]]),
    senders=senders,
    receivers=receivers,
    n_node=np.array([nodes]),
    n_edge=np.array([len(senders)]),
  )


GRAPHS = [graph_of(5, 0), graph_of(1, 1), graph_of(3, 2, edges=False), graph_of(4, 3)]


def test_batches_take_graphs_in_order_and_few_sizes():
  many = [graph_of(n, n) for n in (3, 5, 2, 6, 4, 3, 3)]
  batches = [*graphs.batches(many, nodes=(8, 16), edges=(40, 80), count=3)]
  assert [int(padding.graph_mask(batch).sum()) for batch in batches] == [3, 3, 1]
  assert [jax.tree.leaves(batch.nodes)[0].shape[0] for batch in batches] == [16, 16, 8]
  assert [len(batch.senders) for batch in batches] == [80, 80, 40]
  seeds = [batch.globals[padding.graph_mask(batch), 0].tolist() for batch in batches]
  assert seeds == [[3, 5, 2], [6, 4, 3], [3]]
  for batch, part in zip(batches, (many[:3], many[3:6], many[6:]), strict=True):
    real = padding.node_mask(batch, len(batch.nodes["numbers"]))
    expected = np.concatenate([graph.nodes["positions"] for graph in part])
    np.testing.assert_array_equal(batch.nodes["positions"][real], expected)
  shapes = [jax.tree.map(np.shape, batch) for batch in batches]
  assert shapes[0] == shapes[1]
  # Another order of the same graphs compiles nothing new.
  turned = [*padding.batches(many[::-1], nodes=(8, 16), edges=(40, 80))]
  again = [*padding.batches(many[1:] + many[:1], nodes=(8, 16), edges=(40, 80))]
  sizes = {str(jax.tree.map(np.shape, batch)) for batch in (*turned, *again)}
  assert len(sizes) <= 2


def test_masks_of_a_graph_that_is_not_padded():
  joined = jraph.batch_np(GRAPHS)
  assert padding.node_mask(joined, 13) is None
  assert padding.graph_mask(joined) is None
  assert padding.node_mask(graphs.fully_connected(3), 3) is None


def test_a_mean_counts_what_counts():
  x = jnp.array([[1.0, 2.0], [3.0, jnp.nan], [5.0, 6.0]])
  where = jnp.array([[True], [False], [True]])
  np.testing.assert_allclose(padding.mean(x, (0,), where=where), [3.0, 4.0])
  assert float(padding.mean(x, where=where)) == 3.5
  assert float(padding.mean(x, where=jnp.zeros((3, 1), bool))) == 0
  # Of two devices, one with three times as many entries.
  counts = jnp.array([[True, True, True, False], [True, False, False, False]])
  y = jnp.array([[1.0, 2.0, 3.0, 99.0], [10.0, 99.0, 99.0, 99.0]])
  means = jax.vmap(lambda y, w: padding.mean(y, where=w, axis_name="data"), axis_name="data")
  np.testing.assert_allclose(means(y, counts), [4.0, 4.0])


def schnet(graph, scale):
  model = SchNet(8, 6, 2, 8, 5.0, relaxation=Relaxation(scale=scale), centring="center_of_mass")
  return model, (graph.nodes["numbers"], graph.nodes["positions"], graph)


def segnn(graph, scale):
  x = graph.nodes["positions"]
  relative = graphs.gather_senders(x, graph) - graphs.gather_receivers(x, graph)
  attributes = steerable.harmonics(relative, 2)
  at_nodes = graphs.aggregate(attributes, graph, len(x), mean=True).at[..., 0].set(1)
  numbers = jax.nn.one_hot(graph.nodes["numbers"], 10, dtype=x.dtype)[:, None]
  model = SEGNN(
    "1x0e",
    hidden_features=6,
    num_layers=2,
    lmax_hidden=2,
    lmax_attributes=2,
    norm="instance",
    task="graph",
    relaxation=Relaxation(scale=scale),
  )
  return model, ((numbers,), at_nodes, attributes, steerable.norm(relative), graph)


def moving(make, graph, scale):
  nodes = graph.nodes
  x = nodes["positions"]
  relative = graphs.gather_senders(x, graph) - graphs.gather_receivers(x, graph)
  numbers = nodes["numbers"][:, None].astype(x.dtype)
  inputs = (x, nodes["velocities"], numbers, steerable.norm(relative), graph)
  return make(relaxation=Relaxation(scale=scale)), inputs


def radial_field(graph, scale):
  model, (x, v, _, *rest) = moving(partial(RadialField, 6, 2), graph, scale)
  return model, (x, v, *rest)


MODELS = {
  "schnet": schnet,
  "segnn": segnn,
  "egnn": partial(moving, partial(EGNN, 6, 2)),
  "egno": partial(moving, partial(EGNO, 6, 2, steps=3, time_features=4)),
  "tfn": partial(moving, partial(TFN, 4, 1)),
  "radial_field": radial_field,
}


@pytest.mark.parametrize("scale", ["free", "fixed"])
@pytest.mark.parametrize("name", with_slow(MODELS, "segnn", "egno"))
def test_padding_changes_nothing(name, scale):
  """Outputs, gradients, batch statistics and the fixed scale are those without padding."""
  with jax.enable_x64(True):
    (padded,) = padding.batches(GRAPHS, nodes=24, edges=64)
    arrays = partial(jax.tree.map, jnp.asarray)
    plain, padded = arrays(jraph.batch_np(GRAPHS)), arrays(padded)
    assert isinstance(padded, padding.PaddedGraphs)
    model, inputs = MODELS[name](plain, scale)
    variables = drawn(model.init)(jax.random.key(1), *inputs)
    variables = jax.tree.map(lambda a: a.astype(float), dict(variables))
    state = {k: variables.pop(k) for k in ("batch_stats",) if k in variables}
    keywords = {"train": True} if name in ("schnet", "egno") else {}

    def run(held, inputs):
      outputs, moved = model.apply({**held, **state}, *inputs, **keywords, mutable=["batch_stats"])
      first = jax.tree.leaves(outputs)[0]
      real = first[: len(GRAPHS)] if name in ("schnet", "segnn") else first[:13]
      return jnp.sum(jnp.sin(real)), (real, moved)

    step = jax.jit(jax.value_and_grad(run, has_aux=True))
    (_, (expected, stats)), slopes = step(variables, inputs)
    (_, (outputs, moved)), gradients = step(variables, MODELS[name](padded, scale)[1])
    assert bool(jnp.isfinite(expected).all())
    assert ("batch_stats" in moved) == (scale == "fixed" or name in ("schnet", "egno"))
    for a, b in ((outputs, expected), (moved, stats), (gradients, slopes)):
      jax.tree.map(CLOSE, a, b)


def apply_to(model, inputs, variables):
  return model.apply(variables, *inputs)


@pytest.mark.slow
def test_a_topology_of_one_node_or_without_edges():
  lonely = graphs.fully_connected(1)
  apart = graphs.Topology(3, (), ())
  for graph in (lonely, apart):
    x = jnp.ones((2, graph.num_nodes, 3))
    assert graphs.gather_senders(x, graph).shape == (2, 0, 3)
    assert graphs.gather_receivers(x, graph).shape == (2, 0, 3)
    np.testing.assert_array_equal(graphs.aggregate(jnp.ones((2, 0, 3)), graph), 0 * x)
    edges = Edges(graph, graph.num_nodes)
    first = jnp.moveaxis(x, 1, 0)
    assert edges.at_senders(first).shape == edges.at_receivers(first).shape == (0, 2, 3)
    for name in ("sum", "mean", "max"):
      np.testing.assert_array_equal(getattr(edges, name)(jnp.ones((0, 2, 3))), 0 * first)
    model = EGNN(4, 1)
    inputs = (x, x, x[..., :1], jnp.ones((2, 0, 1)), graph)
    variables = drawn(model.init)(jax.random.key(0), *inputs)
    outputs, backwards = jax.vjp(partial(apply_to, model, inputs), variables)
    leaves = jax.tree.leaves(backwards(outputs))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


def test_a_graphs_tuple_without_edges():
  graph = GRAPHS[2]._replace(senders=None, receivers=None)
  x = jnp.asarray(graph.nodes["positions"], jnp.float32)
  assert graphs.gather_senders(x, graph).shape == (0, 3)
  np.testing.assert_array_equal(graphs.aggregate(jnp.ones((0, 3)), graph, 3), 0 * x)
  (padded,) = padding.batches([graph], nodes=5, edges=2)
  assert padded.senders.shape == (2,)


def test_masks_that_edges_of_leading_nodes_cannot_keep():
  senders, mask = jnp.zeros((2, 3, 1), int), jnp.ones((2, 3), bool)
  for graph in (
    graphs.Neighbours(senders, node_mask=mask),
    graphs.Neighbours(senders, edge_mask=mask[..., None]),
    graphs.Neighbours(None, edge_mask=jnp.ones((2, 3, 3), bool)),
  ):
    with pytest.raises(ValueError, match="Neighbours with masks"):
      Edges(graph, 3)
  with pytest.raises(ValueError, match="need senders, or a mask"):
    graphs.aggregate(jnp.ones((2, 3, 1)), graphs.Neighbours(None))


@pytest.mark.parametrize(
  ("sizes", "says"),
  [
    ({"nodes": 5, "edges": 64}, "graph 0 has 5 nodes and 20 edges, and the largest size holds 4"),
    ({"nodes": 9, "edges": 19}, "graph 0 has 5 nodes and 20 edges"),
    ({"nodes": (8, 16), "edges": 64}, "2 sizes of nodes and 1 of edges"),
    ({"nodes": (8, 9, 10, 11, 12), "edges": (30,) * 5}, "1 to 4"),
    ({"nodes": (16, 8), "edges": (30, 30)}, "must rise"),
    ({"nodes": 1, "edges": 0}, "at least 2"),
    ({"nodes": 16, "edges": 64, "count": 0}, "count is 0"),
    ({"nodes": 16, "edges": 64, "count": "2"}, "count is '2'; it must be a whole number"),
    ({"nodes": 16.5, "edges": 64}, "nodes is 16.5; give one whole number, or one a size"),
    ({"nodes": 16, "edges": None}, "edges is None; give one whole number, or one a size"),
  ],
)
def test_sizes_that_do_not_fit(sizes, says):
  with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
    [*padding.batches(GRAPHS, **sizes)]
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("graph", "says"),
  [
    (jraph.batch_np(GRAPHS), "each must be one graph"),
    (graph_of(0, 0), "has no nodes"),
    (graph_of(3, 0)._replace(senders=np.full(6, 3)), "not 6 pairs of its nodes, 0 to 2"),
    (graph_of(3, 0)._replace(senders=np.zeros(5)), "not 6 pairs of its nodes"),
    (graph_of(3, 0)._replace(globals=np.ones(2)), "globals of graph 1 have shape (2,); their"),
    (graph_of(3, 0)._replace(globals=np.float32(2)), "globals of graph 1 have shape ()"),
    (graph_of(3, 0)._replace(nodes=np.ones((2, 3))), "must have 3, one for each of its nodes"),
    (graph_of(3, 0)._replace(edges=np.ones((7, 3))), "must have 6, one for each of its edges"),
    (np.ones(3), "entry 1 is a ndarray; each must be a jraph.GraphsTuple"),
  ],
)
def test_graphs_that_are_none(graph, says):
  with pytest.raises(ConfigurationError, match=re.escape(says)):
    [*padding.batches([GRAPHS[0], graph], nodes=32, edges=64)]
  assert [*padding.batches([], nodes=32, edges=64)] == []
  with pytest.raises(ConfigurationError, match="given one GraphsTuple; give a list of graphs"):
    [*padding.batches(GRAPHS[0], nodes=32, edges=64)]


def with_edges(graph, width):
  features = np.arange(width * graph.n_edge[0], dtype=np.float32).reshape(-1, width)
  return graph._replace(edges={"d": features})


def test_a_lone_atom_beside_graphs_with_features_of_edges():
  lone = graph_of(1, 1)._replace(senders=None, receivers=None)
  pair = with_edges(graph_of(2, 0), 3)
  for atom in (lone, lone._replace(edges=np.zeros(0))):
    for several in ([atom, pair], [pair, atom]):
      (batch,) = graphs.batches(several, nodes=np.max([8, 4]), edges=np.int64(6))
      expected = np.zeros((6, 3), np.float32)
      expected[:2] = pair.edges["d"]
      np.testing.assert_array_equal(batch.edges["d"], expected)
      assert batch.edges["d"].dtype == np.float32
    alone, _ = graphs.batches([atom, pair], nodes=[8], edges=np.array([6]), count=1)
    np.testing.assert_array_equal(alone.edges["d"], np.zeros((6, 3)))


@pytest.mark.parametrize(
  ("other", "says"),
  [
    (graph_of(3, 1), "edges of graph 1 are None, those of graph 0 PyTreeDef({'d': *})"),
    (graph_of(3, 1)._replace(edges=np.ones((6, 1)), globals=None), "edges of graph 1 are of shape"),
    (with_edges(graph_of(3, 1), 3)._replace(globals=None), "globals of graph 1 are None, those of"),
    (
      with_edges(graph_of(3, 1), 3)._replace(globals=np.ones((1, 2))),
      "[n, 2], those of graph 0 of",
    ),
  ],
)
def test_features_that_differ(other, says):
  with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
    [*graphs.batches([with_edges(graph_of(2, 0), 3), other], nodes=9, edges=9)]
  assert "\n" not in str(caught.value)
