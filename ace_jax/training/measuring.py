"""What `fit` measures beside the metric that selects: further metrics, and a user's function."""

from collections.abc import Callable, Mapping, Sequence
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


def test_metrics(
  task: Task,
  metrics: Mapping[str, Metric],
  state: AceState,
  test: Batch,
  batch_size: int,
  mesh: Mesh,
) -> list[dict[str, float]]:
  """Returns for each replica the test errors of its selected predictors, and every metric of them.

  Args:
    task: The model, and the metric that selects.
    metrics: By name, that one among them.
    state: A trained state, with a leading axis of replicas.
    test: Test samples.
    batch_size: Samples evaluated at once.
    mesh: Devices.
  """
  count = parallel.replicas(state)
  chosen = parallel.shard_replicas(parallel.pad(state.selected(), mesh), mesh)
  run = sources.compile_means(task.errors_of(metrics), mesh, batch_size, test)
  means = hosts.fetch(run(chosen, sources.put(test, mesh)))
  errors, named = epochs.by_metric(task, means, metrics)
  return [{name: float(v[i]) for name, v in (errors | named).items()} for i in range(count)]


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
