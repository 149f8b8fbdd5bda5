"""What Flax's users take for granted works with homotopic layers too."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP
from tests.marks import with_slow

X = jax.random.normal(jax.random.key(1), (16, 3))
Y = X[:, :1]
KEY = jax.random.key(0)


def squared(prediction, batch):
  return jnp.abs(prediction - batch[1]) ** 2


def fit(model, data=(X, Y), **options):
  options = {"epochs": 2, "batch_size": 8, "progress": None, **options}
  return ace_jax.fit(model, squared, data, data, **options)


def head(x):
  return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1, name="dense")(x), x)


class Training(nn.Module):
  @nn.compact
  def __call__(self, x, training):
    return head(nn.Dropout(0.5, deterministic=not training)(x))


class Deterministic(nn.Module):
  @nn.compact
  def __call__(self, x, deterministic=True):
    return head(nn.Dropout(0.5, deterministic=deterministic)(x))


class Train(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return head(nn.Dropout(0.5, deterministic=not train)(x))


@pytest.mark.parametrize("model", [Training(), Deterministic(), Train()])
def test_dropout_is_on_in_training_alone(model):
  functions = ace_jax.model.as_model(model)
  variables = functions.init(KEY, X)
  evaluated, _ = functions.apply(variables, X)
  trained, _ = functions.apply(variables, X, key=KEY)
  assert jnp.abs(evaluated - trained).max() > 0.1
  np.testing.assert_array_equal(evaluated, functions.apply(variables, X)[0])
  assert len(fit(model).history) == 2


def test_streams_beside_dropout():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      if train:
        x = x + jax.random.normal(self.make_rng("noise"), x.shape)
      return head(nn.Dropout(0.5, deterministic=not train)(x))

  functions = ace_jax.model.as_model(Noisy(), ("dropout", "noise"))
  variables = functions.init(KEY, X)
  draws = [functions.apply(variables, X, key=jax.random.key(i))[0] for i in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert jnp.abs(draws[0] - draws[2]).max() > 0.1
  assert len(fit(Noisy(), rngs=("dropout", "noise")).history) == 2


class AlwaysNoisy(nn.Module):
  @nn.compact
  def __call__(self, x):
    return head(x + jax.random.normal(self.make_rng("noise"), x.shape))


class NoisyInTraining(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    noise = jax.random.normal(self.make_rng("noise"), x.shape) if train else 0
    return head(x + noise)


def test_random_numbers_that_a_model_does_not_get_are_said():
  with pytest.raises(ConfigurationError, match=r"in evaluation.*\"noise\".*`train`") as error:
    fit(AlwaysNoisy(), rngs=("noise",))
  assert "\n" not in str(error.value)
  with pytest.raises(ConfigurationError, match=r"in training.*\"noise\".*rngs=\('dropout', 'its"):
    fit(NoisyInTraining())
  assert len(fit(NoisyInTraining(), rngs=("noise",)).history) == 2


@pytest.mark.parametrize(
  ("returned", "said"),
  [
    (lambda y: y, r"returned an array of shape \(2, 1\)"),
    (lambda y: (y,), r"returned \(JitTracer\)|returned \(DynamicJaxprTracer\)"),
    (lambda y: (y, y), r"must return \(prediction, model_state\)"),
    (lambda y: None, "returned a NoneType"),
  ],
)
def test_a_pair_of_functions_that_returns_no_pair(returned, said):
  variables = {"params": {"kernel": jnp.ones((3, 1))}}
  model = ace_jax.Model(
    lambda key, x: variables, lambda v, x, key=None: returned(x @ v["params"]["kernel"])
  )
  with pytest.raises(ConfigurationError, match=said) as error:
    fit(model, variables=variables)
  assert "\n" not in str(error.value)


def test_what_is_sown_is_never_fed_back():
  class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      self.sow("losses", "size", jnp.mean(x**2))
      self.sow("batch_stats", "sizes", jnp.mean(x**2))
      return head(nn.BatchNorm(use_running_average=not train, name="norm")(x))

  run = fit(Sowing())
  assert set(run.projection) == {"params", "batch_stats"}
  assert set(run.projection["batch_stats"]) == {"norm"}
  assert jnp.abs(run.projection["batch_stats"]["norm"]["mean"]).max() > 1e-4


@dataclasses.dataclass(frozen=True)
class Topology:
  senders: tuple[int, ...]


def test_static_inputs():
  class Graph(nn.Module):
    @nn.compact
    def __call__(self, x, topology):
      return head(x[:, jnp.array(topology.senders)])

  run = fit(Graph(), inputs=lambda batch: (batch[0], Topology((2, 0))))
  assert run.projection["params"]["dense"]["kernel"].shape == (2, 1)


def test_boxes_of_metadata():
  class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
      init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
      y = nn.Dense(1, kernel_init=init, name="dense")(x)
      return ace_jax.Homotopic(nn.Dense, name="layer")(y, x)

  boxed, plain = fit(Boxed()), fit(Boxed(), variables=Boxed().init(jax.random.key(3), X))
  for run in (boxed, plain):
    assert isinstance(run.projection["params"]["dense"]["kernel"], jax.Array)
  variables, others = (Boxed().init(jax.random.key(i), X) for i in range(2))
  loaded = ace_jax.load_pretrained(variables, ace_jax.prune(others))
  kernel = others["params"]["dense"]["kernel"].value
  np.testing.assert_array_equal(loaded["params"]["dense"]["kernel"], kernel)
  branch = variables["params"]["layer"]["relaxation"]["kernel"]
  np.testing.assert_array_equal(loaded["params"]["layer"]["relaxation"]["kernel"], branch)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_dtype_of_y_is_kept(dtype):
  x, y = X.astype(dtype), Y.astype(dtype)
  for scale in ("free", "fixed"):
    layer = ace_jax.Homotopic(MLP, scale)
    variables = layer.init(KEY, y, x)
    output = layer.apply(variables, y, x)
    assert output.dtype == dtype
    expected = layer.apply(variables, Y, X)
    np.testing.assert_allclose(output.astype(jnp.float32), expected, atol=0.05)


@pytest.mark.parametrize("dtype", with_slow([jnp.bfloat16, jnp.float16], jnp.float16))
def test_parameters_of_half_precision_train(dtype):
  class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
      branch = lambda features, name: nn.Dense(features, param_dtype=dtype, name=name)  # noqa: E731
      y = nn.Dense(1, param_dtype=dtype, name="dense")(x)
      return ace_jax.Homotopic(branch, name="layer")(y, x)

  run = fit(Half(), epochs=20, lr=0.02)
  assert run.projection["params"]["dense"]["kernel"].dtype == dtype
  assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]


def test_complex_parameters_descend():
  target = (X @ jnp.array([[1 + 2j], [-1j], [0.5]])).astype(jnp.complex64)

  class Complex(nn.Module):
    @nn.compact
    def __call__(self, x):
      dense = lambda features, name: nn.Dense(features, param_dtype=jnp.complex64, name=name)  # noqa: E731
      return ace_jax.Homotopic(dense, name="layer")(dense(1, "dense")(x), x)

  run = fit(Complex(), (X, target), epochs=150, lr=0.03)
  assert run.history[-1]["loss"] < 1e-3 * run.history[0]["loss"]
  with pytest.raises(ValueError, match="branch is complex"):
    ace_jax.Homotopic(lambda features, name: lambda x: 1j * x).init(KEY, Y, Y)


class Step(nn.Module):
  @nn.compact
  def __call__(self, carry, x):
    y = nn.Dense(3, name="dense")(x + carry)
    return jnp.tanh(ace_jax.Homotopic(nn.Dense, name="layer")(y, carry)), None


class Recurrent(nn.Module):
  """Three steps of shared weights, from the sample itself."""

  @nn.compact
  def __call__(self, x):
    shared = ["params", "gamma"]
    scan = nn.scan(Step, variable_broadcast=shared, split_rngs={"params": False}, length=3)
    return scan(name="step")(x, jnp.stack([x] * 3))[0]


def test_a_scan_may_begin_with_a_sample():
  data = X, jnp.sin(X)
  run = fit(Recurrent(), data, epochs=3, lr=0.02)
  assert list(run.gamma) == ["step/layer"]
  assert run.history[-1]["loss"] < run.history[0]["loss"]
  hidden = X
  for _ in range(3):
    params = run.projection["params"]["step"]["dense"]
    hidden = jnp.tanh((X + hidden) @ params["kernel"] + params["bias"])
  computed = Recurrent().apply(run.projection, X)
  np.testing.assert_allclose(computed, hidden, rtol=1e-4, atol=1e-6)


class Potential(nn.Module):
  """Minus the gradient of a homotopic energy."""

  scale: str
  lifted: bool

  def setup(self):
    self.dense = nn.Dense(1)
    self.layer = ace_jax.Homotopic(nn.Dense, self.scale)

  def __call__(self, x):
    def energy(module, x):
      return jnp.sum(module.layer(module.dense(x), x) ** 2)

    if not self.lifted:
      return -jax.value_and_grad(lambda x: energy(self, x))(x)[1]
    value, pull = nn.vjp(energy, self, x)
    return -pull(jnp.ones_like(value))[-1]


def test_gradients_within_a_model(capsys):
  run = fit(Potential("free", False), (X, X))
  assert len(run.history) == 2
  symmetry = ace_jax.symmetry.Symmetry(
    ace_jax.symmetry.groups.so2(),
    lambda g, batch: tuple(x @ g.matrix.T for x in batch),
    lambda g, y, batch: y @ g.matrix.T,
  )
  report = run.report((X, X), symmetry)
  assert report.layers == ()
  assert len(report.generators) == 1
  assert "Layers are not reported on: layer: its features cannot" in capsys.readouterr().err
  assert len(fit(Potential("fixed", True), (X, X)).history) == 2
  with pytest.raises(ConfigurationError, match=r"layer: its running scale .* nn.vjp"):
    fit(Potential("fixed", False), (X, X))
