"""A second `fit` compiles nothing where its programs are equal, and its numbers are its own."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ace_jax
from ace_jax import symmetry
from ace_jax.training import make_mesh

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = X[:, :1] ** 2
DATA = X, Y
FACTOR = 1.0


@dataclasses.dataclass
class Counter:
  """How many programs JAX has compiled."""

  programs: int = 0

  def __call__(self, event: str, duration_secs: float, **details: str | int):
    del duration_secs, details
    self.programs += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def counter():
  counter = Counter()
  jax.monitoring.register_event_duration_secs_listener(counter)
  yield counter
  jax.monitoring.unregister_event_duration_listener(counter)


def squared(prediction, batch):
  return FACTOR * jnp.square(prediction - batch[1])


def absolute(prediction, batch):
  return jnp.abs(prediction - batch[1])


def fit(model, loss=squared, data=DATA, **options):
  options = {"mesh": make_mesh(devices=jax.devices()[:1]), "epochs": 2, "batch_size": 4, **options}
  return ace_jax.fit(model, loss, data, data, data, progress=None, **options)


def numbers(run):
  """Returns what a training came to, without times."""
  times = ("time", "seconds", "steps_per_second")
  history = [{k: v for k, v in record.items() if k not in times} for record in run.history]
  return jax.tree.map(np.asarray, (run.state, history, run.test))


def assert_same(run, other):
  jax.tree.map(np.testing.assert_array_equal, numbers(run), numbers(other))


class Net(nn.Module):
  width: int = 2

  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(self.width)(x))
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1)(h), x)


class NnxNet(nnx.Module):
  def __init__(self, seed=0):
    rngs = nnx.Rngs(seed)
    self.dense = nnx.Linear(3, 1, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(1))
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 1, rngs=rngs))

  def __call__(self, x):
    return self.layer(self.dense(self.dropout(x)), x)


class EquinoxNet(eqx.Module):
  dense: eqx.nn.Linear
  layer: ace_jax.equinox.Homotopic

  def __init__(self, seed=0):
    self.dense = eqx.nn.Linear(3, 1, key=jax.random.key(seed))
    self.layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(3, 1, key=jax.random.key(seed)))

  def __call__(self, x):
    return self.layer(self.dense(x), x)


def by_hand(seed=0):
  weights = 1.0 + seed

  def init(key, x):
    del key, x
    return {"params": {"w": jnp.full((3, 1), weights)}, "gamma": {"layer": {"gamma": jnp.ones(())}}}

  def apply(variables, x, key=None):
    del key
    y = x @ variables["params"]["w"]
    return y + variables["gamma"]["layer"]["gamma"] * x[:, :1] if "gamma" in variables else y, {}

  return ace_jax.Model(init, apply)


def relaxed():
  return ace_jax.relax(nn.Dense(1), lambda module: isinstance(module, nn.Dense), nn.Dense)


@pytest.mark.parametrize(
  "build",
  [by_hand, *(pytest.param(b, marks=pytest.mark.slow) for b in (Net, relaxed, NnxNet, EquinoxNet))],
)
def test_an_equal_model_compiles_nothing(build, counter):
  model = build()
  first = fit(model)
  before = counter.programs
  assert_same(fit(model), first)
  assert_same(fit(build()), first)
  assert counter.programs == before


@pytest.mark.slow
@pytest.mark.parametrize("build", [NnxNet, EquinoxNet])
def test_other_weights_are_no_other_program(build, counter):
  first = fit(build())
  before = counter.programs
  other = fit(build(1))
  assert counter.programs == before
  jax.clear_caches()
  assert_same(fit(build(1)), other)
  assert other.history[0]["loss"] != first.history[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "others"),
  [
    ({}, {"seed": 1}),
    ({"lr": 1e-2}, {"lr": 1e-1, "gamma_lr": 1e-2, "dual_lr": 1e-2}),
    ({"constraint": ace_jax.Resilient(rho=1.0)}, {"constraint": ace_jax.Resilient(rho=9.0)}),
    ({"seeds": (0, 1)}, {"seeds": (2, 3)}),
  ],
  ids=["seed", "step sizes", "constants", "seeds"],
)
def test_numbers_that_ride_in_the_state(options, others, counter):
  fit(Net(), **options)
  before = counter.programs
  changed = fit(Net(), **(options | others))
  assert counter.programs == before
  jax.clear_caches()
  again = fit(Net(), **(options | others))
  assert counter.programs > before
  several = isinstance(changed, list)
  for run, other in zip(*([changed, again] if several else [[changed], [again]]), strict=True):
    assert_same(run, other)


@pytest.mark.slow
@pytest.mark.parametrize(
  "change",
  [
    {"loss": absolute},
    {"model": Net(3)},
    {"batch_size": 6},
    {"optimizer": optax.sgd(0.1)},
    {"constraint": ace_jax.Unconstrained()},
    {"clip_norm": 1e-3},
    {"data": (X[:8], Y[:8])},
  ],
  ids=lambda change: next(iter(change)),
)
def test_what_differs_is_compiled(change, counter):
  first = fit(Net())
  before = counter.programs
  changed = fit(**{"model": Net(), **change})
  assert counter.programs > before
  jax.clear_caches()
  assert_same(fit(**{"model": Net(), **change}), changed)
  assert changed.history[-1]["loss"] != first.history[-1]["loss"]


@pytest.mark.slow
def test_objects_made_anew_and_globals(counter, monkeypatch):
  def run():
    return fit(
      Net(),
      lambda prediction, batch: FACTOR * jnp.square(prediction - batch[1]),
      optimizer=optax.adamw(optax.cosine_decay_schedule(1e-2, 10)),
    )

  first = run()
  before = counter.programs
  assert_same(run(), first)
  assert counter.programs == before
  monkeypatch.setitem(globals(), "FACTOR", 3.0)
  changed = run()
  assert counter.programs > before
  assert changed.history[0]["loss"] > 2 * first.history[0]["loss"]


@pytest.mark.slow
def test_a_symmetry_made_anew(counter):
  def constraint():
    actions = symmetry.actions
    moved = (actions.vector, actions.invariant)
    how = symmetry.Symmetry.by_entry(symmetry.groups.so3(), moved, actions.invariant)
    return ace_jax.constraints.Functional(epsilon=1e-3, symmetry=how)

  first = fit(Net(), constraint=constraint())
  before = counter.programs
  mine = constraint()
  again = fit(Net(), constraint=mine)
  assert counter.programs == before
  assert again.state.constraint.symmetry is mine.symmetry
  for run, other in zip(numbers(again)[1:], numbers(first)[1:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, run, other)


@pytest.mark.slow
def test_loaders_metrics_measures_and_folders(counter, tmp_path):
  batches = [(np.asarray(X[i : i + 4]), np.asarray(Y[i : i + 4])) for i in (0, 4, 8)]

  def run(folder):
    return ace_jax.fit(
      Net(),
      squared,
      batches,
      batches,
      epochs=2,
      mesh=make_mesh(devices=jax.devices()[:1]),
      progress=None,
      metric={"mae": absolute, "mse": squared},
      select="mae",
      measure=lambda predict, valid: {"size": float(jnp.mean(predict(batches[0])))},
      workdir=tmp_path / folder,
    )

  first = run("a")
  before = counter.programs
  assert_same(run("b"), first)
  assert counter.programs == before
