"""Values of programs that are known to be equal."""

import jax
import jax.numpy as jnp
import pytest

from ace_jax import programs

X = jnp.ones((4, 3))
W = jnp.ones((3, 3))


def equal(first, second, zeros=()):
  """Whether two functions of (gamma, x, w) are known to return the same."""
  names = ["gamma", "x", "w"]
  traced = [jax.make_jaxpr(function)(jnp.ones(()), X, W) for function in (first, second)]
  one, other = programs.results(traced, [names, names], zeros)
  return one == other


def plain(gamma, x, w):
  return jnp.tanh(x @ w)


def branch(gamma, x, w):
  return plain(gamma, x, w) + gamma * jax.nn.gelu(x @ w + 1)


def scanned(factor):
  def function(gamma, x, w):
    return jax.lax.scan(lambda c, row: (c + factor * row, c * 2), jnp.ones(3), x)[1]

  return function


@pytest.mark.parametrize(
  ("first", "second"),
  [
    (branch, plain),
    (jax.jit(branch), plain),
    (jax.checkpoint(branch), plain),
    (lambda g, x, w: branch(g, x, w).reshape(2, 6).reshape(4, 3), plain),
    (lambda g, x, w: plain(g, x, w) - g * x, plain),
    (lambda g, x, w: plain(g, x, w) + jnp.concatenate([g * x[:2], g * x[2:]]), plain),
    (scanned(2.0), scanned(2.0)),
  ],
)
def test_what_gamma_multiplies_is_nothing_at_0(first, second):
  assert equal(first, second, {"gamma"})
  assert not equal(first, second) or first is not branch


@pytest.mark.parametrize(
  ("first", "second"),
  [
    (lambda g, x, w: plain(g, x, w) + x, plain),
    (lambda g, x, w: plain(g, x, w) + jnp.exp(g), plain),
    (lambda g, x, w: x @ w + g, lambda g, x, w: x @ w.T + g),
    (lambda g, x, w: x + 1.0, lambda g, x, w: x + 2.0),
    (lambda g, x, w: x + jnp.arange(3.0), lambda g, x, w: x + jnp.arange(3.0)[::-1]),
    (lambda g, x, w: x.sum(0), lambda g, x, w: w.sum(0)),
    (lambda g, x, w: jax.lax.psum(x, ()), lambda g, x, w: x.T.reshape(4, 3)),
    (lambda g, x, w: x / g, lambda g, x, w: x),
    (scanned(2.0), scanned(3.0)),
    (lambda g, x, w: jax.lax.cumsum(x, 0), lambda g, x, w: jax.lax.cumsum(x, 0, reverse=True)),
  ],
)
def test_what_differs_is_not_equal(first, second):
  assert not equal(first, second, {"gamma"})


def test_what_a_reference_holds_is_equal_to_nothing():
  def function(gamma, x, w):
    held = jax.new_ref(x)
    held[...] = held[...] + 1
    return held[...]

  assert not equal(function, function)
