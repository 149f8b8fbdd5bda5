"""Imports the installed wheel and trains a tiny model with it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import ace_jax


class Model(nn.Module):
  """Invariant under rotations at gamma = 0."""

  @nn.compact
  def __call__(self, x):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1)(nn.tanh(nn.Dense(8)(r))), x)


x = jax.random.normal(jax.random.key(0), (300, 3))
data = (x, jnp.sum(x * x, axis=-1, keepdims=True))
fit = ace_jax.fit(
  Model(),
  lambda prediction, batch: (prediction - batch[1]) ** 2,
  train=data,
  valid=data,
  test=data,
  constraint=ace_jax.Equality(),
  epochs=20,
  lr=1e-2,
)
assert fit.test["projection"] < float(jnp.var(data[1])), fit.test
print(f"ace_jax {ace_jax.__version__} from {ace_jax.__file__} trains: {fit.test}")
