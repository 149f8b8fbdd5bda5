"""Groups: how to sample their elements, and the one-parameter subgroups of their generators.

An element is a small pytree: a `Motion` for the groups of space, whole numbers for permutations
and shifts, a sign for time reversal. How it acts on arrays is said by `ace_jax.symmetry.actions`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

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


class Moves(NamedTuple):
  """Where a report moves data along a generator (`ace_jax.symmetry.report`).

  Attributes:
    times: t at which data are moved by exp(t A).
    kind: "circle" of a closed curve; "line" of one that never returns, under which no distribution
      of data is invariant; "steps" where t counts steps of a cyclic group.
  """

  times: tuple[float, ...]
  kind: Literal["circle", "line", "steps"]


POINTS = 16
"""At how many points at most a report looks at a generator."""


def circle() -> Moves:
  """Moves by angles all around, in radians."""
  return Moves(tuple(2 * math.pi * i / POINTS for i in range(1, POINTS)), "circle")


def line(radius: float) -> Moves:
  """Moves up to `radius` both ways, along a curve that never returns."""
  return Moves(tuple(radius * (2 * i / (POINTS - 1) - 1) for i in range(POINTS)), "line")


def steps(count: int) -> Moves:
  """Moves by steps of a cyclic group of `count` elements, all around."""
  return Moves(tuple(range(1, max(2, count), max(1, count // POINTS))), "steps")


@dataclasses.dataclass(frozen=True)
class Group:
  """A group, as far as measuring a symmetry needs it.

  Attributes:
    name: Its name, for reports.
    sample: `sample(key, count)` draws elements from the Haar measure (for translations: from a
      ball), stacked along a leading axis.
    generators: For each generator A of the Lie algebra the curve t -> exp(t A); for cyclic
      groups that of t steps, t a whole number; {} for other discrete groups.
    discrete: Elements that generate what no curve reaches, by name: a reflection, a swap.
    moves: Where a report moves data along each of the `generators`.
  """

  name: str
  sample: Callable[[PRNGKeyArray, int], Any]
  generators: Mapping[str, Callable[[Float[Array, ""]], Any]] = dataclasses.field(
    default_factory=dict
  )
  discrete: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  moves: Mapping[str, Moves] = dataclasses.field(default_factory=dict)

  @property
  def lines(self) -> tuple[str, ...]:
    """Names of the generators under which no distribution of data is invariant."""
    return tuple(name for name, moves in self.moves.items() if moves.kind == "line")


def so2(axis: str = "z") -> Group:
  """Rotations about an axis, "x", "y" or "z"."""

  def sample(key, count):
    angles = jax.random.uniform(key, (count,), maxval=2 * jnp.pi)
    return jax.vmap(lambda t: _turn(axis, t))(angles)

  name = f"rotation_{axis}"
  curves = {name: lambda t: _turn(axis, t)}
  return Group(f"SO(2) about {axis}", sample, curves, moves={name: circle()})


def cyclic_rotations(count: int, axis: str = "z") -> Group:
  """Rotations about an axis by multiples of a full turn over `count`, such as C4."""
  angle = 2 * math.pi / count

  def sample(key, samples):
    return jax.vmap(lambda k: _turn(axis, angle * k))(jax.random.randint(key, (samples,), 0, count))

  discrete = {f"rotation_{axis}_by_{360 / count:g}": _turn(axis, jnp.asarray(angle))}
  return Group(f"C{count} about {axis}", sample, discrete=discrete)


def so3() -> Group:
  """Rotations."""
  curves = _rotations()
  moves = dict.fromkeys(curves, circle())
  return Group(
    "SO(3)", lambda key, count: _motion(random_rotations(key, count)), curves, moves=moves
  )


def o3() -> Group:
  """Rotations and reflections."""

  def sample(key, count):
    turn, flip = jax.random.split(key)
    signs = jax.random.rademacher(flip, (count, 1, 1), jnp.float32)
    return _motion(signs * random_rotations(turn, count))

  curves = _rotations()
  discrete = {"inversion": _motion(-jnp.eye(3))}
  return Group("O(3)", sample, curves, discrete, dict.fromkeys(curves, circle()))


def translations(radius: float = 1.0) -> Group:
  """Translations; drawn uniform from a ball, since the group is not compact.

  Args:
    radius: Of the ball.
  """

  def sample(key, count):
    shift = _ball(key, count, radius)
    return Motion(jnp.broadcast_to(jnp.eye(3), (count, 3, 3)), shift)

  curves = _shifts()
  return Group("translations", sample, curves, moves=dict.fromkeys(curves, line(radius)))


def boosts(speed: float = 1.0) -> Group:
  """Galilean boosts; an element is the velocity u, [3], drawn uniform from a ball.

  Args:
    speed: Radius of the ball.
  """
  curves = {f"boost_{axis}": lambda t, i=i: t * jnp.eye(3)[i] for i, axis in enumerate(_AXES)}
  moves = dict.fromkeys(curves, line(speed))
  return Group("boosts", lambda key, count: _ball(key, count, speed), curves, moves=moves)


def scalings(largest: float = 2.0) -> Group:
  """Scalings; an element is the factor, drawn so that its logarithm is uniform.

  Args:
    largest: Factor; the smallest is its inverse.
  """
  limit = math.log(largest)

  def sample(key, count):
    return jnp.exp(jax.random.uniform(key, (count,), minval=-limit, maxval=limit))

  return Group("scalings", sample, {"scaling": jnp.exp}, moves={"scaling": line(limit)})


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

  order = jnp.arange(count)
  discrete = {}
  if count > 1:
    discrete["swap"] = order.at[jnp.array([0, 1])].set(jnp.array([1, 0]))
  if count > 2:
    discrete["cycle"] = jnp.roll(order, 1)
  return Group(f"S({count})", sample, discrete=discrete)


def cyclic_shifts(height: int, width: int) -> Group:
  """Cyclic shifts of images; an element holds the shifts (down, right)."""

  def sample(key, count):
    return jax.random.randint(key, (count, 2), 0, jnp.array([height, width]))

  generators = {
    "shift_y": lambda t: jnp.stack([t, jnp.zeros_like(t)]),
    "shift_x": lambda t: jnp.stack([jnp.zeros_like(t), t]),
  }
  moves = {"shift_y": steps(height), "shift_x": steps(width)}
  return Group(f"Z({height}) x Z({width})", sample, generators, moves=moves)


def time_reversal() -> Group:
  """Time reversal, Z2: an element is 1 or -1."""

  def sample(key, count):
    return jax.random.rademacher(key, (count,), jnp.float32)

  return Group("time reversal", sample, discrete={"time_reversal": jnp.float32(-1)})


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

  shifts = _shifts()
  moves = {**group.moves, **dict.fromkeys(shifts, line(radius))}
  return Group(name, sample, {**group.generators, **shifts}, group.discrete, moves)


def _ball(key: PRNGKeyArray, count: int, radius: float) -> Float[Array, "count 3"]:
  return radius * jax.random.ball(key, 3, shape=(count,))
