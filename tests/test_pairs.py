import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import pairs


def dense(weights, x):
  """The sum by a matrix of all pairs, the formula as it stands."""
  nodes = len(x)
  first, second = pairs.ends(nodes)
  matrix = jnp.zeros((nodes, nodes, x.shape[1]), x.dtype)
  matrix = matrix.at[first, second].set(weights).at[second, first].set(weights)
  return jnp.einsum("ijc,jc->ic", matrix, x)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7])
def test_every_pair_is_there_once(nodes):
  first, second = pairs.ends(nodes)
  listed = sorted(tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True))
  assert listed == [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7])
def test_sums_and_their_derivatives(nodes):
  """Of first order in both directions, and of second order, which differentiates the first ones."""
  random = np.random.default_rng(nodes)
  count = nodes * (nodes - 1) // 2
  with jax.enable_x64(True):
    weights, weights_dot = jnp.asarray(random.normal(size=(2, count, 3)))
    x, x_dot, y = jnp.asarray(random.normal(size=(3, nodes, 3)))
    value = {}
    for name, function in (("slices", pairs.weighted_sum), ("dense", dense)):

      def loss(weights, x, function=function):
        return jnp.sum(jnp.sin(function(jnp.cos(weights), x)) * y)

      def slope(weights, x, loss=loss):
        gradients = jax.grad(loss, (0, 1))(weights, x)
        return sum(jnp.sum(jnp.square(gradient)) for gradient in gradients)

      def all_of_them(function=function, loss=loss, slope=slope):
        forward = jax.jvp(function, (weights, x), (weights_dot, x_dot))
        mapped = jax.vmap(function, (None, 0))(weights, jnp.stack([x, x_dot]))
        return (
          forward,
          mapped,
          jax.grad(loss, (0, 1))(weights, x),
          jax.grad(slope, (0, 1))(weights, x),
        )

      value[name] = jax.jit(all_of_them)()
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
      value["slices"],
      value["dense"],
    )
