"""Optimizers of the multipliers and of the primal blocks, their step sizes in their states."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ace_jax.state import Primal

__all__ = ["dual_optimizer", "nu_pi", "primal_adam"]


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


def primal_adam(
  learning_rate: float,
  gamma_lr: float | None = None,
  slack_lr: float | None = None,
  clip_norm: float | None = None,
  decay: optax.Schedule | None = None,
  gamma_optimizer: str = "adam",
  weight_decay: float | None = None,
  theta_optimizer: str = "adam",
) -> optax.GradientTransformation:
  """Adam on every primal block, each with a step size of its own that rides in the state.

  Args:
    learning_rate: Step size of theta.
    gamma_lr: Step size of gamma; that of theta by default.
    slack_lr: Step size of the slack; that of theta by default.
    clip_norm: Largest norm of the gradients for theta and gamma together; None does not clip.
    decay: Factor of all three step sizes by the number of steps done, such as
      `optax.cosine_decay_schedule(1.0, steps)`; None keeps them.
    gamma_optimizer: "adam", or "sgd" (without momentum) for gamma alone.
    weight_decay: w of a decoupled decay of theta, which each step also moves by -step size w theta
      (AdamW: Loshchilov and Hutter, ICLR 2019); None has none.
    theta_optimizer: "adam", or "sgd" (without momentum) for theta alone.

  Returns:
    A transformation of `Primal`.

  Raises:
    ValueError: the optimizer of theta or gamma is unknown.
  """
  rules = {"adam": optax.adam, "sgd": optax.sgd}
  decaying = {"adam": optax.adamw, "sgd": _decaying_sgd}
  for block, name in (("theta", theta_optimizer), ("gamma", gamma_optimizer)):
    if name not in rules:
      raise ValueError(f"optimizer {name!r} of {block} is unknown; choose adam or sgd.")
  rates = {"theta": learning_rate, "gamma": gamma_lr, "slack": slack_lr}
  chosen = {"theta": rules[theta_optimizer], "gamma": rules[gamma_optimizer], "slack": optax.adam}
  blocks = {
    name: optax.inject_hyperparams(chosen[name])(
      learning_rate=learning_rate if rate is None else rate
    )
    for name, rate in rates.items()
  }
  if weight_decay is not None:
    rule = optax.inject_hyperparams(decaying[theta_optimizer])
    blocks["theta"] = rule(learning_rate=learning_rate, weight_decay=weight_decay)
  labels = Primal("theta", "gamma", "slack")
  move = optax.partition(blocks, labels)  # pyright: ignore[reportArgumentType]
  if clip_norm is not None:
    clip = optax.masked(optax.clip_by_global_norm(clip_norm), Primal(True, True, False))
    move = optax.chain(clip, move)
  return move if decay is None else optax.chain(move, optax.scale_by_schedule(decay))


def _decaying_sgd(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
