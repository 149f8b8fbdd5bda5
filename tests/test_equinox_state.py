"""Equinox models with state, such as the statistics of eqx.nn.BatchNorm, under `fit`."""

import equinox as eqx
import jax
import numpy as np
import pytest

import ace_jax
from ace_jax.errors import ConfigurationError
from ace_jax.training import parallel
from tests.marks import with_slow

X = np.asarray(2 + 3 * jax.random.normal(jax.random.key(1), (16, 3)))
Y = X[:, :1]
MOMENTUM = 0.9


class Normed(eqx.Module):
  """Normalises its input, so that its statistics are those of the data, whatever is trained."""

  norms: list[eqx.nn.BatchNorm]
  linear: eqx.nn.Linear
  layer: ace_jax.equinox.Homotopic

  def __init__(self, key, mode="batch", axis_name="batch"):
    self.norms = [eqx.nn.BatchNorm(3, axis_name, momentum=MOMENTUM, mode=mode)]
    self.linear = eqx.nn.Linear(3, 1, key=key)
    self.layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(3, 1, key=key), scale="fixed")

  def __call__(self, x, state):
    x, state = self.norms[0](x, state)
    return self.layer(self.linear(x), x), state


def make(**options):
  return eqx.nn.make_with_state(Normed)(jax.random.key(0), **options)


def squared(prediction, batch):
  return (prediction - batch[1]) ** 2


def fit(model, **options):
  options = {"epochs": 3, "batch_size": 16, "progress": None, **options}
  return ace_jax.fit(model, squared, (X, Y), (X, Y), **options)


def statistics(variables):
  """The running mean and variance as they are held."""
  norm = variables["state"]["norms_0"]
  held = norm["batch_state_index" if "batch_state_index" in norm else "ema_state_index"]
  return held["0"], held["1"]


def by_hand(steps):
  """The running mean and variance after steps on all of X, from Equinox's 0 and 1."""
  left = MOMENTUM**steps
  return (1 - left) * X.mean(0), left + (1 - left) * X.var(0)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_statistics_after_two_steps_are_those_by_hand(mode):
  model = ace_jax.model.as_model(make(mode=mode))
  variables = model.init(jax.random.key(0))
  batches = X[:5], X[5:]
  for batch in batches:
    _, state = model.apply(variables, batch, key=jax.random.key(0))
    variables = {**variables, **state}
  first, second = [(x.mean(0), x.var(0)) for x in batches]
  if mode == "ema":  # the first batch is taken as it is
    held = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(first, second, strict=True)]
    mean, var = held
  else:  # from 0 and 1; inference divides both by the weight of the batches
    held = [
      MOMENTUM**2 * begin + (1 - MOMENTUM) * (MOMENTUM * a + b)
      for begin, a, b in zip((0, 1), first, second, strict=True)
    ]
    mean, var = (value / (1 - MOMENTUM**2) for value in held)
  np.testing.assert_allclose(statistics(variables), held, rtol=1e-5)
  # Evaluation normalises by them, and moves nothing.
  evaluated, kept = model.apply(ace_jax.project(variables), X)
  linear = variables["params"]["linear"]
  expected = (X - mean) / np.sqrt(var + 1e-5) @ linear["weight"].T + linear["bias"]
  np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, kept["state"], variables["state"])


@pytest.mark.parametrize("devices", with_slow([1, 4], 4))
def test_fit_trains_a_model_with_state(devices, tmp_path):
  pair = make(axis_name=("batch", "data"))
  run = fit(pair, mesh=parallel.make_mesh(data=devices), workdir=tmp_path / "run")
  for predictor in (run.projection, run.relaxed):
    steps = int(predictor["state"]["norms_0"]["batch_counter"])
    assert steps >= 1  # at its lowest error
    np.testing.assert_allclose(statistics(predictor), by_hand(steps), rtol=1e-4)
  assert int(run.state.model_state["state"]["norms_0"]["batch_counter"]) == 3
  # Both predictors are modules with state again.
  module, state = ace_jax.equinox.update(pair, run.relaxed)
  module = eqx.nn.inference_mode(module)
  y, _ = jax.vmap(module, (0, None), axis_name="batch")(X, state)
  model = ace_jax.model.as_model(pair)
  np.testing.assert_allclose(y, model.apply(run.relaxed, X)[0], rtol=1e-5, atol=1e-6)
  lowest = min(record["valid/relaxed"] for record in run.history)
  assert lowest == pytest.approx(float(((y - Y) ** 2).mean()), rel=1e-4)
  # A file holds the statistics too, and a longer run goes on from them.
  run.save(tmp_path / "saved.npz")
  loaded = ace_jax.load(tmp_path / "saved.npz", pair)
  jax.tree.map(np.testing.assert_array_equal, dict(loaded.relaxed), run.relaxed)
  longer = fit(
    pair, mesh=parallel.make_mesh(data=devices), workdir=tmp_path / "run", resume=True, epochs=4
  )
  whole = fit(pair, mesh=parallel.make_mesh(data=devices), epochs=4)
  jax.tree.map(np.testing.assert_array_equal, longer.state.model_state, whole.state.model_state)
  jax.tree.map(np.testing.assert_array_equal, longer.state.primal, whole.state.primal)


def test_without_the_axis_of_devices_each_has_statistics_of_its_share():
  run = fit(make(mode="ema"), mesh=parallel.make_mesh(data=4), epochs=1)
  mean, var = statistics(run.relaxed)
  np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5)
  assert (var < 0.999 * X.var(0)).all()  # means of four samples differ too


def test_a_module_without_its_state_is_refused():
  message = r"has state \(norms_0/batch_counter\).*pair \(model, state\).*make_with_state\(Normed\)"
  for module in (make()[0], Normed(jax.random.key(0))):
    with pytest.raises(ConfigurationError, match=message):
      fit(module)


def test_two_names_for_the_samples_are_refused():
  class Two(eqx.Module):
    first: eqx.nn.BatchNorm
    second: eqx.nn.BatchNorm

    def __init__(self):
      self.first = eqx.nn.BatchNorm(3, "a", mode="batch")
      self.second = eqx.nn.BatchNorm(3, "b", mode="batch")

    def __call__(self, x, state):
      return x, state

  with pytest.raises(ConfigurationError, match="axis of samples a and b"):
    fit(eqx.nn.make_with_state(Two)())
