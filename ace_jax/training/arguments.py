"""What `fit` is given, put into the form in which a training takes it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from ace_jax import compiling
from ace_jax.errors import ConfigurationError, did_you_mean
from ace_jax.homotopy import Variables
from ace_jax.model import Model
from ace_jax.task import Batch
from ace_jax.training import loop
from ace_jax.training.history import Record
from ace_jax.training.sinks import CallbackLogger, Logger, as_logger

_SEEDS = range(-(2**31), 2**32)
"""JAX's keys hold 32 bits of a seed: those beyond would be other ones' doubles."""


def runs_of(seed: int, seeds: Sequence[int] | None) -> dict[str, int]:
  """Returns the seed of each run by the name of its folder, "" of one alone."""
  for number in [seed] if seeds is None else seeds:
    if number not in _SEEDS:
      raise ConfigurationError(
        f"seed={number} must be a whole number from {_SEEDS[0]} to {_SEEDS[-1]}."
      )
  if seeds is None:
    return {"": seed}
  if seed:
    raise ConfigurationError(f"seed={seed} and seeds={[*seeds]} contradict each other; give one.")
  if not seeds or len({number % 2**32 for number in seeds}) < len(seeds):
    raise ConfigurationError(f"seeds are {[*seeds]}; give some that differ.")
  return {f"seed{number}": number for number in seeds}


def loggers_of(
  callbacks: Sequence[Logger | Callable[[Record], Any]], seed: int | None
) -> list[Logger]:
  """Returns the loggers of a run; its seed is None where it is the only one."""
  if seed is None:
    return [as_logger(callback) for callback in callbacks]
  for callback in callbacks:
    if isinstance(callback, Logger) or not callable(callback):
      raise ConfigurationError(
        f"a {type(callback).__name__} cannot log several seeds; give functions of a record."
      )
  return [CallbackLogger(callback, {"seed": seed}) for callback in callbacks if callable(callback)]


def options_of(settings: dict[str, Any], others: Sequence[str]) -> loop.Settings:
  """Returns the loop's settings.

  Args:
    settings: By name.
    others: Names of what else `fit` takes.

  Raises:
    ConfigurationError: a keyword is unknown, or a value out of range.
  """
  known = [field.name for field in dataclasses.fields(loop.Settings)]
  arguments = [*known, *others]
  for name in settings:
    if name not in known:
      advice = did_you_mean(name, arguments) or f"it takes {', '.join(arguments)}."
      raise ConfigurationError(f"fit takes no argument {name}; {advice}")
  return loop.Settings(**settings)


def step_sizes(
  optimizer: Any, lr: float | None, gamma_lr: float | None, slack_lr: float | None
) -> dict[str, float | None]:
  """Returns Adam's step size of each block; None for one with an optimizer of its own."""
  others = optimizer if isinstance(optimizer, Mapping) else {"theta": optimizer}
  default = 1e-3 if lr is None else lr
  rates = {"theta": lr, "gamma": gamma_lr, "slack": slack_lr}
  return {
    name: None if others.get(name) is not None else default if rate is None else rate
    for name, rate in rates.items()
  }


def initialiser(
  given: Any, model: Model, inputs: Callable[[Batch], tuple[Any, ...]]
) -> Callable[[Any, Batch], Variables]:
  """Returns `init(key, batch)`, the initial variables, compiled where it computes something.

  Args:
    given: The model as `fit` got it.
    model: The same as functions.
    inputs: Positional arguments of the model, from a batch.
  """

  def init(key: Any, batch: Batch) -> Variables:
    return model.init(key, *inputs(batch))

  # Instances of modules return the weights that they have; compiled, these would be constants.
  computes = isinstance(given, nn.Module | Model)
  return compiling.Jitted(init) if computes else init
