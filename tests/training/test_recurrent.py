"""Models with a scan that begins with zeros train as in a plain loop, on one device and on four."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ace_jax
from ace_jax.training import make_mesh
from tests.marks import with_slow

X = jax.random.normal(jax.random.key(0), (8, 4, 2))
Y = jnp.sum(X, axis=(1, 2))[:, None]
KEY = jax.random.key(1)


class LinenLstm(nn.Module):
  @nn.compact
  def __call__(self, x):
    h = nn.RNN(nn.LSTMCell(3), name="rnn")(x)[:, -1]
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1, name="out")(h), h)


class NnxLstm(nnx.Module):
  def __init__(self, rngs):
    self.rnn = nnx.RNN(nnx.LSTMCell(2, 3, rngs=rngs), rngs=rngs)
    self.out = nnx.Linear(3, 1, rngs=rngs)
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 1, rngs=rngs))

  def __call__(self, x):
    h = self.rnn(x)[:, -1]
    return self.layer(self.out(h), h)


class NnxScan(nnx.Module):
  """Steps of shared weights by `nnx.scan`."""

  def __init__(self, rngs):
    self.cell = nnx.SimpleCell(2, 3, rngs=rngs)
    self.out = nnx.Linear(3, 1, rngs=rngs)
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 1, rngs=rngs))

  def __call__(self, x):
    @nnx.scan(in_axes=(None, nnx.Carry, 1), out_axes=nnx.Carry)
    def run(cell, h, x):
      return cell(h, x)[0]

    h = run(self.cell, jnp.zeros((len(x), 3)), x)
    return self.layer(self.out(h), h)


class EquinoxGru(eqx.Module):
  cell: eqx.nn.GRUCell
  out: eqx.nn.Linear
  layer: ace_jax.equinox.Homotopic

  def __init__(self):
    self.cell = eqx.nn.GRUCell(2, 3, key=KEY)
    self.out = eqx.nn.Linear(3, 1, key=KEY)
    self.layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(3, 1, key=KEY))

  def __call__(self, x):
    h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(3), x)
    return self.layer(self.out(h), h)


def squared(prediction, batch):
  return jnp.square(prediction - batch[1])


def by_hand(model, steps):
  """Returns the losses of Adam on theta and gamma in a loop over whole batches."""

  def loss(weights):
    variables = {name: values for name, values in weights.items() if values}
    return jnp.mean(squared(model.apply(variables, X, key=KEY)[0], (X, Y)))

  variables = model.init(KEY, X)
  weights = {name: variables[name] for name in ("params", "gamma")}
  adam = optax.adam(0.01)
  state, losses = adam.init(weights), []

  @jax.jit
  def step(weights, state):
    value, gradient = jax.value_and_grad(loss)(weights)
    updates, state = adam.update(gradient, state, weights)
    return optax.apply_updates(weights, updates), state, value

  for _ in range(steps):
    weights, state, value = step(weights, state)
    losses.append(float(value))
  return losses, variables


@pytest.mark.parametrize(
  "build", with_slow([LinenLstm, NnxLstm, NnxScan, EquinoxGru], LinenLstm, NnxLstm, EquinoxGru)
)
def test_a_scan_from_zeros_trains_as_by_hand(build):
  module = build(nnx.Rngs(0)) if issubclass(build, nnx.Module) else build()
  losses, variables = by_hand(ace_jax.model.as_model(module), 3)
  assert losses[2] < 0.99 * losses[0]
  for devices in (1, 4):
    run = ace_jax.fit(
      module,
      squared,
      (X, Y),
      (X, Y),
      constraint=ace_jax.Unconstrained(),
      variables=variables,
      mesh=make_mesh(devices=jax.devices()[:devices]),
      lr=0.01,
      epochs=3,
      batch_size=8,
      progress=None,
    )
    np.testing.assert_allclose([r["loss"] for r in run.history], losses, rtol=1e-5)


@pytest.mark.slow
def test_a_scan_from_zeros_trains_from_a_loader():
  batches = [(np.asarray(X[:4]), np.asarray(Y[:4])), (np.asarray(X[4:]), np.asarray(Y[4:]))]
  variables = LinenLstm().init(KEY, X)
  losses = []
  for devices in (1, 4):
    run = ace_jax.fit(
      LinenLstm(),
      squared,
      batches,
      batches,
      variables=variables,
      mesh=make_mesh(devices=jax.devices()[:devices]),
      lr=0.01,
      epochs=2,
      progress=None,
    )
    losses.append([r["loss"] for r in run.history])
  assert losses[0][1] < losses[0][0]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
