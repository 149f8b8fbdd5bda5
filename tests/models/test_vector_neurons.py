import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import homotopy
from ace_jax.models import vector_neurons as vn
from ace_jax.symmetry import random_rotations
from tests.values import drawn


def last(x):
  """[batch, channels, 3, points, ...], as published, to [batch, points, ..., 3, channels]."""
  return np.moveaxis(np.asarray(x), (1, 2), (-1, -2))


class Published:
  """The published parameters of a block, each to be used once."""

  def __init__(self, arrays, block):
    self.arrays, self.block = arrays, block
    names = {name for name in arrays.files if name.startswith(f"param/{block}.")}
    self.unused = {name for name in names if not name.endswith("num_batches_tracked")}

  def take(self, name):
    self.unused.discard(f"param/{self.block}.{name}")
    return self.arrays[f"param/{self.block}.{name}"]

  def branch(self, name):
    """A linear map of flat features, [channel, component] there and [component, channel] here."""
    weight, bias = self.take(f"{name}.weight"), self.take(f"{name}.bias")
    rows, columns = (component_major(size) for size in weight.shape)
    return {"linear": {"kernel": weight[rows][:, columns].T, "bias": bias[rows]}}

  def layer(self, prefix=""):
    """Variables of one `VNLinearLeakyReLU`."""
    norm = f"{prefix}batchnorm.bn"
    params = {
      "map_features": {"kernel": self.take(f"{prefix}map_to_feat.weight").T},
      "map_directions": {"kernel": self.take(f"{prefix}map_to_dir.weight").T},
      "features": {"relaxation": self.branch(f"{prefix}map_to_feat_nonequiv")},
      "directions": {"relaxation": self.branch(f"{prefix}map_to_dir_nonequiv")},
      "norm": {"norm": {"scale": self.take(f"{norm}.weight"), "bias": self.take(f"{norm}.bias")}},
    }
    running = {"mean": self.take(f"{norm}.running_mean"), "var": self.take(f"{norm}.running_var")}
    gammas = [self.take(f"{prefix}gammas.{i}") for i in range(2)]
    gamma = {name: {"gamma": g} for name, g in zip(("features", "directions"), gammas, strict=True)}
    return {"params": params, "batch_stats": {"norm": {"norm": running}}, "gamma": gamma}


def component_major(size):
  return np.arange(size).reshape(-1, 3).T.ravel()


def close(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-9, atol=1e-9 * scale)


def test_the_published_edge_block_and_pool(vector_neurons_fixture):
  arrays = np.load(vector_neurons_fixture)
  config = json.loads(str(arrays["config"]))
  edge, pool = Published(arrays, "edge"), Published(arrays, "pool")
  variables, x = edge.layer(), last(arrays["in/x"])
  pooling = {"params": {"map_directions": {"kernel": pool.take("map_to_dir.weight").T}}}
  assert not edge.unused
  assert not pool.unused
  model = vn.VNLinearLeakyReLU(config["channels_out"])
  with jax.enable_x64(True):

    def square(gamma, x):
      y = model.apply({**variables, "gamma": gamma}, x)
      return jnp.mean(jnp.square(y)), y

    gradient = jax.jit(jax.grad(square, (0, 1), has_aux=True))
    (gammas, slope), relaxed = gradient(variables["gamma"], jnp.asarray(x))
    outputs = {"projection": model.apply(homotopy.project(variables), x), "relaxed": relaxed}
    for name, y in outputs.items():
      close(y, last(arrays[f"out/edge_{name}"]))
      close(vn.VNMaxPool().apply(pooling, y), last(arrays[f"out/max_pool_{name}"]))
    close(slope, last(arrays["grad/x"]))
    values = [gammas[name]["gamma"] for name in ("features", "directions")]
    close(np.array(values), arrays["grad/gammas"])


def test_the_published_point_block_and_frame(vector_neurons_fixture):
  arrays = np.load(vector_neurons_fixture)
  point, std = Published(arrays, "point"), Published(arrays, "std")
  shared, first, second = point.layer(), std.layer("vn1."), std.layer("vn2.")
  frame = {"kernel": std.take("vn_lin.weight").T}
  assert not point.unused
  assert not std.unused
  features = {"params": {"vn_lin": frame}, "batch_stats": {}}
  for name, layer in (("vn1", first), ("vn2", second)):
    for kind in ("params", "batch_stats"):
      features[kind][name] = layer[kind]
  with jax.enable_x64(True):
    x = jnp.asarray(last(arrays["out/edge_projection"]).mean(2))
    width = len(shared["params"]["norm"]["norm"]["scale"])
    y = vn.VNLinearLeakyReLU(width, shared=True).apply(homotopy.project(shared), x)
    close(y, last(arrays["out/point_projection"]))
    invariant, frames = vn.VNStdFeature().apply(features, y)
    expected = arrays["out/std_projection"]
    close(invariant, np.moveaxis(expected, (1, 2), (-2, -1)))
    close(frames, np.moveaxis(arrays["out/frame_projection"], (1, 2), (-2, -1)))


