"""The scale of a branch f_neq: as it stands, or divided by its root mean square."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ace_jax import padding

MEAN_SQUARE = "mean_square"
"""Running value of a "fixed" branch, in the layer's own scope of `batch_stats`."""
_FLOOR = 1e-12


def check(scale: str) -> None:
  """Raises ValueError unless `Homotopic.scale` is "free" or "fixed"."""
  if scale not in ("free", "fixed"):
    raise ValueError(f"Homotopic.scale is {scale!r}; it must be 'free' or 'fixed'.")


def mean_square(
  x: Array,
  where: Bool[Array, "..."] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Returns the mean of abs(x)^2 over the entries that count and over devices, in float32 at least.

  Args:
    x: Features of a branch.
    where: Which entries count, broadcast against x; all by default.
    axis_name: Mapped axis of the devices that share the entries.
  """
  return padding.mean(_squares(x), where=where, axis_name=axis_name)


def sums(x: Array, where: Bool[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the sum of abs(x)^2 over the entries that count, and their number: of `mean_square`."""
  size = _squares(x)
  where = jnp.broadcast_to(where, size.shape)
  return jnp.sum(jnp.where(where, size, 0)), jnp.sum(where, dtype=size.dtype)


def divide_by_root(f_neq: Array, mean_square: Float[Array, ""]) -> Float[Array, "... features"]:
  """Returns f_neq over the root of its mean square."""
  return f_neq * jax.lax.rsqrt(mean_square + _FLOOR)


def decayed(
  running: Float[Array, ""], current: Float[Array, ""], momentum: float
) -> Float[Array, ""]:
  """Returns a running mean square after a step, m r + (1 - m) s, as a constant to gradients."""
  return jax.lax.stop_gradient(momentum * running + (1 - momentum) * current)


def _squares(x: Array) -> Float[Array, "..."]:
  size = jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)
  return size.astype(jnp.promote_types(size.dtype, jnp.float32))
