"""What is learned: a model, what it sees of a batch, and a loss for each sample."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax import homotopy, weights
from ace_jax.errors import ConfigurationError
from ace_jax.model import as_model
from ace_jax.recording import LayerCall
from ace_jax.weights import Loss

Scalar = Float[Array, ""]
Batch = Any
"""A pytree of arrays whose leading axis runs over samples."""


@dataclasses.dataclass(frozen=True)
class Task:
  """A pure forward function and a loss; static (hashable), so that it can key compiled programs.

  Attributes:
    apply: `apply(variables, batch, key) -> (prediction, model_state)`. In training `key` drives
      dropout and the like, and model_state holds the new `batch_stats` (all collections but
      `params` and `gamma`); in evaluation `key` is None and model_state is returned as it came.
    loss: `loss(prediction, batch) -> [samples, ...]`; the training loss is its mean. Or (values,
      weights), whose mean is the weighted one (`ace_jax.weights`).
    metric: What validation and test errors are the mean of, with weights or without; None takes
      the loss.
    mode: Whether the lowest ("min") or the highest ("max") mean of the metric is the best.
    calls: `calls(variables, batch) -> {layer: LayerCall}`, what every homotopic layer computes in
      evaluation, for reports; None if the model cannot say.
  """

  apply: Callable[[homotopy.Variables, Batch, PRNGKeyArray | None], tuple[Any, dict[str, Any]]]
  loss: Loss
  metric: Loss | None = None
  mode: Literal["min", "max"] = "min"
  calls: Callable[[homotopy.Variables, Batch], dict[str, LayerCall]] | None = dataclasses.field(
    default=None, compare=False
  )

  def __post_init__(self):
    if self.mode not in ("min", "max"):
      raise ConfigurationError(f"mode is {self.mode!r}; it must be 'min' or 'max'.")

  def predict(self, variables: homotopy.Variables, batch: Batch) -> Any:
    """Returns the prediction in evaluation: the relaxed one, or without `gamma` the projection's.

    Args:
      variables: Of a predictor, such as `AceState.projection`.
      batch: Samples.
    """
    return self.apply(variables, batch, None)[0]

  def losses(self, variables: homotopy.Variables, batch: Batch) -> Float[Array, " samples"]:
    """Returns the loss of every sample in evaluation; of a weighted one, so that its mean is."""
    return _of_samples(self.loss, self.predict(variables, batch), batch)

  def errors(self, variables: homotopy.Variables, batch: Batch) -> Float[Array, " samples"]:
    """Returns the metric of every sample in evaluation; of a weighted one, so that its mean is."""
    return _of_samples(self.metric or self.loss, self.predict(variables, batch), batch)

  def errors_of(self, metrics: Mapping[str, Loss]) -> Callable[[homotopy.Variables, Batch], Any]:
    """Returns `errors(variables, batch) -> {name: [samples]}` of one prediction.

    Where a metric has weights, `Weighted` stands for [samples].

    Args:
      metrics: By name; if there are none, the result is that of the task's own, without a name.
    """

    def errors(variables: homotopy.Variables, batch: Batch) -> Any:
      prediction = self.predict(variables, batch)
      if not metrics:
        return weights.of_samples((self.metric or self.loss)(prediction, batch))
      return {
        name: weights.of_samples(metric(prediction, batch)) for name, metric in metrics.items()
      }

    return errors


def _of_samples(loss: Loss, prediction: Any, batch: Batch) -> Any:
  return weights.of_samples(weights.for_means(loss)(prediction, batch))


def first(batch: Batch) -> tuple[Any, ...]:
  """The inputs of a batch (x, y): x alone.

  Raises:
    ConfigurationError: the batch is no tuple or list, so that nothing says which part x is.
  """
  if not isinstance(batch, tuple | list) or isinstance(batch, jraph.GraphsTuple):
    some = f"batch[{next(iter(batch), 'x')!r}]" if isinstance(batch, Mapping) else "batch"
    raise ConfigurationError(
      f"a batch is {_called(batch)}, no pair (x, y); say what the model is called on, such as "
      f"inputs=lambda batch: ({some},)."
    )
  return (batch[0],)


def _called(value: Any) -> str:
  return "an array" if isinstance(value, jax.Array) else f"a {type(value).__name__}"


def positional(inputs: Callable[[Batch], tuple[Any, ...]]) -> Callable[[Batch], tuple[Any, ...]]:
  """Returns `inputs` as it is, but for a line that says where it returns no tuple.

  Args:
    inputs: Positional arguments of a model, from a batch. An array would be taken apart into them.
  """

  @functools.wraps(inputs)
  def checked(batch: Batch) -> tuple[Any, ...]:
    returned = inputs(batch)
    if not isinstance(returned, tuple | list) or isinstance(returned, jraph.GraphsTuple):
      raise ConfigurationError(
        f"inputs returned {_called(returned)}; it must return a tuple of the model's "
        "positional arguments, (x,) of one."
      )
    return tuple(returned)

  return checked


def from_model(
  model: Any,
  loss: Loss,
  inputs: Callable[[Batch], tuple[Any, ...]] = first,
  metric: Loss | None = None,
  rngs: Sequence[str] = ("dropout",),
  mode: Literal["min", "max"] = "min",
) -> Task:
  """Makes a task of a model of any framework.

  Args:
    model: What `ace_jax.model.as_model` takes, called on `inputs(batch)`; a Linen module with
      `train`, `training` or `deterministic` too if its `__call__` takes it.
    loss: `loss(prediction, batch) -> [samples, ...]`, or (values, weights).
    inputs: Positional arguments of the model; by default the first entry of a batch (x, y). What
      is no array, such as a `Topology`, is static.
    metric: What to report; the loss by default.
    rngs: Names of a Linen module's streams of random numbers in training.
    mode: Whether a low ("min") or a high ("max") metric is a good one.
  """
  functions, inputs = as_model(model, rngs), positional(inputs)

  def apply(variables, batch, key):
    return functions.apply(variables, *inputs(batch), key=key)

  calls = functions.calls

  def layer_calls(variables, batch):
    assert calls is not None
    return calls(variables, *inputs(batch))

  return Task(apply, loss, metric, mode, None if calls is None else layer_calls)


def take(data: Batch, index: Any) -> Batch:
  """Selects samples: indexes the leading axis of every array of `data`."""
  return jax.tree.map(lambda array: array[index], data)


def size(data: Batch) -> int:
  """Returns the number of samples of `data`.

  Raises:
    ValueError: arrays disagree about it, or there are none.
  """
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
  if len(sizes) != 1 or () in sizes:
    raise ValueError(f"data needs arrays with one common leading axis; found {sorted(sizes)}.")
  return sizes.pop()[0]
