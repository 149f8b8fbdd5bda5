"""Every model keeps its symmetries at gamma = 0, and breaks rotations at gamma = 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import graphs, homotopy
from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.mpnn import MPNN
from ace_jax.models.radial_field import RadialField
from ace_jax.models.se3_transformer import SE3Transformer
from ace_jax.models.tfn import TFN
from ace_jax.symmetry import random_rotations
from tests.values import drawn

NODES = 5
# Node 4 has two neighbours, the others three or more: degrees differ, as in a skeleton.
PAIRS = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3), (4, 0), (4, 1))

MODELS = {
  "egnn": (EGNN(8, 2), lambda model, variables, *a: model.apply(variables, *a)[0]),
  "egno": (
    EGNO(8, 2, steps=3, time_features=4),
    lambda model, variables, *a: model.apply(variables, *a)[0][..., -1, :],
  ),
  "radial_field": (
    RadialField(8, 2),
    lambda model, variables, x, v, h, *rest: model.apply(variables, x, v, *rest),
  ),
  "tfn": (TFN(4, 1), lambda model, variables, *a: model.apply(variables, *a)),
  "se3_transformer": (
    SE3Transformer(4, 1, heads=2),
    lambda model, variables, *a: model.apply(variables, *a),
  ),
}
REFLECTIONS = {"egnn", "egno", "radial_field"}


def graph_of(pairs):
  both = [*pairs, *((b, a) for a, b in pairs)]
  return graphs.Topology(NODES, tuple(a for a, _ in both), tuple(b for _, b in both))


def edge_features(positions, graph):
  difference = graphs.gather_senders(positions, graph) - graphs.gather_receivers(positions, graph)
  return jnp.sum(jnp.square(difference), -1, keepdims=True)


def inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  x, v = (jax.random.normal(k, (2, NODES, 3), float) for k in keys[:2])
  return x, v, jax.random.normal(keys[2], (2, NODES, 1), float)


def largest(a):
  return float(jnp.max(jnp.abs(a)))


@pytest.fixture(params=MODELS)
def name(request):
  return request.param


def test_symmetries(name):
  model, output = MODELS[name]
  with jax.enable_x64(True):
    x, v, h = inputs()
    graph = graph_of(PAIRS)
    arguments = (h, edge_features(x, graph), graph)
    if name == "radial_field":
      variables = drawn(model.init)(jax.random.key(1), x, v, *arguments[1:])
      scaled = jax.tree_util.tree_map_with_path(  # else the radial part starts close to 0
        lambda path, a: 1e3 * a if "radial_1" in str(path) else a, variables
      )
      variables = scaled
    else:
      variables = drawn(model.init)(jax.random.key(1), x, v, *arguments)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    strict = homotopy.project(variables)

    @jax.jit
    def run(variables, x, v):
      return output(model, variables, x, v, *arguments)

    def error(variables, g, shift=0.0):
      expected = run(variables, x, v) @ g + shift
      return largest(run(variables, x @ g + shift, v @ g) - expected)

    g = random_rotations(jax.random.key(2), 1)[0].astype(jnp.float64)
    g = jnp.linalg.qr(g)[0]
    g = g * jnp.linalg.det(g)  # a rotation to float64 rounding
    assert error(strict, g) < 1e-9
    assert error(strict, jnp.eye(3), 7.0) < 1e-9
    assert (error(strict, -jnp.eye(3)) < 1e-9) == (name in REFLECTIONS)
    assert error(variables, g) > 1e-3

    order = np.array([3, 1, 4, 0, 2])  # new node i is old node order[i]
    new_index = np.argsort(order)
    turned = graph_of([(new_index[a], new_index[b]) for a, b in PAIRS])
    permuted = (h[:, order], edge_features(x[:, order], turned), turned)
    run_permuted = jax.jit(lambda variables, x, v: output(model, variables, x, v, *permuted))
    for chosen in (strict, variables):
      result = run_permuted(chosen, x[:, order], v[:, order])
      assert largest(result - run(chosen, x, v)[:, order]) < 1e-9


def test_egno_keeps_translations_for_any_gamma_if_centred():
  with jax.enable_x64(True):
    x, v, h = inputs()
    graph = graph_of(PAIRS)
    arguments = (v, h, edge_features(x, graph), graph)
    errors = {}
    for centring in ("none", "center_of_mass"):
      model = EGNO(8, 1, steps=3, time_features=4, centring=centring)
      variables = drawn(model.init)(jax.random.key(1), x, *arguments)
      variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
      run = jax.jit(lambda x, model=model, v=variables: model.apply(v, x, *arguments)[0])
      errors[centring] = largest(run(x + 7.0) - 7.0 - run(x))
  assert errors["center_of_mass"] < 1e-9
  assert errors["none"] > 1e-3


@pytest.mark.slow
def test_egno_strict_neither_creates_nor_computes_streams():
  x, v, h = inputs()
  graph = graph_of(PAIRS)
  arguments = (x, v, h, edge_features(x, graph), graph)
  model = EGNO(8, 2, steps=3, time_features=4)
  relaxed = model.init(jax.random.key(1), *arguments)
  strict = homotopy.strict(model.init)(jax.random.key(1), *arguments)
  assert set(strict) == {"params"}
  pruned = homotopy.prune(relaxed)
  assert jax.tree.structure(pruned) == jax.tree.structure(strict)
  jax.tree.map(np.testing.assert_array_equal, pruned, strict)
  result = model.apply(strict, *arguments)[0]
  np.testing.assert_array_equal(result, model.apply(homotopy.project(relaxed), *arguments)[0])
  assert homotopy.names(relaxed["gamma"]) == [
    *("layers_0/features", "layers_0/positions", "layers_1/features", "layers_1/positions"),
  ]


def test_mpnn_keeps_permutations():
  with jax.enable_x64(True):
    x, v, _ = inputs()
    graph = graph_of(PAIRS)
    nodes = jnp.concatenate([x, v], -1)
    model = MPNN(8, 2)
    variables = drawn(model.init)(jax.random.key(1), nodes, edge_features(x, graph), graph)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    order = np.array([3, 1, 4, 0, 2])
    new_index = np.argsort(order)
    turned = graph_of([(new_index[a], new_index[b]) for a, b in PAIRS])
    expected = model.apply(variables, nodes, edge_features(x, graph), graph)[:, order]
    result = model.apply(variables, nodes[:, order], edge_features(x[:, order], turned), turned)
    assert largest(result - expected) < 1e-9
