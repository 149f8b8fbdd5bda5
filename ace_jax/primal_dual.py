"""The step: a pure function that moves theta, gamma, slack and multipliers at once.

Written for one device of a mapped axis: with `axis_name`, losses and gradients are averaged over
it, so the same function runs alone, under `jax.shard_map` and under `jax.pmap`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from ace_jax import homotopy, weights
from ace_jax.constraints.base import Constraint, Terms
from ace_jax.state import AceState, Best, Primal
from ace_jax.task import Batch, Scalar, Task

# Independent random streams of a run (`AceState.stream`).
ORDER_STREAM, STEP_STREAM = 0, 1


class Gradients(NamedTuple):
  """The Lagrangian at one point, and its gradients there.

  Attributes:
    loss: Training loss, averaged over the batch of all devices.
    lagrangian: Value of the (augmented) Lagrangian.
    primal: Its gradients for theta, gamma and slack.
    violation: v, its gradient for the multipliers.
    model_state: New `batch_stats` and the like.
    aux: What the constraint hands from its terms to its update.
  """

  loss: Scalar
  lagrangian: Scalar
  primal: Primal
  violation: Any
  model_state: Any
  aux: Any


class StepOutput(NamedTuple):
  """What a step reports.

  Attributes:
    loss: Training loss at the point where the step started.
    lagrangian: The Lagrangian there.
    violation: v there, the violation that drove the multipliers.
    theta_norm: Norm of the gradient for theta.
    gamma_norm: Norm of the gradient for gamma.
  """

  loss: Scalar
  lagrangian: Scalar
  violation: Any
  theta_norm: Scalar
  gamma_norm: Scalar

  def scalars(self) -> list[Scalar]:
    """Returns loss, Lagrangian and the gradients' norms: not finite as soon as anything is not."""
    return [self.loss, self.lagrangian, self.theta_norm, self.gamma_norm]


