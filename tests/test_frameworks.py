"""One model in Linen, NNX and Equinox, from the same weights."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import report
from tests.marks import with_slow

WIDTH = 3
X = jax.random.normal(jax.random.key(1), (24, 4))
Y = X[:, :WIDTH] ** 2
SPLITS = (X[:16], Y[:16]), (X[16:], Y[16:])


class LinenNet(nn.Module):
  scale: str = "free"

  @nn.compact
  def __call__(self, x):
    for i in range(2):
      y = nn.Dense(WIDTH, name=f"dense_{i}")(x)
      x = jnp.tanh(ace_jax.Homotopic(nn.Dense, self.scale, name=f"layers_{i}")(y, x))
    return x


class NnxNet(nnx.Module):
  def __init__(self, rngs, scale="free"):
    self.dense = nnx.List([nnx.Linear(n, WIDTH, rngs=rngs) for n in (4, WIDTH)])
    self.layers = nnx.List(
      [ace_jax.nnx.Homotopic(nnx.Linear(n, WIDTH, rngs=rngs), scale=scale) for n in (4, WIDTH)]
    )

  def __call__(self, x):
    for dense, layer in zip(self.dense, self.layers, strict=True):
      x = jnp.tanh(layer(dense(x), x))
    return x


class Affine(eqx.Module):
  kernel: jax.Array
  bias: jax.Array

  def __init__(self, inputs):
    self.kernel, self.bias = jnp.zeros((inputs, WIDTH)), jnp.zeros(WIDTH)

  def __call__(self, x):
    return x @ self.kernel + self.bias


class EquinoxNet(eqx.Module):
  dense: list
  layers: list

  def __init__(self, scale="free"):
    self.dense = [Affine(n) for n in (4, WIDTH)]
    self.layers = [ace_jax.equinox.Homotopic(Affine(n), scale=scale) for n in (4, WIDTH)]

  def __call__(self, x):
    for dense, layer in zip(self.dense, self.layers, strict=True):
      x = jnp.tanh(layer(dense(x), x))
    return x


VARIABLES = LinenNet().init(jax.random.key(0), X)
FIXED = LinenNet("fixed").init(jax.random.key(0), X)


def models(scale="free", variables=VARIABLES):
  flax_nnx = NnxNet(nnx.Rngs(0), scale)
  ace_jax.nnx.update(flax_nnx, variables)
  equinox = ace_jax.equinox.update(EquinoxNet(scale), variables)
  return {"linen": LinenNet(scale), "nnx": flax_nnx, "equinox": equinox}


def loss(prediction, batch):
  return (prediction - batch[1]) ** 2


def train(model, **options):
  options = {"epochs": 3, "batch_size": 8, "variables": None, **options}
  return ace_jax.fit(model, loss, *SPLITS, SPLITS[1], progress=None, **options)


def close(a, b, **tolerance):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize(
  ("scale", "variables"),
  [("free", VARIABLES), pytest.param("fixed", FIXED, marks=pytest.mark.slow)],
)
def test_three_frameworks_give_the_same_losses_gammas_and_names(scale, variables):
  runs = {
    name: train(model, variables=variables if name == "linen" else None)
    for name, model in models(scale, variables).items()
  }
  expected = runs["linen"]
  assert list(expected.gamma) == ["layers_0", "layers_1"]
  assert abs(expected.gamma["layers_0"] - 1) > 1e-4
  assert expected.history[-1]["loss"] < expected.history[0]["loss"]
  for name in ("nnx", "equinox"):
    close(runs[name].gamma, expected.gamma, rtol=1e-5)
    close(runs[name].multipliers, expected.multipliers, rtol=1e-4)
    close(runs[name].relaxed, expected.relaxed, rtol=1e-4, atol=1e-6)
    close(runs[name].test, expected.test, rtol=1e-5)
    losses = [[record["loss"] for record in run.history] for run in (runs[name], expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("name", with_slow(["nnx", "equinox"], "nnx"))
def test_a_fit_goes_on_bit_for_bit(name):
  model = models("fixed", FIXED)[name]
  first = train(model, epochs=1)
  on, whole = train(model, epochs=3, state=first), train(model, epochs=3)
  close(on.state, whole.state, rtol=0)
  close((on.relaxed, on.projection, on.test), (whole.relaxed, whole.projection, whole.test), rtol=0)
  assert [record["epoch"] for record in on.history] == [1, 2, 3]
  assert jnp.abs(on.gamma["layers_0"] - first.gamma["layers_0"]) > 1e-4


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_a_fixed_scale_is_kept_and_pruned(name):
  module = models("fixed", FIXED)[name]
  framework = getattr(ace_jax, name)
  close(framework.variables(module), dict(FIXED), rtol=0)
  close(framework.variables(framework.prune(module)), ace_jax.prune(FIXED), rtol=0)
  model = ace_jax.model.as_model(module)
  trained, state = model.apply(FIXED, X, key=jax.random.key(0))
  expected = LinenNet("fixed").apply(FIXED, X, mutable=["batch_stats"])
  close((trained, state), (expected[0], dict(expected[1])), rtol=1e-5, atol=1e-6)
  moved = {**FIXED, "batch_stats": jax.tree.map(lambda s: 4 * s, FIXED["batch_stats"])}
  evaluated = model.apply(moved, X)[0]
  np.testing.assert_allclose(evaluated, LinenNet("fixed").apply(moved, X), rtol=1e-5, atol=1e-6)
  assert jnp.abs(evaluated - trained).max() > 0.01
  with pytest.raises(ValueError, match="'free' or 'fixed'"):
    models("fix")[name]


def test_padding_does_not_count_in_a_fixed_scale_of_nnx():
  layer = ace_jax.nnx.Homotopic(lambda x: 2 * x, scale="fixed", axes=2)
  x = jnp.array([[[3.0, 4.0]], [[1e6, 1e6]]])
  output = layer(jnp.zeros_like(x), x, where=jnp.array([True, False])[:, None, None])
  np.testing.assert_allclose(output[0, 0], jnp.array([3.0, 4.0]) / jnp.sqrt(12.5), rtol=1e-5)


def test_what_counts_in_a_fixed_scale_of_equinox_is_what_counts_in_linen():
  where = jnp.arange(5) < jnp.arange(24)[:, None] % 5 + 1  # samples with one to five of five rows
  x = jax.random.normal(jax.random.key(2), (24, 5, 4))
  x = jnp.where(where[..., None], x, 1e3)
  y = jnp.zeros((24, 5, WIDTH))
  layer = ace_jax.Homotopic(nn.Dense, "fixed")
  variables = layer.init(jax.random.key(0), y, x, where=where[..., None])
  expected = layer.apply(variables, y, x, where=where[..., None], mutable=["batch_stats"])

  class Masked(eqx.Module):
    layer: ace_jax.equinox.Homotopic

    def __call__(self, y, x, where):
      return self.layer(y, x, where=where[..., None])

  module = Masked(ace_jax.equinox.Homotopic(Affine(4), scale="fixed"))
  nested = {name: {"layer": tree} for name, tree in variables.items()}
  model = ace_jax.model.as_model(module)
  output, state = model.apply(nested, y, x, where, key=jax.random.key(0))
  np.testing.assert_allclose(output, expected[0], rtol=1e-5)
  moved = expected[1]["batch_stats"]["mean_square"]
  np.testing.assert_allclose(state["batch_stats"]["layer"]["mean_square"], moved, rtol=1e-6)
  assert moved < 10  # not that of what does not count


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_layer_reports_are_those_of_linen(name):
  records = [{f"gamma/layers_{i}": 0.5, f"multiplier/layers_{i}": 2.0} for i in range(2)]
  records = [{k: v for record in records for k, v in record.items()}]
  reports = {
    key: report.layer_reports(models()[key], VARIABLES, (X,), records) for key in ("linen", name)
  }
  for a, b in zip(reports["linen"], reports[name], strict=True):
    assert a.name == b.name
    np.testing.assert_allclose(
      [a.admixture, a.sensitivity], [b.admixture, b.sensitivity], rtol=1e-5
    )
  outputs = [ace_jax.symmetry.layer_outputs(models()[key], VARIABLES, X) for key in reports]
  close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_projection_and_prune(name):
  model = ace_jax.model.as_model(models()[name])
  expected = LinenNet().apply(homotopy.project(VARIABLES), X)
  for variables in (homotopy.project(VARIABLES), ace_jax.prune(VARIABLES)):
    np.testing.assert_allclose(model.apply(variables, X)[0], expected, rtol=1e-5, atol=1e-6)
  close(dict(model.init(jax.random.key(0), X)), dict(VARIABLES), rtol=0)
  pruned = getattr(ace_jax, name).prune(models()[name])
  close(getattr(ace_jax, name).variables(pruned), ace_jax.prune(VARIABLES), rtol=0)
  batched = pruned if name == "nnx" else jax.vmap(pruned)
  np.testing.assert_allclose(batched(X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_missing_variables_are_named(name):
  broken = {**VARIABLES, "params": {"dense_0": VARIABLES["params"]["dense_0"]}}
  with pytest.raises(ConfigurationError, match="no params/dense_1/"):
    ace_jax.model.as_model(models()[name]).apply(broken, X)


@pytest.mark.parametrize("name", with_slow(["nnx", "equinox"], "equinox"))
def test_resume_is_bit_for_bit(name, tmp_path):
  options = {"checkpoint_every": 1}
  whole = train(models()[name], epochs=4, **options)
  train(models()[name], epochs=2, workdir=tmp_path, **options)
  rest = train(models()[name], epochs=4, workdir=tmp_path, resume=True, **options)
  jax.tree.map(np.testing.assert_array_equal, whole.relaxed, rest.relaxed)


@pytest.mark.parametrize("name", ["linen", "nnx", "equinox"])
def test_export_loads_back(name, tmp_path):
  model = ace_jax.model.as_model(models()[name])
  ace_jax.export.save_parameters(tmp_path / "a.npz", homotopy.project(VARIABLES))
  loaded = ace_jax.export.load_parameters(tmp_path / "a.npz")
  expected = LinenNet().apply(homotopy.project(VARIABLES), X)
  np.testing.assert_allclose(model.apply(loaded, X)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_pair_of_functions():
  def init(key, x):
    theta = jax.random.normal(key, (x.shape[-1], WIDTH))
    branch = {"kernel": jnp.ones((x.shape[-1], WIDTH))}
    return {
      "params": {"kernel": theta, "layer": {"relaxation": branch}},
      "gamma": {"layer": {"gamma": jnp.ones(())}},
    }

  def apply(variables, x, key=None):
    del key
    y = x @ variables["params"]["kernel"]
    if "gamma" in variables:
      branch = variables["params"]["layer"]["relaxation"]["kernel"]
      y = y + variables["gamma"]["layer"]["gamma"] * (x @ branch)
    return y, {}

  end = train(ace_jax.Model(init, apply))
  assert list(end.gamma) == ["layer"]
  assert set(ace_jax.prune(end.relaxed)["params"]) == {"kernel"}

  def strictly(variables, x, key=None):
    return apply(ace_jax.project(variables), x, key)

  with pytest.raises(ConfigurationError, match="layer layer is never called"):
    train(ace_jax.Model(init, strictly))
  with pytest.raises(ConfigurationError, match="function is no model; give an instance"):
    train(lambda x: x)


def test_nnx_dropout_batch_stats_and_random_streams():
  class Noisy(nnx.Module):
    def __init__(self, rngs):
      self.norm = nnx.BatchNorm(4, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, rngs=rngs)
      self.dense = nnx.Linear(4, WIDTH, rngs=rngs)
      self.layer = ace_jax.nnx.Homotopic(nnx.Linear(4, WIDTH, rngs=rngs))

    def __call__(self, x):
      x = self.dropout(self.norm(x))
      return self.layer(self.dense(x), x)

  model = ace_jax.model.as_model(Noisy(nnx.Rngs(0)))
  variables = model.init(jax.random.key(0), X)
  assert set(variables) == {"params", "gamma", "batch_stats"}
  first, state = model.apply(variables, X, key=jax.random.key(0))
  again, _ = model.apply(variables, X, key=jax.random.key(0))
  other, _ = model.apply(variables, X, key=jax.random.key(1))
  np.testing.assert_array_equal(first, again)
  assert jnp.abs(first - other).max() > 0.1
  mean = state["batch_stats"]["norm"]["mean"]
  np.testing.assert_allclose(mean, 0.01 * X.mean(axis=0), rtol=1e-3, atol=1e-6)
  evaluated, kept = model.apply(variables, X)
  np.testing.assert_array_equal(evaluated, model.apply(variables, X)[0])
  assert (kept["batch_stats"]["norm"]["mean"] == 0).all()


def test_a_strict_run_of_nnx_keeps_the_statistics_of_what_it_trains():
  class Normed(nnx.Module):
    def __init__(self, rngs):
      self.norm = nnx.BatchNorm(4, rngs=rngs)
      self.dense = nnx.Linear(4, WIDTH, rngs=rngs)
      self.layer = ace_jax.nnx.Homotopic(nnx.Linear(4, WIDTH, rngs=rngs), scale="fixed")

    def __call__(self, x):
      x = self.norm(x)
      return self.layer(self.dense(x), x)

  module = Normed(nnx.Rngs(0))
  strict = ace_jax.prune(ace_jax.nnx.variables(module))
  _, state = ace_jax.model.as_model(module).apply(strict, X, key=jax.random.key(0))
  assert set(state["batch_stats"]) == {"norm"}
  mean = state["batch_stats"]["norm"]["mean"]
  np.testing.assert_allclose(mean, 0.01 * X.mean(axis=0), rtol=1e-3, atol=1e-6)
  run = train(module, variables=strict)
  assert run.gamma == {}
  assert jax.tree.structure(run.projection) == jax.tree.structure(strict)
  assert jnp.abs(run.projection["batch_stats"]["norm"]["mean"]).max() > 1e-4


class NnxUnused(NnxNet):
  """Calls a second head in training alone, or never."""

  def __init__(self, auxiliary):
    super().__init__(nnx.Rngs(0))
    self.auxiliary = auxiliary
    self.head = ace_jax.nnx.Homotopic(nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(1)))

  def __call__(self, x, train=False):
    y = super().__call__(x)
    return self.head(y, y) if self.auxiliary and train else y


class EquinoxUnused(EquinoxNet):
  head: ace_jax.equinox.Homotopic
  jitted: bool = eqx.field(static=True)

  def __init__(self, jitted=False):
    super().__init__()
    self.head = ace_jax.equinox.Homotopic(Affine(WIDTH))
    self.jitted = jitted

  def __call__(self, x):
    y = super().__call__(x)
    return eqx.filter_jit(self.head)(y, y) if self.jitted else y


def test_layers_that_are_never_called_are_said():
  for model in (NnxUnused(auxiliary=False), EquinoxUnused()):
    with pytest.raises(ConfigurationError, match=r"layer head is never called: .* take it out"):
      train(model)
    assert len(train(model, epochs=1, constraint=ace_jax.Unconstrained()).history) == 1


@pytest.mark.slow
def test_layers_that_are_called_elsewhere_are_trained():
  assert train(NnxUnused(auxiliary=True), epochs=1).gamma["head"] != 1
  for _ in range(2):  # the second time JAX has the jitted layer's trace
    assert train(EquinoxUnused(jitted=True), epochs=1).gamma["head"] != 1


def test_equinox_dropout_draws_for_each_sample_in_training_alone():
  class Noisy(eqx.Module):
    dropout: eqx.nn.Dropout
    layer: ace_jax.equinox.Homotopic

    def __call__(self, x, *, key=None):
      x = self.dropout(x, key=key)
      return self.layer(x, x)

  layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(50, 50, key=jax.random.key(0)))
  model = ace_jax.model.as_model(Noisy(eqx.nn.Dropout(0.5), layer))
  variables = ace_jax.project(model.init(jax.random.key(0)))
  ones = jnp.ones((40, 50))
  np.testing.assert_array_equal(model.apply(variables, ones)[0], ones)
  kept = model.apply(variables, ones, key=jax.random.key(0))[0] > 0
  assert 0.4 < kept.mean() < 0.6
  assert (kept[0] != kept[1]).any()
