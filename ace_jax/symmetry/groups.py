"""Random elements of the groups."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def random_rotations(key: PRNGKeyArray, count: int) -> Float[Array, "count 3 3"]:
  """Draws rotations from the Haar measure of SO(3).

  A normal 4-vector, normalised, is a uniform unit quaternion (w, x, y, z).

  Args:
    key: Source of randomness.
    count: How many.

  Returns:
    Rotation matrices R, acting on column vectors: x' = R x.
  """
  q = jax.random.normal(key, (count, 4))
  w, x, y, z = jnp.moveaxis(q / jnp.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
  rows = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ]
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
