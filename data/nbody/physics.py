"""The physics of the N-body tasks: charged particles and gravity, all trajectories at once.

Lengths, times and charges are dimensionless. Arrays inside have shape [3, particles, trajectories]:
the longest axis last, so that every operation runs over contiguous memory.

Sources: charged particles, Kipf et al., "Neural Relational Inference", ICML 2018, with the
settings of Satorras et al., "E(n) Equivariant Graph Neural Networks", ICML 2021; gravity,
Brandstetter et al., "Geometric and Physical Quantities Improve E(3) Equivariant Message Passing",
ICLR 2022.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from data.requests import Breaking

DT = 0.001
STEPS_PER_FRAME = 100
MAX_FORCE = 100.0
BOX = 5.0
INITIAL_SPEED = 0.5
SOFTENING = 0.1
DRAG = 0.1

Particles = Float[Array, "3 particles trajectories"]


@dataclasses.dataclass(frozen=True)
class Physics:
  """Everything that decides the motion from given initial values.

  Attributes:
    system: "charged" or "gravity".
    clip: How the total force on a charged particle is clipped at 100: by "component" (as
      published; breaks rotations in near-collisions) or by "norm".
    breaking: A field that breaks the symmetry.
  """

  system: str = "charged"
  clip: str = "component"
  breaking: Breaking = dataclasses.field(default_factory=Breaking)


class Motion(NamedTuple):
  """Positions, velocities, and what rounding has taken from each so far (Kahan's compensation)."""

  positions: Particles
  velocities: Particles
  lost_positions: Particles
  lost_velocities: Particles


def start(positions: Particles, velocities: Particles) -> Motion:
  """Returns the motion at the start of a simulation: nothing lost to rounding yet."""
  return Motion(positions, velocities, jnp.zeros_like(positions), jnp.zeros_like(velocities))


def acceleration(
  physics: Physics,
  positions: Particles,
  velocities: Particles,
  charges: Float[Array, "particles trajectories"],
) -> Particles:
  """Returns the acceleration of every particle (unit masses).

  Charged: F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3, clipped at 100. Gravity:
  F_i = sum_j m_j (x_j - x_i) / (|x_i - x_j|^2 + 0.01)^(3/2). Pair forces first, then anisotropy,
  clip, and the fields.

  Args:
    physics: Which forces.
    positions: x.
    velocities: v (drag depends on them).
    charges: Charges q, or masses m.
  """
  count = positions.shape[1]
  force = jnp.zeros_like(positions)
  # Rolling by k pairs particle i with i - k: shifts 1 .. n // 2 meet every pair once, and for an
  # even n the last one meets each twice.
  for k in range(1, count // 2 + 1):
    separation = positions - jnp.roll(positions, k, axis=1)
    strength = _pair_strength(physics.system, separation, charges * jnp.roll(charges, k, axis=0))
    if 2 * k == count:
      strength = strength / 2
    pair = strength * separation
    force = force + pair - jnp.roll(pair, -k, axis=1)
  kind, size = physics.breaking.kind, physics.breaking.strength
  if kind == "anisotropy":
    force = force.at[0].multiply(1 + size)
  if physics.system == "charged":
    force = _clip(force, physics.clip)
  if kind == "gravity":
    force = force.at[2].add(-size)
  if kind == "wind":
    force = (force - DRAG * velocities).at[0].add(DRAG * size)
  return force


def _pair_strength(system: str, separation, products):
  squared = jnp.sum(separation * separation, axis=0)
  if system == "charged":
    return products / (squared * jnp.sqrt(squared))
  squared = squared + SOFTENING**2
  return -products / (squared * jnp.sqrt(squared))


def _clip(force: Particles, how: str) -> Particles:
  if how == "component":
    return jnp.clip(force, -MAX_FORCE, MAX_FORCE)
  norm = jnp.sqrt(jnp.sum(force * force, axis=0))
  return force * jnp.minimum(1.0, MAX_FORCE / jnp.maximum(norm, 1e-30))


def advance(physics: Physics, motion: Motion, charges: Array, steps: int) -> Motion:
  """Advances all trajectories by a number of steps of dt = 0.001.

  Charged: v += dt F(x), then x += dt v. Gravity: half kick, drift, half kick.

  Args:
    physics: Which forces.
    motion: Where the particles are.
    charges: Charges or masses, [particles, trajectories].
    steps: How many steps.
  """

  def kick(motion, fraction):
    force = acceleration(physics, motion.positions, motion.velocities, charges)
    velocities, lost = _add(motion.velocities, motion.lost_velocities, fraction * DT * force)
    return motion._replace(velocities=velocities, lost_velocities=lost)

  def drift(motion):
    positions, lost = _add(motion.positions, motion.lost_positions, DT * motion.velocities)
    return motion._replace(positions=positions, lost_positions=lost)

  def step(_, motion):
    if physics.system == "charged":
      return drift(kick(motion, 1.0))
    return kick(drift(kick(motion, 0.5)), 0.5)

  return jax.lax.fori_loop(0, steps, step, motion)


def _add(total, lost, increment):
  """Kahan's compensated sum: adds an increment, and what earlier roundings lost."""
  increment = increment - lost
  new = total + increment
  return new, (new - total) - increment


def energy(physics: Physics, motion: Motion, charges: Array) -> tuple[Array, Array]:
  """Returns the energy without breaking, and kinetic + sum |pairs| as its scale.

  Args:
    physics: Which system.
    motion: Where the particles are.
    charges: Charges or masses.
  """
  kinetic = 0.5 * jnp.sum(jnp.square(motion.velocities), axis=(0, 1))
  first, second = jnp.triu_indices(motion.positions.shape[1], 1)
  squared = jnp.sum(jnp.square(motion.positions[:, first] - motion.positions[:, second]), axis=0)
  if physics.system == "gravity":
    squared = squared + SOFTENING**2
  sign = 1 if physics.system == "charged" else -1
  pairs = sign * charges[first] * charges[second] / jnp.sqrt(squared)
  return kinetic + jnp.sum(pairs, axis=0), kinetic + jnp.sum(jnp.abs(pairs), axis=0)


def initial(
  system: str, particles: int, seed: Array, index: Array
) -> tuple[Particles, Particles, Float[Array, "particles trajectories"]]:
  """Draws initial positions, velocities and charges (or masses) of trajectories.

  Trajectory i depends on the seed and on i alone.

  Args:
    system: "charged" or "gravity".
    particles: Particles in a trajectory.
    seed: Seed of the data set.
    index: Indices of the trajectories, [trajectories].
  """

  def draw(i):
    key = jax.random.fold_in(jax.random.key(seed), i)
    for_positions, for_velocities, for_charges = jax.random.split(key, 3)
    positions = jax.random.normal(for_positions, (3, particles))
    velocities = jax.random.normal(for_velocities, (3, particles))
    if system == "gravity":
      velocities = velocities - jnp.mean(velocities, axis=1, keepdims=True)
      return positions, velocities, jnp.ones((particles,))
    positions = jnp.clip(positions * (particles / 5) ** (1 / 3), -BOX, BOX)
    velocities = INITIAL_SPEED * velocities / jnp.linalg.norm(velocities, axis=0)
    charges = jax.random.rademacher(for_charges, (particles,), jnp.float32)
    return positions, velocities, charges

  return jax.vmap(draw, out_axes=-1)(index)
