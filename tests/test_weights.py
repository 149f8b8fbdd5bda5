"""Losses with weights: what weighs nothing changes no number, whatever it is."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

import ace_jax
from ace_jax import graphs, padding, weights
from ace_jax.constraints.rivals import Remul
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import groups
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import parallel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
Y = X[:, :2] ** 2
COUNTS = RNG.random((24, 2)) < 0.6
COUNTS[:4] = False
"""Some batches have more labels than others, some samples none."""
HOLES = np.where(COUNTS, Y, np.nan).astype(np.float32)
ONE = parallel.make_mesh(1)
CLOSE = partial(np.testing.assert_allclose, rtol=2e-5)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(2)(x), x)


def labelled(prediction, batch):
  """The square of the errors whose label is there."""
  return jnp.square(prediction - batch[1]), ~jnp.isnan(batch[1])


def fit(train=(X, HOLES), valid=(X, HOLES), loss=labelled, **options):
  sizes = {} if isinstance(train, list) else {"batch_size": 8}
  sizes |= {} if isinstance(valid, list) else {"eval_batch_size": 10}
  rest = {"epochs": 2, **sizes, "progress": None, "mesh": ONE}
  return ace_jax.fit(Net(), loss, train, valid, **{**rest, **options})


def expected_error(variables, x=X, y=HOLES):
  squares = np.square(np.asarray(Net().apply(variables, x), np.float64) - y)
  return np.nanmean(squares)


def losses(trained):
  return [record["loss"] for record in trained.history]


def test_missing_labels_count_neither_in_training_nor_in_evaluation():
  kept = COUNTS.any(1)
  alone = fit((X[kept], HOLES[kept]), epochs=1, batch_size=int(kept.sum()))
  holes = fit(epochs=1, batch_size=24)
  # One batch of all samples: those without any label are as if they were not there.
  CLOSE(losses(holes), losses(alone))
  jax.tree.map(CLOSE, holes.state.primal, alone.state.primal)
  trained = fit(test=(X, HOLES))
  assert np.isfinite(losses(trained)).all()
  for name in ("projection", "relaxed"):
    variables = getattr(trained, name)
    CLOSE(trained.state.best[name].error, expected_error(variables))
    CLOSE(trained.test[name], expected_error(variables))
    # For reports: losses sample by sample, whose plain mean it is.
    CLOSE(trained.method.task.losses(variables, (X, HOLES)).mean(), expected_error(variables))


def test_weights_that_are_all_one_are_none():
  plain = fit((X, Y), (X, Y), loss=lambda p, b: jnp.square(p - b[1]))
  ones = fit((X, Y), (X, Y), loss=lambda p, b: (jnp.square(p - b[1]), jnp.ones(len(p))))
  CLOSE(losses(ones), losses(plain))
  CLOSE(ones.state.best["relaxed"].error, plain.state.best["relaxed"].error)


def test_weights_scale_what_a_sample_counts():
  weights = np.linspace(0.5, 3, 24).astype(np.float32)

  def loss(prediction, batch):
    return jnp.square(prediction - batch[1]), batch[2]

  trained = fit((X, Y, weights), (X, Y, weights), loss)
  squares = np.square(Net().apply(trained.relaxed, X) - Y)
  mean = np.average(squares, weights=np.broadcast_to(weights[:, None], squares.shape))
  CLOSE(trained.state.best["relaxed"].error, mean)


def test_means_are_over_the_weights_of_all_devices():
  meshes = (ONE, parallel.make_mesh(2))
  one, two = (fit(batch_size=12, mesh=mesh) for mesh in meshes)
  CLOSE(losses(two), losses(one))
  jax.tree.map(partial(CLOSE, atol=1e-6), two.state.primal, one.state.primal)
  CLOSE(two.state.best["relaxed"].error, one.state.best["relaxed"].error)


def test_a_loader_s_short_batch_counts_as_its_weights_do():
  batches = [(X[i : i + 10], HOLES[i : i + 10]) for i in range(0, 24, 10)]
  trained = fit(valid=batches, metric={"mse": labelled})
  CLOSE(trained.state.best["relaxed"].error, expected_error(trained.relaxed))
  CLOSE(trained.history[-1]["mse/relaxed"], trained.history[-1]["valid/relaxed"])
  streamed = fit([(X[:12], HOLES[:12]), (X[12:], HOLES[12:])], batches, epochs=1)
  assert np.isfinite(losses(streamed)).all()


def test_rules_with_a_loss_of_their_own_weigh_it_too():
  unmoved = Symmetry(groups.so3(), lambda element, batch: batch, lambda element, y, batch: y)
  trained = fit(constraint=Remul(beta=0.5, symmetry=unmoved), batch_size=24, epochs=1)
  plain = fit(constraint=ace_jax.Unconstrained(), batch_size=24, epochs=1)
  CLOSE(losses(trained), losses(plain))
  CLOSE(trained.history[0]["lagrangian"], 1.5 * trained.history[0]["loss"])


def test_a_batch_without_any_weight_moves_nothing():
  none = np.full_like(Y, np.nan)
  trained = fit((X, none), epochs=1, constraint=ace_jax.Unconstrained())
  assert losses(trained) == [0.0]
  start = Net().init(jax.random.split(jax.random.key(0))[0], X)
  jax.tree.map(np.testing.assert_array_equal, trained.state.primal.theta, start["params"])


def test_half_precision_means_do_not_overflow():
  x, y = (np.tile(a, (20, 1)).astype(np.float16) for a in (X, 20 + Y))

  class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
      dense = partial(nn.Dense, dtype=jnp.float16, param_dtype=jnp.float16)
      return ace_jax.Homotopic(dense, name="layer")(dense(2)(x), x)

  for loss in (lambda p, b: jnp.square(p - b[1]), labelled):
    trained = ace_jax.fit(
      Half(), loss, (x, y), (x, y), epochs=1, batch_size=480, progress=None, mesh=ONE
    )
    variables = jax.tree.map(lambda a: a.astype(np.float32), trained.projection)
    expected = np.mean(np.square(np.float32(Net().apply(variables, np.float32(x))) - y))
    np.testing.assert_allclose(trained.state.best["projection"].error, expected, rtol=2e-2)


def molecule(nodes, seed):
  rng = np.random.default_rng(seed)
  pairs = np.argwhere(~np.eye(nodes, dtype=bool))
  return jraph.GraphsTuple(
    rng.normal(size=(nodes, 3)).astype(np.float32), None, pairs[:, 0], pairs[:, 1],
    np.float32([[nodes]]), np.array([nodes]), np.array([len(pairs)]),
  )  # fmt: skip


class OfNodes(nn.Module):
  @nn.compact
  def __call__(self, graph):
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(3)(graph.nodes), graph.nodes)


MOLECULES = [molecule(n, n) for n in (3, 5, 2, 4)]
BATCHES = [*graphs.batches(MOLECULES, nodes=10, edges=40, count=2)]


def nodes_error(prediction, graph):
  return jnp.square(prediction - graph.nodes)


def test_errors_of_nodes_are_those_of_real_ones():
  options = {"inputs": lambda graph: (graph,), "mesh": ONE}
  trained = ace_jax.fit(
    OfNodes(), nodes_error, BATCHES, BATCHES, epochs=1, progress=None, **options
  )
  outputs = [OfNodes().apply(trained.projection, molecule) for molecule in MOLECULES]
  squares = [np.square(y - m.nodes) for y, m in zip(outputs, MOLECULES, strict=True)]
  CLOSE(trained.state.best["projection"].error, np.mean(np.concatenate(squares)))
  with pytest.raises(ConfigurationError, match=r"shape \[7, 3\] belongs to neither the .* graphs"):
    ace_jax.fit(OfNodes(), lambda p, g: p[:7], BATCHES, BATCHES, progress=None, **options)


def test_padding_counts_nothing_in_batches_that_are_stacked_in_memory():
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *BATCHES)
  model = nn.vmap(
    OfNodes, variable_axes={"params": None, "gamma": None}, split_rngs={"params": False}
  )()

  def of_graphs(prediction, batch):
    pool = jax.vmap(lambda y, g: graphs.pool_sum(jnp.square(y - g.nodes), g).mean(-1))
    return pool(prediction, batch)

  trained = ace_jax.fit(
    model, of_graphs, stacked, stacked, epochs=1, batch_size=2, progress=None, mesh=ONE,
    inputs=lambda graph: (graph,),
  )  # fmt: skip
  values = []
  for one in MOLECULES:
    padded = next(iter(graphs.batches([one], nodes=10, edges=40)))
    prediction = model.apply(trained.projection, jax.tree.map(lambda a: a[None], padded))
    values.append(np.square(prediction[0] - padded.nodes)[: len(one.nodes)].sum(0).mean())
  CLOSE(trained.state.best["projection"].error, np.mean(values))


@pytest.mark.parametrize(
  ("loss", "says"),
  [
    (lambda p, b: (p, p, p), "returned 3 things; it must return values, or"),
    (lambda p, b: (p, jnp.ones(())), r"weights of the loss have shape \(\), its values \(2, 2\)"),
    (lambda p, b: (p, jnp.ones((len(p), 3))), "must have the leading axes of the values"),
    (lambda p, b: (jnp.mean(p), jnp.mean(p)), r"loss of 2 samples has shape \(\)"),
  ],
)
def test_what_cannot_be_weights_is_refused(loss, says):
  with pytest.raises(ConfigurationError, match=says):
    fit((X, Y), (X, Y), loss)


def test_what_is_true_is_weighed_by_shares():
  shares = jnp.array([0.5, 3.0, 0.25])
  for values in (jnp.array([True, False, True]), jnp.array([1, 0, 1])):
    unweighted = weights.for_means(lambda p, b, v=values: (v, shares))(X, None)
    CLOSE(jnp.mean(unweighted), 0.75 / 3.75)
    total, weight = weights.of_samples((values, shares))
    CLOSE(total.sum() / weight.sum(), 0.75 / 3.75)


def sized(nodes, edges, smallest):
  """Graphs of 4 nodes and a chain of edges, and one that may have a single node."""
  graph_list = []
  for n in (4, smallest, 4):
    ends = np.arange(n - 1)
    graph_list.append(
      jraph.GraphsTuple(
        *(RNG.normal(size=(n, 2)).astype(np.float32), None, ends, ends + 1),
        *(None, np.array([n]), np.array([n - 1])),
      )
    )
  return graph_list, next(iter(graphs.batches(graph_list, nodes=nodes, edges=edges)))


@pytest.mark.parametrize(("nodes", "edges", "smallest"), [(12, 30, 1), (12, 12, 2), (16, 4 * 4, 1)])
def test_numbers_of_graphs_nodes_and_edges_differ(nodes, edges, smallest):
  graph_list, batch = sized(nodes, edges, smallest)
  sizes = [len(batch.n_node), len(batch.nodes), len(batch.senders)]
  assert len({*sizes}) == 3
  assert sizes[1] == nodes
  of_nodes = padding.of_real(lambda p, g: jnp.square(g.nodes[:, 0]))
  of_edges = padding.of_real(lambda p, g: jnp.square(g.nodes[g.senders, 0] - 1))
  for loss in (of_nodes, of_edges):
    values, given = loss(None, batch)
    plain = [loss(None, graph) for graph in graph_list]
    CLOSE(jnp.sum(values * given) / jnp.sum(given), np.mean(np.concatenate(plain)))


def test_values_that_may_be_of_nodes_or_of_edges_are_refused():
  loss = padding.of_real(lambda p, g: jnp.square(g.nodes))
  batch = sized(12, 12, 2)[1]
  twice = padding.PaddedGraphs(*jraph.pad_with_graphs(batch, 13, 14, len(batch.n_node) + 1))
  with pytest.raises(ConfigurationError, match="of the nodes or of the edges of a padded batch"):
    loss(None, twice._replace(senders=twice.senders[:13], receivers=twice.receivers[:13]))


def test_graphs_without_features_of_nodes():
  graph_list = [
    graph._replace(nodes=None, edges=RNG.normal(size=(int(graph.n_edge[0]), 2)))
    for graph in sized(12, 30, 2)[0]
  ]
  (batch,) = graphs.batches(graph_list, nodes=12, edges=30)
  values, given = padding.of_real(lambda p, g: jnp.square(g.edges))(None, batch)
  expected = np.mean(np.square(np.concatenate([graph.edges for graph in graph_list])))
  CLOSE(jnp.sum(values * given) / jnp.sum(given), expected)


def test_real_graphs_weigh_what_the_loss_says():
  loss = padding.of_real(lambda p, g: (jnp.ones((3, 2)), jnp.array([2.0, 1.0, 5.0])))
  values, weights = loss(None, BATCHES[0])
  assert values.shape == (3, 2)
  np.testing.assert_array_equal(weights, [[2, 2], [1, 1], [0, 0]])