@dataclasses.dataclass(frozen=True)
class PrimalDual:
  """The primal-dual method for one task: pure functions of a state, without a state of its own.

  Static (hashable): compiled programs depend on it, and all that changes is in the `AceState`.

  Attributes:
    task: Model and loss.
    primal_optimizer: Transformation of a `Primal`, such as `optimizers.primal_adam`.
    dual_optimizer: Transformation of the multipliers, such as `optimizers.dual_optimizer`.

  Reference: Manolache et al., NeurIPS 2025, Algorithm 1 and 2.
  """

  task: Task
  primal_optimizer: optax.GradientTransformation
  dual_optimizer: optax.GradientTransformation

  def init(
    self, variables: homotopy.Variables, constraint: Constraint, key: PRNGKeyArray
  ) -> AceState:
    """Starts a run: multipliers and slack at 0, gamma as the model initialised it.

    Args:
      variables: What `model.init` returned; without the collection `gamma` the model is strict.
      constraint: One of `ace_jax.constraints`.
      key: Drives the order of samples and whatever is random in training.
    """
    # Copies, since the state's buffers are donated and must be neither shared nor the caller's.
    theta, gamma, model_state = _copy(homotopy.split(variables))
    primal = Primal(theta, gamma, constraint.init_slack(gamma))
    multipliers = constraint.init_multipliers(gamma)
    state = AceState(
      primal=primal,
      multipliers=multipliers,
      primal_state=self.primal_optimizer.init(primal),  # pyright: ignore[reportArgumentType]
      dual_state=self.dual_optimizer.init(multipliers),
      model_state=model_state,
      constraint=_copy(constraint),
      constraint_state=constraint.init_state(gamma),
      key=jax.random.key_data(key),
      step=jnp.int32(0),
      epoch=jnp.int32(0),
      active=jnp.array(True),
      failed=jnp.int32(0),
      best={},
    )
    worst = jnp.inf if self.task.mode == "min" else -jnp.inf
    best = {name: _never_evaluated(kept, worst) for name, kept in state.current().items()}
    return state.replace(best=best)  # pyright: ignore[reportAttributeAccessIssue]

  def gradients(self, state: AceState, batch: Batch, axis_name: str | None = None) -> Gradients:
    """Returns the gradients of the Lagrangian for every block, all at the same point.

    Args:
      state: The point.
      batch: The samples of this device.
      axis_name: Mapped axis that shares the batch; None on one device.
    """
    key = jax.random.fold_in(state.stream(STEP_STREAM), state.step)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    loss = weights.for_means(self.task.loss, axis_name)
    task = dataclasses.replace(self.task, loss=loss)

    def value(primal: Primal):
      terms = state.constraint.terms(
        task, primal, state.model_state, batch, key, state.constraint_state
      )
      # Averaged *before* it is differentiated. Under shard_map the gradients of replicated
      # parameters arrive summed over devices; only this order is right there and under pmap.
      terms = _mean(terms, axis_name)
      return lagrangian(state.constraint, terms, state.multipliers), terms

    (value_here, terms), grads = jax.value_and_grad(value, has_aux=True)(state.primal)
    return Gradients(
      loss=terms.loss,
      lagrangian=value_here,
      primal=_mean(grads, axis_name),
      violation=terms.violation,
      model_state=terms.model_state,
      aux=terms.aux,
    )

  def apply_gradients(self, state: AceState, gradients: Gradients) -> tuple[AceState, StepOutput]:
    """Moves every block by its optimizer, then lets the constraint project.

    Args:
      state: The point at which `gradients` were taken.
      gradients: What `gradients(state, batch)` returned.
    """
    updates, primal_state = optax.with_extra_args_support(self.primal_optimizer).update(
      gradients.primal,  # pyright: ignore[reportArgumentType]
      state.primal_state,
      state.primal,  # pyright: ignore[reportArgumentType]
      value=gradients.loss,
    )
    primal = optax.apply_updates(state.primal, updates)  # pyright: ignore[reportArgumentType]
    multipliers, dual_state = ascend(
      self.dual_optimizer, gradients.violation, state.multipliers, state.dual_state
    )
    primal, multipliers, constraint_state = state.constraint.update(
      primal, multipliers, state.constraint_state, gradients.aux, state.step
    )
    output = StepOutput(
      loss=gradients.loss,
      lagrangian=gradients.lagrangian,
      violation=gradients.violation,
      theta_norm=optax.tree.norm(gradients.primal.theta),
      gamma_norm=_norm(gradients.primal.gamma),
    )
    state = state.replace(  # pyright: ignore[reportAttributeAccessIssue]
      primal=primal,
      multipliers=multipliers,
      primal_state=primal_state,
      dual_state=dual_state,
      model_state=gradients.model_state,
      constraint_state=constraint_state,
      step=state.step + 1,
    )
    return state, output

  def step(
    self, state: AceState, batch: Batch, axis_name: str | None = None
  ) -> tuple[AceState, StepOutput]:
    """One step: `gradients`, then `apply_gradients`.

    With every gradient taken at the same point (theta, gamma, u, lambda),

    .. math::
       \\theta, \\gamma, u \\leftarrow [\\, \\cdot - opt(\\nabla L) ]_U, \\qquad
       \\lambda \\leftarrow [\\lambda + opt(v)]_\\Lambda

    Args:
      state: The run before the step.
      batch: The samples of this device.
      axis_name: Mapped axis that shares the batch; None on one device.

    Returns:
      The run after the step, and what happened.
    """
    return self.apply_gradients(state, self.gradients(state, batch, axis_name))


def _never_evaluated(variables: dict[str, Any], worst: float) -> Best:
  return Best(jnp.full((), worst, jnp.float32), jnp.int32(0), jnp.int32(0), _copy(variables))


def _copy(tree: Any) -> Any:
  # An explicit dtype, since a weakly typed leaf would compile every program twice.
  return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x)), tree)


def _mean(tree: Any, axis_name: str | None) -> Any:
  if axis_name is None:
    return tree

  def mean(x):
    floating = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return jax.lax.pmean(x, axis_name) if floating else jax.lax.pmax(x, axis_name)

  return jax.tree.map(mean, tree)


def _norm(tree: Any) -> Scalar:
  return optax.tree.norm(tree) if jax.tree.leaves(tree) else jnp.zeros(())


def lagrangian(constraint: Constraint, terms: Terms, multipliers: Any) -> Scalar:
  """Evaluates the (augmented) empirical Lagrangian.

  .. math:: L = loss + cost + \\sum_i \\lambda_i v_i + \\frac{c}{2} \\sum_i e(v_i)^2

  where e(v) is v for an equality and [v]_+ for an inequality, and c is `constraint.augmented`.

  Args:
    constraint: Which constraints, and c.
    terms: loss, cost and violation at the point.
    multipliers: lambda, a tree like the violation.

  Reference: Manolache et al., NeurIPS 2025, Eq. (3); augmented term: Hestenes, 1969.
  """
  weighted = jax.tree.map(lambda m, v: jnp.sum(m * v), multipliers, terms.violation)
  excess = jax.tree.map(lambda e: jnp.sum(jnp.square(e)), constraint.excess(terms.violation))
  penalty = 0.5 * constraint.augmented * _total(excess)
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
