"""The empirical Lagrangian, and the dual ascent that moves the multipliers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ace_jax.constraints import Formulation, Terms

Scalar = Float[Array, ""]


def lagrangian(formulation: Formulation, terms: Terms, multipliers: Any) -> Scalar:
  """Evaluates the (augmented) empirical Lagrangian.

  .. math:: L = loss + cost + \\sum_i \\lambda_i v_i + \\frac{c}{2} \\sum_i e(v_i)^2

  where e(v) is v for an equality and [v]_+ for an inequality, and c is `formulation.augmented`.

  Args:
    formulation: Which constraints, and c.
    terms: loss, cost and violation at the point.
    multipliers: lambda, a tree like the violation.

  Reference: Manolache et al., NeurIPS 2025, Eq. (3); augmented term: Hestenes, 1969.
  """
  weighted = jax.tree.map(lambda m, v: jnp.sum(m * v), multipliers, terms.violation)
  excess = jax.tree.map(lambda e: jnp.sum(jnp.square(e)), formulation.excess(terms.violation))
  penalty = 0.5 * formulation.augmented * _total(excess)
  return terms.loss + terms.cost + _total(weighted) + penalty


def _total(tree: Any) -> Scalar:
  return sum(jax.tree.leaves(tree), jnp.zeros(()))


def ascend(
  optimizer: optax.GradientTransformation, violation: Any, multipliers: Any, state: Any
) -> tuple[Any, Any]:
  """Moves the multipliers up: lambda + update, where the optimizer sees -v as a gradient.

  Args:
    optimizer: Any gradient transformation; `optax.sgd` is textbook dual ascent.
    violation: v, the gradient of the Lagrangian in lambda.
    multipliers: lambda, a tree like v.
    state: The optimizer's state.

  Returns:
    (multipliers, state), the multipliers not yet projected.
  """
  descent = jax.tree.map(jnp.negative, violation)
  updates, state = optimizer.update(descent, state, multipliers)
  return optax.apply_updates(multipliers, updates), state


class NuPIState(NamedTuple):
  """Moving average xi of the gradients."""

  average: Any


def nu_pi(learning_rate: Any, proportional: Any = 0.0, nu: Any = 0.0) -> Any:
  """The nu-PI update of multipliers: an integral and a smoothed proportional term.

  .. math:: \\xi_t = \\nu \\xi_{t-1} + (1 - \\nu) v_t, \\quad
     \\lambda \\mathrel{+}= \\kappa_i v_t + \\kappa_p (\\xi_t - \\xi_{t-1}), \\quad \\xi_{-1} = 0

  Args:
    learning_rate: kappa_i; with kappa_p = 0 this is `optax.sgd`.
    proportional: kappa_p; damps the oscillation of the multipliers.
    nu: Smoothing in [0, 1) (the paper also allows negative values).

  Returns:
    An `optax.GradientTransformation`.

  Reference: Sohrabi et al., "On PI Controllers for Updating Lagrange Multipliers in Constrained
  Optimization", ICML 2024, Algorithm 1.
  """

  def init(params):
    return NuPIState(jax.tree.map(jnp.zeros_like, params))

  def update(gradients, state, params=None):
    del params
    average = jax.tree.map(lambda xi, g: nu * xi + (1 - nu) * g, state.average, gradients)
    updates = jax.tree.map(
      lambda g, new, old: -learning_rate * g - proportional * (new - old),
      gradients,
      average,
      state.average,
    )
    return updates, NuPIState(average)

  return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def dual_optimizer(name: str, learning_rate: float, **options: float) -> Any:
  """Builds the optimizer of the multipliers, its step size kept in its state.

  Args:
    name: "sgd", "adam" or "nu_pi".
    learning_rate: Dual step size.
    **options: Further arguments of `optax.sgd`, `optax.adam` or `nu_pi`.

  Raises:
    ValueError: the name is unknown.
  """
  rules = {"sgd": optax.sgd, "adam": optax.adam, "nu_pi": nu_pi}
  if name not in rules:
    raise ValueError(f"dual optimizer {name!r} is unknown; choose one of {', '.join(rules)}.")
  return optax.inject_hyperparams(rules[name])(learning_rate=learning_rate, **options)
