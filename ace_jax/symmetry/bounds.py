"""Bounds on the equivariance error from gamma, and the constants that they need.

A bound from exact constants (linear maps, perceptrons of them) is a certificate over a stated ball
of inputs and a compact group that acts by isometries on every layer's features. From constants
that were measured on samples it is an estimate, and says so. Infinite for translations of
uncentred positions, which leave every ball.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Scalar = float | Float[Array, ""]

ACTIVATION_LIPSCHITZ = {"tanh": 1.0, "relu": 1.0, "silu": 1.0999, "gelu": 1.1290}
"""Largest slopes (of SiLU and of the exact GELU: rounded up)."""


@dataclasses.dataclass(frozen=True)
class LayerConstants:
  """What the bound needs of layer i, f_eq + gamma f_neq.

  Attributes:
    gamma: gamma_i; of a vector its largest absolute entry counts.
    equivariant: M_i, a Lipschitz constant of f_eq.
    relaxation: N_i, a Lipschitz constant of f_neq.
    size: B_i, the largest norm of f_neq over the layer's inputs and their orbit.
    certified: Whether M, N and B are exact, and not measured on samples.
  """

  gamma: Float[Array, "..."] | float
  equivariant: Scalar
  relaxation: Scalar
  size: Scalar
  certified: bool


@dataclasses.dataclass(frozen=True)
class Bound:
  """An upper bound.

  Attributes:
    value: The bound.
    certified: True for a certificate, False for an estimate.
  """

  value: Float[Array, ""]
  certified: bool


def equivariance_bound(layers: Sequence[LayerConstants]) -> Bound:
  """Bounds norm(f(rho_X(g) x) - rho_Y(g) f(x)) over all g and x of the ball.

  .. math:: E_L \\le \\sum_i 2 |\\gamma_i| B_i \\prod_{j > i} (M_j + |\\gamma_j| N_j)

  Args:
    layers: First to last.

  Reference: Manolache et al., NeurIPS 2025, Theorem on the equivariance error, with the constants
  written out: E_i <= (M_i + abs(gamma_i) N_i) E_{i-1} + 2 abs(gamma_i) B_i, E_0 = 0.
  """
  projection = projection_bound(layers)
  return Bound(2 * projection.value, projection.certified)


def projection_bound(layers: Sequence[LayerConstants]) -> Bound:
  """Bounds norm(f_{theta,gamma}(x) - f_{theta,0}(x)) over x of the ball.

  .. math:: \\sum_i |\\gamma_i| B_i \\prod_{j > i} (M_j + |\\gamma_j| N_j)

  Args:
    layers: First to last.
  """
  total = jnp.zeros(())
  for layer in layers:
    gamma = jnp.max(jnp.abs(jnp.asarray(layer.gamma)))
    total = total * (layer.equivariant + gamma * layer.relaxation) + gamma * layer.size
  return Bound(total, all(layer.certified for layer in layers))


def ball_size(value_at_zero: Scalar, lipschitz: Scalar, radius: Scalar) -> Scalar:
  """Bounds norm(f(z)) for norm(z) <= radius by norm(f(0)) + N radius."""
  return value_at_zero + lipschitz * radius


def output_radius(layer: LayerConstants, radius: Scalar) -> Scalar:
  """Returns the radius of the ball that a layer maps the ball of `radius` into.

  f_eq(0) is taken to be 0, as it is for linear equivariant maps without invariant bias.
  """
  gamma = jnp.max(jnp.abs(jnp.asarray(layer.gamma)))
  return layer.equivariant * radius + gamma * layer.size


def operator_norm(kernel: Float[Array, "inputs outputs"]) -> Float[Array, ""]:
  """Returns the largest singular value, the Lipschitz constant of x -> x W."""
  return jnp.linalg.norm(kernel, 2)


def perceptron_lipschitz(params: Mapping[str, Any], activation: str) -> Float[Array, ""]:
  """Returns a Lipschitz constant of a perceptron: the product over its layers.

  Args:
    params: {name: {"kernel": ..., "bias": ...}} of dense layers, such as those of
      `relaxations.MLP`, `Linear` or `LowRank`.
    activation: Name of the activation between layers, see `ACTIVATION_LIPSCHITZ`.

  Raises:
    KeyError: the activation's slope is not known.
  """
  kernels = [layer["kernel"] for layer in params.values()]
  slope = ACTIVATION_LIPSCHITZ[activation] ** (len(kernels) - 1)
  return math.prod((operator_norm(kernel) for kernel in kernels), start=jnp.asarray(slope))


def estimate_lipschitz(
  function: Callable[[Array], Array],
  points: Float[Array, "samples ..."],
  key: PRNGKeyArray,
  iterations: int = 20,
) -> Float[Array, ""]:
  """Estimates a Lipschitz constant from below: the largest spectral norm of the Jacobian.

  Power iteration on J^T J at every point, by forward and reverse differentiation.

  Args:
    function: Maps one point [...] to one output.
    points: Where to look.
    key: Draws the first directions.
    iterations: Power iterations.
  """

  def at(point, direction):
    def step(v, _):
      _, forward = jax.jvp(function, (point,), (v,))
      (back,) = jax.vjp(function, point)[1](forward)
      return back / (jnp.linalg.norm(back) + 1e-30), jnp.linalg.norm(forward)

    v = direction / jnp.linalg.norm(direction)
    _, norms = jax.lax.scan(step, v, length=iterations)
    return norms[-1]

  directions = jax.random.normal(key, points.shape, points.dtype)
  return jnp.max(jax.vmap(at)(points, directions))


def estimate_size(
  function: Callable[[Array], Array], points: Float[Array, "samples ..."]
) -> Float[Array, ""]:
  """Estimates B from below: the largest norm of a relaxation over points and their orbits."""
  outputs = jax.vmap(function)(points)
  return jnp.max(jnp.linalg.norm(outputs.reshape(len(points), -1), axis=1))
