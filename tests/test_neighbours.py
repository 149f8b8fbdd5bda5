"""Edges that differ by sample: graphs, models on them, and the data that have them."""

from functools import partial

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import graphs, homotopy
from ace_jax.edges import Edges
from ace_jax.models.egnn import EGNN
from ace_jax.models.mpnn import MPNN
from ace_jax.models.segnn import SEGNN
from ace_jax.symmetry import random_rotations
from data import nbody
from data.errors import DataError
from data.nbody.neighbours import nearest
from experiments.nbody.models import NBodyPlain, NBodySEGNN
from tests.values import drawn

X = jax.random.normal(jax.random.key(0), (2, 4, 3))
NEIGHBOURS = graphs.Neighbours(
  jnp.array([[[1, 3], [0, 2], [0, 1], [0, 2]], [[2, 3], [2, 3], [0, 1], [1, 2]]])
)


def as_graphs_tuple(graph):
  samples, nodes, degree = graph.senders.shape
  offsets = nodes * jnp.arange(samples)
  return jraph.GraphsTuple(
    nodes=jnp.zeros(samples * nodes),
    edges=None,
    globals=None,
    senders=(graph.senders + offsets[:, None, None]).reshape(-1),
    receivers=jnp.repeat(jnp.arange(samples * nodes), degree),
    n_node=jnp.full(samples, nodes),
    n_edge=jnp.full(samples, nodes * degree),
  )


def flat(array):
  return array.reshape(-1, *array.shape[2:])


def test_gathers_and_sums_agree_with_graphs_tuple():
  sparse = as_graphs_tuple(NEIGHBOURS)
  for gather in (graphs.gather_senders, graphs.gather_receivers):
    gathered = gather(X, NEIGHBOURS)
    np.testing.assert_array_equal(flat(gathered), gather(flat(X), sparse))
    for mean in (False, True):
      summed = graphs.aggregate(gathered, NEIGHBOURS, mean=mean)
      expected = graphs.aggregate(flat(gathered), sparse, mean=mean)
      np.testing.assert_allclose(flat(summed), expected, rtol=1e-6, atol=1e-7)
  pooled = graphs.to_nodes(graphs.pool_mean(X, NEIGHBOURS), NEIGHBOURS, 4)
  np.testing.assert_allclose(pooled[1, 0], X[1].mean(0), rtol=1e-6)


def test_gathers_and_sums_with_nodes_leading():
  first = graphs.nodes_first(X, NEIGHBOURS)
  edges, joined = Edges(NEIGHBOURS, 4), Edges(as_graphs_tuple(NEIGHBOURS), 8)
  np.testing.assert_array_equal(graphs.nodes_back(first, NEIGHBOURS), X)
  for name in ("sum", "mean", "max"):
    message = edges.at_senders(first) * edges.at_receivers(jnp.cos(first))
    result = graphs.nodes_back(getattr(edges, name)(message), NEIGHBOURS)
    message = joined.at_senders(flat(X)) * joined.at_receivers(jnp.cos(flat(X)))
    expected = getattr(joined, name)(message)
    np.testing.assert_allclose(flat(result), expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_only_the_backward_pass_scatters():
  def energy(x):
    return jnp.sum(jnp.sin(graphs.aggregate(graphs.gather_senders(x, NEIGHBOURS), NEIGHBOURS)))

  assert "scatter" not in str(jax.make_jaxpr(energy)(X))
  assert "scatter" in str(jax.make_jaxpr(jax.grad(energy))(X))


def particles(batch=3, nodes=6, dtype=jnp.float64):
  keys = jax.random.split(jax.random.key(0), 3)
  positions, velocities = (jax.random.normal(k, (batch, nodes, 3), dtype) for k in keys[:2])
  return positions, velocities, jax.random.rademacher(keys[2], (batch, nodes), dtype)


def among_nearest(positions, count=2):
  return graphs.Neighbours(jnp.asarray(nearest(np.asarray(positions), count)))


def raised(variables):
  return jax.tree.map(lambda a: a.astype(jnp.float64), variables)


def agree_with_sparse(energy, variables):
  """Compares values and gradients of energy(variables, sparse)."""
  (dense, sparse) = (
    jax.jit(jax.value_and_grad(partial(energy, sparse=sparse)))(variables)
    for sparse in (False, True)
  )
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), dense, sparse)


@pytest.mark.parametrize(
  "options",
  [
    {},
    pytest.param({"norm": "instance"}, marks=pytest.mark.slow),
    pytest.param({"formulation": "general"}, marks=pytest.mark.slow),
  ],
)
def test_segnn_is_that_of_a_graphs_tuple(options):
  with jax.enable_x64(True):
    inputs = particles()
    graph = among_nearest(inputs[0])
    network = SEGNN(hidden_features=8, num_layers=1, **options)
    model = NBodySEGNN(network, centring="center_of_mass")
    variables = raised(drawn(model.init)(jax.random.key(1), *inputs, graph))

    def energy(variables, sparse):
      seen = (*map(flat, inputs), as_graphs_tuple(graph)) if sparse else (*inputs, graph)
      return jnp.mean(jnp.sin(model.apply(variables, *seen)))

    agree_with_sparse(energy, variables)


