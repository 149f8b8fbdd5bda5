"""What `fit` is given, put into the form in which a training takes it."""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import compiling
from ace_jax.constraints.base import Constraint
from ace_jax.constraints.on_gamma import Equality
from ace_jax.errors import ConfigurationError, did_you_mean
from ace_jax.finite import require_kept
from ace_jax.homotopy import Variables
from ace_jax.model import Model
from ace_jax.task import Batch
from ace_jax.training import loop
from ace_jax.training.history import Record
from ace_jax.training.loaders import Loader
from ace_jax.training.sinks import CallbackLogger, Logger, as_logger

_SEEDS = range(-(2**31), 2**32)
"""JAX's keys hold 32 bits of a seed: those beyond would be other ones' doubles."""


_OTHERS_NAMES = {
  **dict.fromkeys(("learning_rate", "step_size"), "lr"),
  **dict.fromkeys(("key", "rng", "prng_key", "random_seed", "random_state", "rng_seed"), "seed"),
  **dict.fromkeys(("early_stopping", "early_stopping_patience"), "patience"),
  **dict.fromkeys(("logger", "loggers", "log", "hooks"), "callbacks"),
  **dict.fromkeys(("verbose", "silent", "quiet", "progress_bar", "bar"), "progress"),
  **dict.fromkeys(("num_epochs", "n_epochs", "max_epochs"), "epochs"),
  **dict.fromkeys(("gradient_clip", "grad_clip", "max_norm", "max_grad_norm"), "clip_norm"),
  **dict.fromkeys(("scheduler", "schedule", "lr_schedule"), "decay"),
  **dict.fromkeys(("folder", "out_dir", "output_dir", "log_dir", "logdir", "directory"), "workdir"),
  **dict.fromkeys(("criterion", "loss_fn", "objective"), "loss"),
  **dict.fromkeys(("device", "devices", "sharding"), "mesh"),
  **dict.fromkeys(("params", "init_params"), "variables"),
  **dict.fromkeys(("monitor",), "select"),
  **dict.fromkeys(("val", "validation", "validation_data", "val_data", "eval_data"), "valid"),
}
"""What arguments of `fit` are called elsewhere, where no likeness of the letters would find it."""


def runs_of(seed: int, seeds: Sequence[int] | None) -> dict[str, int]:
  """Returns the seed of each run by the name of its folder, "" of one alone.

  Args:
    seed: Of one run; of any library's whole numbers, as are `seeds`.
    seeds: Of several; None is one run.

  Raises:
    ConfigurationError: one is no seed, they contradict each other, or two are the same.
  """
  alone = _seed(seed)
  if seeds is None:
    return {"": alone}
  try:
    several = [*seeds]
  except TypeError as error:  # a number, or an array of no axis
    raise ConfigurationError(
      f"seeds is {seeds!r:.40}; give several whole numbers, such as range(3)."
    ) from error
  numbers = [*map(_seed, several)]
  if alone:
    raise ConfigurationError(f"seed={alone} and seeds={numbers} contradict each other; give one.")
  if not numbers or len({number % 2**32 for number in numbers}) < len(numbers):
    raise ConfigurationError(f"seeds are {numbers}; give some that differ.")
  return {f"seed{number}": number for number in numbers}


def _seed(number: Any) -> int:
  try:
    value = operator.index(number)
  except TypeError:
    value = None
  # Not `in`: of a number that is not Python's, a range would try every one that it has.
  if value is None or not _SEEDS[0] <= value <= _SEEDS[-1]:
    raise ConfigurationError(
      f"seed={number!s:.40} must be a whole number from {_SEEDS[0]} to {_SEEDS[-1]}."
    )
  return value


def numbers_of(**given: Any) -> list[Any]:
  """Returns step sizes and the like as Python's numbers, which optimizers keep in their states.

  Args:
    **given: By name, of any library; None where there is none.

  Raises:
    ConfigurationError: one is no single number; names it.
  """
  numbers = []
  for name, number in given.items():
    try:
      if number is not None and type(number) not in (int, float):
        number = float(number)
      numbers.append(number)
    except (TypeError, ValueError) as error:
      what = "a function" if callable(number) else f"{number!r:.40}"
      advice = "a factor that changes with the steps is decay=" if callable(number) else "as 1e-3"
      raise ConfigurationError(f"{name} is {what}; give one number ({advice}).") from error
  return numbers


def loggers_of(
  callbacks: Sequence[Logger | Callable[[Record], Any]], seed: int | None
) -> list[Logger]:
  """Returns the loggers of a run.

  Args:
    callbacks: As of `fit`.
    seed: Its seed; None where it is the only run.

  Raises:
    ConfigurationError: callbacks are no list, or one of them takes no records.
  """
  if isinstance(callbacks, Logger) or not isinstance(callbacks, Iterable):
    raise ConfigurationError(
      f"callbacks is a {type(callbacks).__name__}; give a list of them, callbacks=[...]."
    )
  if seed is None:
    return [as_logger(callback) for callback in callbacks]
  for callback in callbacks:
    if isinstance(callback, Logger) or not callable(callback):
      raise ConfigurationError(
        f"a {type(callback).__name__} cannot log several seeds; give functions of a record."
      )
  return [CallbackLogger(callback, {"seed": seed}) for callback in callbacks if callable(callback)]


def constraint_of(given: Constraint | None) -> Constraint:
  """Returns a constraint as it is, and the default where there is none.

  Raises:
    ConfigurationError: it is something else, such as the class of one.
  """
  if given is not None and not isinstance(given, Constraint):
    what = given.__name__ if isinstance(given, type) else f"a {type(given).__name__}"
    raise ConfigurationError(
      f"constraint is {what}; give an instance of one, such as ace_jax.Resilient(rho=0.1)."
    )
  return Equality() if given is None else given


def require_samples(**kinds: Any) -> None:
  """Refuses data in memory that are not arrays of numbers with one leading axis of samples.

  Args:
    **kinds: Data by what they are called; None and loaders are left out.

  Raises:
    ConfigurationError: names the first entry, and what it is.
  """
  for called, data in kinds.items():
    if data is None or isinstance(data, Loader):
      continue
    sizes: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]:
      where = f"{called}{jax.tree_util.keystr(path)}"
      if not isinstance(leaf, np.ndarray | jax.Array) or not leaf.ndim:
        raise ConfigurationError(
          f"{where} is a {type(leaf).__name__}, no array with an axis of samples; give an array of "
          "NumPy or JAX, or leave it out."
        )
      kinds_of_numbers = (np.number, np.bool_, jax.dtypes.extended)
      if not any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds_of_numbers):
        raise ConfigurationError(
          f"{where} is an array of {leaf.dtype}; give numbers, or leave it out."
        )
      require_kept(where, leaf)
      sizes.setdefault(len(leaf), where)
    if not sizes or 0 in sizes:
      raise ConfigurationError(f"{called} has no samples; give some.")
    if len(sizes) > 1:
      (a, first), (b, other) = [*sizes.items()][:2]
      raise ConfigurationError(
        f"{first} has {a} samples, {other} {b}; all arrays must have the same, in their first axis."
      )


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
      known_as = _OTHERS_NAMES.get(name.lower())
      near = f"did you mean {known_as}?" if known_as else did_you_mean(name, arguments)
      advice = near or f"it takes {', '.join(arguments)}."
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
