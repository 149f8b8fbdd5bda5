"""Networks that know a fixed direction keep what leaves it as it is, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import graphs, homotopy
from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.se3_transformer import SE3Transformer
from ace_jax.models.segnn import SEGNN
from ace_jax.models.tfn import TFN
from ace_jax.symmetry import groups
from experiments.nbody.models import NBodySEGNN
from tests.marks import with_slow
from tests.values import drawn

NODES = 4
GRAPH = graphs.fully_connected(NODES)
UP = (0.0, 1.0, 0.0)


def edge_features(positions):
  difference = graphs.gather_senders(positions, GRAPH) - graphs.gather_receivers(positions, GRAPH)
  return jnp.sum(jnp.square(difference), -1, keepdims=True)


def arguments(x, v):
  speed = jnp.sum(jnp.square(v), -1, keepdims=True)
  return x, v, speed, edge_features(x), GRAPH


def charged(x, v):
  return x, v, jnp.broadcast_to(jnp.array([1.0, -1.0, 1.0, 1.0]), x.shape[:-1])


def plain(output):
  return output


# Network, its inputs, where its positions stand in what it returns, whether it keeps mirrors.
MODELS = {
  "egnn": (EGNN(6, 2, direction=UP), arguments, lambda y: y[0], True),
  "egno": (
    EGNO(6, 2, steps=3, time_features=4, direction=UP),
    arguments,
    lambda y: y[0][..., -1, :],
    True,
  ),
  "tfn": (TFN(3, 1, direction=UP), arguments, plain, False),
  "se3_transformer": (SE3Transformer(4, 1, heads=2, direction=UP), arguments, plain, False),
  "segnn": (
    NBodySEGNN(SEGNN(hidden_features=6, num_layers=1), "center_of_mass", UP),
    charged,
    plain,
    True,
  ),
}


@pytest.mark.parametrize("name", with_slow(MODELS, "tfn", "se3_transformer", "segnn", "egno"))
def test_a_strict_network_keeps_rotations_about_its_direction_alone(name):
  network, inputs, positions, mirrors = MODELS[name]
  with jax.enable_x64(True):
    x, v = (jax.random.normal(key, (2, NODES, 3), float) for key in jax.random.split(KEY))
    variables = drawn(network.init)(jax.random.key(1), *inputs(x, v))
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), homotopy.project(variables))

    @jax.jit
    def error(matrix, shift=0.0):
      moved = positions(network.apply(variables, *inputs(x @ matrix.T + shift, v @ matrix.T)))
      expected = positions(network.apply(variables, *inputs(x, v))) @ matrix.T + shift
      return jnp.max(jnp.abs(moved - expected))

    def turn(axis):
      return groups.rotation(axis, jnp.float64(1.1))

    def mirror(axis):
      return jnp.diag(jnp.where(jnp.arange(3) == "xyz".index(axis), -1.0, 1.0))

    assert error(turn("y")) < 1e-9
    assert error(jnp.eye(3), 7.0) < 1e-9
    assert error(turn("x")) > 1e-3
    assert error(turn("z")) > 1e-3
    assert error(mirror("y")) > 1e-3
    for plane in (mirror("x"), turn("y") @ mirror("z")):
      assert (error(plane) < 1e-9) == mirrors


KEY = jax.random.key(0)


def test_without_a_direction_nothing_is_created():
  x, v = (jax.random.normal(key, (2, NODES, 3)) for key in jax.random.split(KEY))

  def weights(network):
    return jax.eval_shape(lambda key: network.init(key, *arguments(x, v)), KEY)["params"]

  known, without = weights(EGNN(6, 1, direction=UP)), weights(EGNN(6, 1))
  layer = known["layers_0"]["egnn"]
  assert {*layer} - {*without["layers_0"]["egnn"]} == {"direction"}
  rows = [p["layers_0"]["egnn"]["message_0"]["kernel_edge"].shape[0] for p in (without, known)]
  np.testing.assert_array_equal(rows, [2, 3])
