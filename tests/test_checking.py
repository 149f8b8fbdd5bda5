"""What a user's model or loss does wrong is said before training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import bridge

import ace_jax
from ace_jax import checking
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP

X = jax.random.normal(jax.random.key(1), (16, 3))
Y = X[:, :1]
KEY = jax.random.key(0)


class Net(nn.Module):
  features: int = 1

  @nn.compact
  def __call__(self, x):
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(self.features)(x), x)


def squared(prediction, batch):
  return (prediction - batch[1]) ** 2


def fit(model, loss=squared, data=(X, Y), **options):
  options = {"epochs": 1, "batch_size": 8, "progress": None, **options}
  return ace_jax.fit(model, loss, data, data, **options)


class Recreating(nn.Module):
  """Adds its branch whether or not gamma is passed, as a bridge does that makes gamma anew."""

  @nn.compact
  def __call__(self, x):
    if self.is_initializing():
      self.variable("gamma", "gamma", lambda: jnp.ones(()))
    gamma = self.get_variable("gamma", "gamma", jnp.ones(()))
    return nn.Dense(1)(x) + gamma * nn.Dense(1, name="relaxation")(x)


def test_a_projection_that_is_relaxed_is_refused():
  with pytest.raises(ConfigurationError, match="without gamma differs from that with gamma = 0"):
    fit(Recreating())


def test_a_bridged_nnx_module_has_no_silent_projection():
  class Inner(nnx.Module):
    def __init__(self, rngs):
      self.dense = nnx.Linear(3, 1, rngs=rngs)
      self.layer = bridge.ToNNX(ace_jax.Homotopic(nn.Dense), rngs=rngs)
      self.layer.lazy_init(jnp.zeros((2, 1)), jnp.zeros((2, 3)))

    def __call__(self, x):
      return self.layer(self.dense(x), x)

  with pytest.raises(ConfigurationError, match="gamma"):
    fit(bridge.to_linen(Inner))


def test_no_layer_is_refused_unless_the_run_is_strict():
  with pytest.raises(ConfigurationError, match="no Homotopic"):
    fit(nn.Dense(1))
  assert fit(nn.Dense(1), variables=nn.Dense(1).init(KEY, X)).gamma == {}
  assert fit(nn.Dense(1), constraint=ace_jax.Unconstrained()).gamma == {}
  assert fit(Net(), variables=ace_jax.strict(Net().init)(KEY, X)).gamma == {}


class Body(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(3)(x), x), None


class Scanned(nn.Module):
  axes: tuple[str, ...]

  @nn.compact
  def __call__(self, x):
    axes = {"params": 0, **dict.fromkeys(self.axes, 0)}
    scan = nn.scan(Body, variable_axes=axes, split_rngs={"params": True}, length=4)
    return nn.Dense(1)(scan(name="body")(nn.Dense(3)(x), None)[0])


def test_a_scan_without_gamma_is_refused():
  with pytest.raises(ConfigurationError, match=r"body/layer has no gamma.*variable_axes"):
    fit(Scanned(()))


def test_a_scan_with_gamma_trains_a_gamma_a_layer():
  run = fit(Scanned(("gamma",)))
  assert run.gamma["body/layer"].shape == (4,)
  pruned = ace_jax.prune(run.relaxed)
  strict = ace_jax.strict(Scanned(("gamma",)).init)(KEY, X)
  assert jax.tree.structure(pruned) == jax.tree.structure(dict(strict))


def test_per_channel_and_layer_outputs_of_a_scan():
  model = Scanned(("gamma",))
  wide = ace_jax.homotopy.per_channel(model.init)(KEY, X)
  assert wide["gamma"]["body"]["layer"]["gamma"].shape == (4, 3)
  plain = model.init(KEY, X)
  np.testing.assert_allclose(model.apply(wide, X), model.apply(plain, X), rtol=1e-6)
  with pytest.raises(ConfigurationError, match="'intermediates': 0"):
    ace_jax.symmetry.layer_outputs(model, plain, X)
  seen = Scanned(("gamma", "intermediates"))
  assert ace_jax.symmetry.layer_outputs(seen, plain, X)["body/layer"].shape == (4, 16, 3)


@pytest.mark.parametrize(
  ("loss", "y", "message"),
  [
    (lambda p, b: jnp.mean((p - b[1]) ** 2), Y, r"loss of 2 samples has shape \(\)"),
    (lambda p, b: jnp.sum((p - b[1]) ** 2, axis=0), Y, r"loss of 2 samples has shape \(1,\)"),
    (squared, Y[:, 0], r"shape \(2, 2\), that of 3 \(3, 3\).*every sample with every other"),
    (
      lambda p, b: jnp.mean((p - b[1]) ** 2, axis=-1),
      Y[:, 0],
      "loss compares every sample with every other, and takes a mean over them",
    ),
  ],
)
def test_a_loss_that_is_not_one_for_each_sample_is_refused(loss, y, message):
  with pytest.raises(ConfigurationError, match=message):
    fit(Net(), loss, (X, y))
  assert any("loss" in problem for problem in check_problems(Net(), loss, (X, y)))


def check_problems(model, loss, batch):
  return ace_jax.check(model, model.init(KEY, batch[0]), batch, loss=loss).problems


def test_a_metric_is_checked_too():
  with pytest.raises(ConfigurationError, match="metric of 2 samples"):
    fit(Net(), metric=lambda p, b: jnp.mean(p))


class Degrees(nn.Module):
  """Maps [n, m, channels] by a matrix on channels: rotations of m commute with it."""

  axes: int
  equivariant: bool = True

  @nn.compact
  def __call__(self, x):
    y = nn.Dense(2, use_bias=not self.equivariant, bias_init=nn.initializers.ones)(x)
    linear = lambda features, name: nn.Dense(features, use_bias=False, name=name)  # noqa: E731
    return ace_jax.Homotopic(linear, axes=self.axes, name="layers_0")(y, x)


def rotations():
  so3 = ace_jax.symmetry.groups.so3()

  def act(rotation, x):
    return jnp.einsum("ij,...jc->...ic", rotation.matrix, x)

  return ace_jax.symmetry.Symmetry(
    so3, lambda g, batch: (act(g, batch[0]), batch[1]), lambda g, y, batch: act(g, y)
  )


def test_a_branch_on_channels_keeps_the_group_and_one_on_all_axes_does_not():
  x = jax.random.normal(KEY, (8, 3, 2))
  batch = x, x

  def checked(model):
    return ace_jax.check(model, model.init(KEY, x), batch, rotations())

  kept = checked(Degrees(axes=1))
  assert kept.equivariance["layers_0"] < 1e-6
  assert len(kept.problems) == 1
  assert "the branch of layers_0 keeps the group" in kept.problems[0]
  mixed = checked(Degrees(axes=2))
  assert mixed.problems == ()
  assert mixed.equivariance["layers_0"] > 0.1
  broken = checked(Degrees(axes=2, equivariant=False))
  assert "f_eq does not keep the group" in broken.problems[0]
  dense = nn.Dense(2, use_bias=False)
  assert "no Homotopic" in ace_jax.check(dense, dense.init(KEY, x), batch).problems[0]


def test_axes_join_the_features_and_keep_the_shape():
  x = jax.random.normal(KEY, (5, 2, 4, 3))
  layer = ace_jax.Homotopic(MLP, axes=3)
  variables = layer.init(KEY, x, x)
  assert layer.apply(variables, x, x).shape == x.shape
  assert variables["params"]["relaxation"]["linear_0"]["kernel"].shape == (24, 48)
  branch = MLP(24).apply({"params": variables["params"]["relaxation"]}, x.reshape(5, 24))
  np.testing.assert_allclose(
    layer.apply(variables, x, x), x + branch.reshape(x.shape), rtol=1e-5, atol=1e-6
  )


def test_a_check_traces_the_model_three_times():
  traces = []

  class Counted(Net):
    @nn.compact
    def __call__(self, x):
      traces.append(x.shape)
      return super().__call__(x)

  learned = ace_jax.task.from_model(Counted(), squared)
  variables = Net().init(KEY, X)
  traces.clear()
  checking.require(learned, variables, (X[:2], Y[:2]), ace_jax.Equality(), strict=False)
  assert traces == [(2, 3), (3, 3), (2, 3)]  # at two sizes, and without gamma


def test_a_plain_model_is_checked_without_compiling_it(monkeypatch):
  variables = Net().init(KEY, X)
  monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: pytest.fail("compiles"))
  assert ace_jax.check(Net(), variables, (X[:2], Y[:2]), loss=squared).problems == ()
