"""Modules that users build: attention, remat, mapped and shared layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax.errors import ConfigurationError

X = jax.random.normal(jax.random.key(0), (8, 5, 4))
DATA = X, jnp.mean(X, axis=1)
KEY = jax.random.key(1)


def fit(model):
  def squared(prediction, batch):
    return jnp.square(prediction - batch[1])

  return ace_jax.fit(model, squared, DATA, DATA, epochs=2, batch_size=8, lr=0.01, progress=None)


def assert_trains(run, layers):
  assert list(run.gamma) == layers
  assert all(jnp.max(jnp.abs(gamma - 1)) > 1e-3 for gamma in run.gamma.values())
  assert run.history[1]["loss"] != run.history[0]["loss"]
  assert np.isfinite(run.history[1]["loss"])


@pytest.mark.slow
def test_attention_of_nnx_with_dropout():
  class Attention(nnx.Module):
    def __init__(self, rngs):
      self.attention = nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=False, rngs=rngs)
      self.layer = ace_jax.nnx.Homotopic(nnx.Linear(4, 4, rngs=rngs))

    def __call__(self, x):
      return jnp.mean(self.layer(self.attention(x), x), axis=1)

  module = Attention(nnx.Rngs(0))
  model = ace_jax.model.as_model(module)
  variables = model.init(KEY, X)
  evaluated = model.apply(variables, X)[0]
  np.testing.assert_array_equal(evaluated, model.apply(variables, X)[0])
  assert jnp.abs(model.apply(variables, X, key=KEY)[0] - evaluated).max() > 1e-3
  assert_trains(fit(module), ["layer"])


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.tanh(ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(4, name="dense")(x), x))


class Rematerialised(nn.Module):
  remat: bool = True

  @nn.compact
  def __call__(self, x):
    block = nn.remat(Block) if self.remat else Block
    return jnp.mean(block(name="block")(x), axis=1)


def test_a_rematerialised_block_is_the_block():
  run, plain = fit(Rematerialised()), fit(Rematerialised(remat=False))
  assert_trains(run, ["block/layer"])
  losses = [[record["loss"] for record in r.history] for r in (run, plain)]
  np.testing.assert_allclose(*losses, rtol=1e-5)


class Mapped(nn.Module):
  """A block with weights of its own for each of five positions."""

  @nn.compact
  def __call__(self, x):
    block = nn.vmap(
      Block,
      in_axes=1,
      out_axes=1,
      variable_axes={"params": 0, "gamma": 0, "intermediates": 0},
      split_rngs={"params": True},
    )
    return jnp.mean(block(name="blocks")(x), axis=1)


def test_a_mapped_layer_has_a_gamma_for_each():
  run = fit(Mapped())
  assert_trains(run, ["blocks/layer"])
  assert run.gamma["blocks/layer"].shape == (5,)


class Shared(nn.Module):
  @nn.compact
  def __call__(self, x):
    block = Block(name="block")
    return jnp.mean(block(block(x)), axis=1)


def test_a_shared_layer_is_called_twice():
  run = fit(Shared())
  assert_trains(run, ["block/layer"])
  params = run.projection["params"]["block"]["dense"]
  h = X
  for _ in range(2):
    h = jnp.tanh(h @ params["kernel"] + params["bias"])
  computed = Shared().apply(run.projection, X)
  np.testing.assert_allclose(computed, jnp.mean(h, axis=1), rtol=1e-5, atol=1e-6)


class Fixed(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    layer = ace_jax.Homotopic(nn.Dense, "fixed", name="layer")
    return nn.tanh(layer(nn.Dense(4, name="dense")(x), x)), None


class Scanned(nn.Module):
  statistics: bool

  @nn.compact
  def __call__(self, x):
    axes = {"params": 0, "gamma": 0, **({"batch_stats": 0} if self.statistics else {})}
    scan = nn.scan(Fixed, variable_axes=axes, split_rngs={"params": True}, length=3)
    return jnp.mean(scan(name="blocks")(x, None)[0], axis=1)


def test_a_scan_says_which_axis_a_running_scale_needs():
  with pytest.raises(ConfigurationError, match=r"blocks/layer: .* add 'batch_stats': 0") as error:
    fit(Scanned(statistics=False))
  assert "\n" not in str(error.value)
  run = fit(Scanned(statistics=True))
  assert_trains(run, ["blocks/layer"])
  assert run.projection["batch_stats"]["blocks"]["layer"]["mean_square"].shape == (3,)
