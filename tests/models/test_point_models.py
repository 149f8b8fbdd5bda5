import json

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import graphs
from ace_jax.edges import Edges
from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.mpnn import MPNN
from ace_jax.models.radial_field import RadialField
from tests.marks import with_slow

PERCEPTRONS = {
  "coord_net": "position",
  "node_v_net": "velocity",
  "node_net": "feature",
}


class Published:
  """The published parameters of a fixture, each to be used once."""

  def __init__(self, arrays):
    self.arrays = arrays
    self.config = json.loads(str(arrays["config"]))
    self.unused = {name[len("param/") :] for name in arrays.files if name.startswith("param/")}
    self.unused -= {name for name in self.unused if name.endswith("num_batches_tracked")}

  def take(self, name):
    self.unused.discard(name)
    return self.arrays[f"param/{name}"]

  def dense(self, name):
    return {"kernel": self.take(f"{name}.weight").T, "bias": self.take(f"{name}.bias")}

  def perceptron(self, name):
    return {"linear_0": self.dense(f"{name}.0"), "linear_1": self.dense(f"{name}.2")}


def egnn_layer(published, name):
  hidden = published.config["hidden"]
  first = published.dense(f"{name}.edge_message_net.scalar_net.mlp.0")
  kernel = first["kernel"]  # rows: squared distance, receiver, sender, edge features
  layer = {ours: published.perceptron(f"{name}.{net}.mlp") for net, ours in PERCEPTRONS.items()}
  layer["message_0"] = {
    "kernel_receiver": kernel[1 : 1 + hidden],
    "kernel_sender": kernel[1 + hidden : 1 + 2 * hidden],
    "kernel_edge": np.concatenate([kernel[:1], kernel[1 + 2 * hidden :]]),
    "bias": first["bias"],
  }
  layer["message_1"] = published.dense(f"{name}.edge_message_net.scalar_net.mlp.2")
  return layer


def egnn_variables(arrays):
  published = Published(arrays)
  params = {"embedding": published.dense("embedding")}
  for i in range(published.config["layers"]):
    params[f"layers_{i}"] = {"egnn": egnn_layer(published, f"layers.{i}")}
  assert not published.unused
  return {"params": params}


def egno_variables(arrays):
  published = Published(arrays)
  params = {
    "embedding": published.dense("embedding"),
    "relaxation": published.dense("pos_linear_x"),
  }
  stats, gamma = {}, {}

  def norm(name):
    weights = {"scale": published.take(f"{name}.weight"), "bias": published.take(f"{name}.bias")}
    return weights, {
      "mean": published.take(f"{name}.running_mean"),
      "var": published.take(f"{name}.running_var"),
    }

  def spectral(name):
    inner = f"{name}.parametrizations.weight"
    weights = {
      "kernel": published.take(f"{inner}.original").T,
      "bias": published.take(f"{name}.bias"),
    }
    return weights, {
      "left": published.take(f"{inner}.0._u"),
      "right": published.take(f"{inner}.0._v"),
    }

  def branch(parts):
    return {k: p for k, (p, _) in parts.items()}, {k: s for k, (_, s) in parts.items()}

  for i in range(published.config["layers"]):
    name = f"layers_{i}"
    h = f"pos_interactions_h.{i}"
    x = f"pos_interactions_x.{i}"
    features, feature_stats = branch({"norm": norm(f"{h}.0"), "linear": spectral(f"{h}.1")})
    positions, position_stats = branch(
      {
        "norm_0": norm(f"{x}.0"),
        "linear_0": spectral(f"{x}.1"),
        "norm_1": norm(f"{x}.3"),
        "linear_1": spectral(f"{x}.4"),
      }
    )
    if i == 0:
      features["start"] = published.dense("pos_linear_h")
    params[name] = {
      "egnn": egnn_layer(published, f"layers.{i}"),
      "time_features": {"weights": published.take(f"time_conv_modules.{i}.t_conv.weights1")},
      "time_positions": {"weights": published.take(f"time_conv_x_modules.{i}.t_conv.weights1")},
      "features": {"relaxation": features},
      "positions": {"relaxation": positions},
    }
    stats[name] = {
      "features": {"relaxation": feature_stats},
      "positions": {"relaxation": position_stats},
    }
    gamma[name] = {
      "features": {"gamma": published.take(f"gammas_h.{i}")},
      "positions": {"gamma": published.take(f"gammas_x.{i}")},
    }
  assert not published.unused
  return {"params": params, "batch_stats": stats, "gamma": gamma}


def inputs(arrays, layout, dtype):
  """Returns the model's inputs, and how to bring a dense output to the fixture's order of nodes."""
  config = json.loads(str(arrays["config"]))
  receivers, senders = arrays["in/edge_index"]
  names = ("positions", "velocities", "node_features")
  fields = [jnp.asarray(arrays[f"in/{name}"], dtype) for name in names]
  edge_features = jnp.asarray(arrays["in/edge_features"], dtype)
  samples, nodes = config["B"], config["nodes"]
  if layout == "sparse":
    each = len(senders) // samples
    graph = jraph.GraphsTuple(
      nodes=None, edges=None, globals=None,
      senders=jnp.asarray(senders), receivers=jnp.asarray(receivers),
      n_node=jnp.full(samples, nodes), n_edge=jnp.full(samples, each),
    )  # fmt: skip
    return [*fields, edge_features, graph]
  each = len(senders) // samples
  graph = graphs.Topology(nodes, tuple(senders[:each]), tuple(receivers[:each]))
  order = np.lexsort((senders[:each], receivers[:each]))
  fields = [field.reshape(samples, nodes, -1) for field in fields]
  edge_features = edge_features.reshape(samples, each, -1)[:, order]
  return [*fields, edge_features, graph]


