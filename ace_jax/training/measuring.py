"""What is measured of a trained model, and by `fit` beside the metric that selects."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ace_jax import compiling
from ace_jax.errors import ConfigurationError, did_you_mean, first_line
from ace_jax.state import AceState
from ace_jax.task import Batch, Task
from ace_jax.training import epochs, hosts, parallel, sources
from ace_jax.training.loaders import Loader

Metric = Callable[[Any, Batch], jax.Array]
Measure = Callable[[Callable[[Batch], Any], Batch], Mapping[str, Any]]
"""`measure(predict, valid)`: numbers by name."""
RESERVED = ("valid", "gamma", "multiplier", "slack", "violation", "gradient_norm", "test")
"""Kinds of numbers that every record has, or may have."""


def selected(
  metric: Metric | Mapping[str, Metric] | None, select: str | None
) -> tuple[Metric | None, dict[str, Metric]]:
  """Returns the metric that selects predictors, and all metrics by name where they have names.

  Args:
    metric: One, or several by name; None is the loss.
    select: Name of that which selects; may be left out where there is but one.

  Raises:
    ConfigurationError: it is missing or unknown (named with the nearest known one), or a name is
      that of something else.
  """
  if not isinstance(metric, Mapping):
    if select is not None:
      raise ConfigurationError(
        f"select={select!r} names one of several metrics; give metric={{{select!r}: ...}}."
      )
    return metric, {}
  if not metric:
    raise ConfigurationError("metric has no entry; give some, or leave it out to take the loss.")
  for name in metric:
    _check_name(name, "metric")
  known = ", ".join(metric)
  if select is None and len(metric) > 1:
    raise ConfigurationError(f"metric has {known}; say with select= which of them selects.")
  name = next(iter(metric)) if select is None else select
  if name not in metric:
    advice = did_you_mean(name, metric) or f"choose one of {known}."
    raise ConfigurationError(f"select={select!r} is none of the metrics; {advice}")
  return metric[name], dict(metric)


def _check_name(name: Any, what: str) -> None:
  if not isinstance(name, str) or not name:
    raise ConfigurationError(f"{what} has the name {name!r}; names are text.")
  if name.partition("/")[0] in RESERVED:
    raise ConfigurationError(f"{what} has the name {name!r}, which records use; choose another.")


def test_errors(
  task: Task,
  state: AceState,
  test: Batch,
  batch_size: int = 500,
  mesh: Mesh | None = None,
  metrics: Mapping[str, Callable[[Any, Batch], Any]] = MappingProxyType({}),
) -> list[dict[str, float]]:
  """Returns for each replica each predictor's test error, at its own lowest validation error.

  Args:
    task: Model and metric.
    state: A trained state, with a leading axis of replicas.
    test: Test samples.
    batch_size: Samples evaluated at once.
    mesh: Devices.
    metrics: What to return of every predictor as NAME/PREDICTOR too, the task's metric among them.
  """
  return test_errors_of_sets(task, state, {"": test}, batch_size, mesh, metrics)[""]


@hosts.watched()
def test_errors_of_sets(
  task: Task,
  state: AceState,
  sets: Mapping[str, Batch],
  batch_size: int = 500,
  mesh: Mesh | None = None,
  metrics: Mapping[str, Callable[[Any, Batch], Any]] = MappingProxyType({}),
) -> dict[str, list[dict[str, float]]]:
  """Returns the `test_errors` on several sets of test samples of one size, by one program.

  Args:
    task: Model and metric.
    state: A trained state, with a leading axis of replicas.
    sets: Test samples, by name.
    batch_size: Samples evaluated at once.
    mesh: Devices.
    metrics: As of `test_errors`.
  """
  count = parallel.replicas(state)
  mesh = parallel.default_mesh(count) if mesh is None else mesh
  kind = next(iter(sets.values()))
  run = sources.compile_means(task.errors_of(metrics), mesh, batch_size, kind)
  chosen = parallel.shard_replicas(parallel.pad(state.selected(), mesh), mesh)
  result = {}
  for label, test in sets.items():
    means = hosts.fetch(run(chosen, sources.put(test, mesh)))
    errors, named = epochs.by_metric(task, means, metrics)
    numbers = {**errors, **named}
    result[label] = [{name: float(v[i]) for name, v in numbers.items()} for i in range(count)]
  return result


def at_evaluations(
  task: Task,
  metrics: Mapping[str, Metric],
  measure: Measure | None,
  valid: Batch,
  count: int,
) -> Callable[[AceState], dict[str, Any]] | None:
  """Returns what `loop.train` records beside metrics at every evaluation, if there is something.

  Args:
    task: The model.
    metrics: By name; what is measured has other names.
    measure: The user's function, called for each predictor of each replica.
    valid: Validation samples.
    count: Replicas.

  Raises:
    ConfigurationError: when called, if `measure` returns no numbers by name.
  """
  if measure is None:
    return None
  predict = compiling.Jitted(task.predict)

  def measured(state: AceState) -> dict[str, Any]:
    current = hosts.fetch(state.current())
    given = valid.source if isinstance(valid, Loader) else valid
    several: list[dict[str, float]] = []
    for i in range(count):
      several.append({})
      for predictor, variables in parallel.select(current, i).items():
        values = measure(lambda batch, v=variables: predict(v, batch), given)
        several[i] |= {f"{k}/{predictor}": v for k, v in _numbers(values, metrics).items()}
    return {name: np.array([run[name] for run in several]) for name in several[0]}

  return measured


def _numbers(values: Any, metrics: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
  if not isinstance(values, Mapping):
    raise ConfigurationError(
      f"measure returned a {type(values).__name__}; it must return numbers by name, "
      'such as {"gap": 0.1}.'
    )
  numbers = {}
  for name, value in values.items():
    _check_name(name, "measure")
    if name in metrics:
      raise ConfigurationError(f"measure and metric both have {name!r}; rename one.")
    try:
      numbers[name] = float(value)
    except (TypeError, ValueError) as error:
      raise ConfigurationError(
        f"measure returned {name} as no number ({first_line(error)}); take its mean, say."
      ) from error
  return numbers
