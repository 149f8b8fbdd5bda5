import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import landscape

PARAMS = {"a": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "b": jnp.float32(2.0)}


def quadratic(size, seed=0):
  """1/2 x^T A x with A of known eigenvalues size, size - 1, ..., 1, on a pytree."""
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
  matrix = jnp.asarray(q @ np.diag(np.arange(1.0, size + 1)) @ q.T)

  def loss(params):
    x = jnp.concatenate([params["u"], params["v"].reshape(-1)])
    return 0.5 * x @ matrix @ x

  return loss, {"u": jnp.zeros(size - 6, float), "v": jnp.zeros((2, 3), float)}, matrix


def test_directions_have_the_norms_of_the_filters():
  direction = landscape.filter_normalised_direction(jax.random.key(0), PARAMS)
  np.testing.assert_allclose(
    np.linalg.norm(direction["a"]["kernel"], axis=0), np.full(2, 3**0.5), rtol=1e-6
  )
  assert np.all(direction["a"]["bias"] == 0)
  assert direction["b"] == 0


def test_a_slice_is_the_loss_on_a_grid():
  loss, params, matrix = quadratic(10)
  first = {"u": jnp.array([1.0, 0, 0, 0]), "v": jnp.zeros((2, 3))}
  second = {"u": jnp.zeros(4), "v": jnp.zeros((2, 3)).at[0, 1].set(1)}
  a, b = jnp.array([-1.0, 0, 2]), jnp.array([0.5, 1.0])
  losses = landscape.loss_slice(loss, params, first, second, a, b)
  expected = 0.5 * (
    a[:, None] ** 2 * matrix[0, 0] + b**2 * matrix[5, 5] + 2 * a[:, None] * b * matrix[0, 5]
  )
  np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def test_curvature_of_a_quadratic():
  with jax.enable_x64(True):
    loss, params, matrix = quadratic(40)
    eigenvalues = landscape.top_eigenvalues(loss, params, jax.random.key(0), count=3, iterations=40)
    np.testing.assert_allclose(eigenvalues, [40, 39, 38], rtol=1e-8)
    few = landscape.top_eigenvalues(loss, params, jax.random.key(0), iterations=15)
    assert few[0] == pytest.approx(40, rel=0.02)
    trace, error = landscape.hessian_trace(loss, params, jax.random.key(1), samples=200)
    assert abs(trace - jnp.trace(matrix)) < 4 * error
    assert error < 0.05 * jnp.trace(matrix)
    with pytest.raises(ValueError, match="do not exist"):
      landscape.top_eigenvalues(loss, params, jax.random.key(0), count=3, iterations=2)


def test_planes():
  center = {"x": jnp.zeros(4)}
  first, second = {"x": jnp.array([2.0, 0, 0, 0])}, {"x": jnp.array([1.0, 3.0, 0, 0])}
  e1, e2, points = landscape.plane_through(center, first, second)
  np.testing.assert_allclose(points, [[0, 0], [2, 0], [1, 3]], atol=1e-6)
  np.testing.assert_allclose(landscape.coordinates(center, second, e1, e2), [1, 3], atol=1e-6)
  trajectory = [{"x": jnp.array([4.0 - i, 0.1 * i, 0, 0])} for i in range(4)]
  e1, _, shares = landscape.principal_directions(center, trajectory)
  assert abs(e1["x"][0]) == pytest.approx(1, abs=0.05)
  assert shares[0] > 0.99
  with pytest.raises(ValueError, match="needs two points"):
    landscape.principal_directions(center, trajectory[:1])