def test_the_published_graph_feature(vn_graph_feature_fixture):
  arrays = np.load(vn_graph_feature_fixture)
  with jax.enable_x64(True):
    points, expected = jnp.asarray(last(arrays["in/points"])), arrays["out/neighbours"]
    neighbours = vn.nearest(points, expected.shape[-1])
    np.testing.assert_array_equal(np.sort(neighbours), np.sort(expected))
    assert (neighbours[..., 0] == np.arange(points.shape[1])).all()
    feature = vn.graph_feature(points, jnp.asarray(expected))
    close(feature, last(arrays["out/graph_feature"]))


def cloud(points=12, dtype=jnp.float64):
  return jax.random.normal(jax.random.key(0), (2, points, 3), dtype)


@pytest.mark.parametrize("shared", [False, True])
def test_a_block_on_edges_is_that_on_the_edge_features(shared):
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), (2, 7, 3, 4), float)
    neighbours = vn.nearest(x, 3)
    block = vn.VNLinearLeakyReLU(5, shared=shared)
    variables = drawn(block.init)(jax.random.key(1), x, neighbours)
    variables = jax.tree.map(lambda a: a.astype(float), variables)
    outputs = block.apply(variables, x, neighbours)
    # The branch sees the differences, then the centres; joined features have them by component.
    order = np.concatenate([np.arange(12).reshape(3, 4), 12 + np.arange(12).reshape(3, 4)], 1)
    flat = jax.tree_util.tree_map_with_path(
      lambda path, a: a[order.ravel()] if "relaxation" in str(path) and a.ndim == 2 else a,
      variables,
    )
    expected = block.apply(flat, vn.graph_feature(x, neighbours))
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_projection_is_invariant_and_the_relaxed_model_is_not(pooling):
  model = vn.VNDGCNN(4, k=4, widths=(3, 3, 4, 4, 8), hidden=(8, 8), pooling=pooling)
  with jax.enable_x64(True):
    points = cloud()
    variables = jax.tree.map(
      lambda a: a.astype(float), drawn(model.init)(jax.random.key(1), points)
    )
    names = homotopy.names(variables["gamma"])
    assert len(names) == 14
    assert {name.split("/")[-1] for name in names} == {"features", "directions"}
    apply = jax.jit(model.apply)
    errors = {}
    for name, chosen in (("strict", homotopy.project(variables)), ("relaxed", variables)):
      expected = apply(chosen, points)
      assert expected.shape == (2, 4)
      errors[name] = 0.0
      for rotation in random_rotations(jax.random.key(2), 2):
        g = jnp.linalg.qr(rotation.astype(float))[0]
        for matrix in (g, -g):
          difference = apply(chosen, points @ matrix) - expected
          errors[name] = max(errors[name], float(jnp.max(jnp.abs(difference))))
      order = jax.random.permutation(jax.random.key(3), points.shape[1])
      np.testing.assert_allclose(apply(chosen, points[:, order]), expected, rtol=1e-9, atol=1e-9)
  assert errors["strict"] < 1e-9
  assert errors["relaxed"] > 1e-3


def test_sizes_that_do_not_fit():
  with pytest.raises(ValueError, match="12 points have no 20 neighbours"):
    vn.VNDGCNN(4).init(jax.random.key(0), cloud(dtype=jnp.float32))
  with pytest.raises(ValueError, match="'max' or 'mean'"):
    vn.VNDGCNN(4, k=2, pooling="sum").init(jax.random.key(0), cloud(dtype=jnp.float32))


@pytest.mark.slow
def test_what_all_points_share_is_mapped_once():
  """The same numbers and initial values as of the features joined at every point."""
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), (2, 7, 3, 4), float)
    common = x.mean(1, keepdims=True)[..., :3]
    block = vn.VNStdFeature()
    variables = block.init(jax.random.key(1), x, common=common)
    expected = block.init(jax.random.key(1), vn.joined(x, common))
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, expected))
    variables = jax.tree.map(lambda a: a.astype(float), variables)
    apply = jax.jit(block.apply)
    for chosen in (variables, homotopy.project(variables)):
      together = apply(chosen, vn.joined(x, common))
      apart = apply(chosen, x, common=common)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), apart, together)
