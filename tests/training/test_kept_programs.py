"""A second training of the same kind compiles nothing; what differs is compiled."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax import kept
from ace_jax.training import make_mesh

X = jax.random.normal(jax.random.key(0), (16, 3))
Y = X[:, :1] ** 2
FACTOR = 1.0
COMPILED = []


def _count(event, duration, **kwargs):
  del duration, kwargs
  if event == "/jax/core/compile/backend_compile_duration":
    COMPILED.append(event)


@pytest.fixture(scope="module", autouse=True)
def _listener():
  jax.monitoring.register_event_duration_secs_listener(_count)
  yield
  jax.monitoring.unregister_event_duration_listener(_count)


class Net(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(self.width)(x))
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1)(h), x)


def squared(prediction, batch):
  return FACTOR * jnp.square(prediction - batch[1])


def fit(model, **options):
  """Returns the run and the number of programs that were compiled for it."""
  before = len(COMPILED)
  options = {"mesh": make_mesh(devices=jax.devices()[:1]), "epochs": 2, **options}
  data = X, Y
  run = ace_jax.fit(model, squared, data, data, data, batch_size=8, progress=None, **options)
  return run, len(COMPILED) - before


def is_dense(module):
  return isinstance(module, nn.Dense)


def relaxed():
  return ace_jax.relax(nn.Dense(1), is_dense, nn.Dense)


class NnxNet(nnx.Module):
  def __init__(self, seed=0):
    rngs = nnx.Rngs(seed)
    self.dense = nnx.Linear(3, 1, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(1))
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 1, rngs=rngs))

  def __call__(self, x):
    return self.layer(self.dense(self.dropout(x)), x)


class EquinoxNet(eqx.Module):
  mlp: eqx.nn.MLP
  layer: ace_jax.equinox.Homotopic

  def __init__(self, seed=0):
    self.mlp = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(seed))
    self.layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(3, 1, key=jax.random.key(seed)))

  def __call__(self, x):
    return self.layer(self.mlp(x), x)


@pytest.mark.parametrize("build", [NnxNet, EquinoxNet])
def test_modules_of_one_static_part_compile_nothing(build):
  first, some = fit(build())
  other, none = fit(build(1))
  same, _ = fit(build())
  assert some > 3 and none == 0
  assert abs(other.history[0]["loss"] / first.history[0]["loss"] - 1) > 1e-3
  jax.tree.map(np.testing.assert_array_equal, same.relaxed, first.relaxed)


@pytest.mark.parametrize("build", [Net, relaxed])
def test_an_equal_linen_model_compiles_nothing(build):
  first, some = fit(build())
  again, none = fit(build(), seed=3)
  same, _ = fit(build())
  assert some > 3 and none == 0
  assert again.history[-1]["loss"] != first.history[-1]["loss"]
  jax.tree.map(np.testing.assert_array_equal, same.relaxed, first.relaxed)


def test_what_differs_is_compiled(monkeypatch):
  first, _ = fit(Net())
  assert fit(Net(width=5))[1] > 3
  assert fit(Net(), lr=0.1)[1] > 0
  monkeypatch.setitem(globals(), "FACTOR", 3.0)  # read by the loss
  changed, _ = fit(Net())
  assert changed.history[0]["loss"] == pytest.approx(3 * first.history[0]["loss"], rel=0.1)


def test_few_results_are_kept():
  made = []

  @kept.kept
  def make(number):
    made.append(number)
    return object()

  assert make(0) is make(0) and made == [0]
  for number in range(kept.KEPT + 1):
    make(number)
  make(0)
  assert made.count(0) == 2
  assert make([]) is not make([])
