"""Loss landscapes: slices through parameter space, and the curvature around a point."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = [
  "coordinates",
  "filter_normalised_direction",
  "hessian_product",
  "hessian_trace",
  "loss_slice",
  "plane_through",
  "principal_directions",
  "top_eigenvalues",
]

Loss = Callable[[Any], Float[Array, ""]]
"""Maps parameters (a pytree) to a loss."""


def filter_normalised_direction(key: PRNGKeyArray, params: Any) -> Any:
  """Draws a random direction whose every filter has the norm of the parameters' filter.

  A filter is what makes one output: a column of a kernel [..., outputs]. Vectors and scalars
  (biases, gammas) get no direction, since their scale says nothing about the loss.

  Args:
    key: Source of randomness.
    params: Parameters.

  Returns:
    A pytree like `params`.

  Reference: Li, Xu, Taylor, Studer, Goldstein, "Visualizing the Loss Landscape of Neural Nets",
  NeurIPS 2018, Sec. 4.
  """
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))

  def direction(key, leaf):
    if leaf.ndim < 2:
      return jnp.zeros_like(leaf)
    noise = jax.random.normal(key, leaf.shape, leaf.dtype)
    axes = tuple(range(leaf.ndim - 1))
    size = jnp.sqrt(jnp.sum(jnp.square(noise), axes, keepdims=True))
    norm = jnp.sqrt(jnp.sum(jnp.square(leaf), axes, keepdims=True))
    return noise * norm / jnp.maximum(size, 1e-30)

  return jax.tree.unflatten(structure, map(direction, keys, leaves))


def principal_directions(center: Any, points: Sequence[Any]) -> tuple[Any, Any, Float[Array, "2"]]:
  """Returns the two orthonormal directions in which points scatter most around a center.

  Args:
    center: Parameters, such as those at the end of training.
    points: Parameters, such as those along training; at least two.

  Returns:
    (first direction, second direction, shares of the squared distances that they explain).

  Raises:
    ValueError: there are fewer than two points.
  """
  if len(points) < 2:
    raise ValueError(f"a plane needs two points besides its center; {len(points)} were given.")
  origin, restore = ravel_pytree(center)
  rows = jnp.stack([ravel_pytree(point)[0] - origin for point in points])
  _, singular, directions = jnp.linalg.svd(rows, full_matrices=False)
  shares = jnp.square(singular[:2]) / jnp.sum(jnp.square(singular))
  return restore(directions[0]), restore(directions[1]), shares


def plane_through(center: Any, first: Any, second: Any) -> tuple[Any, Any, Float[Array, "3 2"]]:
  """Returns the plane through three points: two orthonormal directions, and coordinates in it.

  Args:
    center: Its origin, at (0, 0).
    first: The second point, at (distance, 0).
    second: The third point.

  Returns:
    (first direction, second direction, coordinates of the three points).
  """
  origin, restore = ravel_pytree(center)
  u = ravel_pytree(first)[0] - origin
  v = ravel_pytree(second)[0] - origin
  length = jnp.linalg.norm(u)
  e1 = u / jnp.maximum(length, 1e-30)
  along = v @ e1
  rest = v - along * e1
  height = jnp.linalg.norm(rest)
  e2 = rest / jnp.maximum(height, 1e-30)
  points = jnp.array([[0.0, 0.0], [length, 0.0], [along, height]])
  return restore(e1), restore(e2), points


def coordinates(center: Any, point: Any, first: Any, second: Any) -> Float[Array, "2"]:
  """Returns the coordinates of a point, projected onto a plane with orthonormal directions."""
  difference = ravel_pytree(point)[0] - ravel_pytree(center)[0]
  return jnp.stack([difference @ ravel_pytree(first)[0], difference @ ravel_pytree(second)[0]])


def loss_slice(
  loss: Loss,
  center: Any,
  first: Any,
  second: Any,
  a: Float[Array, " rows"],
  b: Float[Array, " columns"],
  at_once: int = 4,
) -> Float[Array, "rows columns"]:
  """Evaluates loss(center + a first + b second) on a grid, as one device program.

  Args:
    loss: The loss.
    center: Parameters.
    first: Direction, a pytree like `center`.
    second: Another one.
    a: Steps along `first`.
    b: Steps along `second`.
    at_once: Grid points evaluated together; only memory and speed depend on it.
  """

  def at(point):
    moved = jax.tree.map(lambda c, d, e: c + point[0] * d + point[1] * e, center, first, second)
    return loss(moved)

  grid = jnp.stack(jnp.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
  return jax.lax.map(at, grid, batch_size=at_once).reshape(len(a), len(b))


def hessian_product(loss: Loss, params: Any, vector: Any) -> Any:
  """Returns H v, H the Hessian of the loss, by forward over reverse differentiation."""
  return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def top_eigenvalues(
  loss: Loss, params: Any, key: PRNGKeyArray, count: int = 1, iterations: int = 30
) -> Float[Array, " count"]:
  """Estimates the largest eigenvalues of the Hessian by Lanczos iteration.

  All vectors are orthogonalised against all before them, twice, so that rounding makes no ghosts.

  Args:
    loss: The loss.
    params: Where.
    key: Draws the first vector.
    count: How many eigenvalues.
    iterations: Dimension of the Krylov space; at most the number of parameters.

  Returns:
    Eigenvalues, largest first.

  Raises:
    ValueError: more eigenvalues than iterations are asked for.
  """
  flat, restore = ravel_pytree(params)
  iterations = min(iterations, flat.size)
  if not 1 <= count <= iterations:
    raise ValueError(f"{count} eigenvalues of {iterations} Lanczos iterations do not exist.")

  def multiply(v):
    return ravel_pytree(hessian_product(loss, params, restore(v)))[0]

  def step(carry, i):
    basis, v = carry
    basis = basis.at[i].set(v)
    w = multiply(v)
    diagonal = w @ v
    for _ in range(2):
      w = w - basis.T @ (basis @ w)
    size = jnp.linalg.norm(w)
    # An invariant space is exhausted; what follows decouples from it.
    w = jnp.where(size > 1e-12 * (1 + jnp.abs(diagonal)), w / jnp.maximum(size, 1e-30), 0)
    return (basis, w), (diagonal, size)

  start = jax.random.normal(key, flat.shape, flat.dtype)
  begin = (jnp.zeros((iterations, flat.size), flat.dtype), start / jnp.linalg.norm(start))
  _, (diagonal, sizes) = jax.lax.scan(step, begin, jnp.arange(iterations))
  off = sizes[:-1]
  matrix = jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
  return jnp.linalg.eigvalsh(matrix)[::-1][:count]


def hessian_trace(
  loss: Loss, params: Any, key: PRNGKeyArray, samples: int = 30
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Estimates the trace of the Hessian by Hutchinson's method, E[v^T H v], v of random signs.

  Args:
    loss: The loss.
    params: Where.
    key: Draws the signs.
    samples: How many; at least 2.

  Returns:
    (estimate, its standard error).
  """
  flat, restore = ravel_pytree(params)

  def sample(key):
    v = jax.random.rademacher(key, flat.shape, flat.dtype)
    return v @ ravel_pytree(hessian_product(loss, params, restore(v)))[0]

  values = jax.lax.map(sample, jax.random.split(key, samples))
  return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(samples)