@pytest.mark.parametrize("kind", ["mpnn", "egnn"])
def test_models_with_nodes_leading_are_those_of_a_graphs_tuple(kind):
  with jax.enable_x64(True):
    positions, velocities, charges = particles()
    graph = among_nearest(positions)
    sources, targets = (
      gather(positions, graph) for gather in (graphs.gather_senders, graphs.gather_receivers)
    )
    edges = jnp.linalg.norm(sources - targets, axis=-1, keepdims=True)
    inputs = (charges[..., None], edges)
    if kind == "egnn":
      inputs = (positions, velocities, *inputs)
    model = {"mpnn": MPNN(8, 2), "egnn": EGNN(8, 2)}[kind]
    variables = raised(drawn(model.init)(jax.random.key(1), *inputs, graph))

    def energy(variables, sparse):
      seen = (*map(flat, inputs), as_graphs_tuple(graph)) if sparse else (*inputs, graph)
      return sum(jnp.mean(jnp.sin(out)) for out in jax.tree.leaves(model.apply(variables, *seen)))

    agree_with_sparse(energy, variables)


@pytest.mark.parametrize(
  "model",
  [
    pytest.param(
      NBodySEGNN(SEGNN(hidden_features=8, num_layers=1)), id="segnn", marks=pytest.mark.slow
    ),
    pytest.param(NBodyPlain(MPNN(8, 1)), id="mpnn"),
  ],
)
def test_all_others_are_all_pairs_and_fewer_are_not(model):
  inputs = particles(dtype=jnp.float32)
  variables = drawn(model.init)(jax.random.key(1), *inputs)
  expected = model.apply(variables, *inputs)
  all_others = model.apply(variables, *inputs, among_nearest(inputs[0], 5))
  np.testing.assert_allclose(all_others, expected, rtol=1e-5, atol=1e-6)
  fewer = model.apply(variables, *inputs, among_nearest(inputs[0], 2))
  assert np.max(np.abs(fewer - expected)) > 1e-3


@pytest.mark.slow
def test_the_projection_is_equivariant_among_the_nearest():
  with jax.enable_x64(True):
    positions, velocities, charges = particles()
    graph = among_nearest(positions)
    model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=2))
    variables = raised(drawn(model.init)(jax.random.key(1), positions, velocities, charges, graph))
    apply = jax.jit(model.apply)
    errors = {"projection": 0.0, "relaxed": 0.0}
    for name, chosen in (("projection", homotopy.project(variables)), ("relaxed", variables)):
      expected = apply(chosen, positions, velocities, charges, graph)
      for rotation in random_rotations(jax.random.key(2), 2):
        for g in (rotation.T, -rotation.T):
          turned = among_nearest(positions @ g)
          np.testing.assert_array_equal(turned.senders, graph.senders)
          outputs = apply(chosen, positions @ g, velocities @ g, charges, turned)
          errors[name] = max(errors[name], float(jnp.max(jnp.abs(outputs - expected @ g))))
  assert errors["projection"] < 1e-9
  assert errors["relaxed"] > 1e-3


def test_the_nearest_others(monkeypatch):
  rng = np.random.default_rng(0)
  positions = rng.normal(size=(7, 9, 3))
  neighbours = nearest(positions, 4)
  for sample, senders in zip(positions, neighbours, strict=True):
    for node, nearest_nodes in enumerate(senders):
      distance = np.linalg.norm(sample - sample[node], axis=-1)
      assert {*nearest_nodes} == {*np.argsort(distance)[1:5]}
      assert list(nearest_nodes) == sorted(nearest_nodes)
  monkeypatch.setattr("data.nbody.neighbours._DISTANCES", 2 * 9**2)  # chunks of two samples
  np.testing.assert_array_equal(nearest(positions, 4), neighbours)


def test_of_equally_near_others_the_first_are_taken():
  square = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]], np.float32)
  np.testing.assert_array_equal(nearest(square, 1)[0, :, 0], [1, 0, 0, 1])
  coincident = np.zeros((1, 4, 3), np.float32)
  np.testing.assert_array_equal(nearest(coincident, 2)[0], [[1, 2], [0, 2], [0, 1], [0, 1]])


def test_data_of_more_particles(monkeypatch, tmp_path):
  monkeypatch.setattr("data.nbody.dataset.LARGEST", {"train": 50, "valid": 2, "test": 4})
  data = nbody.load(particles=8, train=3, cache=tmp_path)
  assert [path.name.split("_")[0] for path in tmp_path.iterdir()] == ["charged8"]
  assert data.summary["particles"] == 8
  assert data.train["positions"].shape == (3, 8, 3)
  edges = nbody.with_neighbours(data, 3)
  assert edges.summary["neighbours"] == 3
  for split in (edges.train, edges.valid, edges.test):
    assert split["senders"].dtype == np.int32
    np.testing.assert_array_equal(split["senders"], nearest(split["positions"], 3))
  assert nbody.with_neighbours(data, 7).train is data.train
  for count in (0, 8):
    with pytest.raises(DataError, match="has 1 to 7 others"):
      nbody.with_neighbours(data, count)
