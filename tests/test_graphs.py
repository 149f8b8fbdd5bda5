import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import gathers, graphs
from ace_jax.edges import Edges

X = jax.random.normal(jax.random.key(0), (2, 4, 3))


def test_fully_connected_aggregation_is_the_sum_over_all_others():
  graph = graphs.fully_connected(4)
  assert graph.num_edges == 12
  messages = graphs.gather_senders(X, graph)
  expected = jnp.sum(X, axis=1, keepdims=True) - X
  np.testing.assert_allclose(graphs.aggregate(messages, graph, 4), expected, rtol=1e-5, atol=1e-6)
  mean = graphs.aggregate(messages, graph, 4, mean=True)
  np.testing.assert_allclose(mean, expected / 3, rtol=1e-5, atol=1e-6)
  assert hash(graph) == hash(graphs.fully_connected(4))


def test_an_irregular_topology_agrees_with_graphs_tuple():
  senders, receivers = (0, 2, 3, 1, 0), (1, 1, 2, 3, 3)
  topology = graphs.Topology(4, senders, receivers)
  graph = jraph.GraphsTuple(
    None, None, jnp.array(receivers), jnp.array(senders), None, jnp.array([4]), jnp.array([5])
  )
  dense = graphs.aggregate(graphs.gather_senders(X, topology), topology, 4)
  sparse = graphs.aggregate(graphs.gather_senders(X[0], graph), graph, 4)
  np.testing.assert_allclose(dense[0], sparse, rtol=1e-6)
  np.testing.assert_allclose(sparse[1], X[0, 0] + X[0, 2], rtol=1e-6)


def test_pooling_over_graphs_of_different_sizes():
  graph = jraph.GraphsTuple(
    None, None, jnp.zeros(0, int), jnp.zeros(0, int), None, jnp.array([1, 3]), jnp.array([0, 0])
  )
  pooled = graphs.pool_mean(X[0], graph)
  np.testing.assert_allclose(pooled, [X[0, 0], jnp.mean(X[0, 1:], axis=0)], rtol=1e-5)


def test_indices_out_of_range():
  with pytest.raises(ValueError):
    graphs.Topology(2, (0, 2), (1, 1))


IRREGULAR = graphs.Topology(4, (0, 2, 3, 1, 0), (1, 1, 2, 3, 3))


@pytest.mark.parametrize("most_slots", [0, 2])
@pytest.mark.parametrize("name", ["at_senders", "at_receivers", "sum", "mean"])
def test_gathers_and_sums_have_gradients_without_a_scatter(name, most_slots, monkeypatch):
  monkeypatch.setattr(gathers, "_MOST_SLOTS", most_slots)
  operation = getattr(Edges(IRREGULAR, 4), name)
  x = jax.random.normal(jax.random.key(1), (4 if name.startswith("at") else 5, 3))

  def energy(x):
    return jnp.sum(jnp.sin(operation(x)))

  direction = jnp.cos(x)
  _, forward = jax.jvp(energy, (x,), (direction,))
  np.testing.assert_allclose(forward, jnp.vdot(jax.grad(energy)(x), direction), rtol=1e-5)
  assert "scatter" not in str(jax.make_jaxpr(jax.grad(energy))(x))


@pytest.mark.parametrize("most_slots", [0, 2])
def test_sums_over_edges(most_slots, monkeypatch):
  monkeypatch.setattr(gathers, "_MOST_SLOTS", most_slots)
  edges = Edges(IRREGULAR, 4)  # by receiver: none, 0 and 2, 3, 0 and 1
  messages = edges.at_senders(X[0])
  expected = jnp.stack([jnp.zeros(3), X[0, 0] + X[0, 2], X[0, 3], X[0, 0] + X[0, 1]])
  np.testing.assert_allclose(edges.sum(messages), expected, rtol=1e-5)
  degrees = jnp.array([[1], [2], [1], [2]])
  np.testing.assert_allclose(edges.mean(messages), expected / degrees, rtol=1e-5)


@pytest.mark.parametrize("name", ["at_senders", "at_receivers", "sum", "mean", "max", "graph_mean"])
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_a_node_are_those_of_an_array_of_more_axes(name, sparse):
  graph = IRREGULAR
  if sparse:
    senders, receivers = jnp.array(graph.senders), jnp.array(graph.receivers)
    graph = jraph.GraphsTuple(None, None, receivers, senders, None, jnp.array([4]), jnp.array([5]))
  over_nodes = name in ("at_senders", "at_receivers", "graph_mean")
  x = jax.random.normal(jax.random.key(2), (4 if over_nodes else 5, 2, 3))
  expected = getattr(Edges(graph, 4), name)(x)
  rows = getattr(Edges(graph, 4, rows=2), name)(graphs.flat(x))
  np.testing.assert_array_equal(rows, graphs.flat(jnp.asarray(expected)))
