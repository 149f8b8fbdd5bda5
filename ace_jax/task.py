"""What is learned: a model, what it sees of a batch, and a loss for each sample."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError

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
    loss: `loss(prediction, batch) -> [samples, ...]`; the training loss is its mean.
    metric: What validation and test errors are the mean of; None takes the loss.
    mode: Whether the lowest ("min") or the highest ("max") mean of the metric is the best.
  """

  apply: Callable[[homotopy.Variables, Batch, PRNGKeyArray | None], tuple[Any, dict[str, Any]]]
  loss: Callable[[Any, Batch], Float[Array, "samples ..."]]
  metric: Callable[[Any, Batch], Float[Array, "samples ..."]] | None = None
  mode: Literal["min", "max"] = "min"

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
    """Returns the loss of every sample in evaluation."""
    return _of_samples(self.loss(self.predict(variables, batch), batch))

  def errors(self, variables: homotopy.Variables, batch: Batch) -> Float[Array, " samples"]:
    """Returns the metric of every sample in evaluation."""
    metric = self.metric or self.loss
    return _of_samples(metric(self.predict(variables, batch), batch))


def _of_samples(values: Float[Array, "samples ..."]) -> Float[Array, " samples"]:
  return jnp.mean(values.reshape(values.shape[0], -1), axis=1)


def first(batch: Batch) -> tuple[Any, ...]:
  """The inputs of a batch (x, y): x alone."""
  return (batch[0],)


def from_model(
  model: nn.Module,
  loss: Callable[[Any, Batch], Array],
  inputs: Callable[[Batch], tuple[Any, ...]] = first,
  metric: Callable[[Any, Batch], Array] | None = None,
  mode: Literal["min", "max"] = "min",
) -> Task:
  """Makes a task of a Linen model.

  Args:
    model: Called as `model(*inputs(batch))`, with `train=...` too if its `__call__` takes it
      (for BatchNorm and dropout).
    loss: `loss(prediction, batch) -> [samples, ...]`.
    inputs: Positional arguments of the model; by default the first entry of a batch (x, y).
    metric: What to report; the loss by default.
    mode: Whether a low ("min") or a high ("max") metric is a good one.

  Returns:
    The task. Dropout draws from the `dropout` stream.
  """
  takes_train = "train" in inspect.signature(type(model).__call__).parameters

  def apply(variables, batch, key):
    model_state = {k: v for k, v in variables.items() if k not in ("params", homotopy.GAMMA)}
    keywords: dict[str, Any] = {"train": key is not None} if takes_train else {}
    if key is None:
      return model.apply(variables, *inputs(batch), **keywords), model_state
    prediction, updated = model.apply(
      variables, *inputs(batch), **keywords, rngs={"dropout": key}, mutable=list(model_state)
    )
    return prediction, {**model_state, **updated}

  return Task(apply, loss, metric, mode)


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
