"""An epoch of training and an evaluation, each as one device program for all replicas.

Every compiled function takes and returns trees with a leading axis of replicas
(`parallel.stack`); what is written here is what happens to one of them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ace_jax import weights
from ace_jax.homotopy import Variables
from ace_jax.primal_dual import ORDER_STREAM, PrimalDual
from ace_jax.state import AceState, Best
from ace_jax.task import Batch, Task, size, take
from ace_jax.training import parallel


def compile_epoch(method: PrimalDual, mesh: Mesh, batch_size: int):
  """Compiles `epoch(state, data) -> (state, outputs)`; the state is donated.

  All steps of an epoch are one `lax.scan`. The order is one permutation of all samples, a
  function of the run's key and the epoch alone; the last incomplete batch is dropped. A replica
  that is not active comes back as it was. So does one that meets a number that is not finite;
  `failed` then holds the epoch, and it is no longer active.

  Args:
    method: Task and optimizers.
    mesh: Devices; they share every batch.
    batch_size: Samples in a batch, over all devices.

  Returns:
    The compiled function; its outputs are a `StepOutput` with leading axes of replicas and steps.

  Raises:
    ConfigurationError: the batch does not divide over the devices.
  """
  parallel.check_divides(batch_size, mesh)
  devices = mesh.shape[parallel.DATA]

  def epoch(state: AceState, data: Batch):
    samples = size(data)
    steps = samples // batch_size
    key = jax.random.fold_in(state.stream(ORDER_STREAM), state.epoch)
    order = jax.random.permutation(key, samples)[: steps * batch_size]
    order = order.reshape(steps, devices, batch_size // devices)
    order = order[:, jax.lax.axis_index(parallel.DATA)]

    def step(state, index):
      batch = take(data, index)
      return method.step(state, batch, parallel.DATA)

    constraint_state = state.constraint.begin_epoch(state.multipliers, state.constraint_state)
    begun = state.replace(constraint_state=constraint_state)  # pyright: ignore[reportAttributeAccessIssue]
    trained, outputs = jax.lax.scan(step, begun, order)
    finite = jnp.all(jnp.isfinite(jnp.stack(outputs.scalars())))
    return end_epoch((trained, state, finite)), outputs

  return parallel.over_replicas(epoch, mesh, donate_argnums=(0,))


def end_epoch(ends: tuple[AceState, AceState, Any]) -> AceState:
  """Returns the state after an epoch: the trained one, or if it failed or stopped that of before.

  Args:
    ends: The trained state, that of before, and whether all that the steps reported is finite.
  """
  trained, state, finite = ends
  trained = trained.replace(epoch=state.epoch + 1)  # pyright: ignore[reportAttributeAccessIssue]
  going = state.active & finite
  keep = jax.tree.map(lambda new, old: jnp.where(going, new, old), trained, state)
  return _fail(keep, state.active & ~finite, state.epoch + 1)


def _fail(state: AceState, failing: Any, epoch: Any) -> AceState:
  failed = jnp.where(failing, epoch, state.failed)
  return state.replace(failed=failed, active=state.active & ~failing)  # pyright: ignore[reportAttributeAccessIssue]


def compile_evaluation(
  task: Task,
  mesh: Mesh,
  batch_size: int,
  patience: int | None = None,
  metrics: Mapping[str, Callable[[Any, Batch], Any]] = MappingProxyType({}),
):
  """Compiles `evaluate(state, data) -> (state, errors, named)`; the state is donated.

  Evaluates every predictor on all samples, keeps for each the variables of its lowest error,
  and makes a replica inactive once every predictor has stalled for `patience` evaluations. One
  whose error is not finite fails, as in an epoch.

  Args:
    task: Model and metric.
    mesh: Devices; they share the samples.
    batch_size: Samples evaluated at once, over all devices (at most; does not change results).
    patience: Evaluations without improvement that are waited for; None never stops.
    metrics: What `named` is of, {"NAME/PREDICTOR": mean}; where there are some, the task's metric
      is among them.
  """
  mean_error = _means(task.errors_of(metrics), mesh, batch_size)

  def evaluate(state: AceState, data: Batch):
    means = {name: mean_error(variables, data) for name, variables in state.current().items()}
    errors, named = by_metric(task, means, metrics)
    return select(task, state, errors, patience), errors, named

  return parallel.over_replicas(evaluate, mesh, donate_argnums=(0,))


def by_metric(
  task: Task, means: dict[str, Any], metrics: Mapping[str, Callable[[Any, Batch], Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the mean of the metric that selects by predictor, and all that have names.

  Args:
    task: Its metric selects.
    means: Of `task.errors_of(metrics)`, by predictor.
    metrics: By name.
  """
  if not metrics:
    return means, {}
  selecting = next(name for name, metric in metrics.items() if metric is task.metric)
  errors = {predictor: values[selecting] for predictor, values in means.items()}
  named = {f"{name}/{key}": values[name] for name in metrics for key, values in means.items()}
  return errors, named


