"""`relax` around submodules of models that stay as they are."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP

X = jax.random.normal(jax.random.key(1), (16, 4))
Y = X[:, :2]
KEY = jax.random.key(0)


class Compact(nn.Module):
  @nn.compact
  def __call__(self, x):
    shared = nn.Dense(4, name="shared")
    return nn.Dense(2)(jnp.tanh(shared(jnp.tanh(shared(x)))))


class SetUp(nn.Module):
  def setup(self):
    self.layers = [nn.Dense(4), nn.Dense(4)]
    self.inner = Compact()

  def __call__(self, x, train=False):
    for layer in self.layers:
      x = jnp.tanh(layer(x))
    return self.inner(x)


def is_dense(module):
  return isinstance(module, nn.Dense)


@pytest.mark.parametrize(
  ("model", "names"),
  [
    (Compact(), ["Dense_0", "shared"]),
    pytest.param(
      SetUp(),
      ["inner/Dense_0", "inner/shared", "layers_0", "layers_1"],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_linen(model, names):
  relaxed = ace_jax.relax(model, is_dense, MLP)
  plain, variables = model.init(KEY, X), relaxed.init(KEY, X)
  assert ace_jax.homotopy.names(variables["gamma"]) == names
  pruned = ace_jax.prune(variables)
  assert jax.tree.structure(pruned) == jax.tree.structure(plain)
  np.testing.assert_array_equal(
    model.apply(pruned, X), relaxed.apply(ace_jax.project(variables), X)
  )
  jax.tree.map(np.testing.assert_array_equal, pruned, plain)
  assert jnp.abs(relaxed.apply(variables, X) - model.apply(pruned, X)).max() > 0.01

  def loss(prediction, batch):
    return (prediction - batch[1]) ** 2

  run = ace_jax.fit(relaxed, loss, (X, Y), (X, Y), epochs=2, batch_size=8, progress=None)
  assert list(run.gamma) == names
  assert jax.tree.structure(ace_jax.prune(run.relaxed)) == jax.tree.structure(plain)


def test_one_layer_by_hand():
  model = nn.Sequential([nn.Dense(3), nn.Dense(2)])
  relaxed = ace_jax.relax(model, lambda module: module.name == "layers_1", nn.Dense)
  variables = relaxed.init(KEY, X)
  gamma = {"layers_1": {"gamma": jnp.float32(0.5)}}
  params = variables["params"]
  hidden = X @ params["layers_0"]["kernel"]
  branch = hidden @ params["layers_1"]["relaxation"]["kernel"]
  expected = hidden @ params["layers_1"]["kernel"] + 0.5 * branch
  np.testing.assert_allclose(
    relaxed.apply({**variables, "gamma": gamma}, X), expected, rtol=1e-4, atol=1e-6
  )


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
    self.tied = self.layers[1]
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    for layer in self.layers:
      x = jnp.tanh(layer(x))
    return self.head(self.tied(x))


def loss(prediction, batch):
  return (prediction - batch[1]) ** 2


def test_nnx():
  model, rngs = NnxNet(nnx.Rngs(0)), nnx.Rngs(1)

  def branch(linear):
    return nnx.Linear(linear.in_features, linear.out_features, rngs=rngs)

  relaxed = ace_jax.relax(model, lambda module: isinstance(module, nnx.Linear), branch)
  run = ace_jax.fit(relaxed, loss, (X, Y), (X, Y), epochs=2, batch_size=8, progress=None)
  assert list(run.gamma) == ["head", "layers_0", "layers_1"]
  plain = ace_jax.nnx.variables(model)
  pruned = ace_jax.prune(run.relaxed)
  assert jax.tree.structure(pruned) == jax.tree.structure(plain)
  ace_jax.nnx.update(model, pruned)
  expected = run.method.task.predict(ace_jax.project(run.relaxed), (X, Y))
  np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
  back = ace_jax.nnx.prune(relaxed)
  assert jax.tree.structure(ace_jax.nnx.variables(back)) == jax.tree.structure(plain)
  assert back.tied is back.layers[1]


def test_equinox():
  model = eqx.nn.MLP(4, 2, 4, 1, key=KEY)

  def branch(linear):
    return eqx.nn.Linear(linear.in_features, linear.out_features, key=jax.random.key(2))

  relaxed = ace_jax.relax(model, lambda module: isinstance(module, eqx.nn.Linear), branch)
  run = ace_jax.fit(relaxed, loss, (X, Y), (X, Y), epochs=2, batch_size=8, progress=None)
  assert list(run.gamma) == ["layers_0", "layers_1"]
  pruned = ace_jax.prune(run.relaxed)
  assert jax.tree.structure(pruned) == jax.tree.structure(ace_jax.equinox.variables(model))
  expected = run.method.task.predict(ace_jax.project(run.relaxed), (X, Y))
  trained = ace_jax.equinox.update(model, pruned)
  np.testing.assert_allclose(jax.vmap(trained)(X), expected, rtol=1e-5, atol=1e-6)
  assert jax.tree.structure(ace_jax.equinox.prune(relaxed)) == jax.tree.structure(model)


def test_equinox_submodules_within_others_that_are_chosen_too():
  keys = jax.random.split(KEY, 3)
  inner = eqx.nn.Sequential([eqx.nn.Linear(4, 4, key=keys[0]), eqx.nn.Lambda(jnp.tanh)])
  model = eqx.nn.Sequential([inner, eqx.nn.Linear(4, 2, key=keys[1])])
  branch = eqx.nn.Linear(4, 4, key=keys[2])

  def chosen(module):
    return module is inner or module is inner.layers[0]

  relaxed = ace_jax.relax(model, chosen, lambda module: branch)
  variables = ace_jax.equinox.variables(relaxed)
  assert [*ace_jax.by_name(variables["gamma"])] == ["layers_0", "layers_0/layers_0"]
  first, second = inner.layers[0], model.layers[1]
  for x in X[:2]:
    expected = second(jnp.tanh(first(x) + branch(x)) + branch(x))
    np.testing.assert_allclose(relaxed(x), expected, rtol=1e-5, atol=1e-6)
  back = ace_jax.equinox.prune(relaxed)
  assert jax.tree.structure(back) == jax.tree.structure(model)


class ByName(nn.Module):
  @nn.compact
  def __call__(self, x):
    attention = nn.MultiHeadDotProductAttention(1, name="attention")
    x = attention(mask=None, inputs_k=x[:, None], inputs_q=x[:, None])[:, 0]
    return nn.Dense(2, name="dense")(inputs=x)


def test_linen_inputs_that_are_given_by_name():
  relaxed = ace_jax.relax(ByName(), lambda module: module.name in ("attention", "dense"), nn.Dense)
  variables = relaxed.init(KEY, X)
  assert ace_jax.homotopy.names(variables["gamma"]) == ["attention", "dense"]
  attended = ByName().apply(ace_jax.prune(variables), X, capture_intermediates=True)[1]
  hidden = attended["intermediates"]["attention"]["__call__"][0][:, 0]
  params = variables["params"]
  hidden = hidden + X @ params["attention"]["relaxation"]["kernel"]
  both = params["dense"]["kernel"] + params["dense"]["relaxation"]["kernel"]
  np.testing.assert_allclose(relaxed.apply(variables, X), hidden @ both, rtol=1e-4, atol=1e-6)


class EquinoxTied(eqx.Module):
  a: eqx.nn.Linear

  def __call__(self, x):
    return (self.a.weight.T @ self.a(x=x))[:2]


class NnxTied(nnx.Module):
  def __init__(self):
    self.a = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return (self.a(inputs=x) @ self.a.kernel.get_value().T)[:, :2]


def test_attributes_and_keywords_of_what_is_relaxed():
  def fit(model):
    return ace_jax.fit(model, loss, (X, Y), (X, Y), epochs=1, batch_size=8, progress=None)

  def equinox_branch(linear):
    return eqx.nn.Linear(linear.in_features, linear.out_features, use_bias=False, key=KEY)

  def nnx_branch(linear):
    size = linear.in_features, linear.out_features
    return nnx.Linear(*size, use_bias=False, rngs=nnx.Rngs(1))

  plain = EquinoxTied(eqx.nn.Linear(4, 4, use_bias=False, key=jax.random.key(3)))
  relaxed = ace_jax.relax(plain, lambda module: isinstance(module, eqx.nn.Linear), equinox_branch)
  weight, branch = plain.a.weight, relaxed.a.layer.relaxation.weight
  expected = (weight.T @ (weight + branch) @ X.T).T[:, :2]
  assert relaxed.a.in_features == 4
  np.testing.assert_allclose(jax.vmap(relaxed)(X), expected, rtol=1e-5, atol=1e-6)
  assert list(fit(relaxed).gamma) == ["a"]

  tied = NnxTied()
  relaxed = ace_jax.relax(tied, lambda module: isinstance(module, nnx.Linear), nnx_branch)
  kernel, branch = (part.kernel.get_value() for part in (tied.a, relaxed.a.layer.relaxation))
  expected = (X @ (kernel + branch) @ kernel.T)[:, :2]
  np.testing.assert_allclose(relaxed(X), expected, rtol=1e-5, atol=1e-6)
  assert list(fit(relaxed).gamma) == ["a"]
  for module in (
    relaxed,
    ace_jax.relax(plain, lambda m: isinstance(m, eqx.nn.Linear), equinox_branch),
  ):
    with pytest.raises(AttributeError, match="nothing"):
      module.a.nothing  # noqa: B018


def test_the_mode_of_what_is_relaxed():
  class Dropped(eqx.Module):
    dropout: eqx.nn.Dropout

    def __call__(self, x, key=None):
      return self.dropout(x, key=key)

  relaxed = ace_jax.relax(
    Dropped(eqx.nn.Dropout(0.5)), lambda module: True, lambda dropout: eqx.nn.Linear(4, 4, key=KEY)
  )
  assert not relaxed.dropout.inference
  evaluated = eqx.nn.inference_mode(relaxed)
  parts = evaluated.dropout, evaluated.dropout.wrapped, evaluated.dropout.layer
  assert [part.inference for part in parts] == [True] * 3
  branch = relaxed.dropout.layer.relaxation
  np.testing.assert_allclose(jax.vmap(evaluated)(X), X + jax.vmap(branch)(X), rtol=1e-5)


@pytest.mark.parametrize(
  "model", [NnxNet(nnx.Rngs(0)), eqx.nn.MLP(4, 2, 4, 1, key=KEY), nn.Dense(2)]
)
def test_nothing_chosen_is_refused(model):
  with pytest.raises(ConfigurationError, match=r"chooses no submodule|no Homotopic"):
    relaxed = ace_jax.relax(model, lambda module: False, MLP)
    ace_jax.fit(relaxed, loss, (X, Y), (X, Y), epochs=1, batch_size=8, progress=None)
