"""Groups: how to sample their elements, and the one-parameter subgroups of their generators.

An element is a small pytree: a `Motion` for the groups of space, whole numbers for permutations
and shifts, a sign for time reversal. How it acts on arrays is said by `ace_jax.symmetry.actions`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

_AXES = "xyz"


class Motion(NamedTuple):
  """x' = R x + b, an element of E(3) or a subgroup.

  Attributes:
    matrix: R, orthogonal, [..., 3, 3], acting on column vectors.
    shift: b, [..., 3].
  """

  matrix: Float[Array, "*count 3 3"]
  shift: Float[Array, "*count 3"]


@dataclasses.dataclass(frozen=True)
class Group:
  """A group, as far as measuring a symmetry needs it.

  Attributes:
    name: Its name, for reports.
    sample: `sample(key, count)` draws elements from the Haar measure (for translations: from a
      ball), stacked along a leading axis.
    generators: For each generator A of the Lie algebra the curve t -> exp(t A); for cyclic
      groups that of t steps, t a whole number; {} for other discrete groups.
  """

  name: str
  sample: Callable[[PRNGKeyArray, int], Any]
  generators: Mapping[str, Callable[[Float[Array, ""]], Any]] = dataclasses.field(
    default_factory=dict
  )


def so2(axis: str = "z") -> Group:
  """Rotations about an axis, "x", "y" or "z"."""

  def sample(key, count):
    angles = jax.random.uniform(key, (count,), maxval=2 * jnp.pi)
    return jax.vmap(lambda t: _turn(axis, t))(angles)

  return Group(f"SO(2) about {axis}", sample, {f"rotation_{axis}": lambda t: _turn(axis, t)})


def so3() -> Group:
  """Rotations."""
  return Group("SO(3)", lambda key, count: _motion(random_rotations(key, count)), _rotations())


def o3() -> Group:
  """Rotations and reflections."""

  def sample(key, count):
    turn, flip = jax.random.split(key)
    signs = jax.random.rademacher(flip, (count, 1, 1), jnp.float32)
    return _motion(signs * random_rotations(turn, count))

  return Group("O(3)", sample, _rotations())


def translations(radius: float = 1.0) -> Group:
  """Translations; drawn uniform from a ball, since the group is not compact.

  Args:
    radius: Of the ball.
  """

  def sample(key, count):
    shift = _ball(key, count, radius)
    return Motion(jnp.broadcast_to(jnp.eye(3), (count, 3, 3)), shift)

  return Group("translations", sample, _shifts())


def se3(radius: float = 1.0) -> Group:
  """Rotations and translations, the latter drawn from a ball."""
  return _with_translations("SE(3)", so3(), radius)


def e3(radius: float = 1.0) -> Group:
  """Rotations, reflections and translations, the latter drawn from a ball."""
  return _with_translations("E(3)", o3(), radius)


def permutations(count: int) -> Group:
  """Permutations of `count` things; an element holds for each new place the old one."""

  def sample(key, samples):
    keys = jax.random.split(key, samples)
    return jax.vmap(lambda k: jax.random.permutation(k, count))(keys)

  return Group(f"S({count})", sample)


def cyclic_shifts(height: int, width: int) -> Group:
  """Cyclic shifts of images; an element holds the shifts (down, right)."""

  def sample(key, count):
    return jax.random.randint(key, (count, 2), 0, jnp.array([height, width]))

  generators = {
    "shift_y": lambda t: jnp.stack([t, jnp.zeros_like(t)]),
    "shift_x": lambda t: jnp.stack([jnp.zeros_like(t), t]),
  }
  return Group(f"Z({height}) x Z({width})", sample, generators)


def time_reversal() -> Group:
  """Time reversal, Z2: an element is 1 or -1."""

  def sample(key, count):
    return jax.random.rademacher(key, (count,), jnp.float32)

  return Group("time reversal", sample)


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


def rotation(axis: str, angle: Float[Array, ""]) -> Float[Array, "3 3"]:
  """Returns the matrix of a rotation about a coordinate axis, by the right-hand rule.

  Args:
    axis: "x", "y" or "z".
    angle: In radians.

  Raises:
    ValueError: the axis does not exist.
  """
  if axis not in _AXES:
    raise ValueError(f"axis {axis!r} does not exist; take x, y or z.")
  i = _AXES.index(axis)
  j, k = (i + 1) % 3, (i + 2) % 3
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  matrix = jnp.zeros((3, 3), jnp.result_type(cos)).at[i, i].set(1)
  return matrix.at[j, j].set(cos).at[k, k].set(cos).at[k, j].set(sin).at[j, k].set(-sin)


def _turn(axis: str, angle: Float[Array, ""]) -> Motion:
  return _motion(rotation(axis, angle))


def _motion(matrix: Float[Array, "*count 3 3"]) -> Motion:
  return Motion(matrix, jnp.zeros(matrix.shape[:-1], matrix.dtype))


def _rotations() -> dict[str, Callable[[Array], Motion]]:
  return {f"rotation_{axis}": lambda t, axis=axis: _turn(axis, t) for axis in _AXES}


def _shifts() -> dict[str, Callable[[Array], Motion]]:
  def shift(i):
    return lambda t: Motion(jnp.eye(3, dtype=jnp.result_type(t)), t * jnp.eye(3)[i])

  return {f"translation_{axis}": shift(i) for i, axis in enumerate(_AXES)}


def _with_translations(name: str, group: Group, radius: float) -> Group:
  def sample(key, count):
    turn, move = jax.random.split(key)
    return Motion(group.sample(turn, count).matrix, _ball(move, count, radius))

  return Group(name, sample, {**group.generators, **_shifts()})


def _ball(key: PRNGKeyArray, count: int, radius: float) -> Float[Array, "count 3"]:
  return radius * jax.random.ball(key, 3, shape=(count,))