def select(task: Task, state: AceState, errors: dict[str, Any], patience: int | None) -> AceState:
  """Returns the state after an evaluation: with what is best, still active or not.

  Args:
    task: Says which errors are better.
    state: The one that was evaluated.
    errors: Mean error of every predictor.
    patience: As of `compile_evaluation`.
  """
  best = dict(state.best)  # after a finish has begun, more than are trained
  for name, variables in state.current().items():
    best[name] = _better(task.mode, state.best[name], errors[name], state.epoch, variables)
  active = state.active
  if patience is not None:
    going = [best[name].stalled < patience for name in errors]
    active = active & jnp.any(jnp.stack(going))
  kept = jax.tree.map(lambda new, old: jnp.where(state.active, new, old), best, state.best)
  failing = state.active & ~jnp.all(jnp.isfinite(jnp.stack(list(errors.values()))))
  state = state.replace(best=kept, active=active)  # pyright: ignore[reportAttributeAccessIssue]
  return _fail(state, failing, state.epoch)


def compile_errors(task: Task, mesh: Mesh, batch_size: int):
  """Compiles `errors(predictors, data) -> {name: mean error}`, without touching a state.

  Args:
    task: Model and metric.
    mesh: Devices; they share the samples.
    batch_size: Samples evaluated at once, over all devices.

  Returns:
    The compiled function; predictors are `AceState.current()` or `AceState.selected()` of a state
    with replicas, and errors have a leading axis of replicas.
  """
  return compile_means(task.errors_of({}), mesh, batch_size)


def compile_means(
  errors: Callable[[Variables, Batch], Any], mesh: Mesh, batch_size: int
) -> Callable[..., dict[str, Any]]:
  """Compiles `means(predictors, data) -> {predictor: means over samples}`, as `compile_errors`.

  Args:
    errors: `errors(variables, batch)`, a tree of arrays [samples] or `weights.Weighted`.
    mesh: Devices; they share the samples.
    batch_size: Samples evaluated at once, over all devices.
  """
  of_samples = _means(errors, mesh, batch_size)

  def means(predictors: dict[str, Any], data: Batch):
    return {name: of_samples(variables, data) for name, variables in predictors.items()}

  return parallel.over_replicas(means, mesh)


def _means(errors: Callable[[Variables, Batch], Any], mesh: Mesh, batch_size: int):
  devices = mesh.shape[parallel.DATA]
  share = max(1, batch_size // devices)

  def means(variables: Variables, data: Batch) -> Any:
    samples = size(data)
    chunks = -(-samples // (share * devices))
    # The last chunk is filled up with copies of the last sample, which weigh nothing.
    index = jnp.arange(chunks * devices * share).reshape(chunks, devices, share)
    index = index[:, jax.lax.axis_index(parallel.DATA)]

    def total(index):
      batch = take(data, jnp.minimum(index, samples - 1))
      values = errors(variables, batch)
      return jax.tree.map(lambda v: weights.summed(v, index < samples), values)

    sums = jax.lax.map(total, index)
    sums = jax.tree.map(lambda s: jax.lax.psum(jnp.sum(s), parallel.DATA), sums)
    return weights.means(sums, samples)

  return means


def _better(mode: str, best: Best, error: Float[Array, ""], epoch, variables) -> Best:
  better = error < best.error if mode == "min" else error > best.error  # False for a NaN
  candidate = Best(error, epoch, jnp.zeros_like(best.stalled), variables)
  old = best.replace(stalled=best.stalled + 1)  # pyright: ignore[reportAttributeAccessIssue]
  return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, old)
