"""Optimizers of the multipliers and of the primal blocks, their step sizes in their states."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ace_jax.errors import ConfigurationError, first_line
from ace_jax.state import Primal

__all__ = ["dual_optimizer", "in_real_float32", "nu_pi", "primal_adam", "primal_optimizer"]


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
  return _clipped_and_decayed(move, clip_norm, decay)


def primal_optimizer(
  optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation],
  lr: float | None = None,
  gamma_lr: float | None = None,
  slack_lr: float | None = None,
  clip_norm: float | None = None,
  decay: optax.Schedule | None = None,
) -> optax.GradientTransformation:
  """Any transformation for each primal block, and Adam for those that have none.

  Each sees its own block alone, as a tree of parameters, and the training loss as `value`.

  Args:
    optimizer: Of theta; or of several blocks by name, "theta", "gamma" and "slack".
    lr: Adam step size of theta, and of blocks without one of their own; 1e-3 by default.
    gamma_lr: Adam step size of gamma.
    slack_lr: Adam step size of the slack.
    clip_norm: Largest norm of the gradients for theta and gamma together; None does not clip.
    decay: Factor of all updates by the number of steps done; None keeps them.

  Returns:
    A transformation of `Primal`.

  Raises:
    ConfigurationError: a block is unknown, what moves it is no transformation, or a step size is
      given for a block that has an optimizer.
  """
  given = dict(optimizer) if isinstance(optimizer, Mapping) else {"theta": optimizer}
  rates = {"theta": lr, "gamma": gamma_lr, "slack": slack_lr}
  names = {"theta": "lr", "gamma": "gamma_lr", "slack": "slack_lr"}
  blocks = {}
  for name, transformation in given.items():
    if name not in rates:
      raise ConfigurationError(f"optimizer has {name!r}; it moves theta, gamma and slack.")
    if isinstance(transformation, optax.MultiSteps):
      transformation = transformation.gradient_transformation()
    if not isinstance(transformation, optax.GradientTransformation):
      raise ConfigurationError(
        f"the optimizer of {name} is a {type(transformation).__name__}; give a transformation such "
        "as optax.adamw(1e-3)."
      )
    if rates[name] is not None:
      raise ConfigurationError(
        f"{names[name]} is a step size of Adam, but {name} has an optimizer; leave one out."
      )
    blocks[name] = transformation
  for name, rate in rates.items():
    default = 1e-3 if lr is None else lr
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=default if rate is None else rate)
    blocks.setdefault(name, adam)
  return _clipped_and_decayed(_of_blocks(Primal(**blocks)), clip_norm, decay)


def check_moves(optimizer: optax.GradientTransformation, primal: Primal) -> None:
  """Tries, without computing anything, whether a transformation moves these parameters.

  Args:
    optimizer: Of `primal_optimizer`.
    primal: theta, gamma and slack.

  Raises:
    ConfigurationError: it does not; says why.
  """
  inner = optax.with_extra_args_support(optimizer)

  def moved(primal: Any, value: Any) -> Any:
    return inner.update(primal, inner.init(primal), primal, value=value)

  try:
    jax.eval_shape(moved, primal, jnp.zeros(()))
  except Exception as error:
    raise ConfigurationError(
      f"the optimizer cannot move these parameters ({first_line(error)}); it gets gradients, "
      "parameters, and the training loss as `value`."
    ) from error


def _of_blocks(blocks: Primal) -> optax.GradientTransformationExtraArgs:
  """Moves each block by its own transformation, which sees nothing of the others."""
  blocks = Primal(*map(optax.with_extra_args_support, blocks))

  def init(params: Any) -> Any:
    return Primal(*(block.init(part) for block, part in zip(blocks, params, strict=True)))

  def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    moved = [
      block.update(*parts, **extra)
      for block, *parts in zip(blocks, updates, state, params, strict=True)
    ]
    return Primal(*(new for new, _ in moved)), Primal(*(new for _, new in moved))

  return optax.GradientTransformationExtraArgs(init, update)


def _clipped_and_decayed(
  move: optax.GradientTransformation, clip_norm: float | None, decay: optax.Schedule | None
) -> optax.GradientTransformation:
  if clip_norm is not None:
    clip = optax.masked(optax.clip_by_global_norm(clip_norm), Primal(True, True, False))
    move = optax.chain(clip, move)
  if decay is not None:
    move = optax.chain(move, optax.scale_by_schedule(decay))
  return in_real_float32(move)


def in_real_float32(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Runs a transformation on real numbers of 32 bits at least; moments and step sizes too.

  In bfloat16 Adam's b2 = 0.999 is 1, in float16 its eps = 1e-8 is 0: both end in NaN. A complex
  leaf is moved as its real and imaginary parts, along the conjugate of what `jax.grad` returns.
  All other leaves pass as they are. Parameters keep their dtype, in which a small step can be lost.
  """

  def real(leaf, conjugate=False):
    if jnp.iscomplexobj(leaf):
      return jnp.stack([leaf.real, -leaf.imag if conjugate else leaf.imag])
    return leaf.astype(jnp.float32) if leaf.dtype in (jnp.bfloat16, jnp.float16) else leaf

  inner = optax.with_extra_args_support(inner)

  def init(params):
    return inner.init(jax.tree.map(real, params))

  def update(updates, state, params=None, **extra):
    descent = jax.tree.map(lambda g: real(g, conjugate=True), updates)
    here = None if params is None else jax.tree.map(real, params)
    moved, state = inner.update(descent, state, here, **extra)

    def back(update, gradient):
      return update[0] + 1j * update[1] if jnp.iscomplexobj(gradient) else update

    return jax.tree.map(back, moved, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def _decaying_sgd(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