def cast(tree, dtype):
  return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def close(actual, expected, tolerance):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(np.asarray(actual) / scale, expected / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_egnn_has_the_published_outputs_and_gradients(egnn_fixture, layout):
  arrays = np.load(egnn_fixture)
  config = json.loads(str(arrays["config"]))
  model = EGNN(config["hidden"], config["layers"])
  with jax.enable_x64(True):
    variables = cast(egnn_variables(arrays), jnp.float64)
    positions, *rest = inputs(arrays, layout, jnp.float64)

    def energy(positions):
      x, h = model.apply(variables, positions, *rest)
      return jnp.mean(jnp.square(x)), (x, h)

    grad, (x, h) = jax.jit(jax.grad(energy, has_aux=True))(positions)
    close(x.reshape(-1, 3), arrays["out/positions"], 1e-9)
    close(h.reshape(-1, config["hidden"]), arrays["out/features"], 1e-9)
    close(grad.reshape(-1, 3), arrays["grad/positions"], 1e-9)


@pytest.mark.parametrize("layout", with_slow(["dense", "sparse"], "sparse"))
def test_egno_has_the_published_outputs_and_gradients(egno_fixture, layout, monkeypatch):
  arrays = np.load(egno_fixture)
  config = json.loads(str(arrays["config"]))
  model = EGNO(
    config["hidden"], config["layers"], config["timesteps"], config["modes"],
    config["time_embedding"],
  )  # fmt: skip
  # The published gradient takes the mean of the positions as a constant.
  mean = Edges.graph_mean
  monkeypatch.setattr(Edges, "graph_mean", lambda edges, x: jax.lax.stop_gradient(mean(edges, x)))
  variables = cast(egno_variables(arrays), jnp.float32)
  positions, *rest = inputs(arrays, layout, jnp.float32)

  def energy(gamma, positions, collections):
    outputs = model.apply({**collections, "gamma": gamma}, positions, *rest)
    return jnp.mean(jnp.square(outputs[0])), outputs

  def by_time(array):
    """Orders [..., nodes, time, features] as the fixture does: time, then samples, then nodes."""
    return np.moveaxis(np.asarray(array), -2, 0).reshape(-1, array.shape[-1])

  gamma = variables.pop("gamma")
  projection = jax.jit(lambda v: model.apply(v, positions, *rest))(variables)
  gradient = jax.jit(jax.grad(energy, (0, 1), has_aux=True))
  (gamma_grad, position_grad), relaxed = gradient(gamma, positions, variables)
  for name, outputs in (("projection", projection), ("relaxed", relaxed)):
    for field, output in zip(("positions", "velocities", "features"), outputs, strict=True):
      close(by_time(output), arrays[f"out/{field}_{name}"], 2e-5)
  close(position_grad.reshape(-1, 3), arrays["grad/positions"], 2e-5)
  layers = range(config["layers"])
  gradients = [gamma_grad[f"layers_{i}"]["features"]["gamma"] for i in layers]
  gradients += [gamma_grad[f"layers_{i}"]["positions"]["gamma"] for i in layers]
  close(np.array(gradients), arrays["grad/gammas"], 2e-5)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_mpnn_has_the_published_outputs(mpnn_fixture, layout):
  arrays = np.load(mpnn_fixture)
  published = Published(arrays)
  hidden, layers = published.config["hidden"], published.config["layers"]
  params = {"embedding": published.dense("embedding"), "decoder": published.perceptron("decoder")}
  for i in range(layers):
    net = f"layers.{i}.edge_message_net.mlp"
    first = published.dense(f"{net}.0")
    params[f"message_{i}_0"] = {
      "kernel_receiver": first["kernel"][:hidden],
      "kernel_sender": first["kernel"][hidden : 2 * hidden],
      "kernel_edge": first["kernel"][2 * hidden :],
      "bias": first["bias"],
    }
    params[f"message_{i}_1"] = published.dense(f"{net}.2")
    params[f"update_{i}"] = published.perceptron(f"layers.{i}.node_net.mlp")
  assert not published.unused
  with jax.enable_x64(True):
    _, _, *rest = inputs(arrays, layout, jnp.float64)
    outputs = MPNN(hidden, layers).apply({"params": cast(params, jnp.float64)}, *rest)
    close(outputs.reshape(-1, 3), arrays["out/vectors"], 1e-9)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_radial_field_has_the_published_outputs_and_gradients(radial_field_fixture, layout):
  arrays = np.load(radial_field_fixture)
  published = Published(arrays)
  hidden, layers = published.config["hidden"], published.config["layers"]
  params = {
    f"layers_{i}": {
      "radial_0": published.dense(f"gcl_{i}.phi.0"),
      "radial_1": {"kernel": published.take(f"gcl_{i}.phi.2.weight").T},
      "velocity": published.perceptron(f"gcl_{i}.coord_mlp_vel"),
    }
    for i in range(layers)
  }
  assert not published.unused
  with jax.enable_x64(True):
    positions, velocities, _, *rest = inputs(arrays, layout, jnp.float64)
    variables = {"params": cast(params, jnp.float64)}

    def energy(positions):
      x = RadialField(hidden, layers).apply(variables, positions, velocities, *rest)
      return jnp.mean(jnp.square(x)), x

    grad, x = jax.grad(energy, has_aux=True)(positions)
    close(x.reshape(-1, 3), arrays["out/positions"], 1e-9)
    close(grad.reshape(-1, 3), arrays["grad/positions"], 1e-9)
