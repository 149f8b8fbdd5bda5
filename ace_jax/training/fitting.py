"""`fit`: the whole method in one call, for a model and data of one's own."""

import contextlib
import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import optax
from flax.core import FrozenDict
from jax.sharding import Mesh
from jax.tree_util import Partial

from ace_jax import checking, homotopy, saving, task
from ace_jax.constraints.base import Constraint
from ace_jax.constraints.on_gamma import Equality
from ace_jax.errors import ConfigurationError
from ace_jax.kept import kept, outside, signature
from ace_jax.model import as_model
from ace_jax.optimizers import check_moves, dual_optimizer, primal_adam, primal_optimizer
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import AceState, Primal
from ace_jax.task import Batch
from ace_jax.training import hosts, loop, parallel
from ace_jax.training.history import Record
from ace_jax.training.locks import locked
from ace_jax.training.memory import Peak
from ace_jax.training.progress import ProgressBar
from ace_jax.training.sinks import CallbackLogger, Logger, as_logger


class Fit(NamedTuple):
  """A trained model.

  Attributes:
    projection: Variables of f_{theta,0} at its lowest validation error, for `model.apply`.
    relaxed: Variables of f_{theta,gamma} at its own lowest validation error; of a strict model,
      the projection's.
    gamma: Final gamma by layer name.
    multipliers: Final multipliers by layer name.
    history: One record an epoch (`ace_jax.training.history.record`).
    test: Test error of each predictor; {} without test data.
    method: Task and optimizers, for going on.
    state: Everything else, for going on.
    memory: The expected peak, in bytes; None if a resumed run had nothing left to do.
    settings: How it was trained.
  """

  projection: dict[str, Any]
  relaxed: dict[str, Any]
  gamma: dict[str, jax.Array]
  multipliers: dict[str, jax.Array]
  history: list[Record]
  test: dict[str, float]
  method: PrimalDual
  state: AceState
  memory: Peak | None
  settings: saving.FitSettings

  def save(self, path: str | Path) -> None:
    """Writes both predictors, gamma, multipliers, history, test errors and settings into one .npz.

    `ace_jax.load(path, model)` reads it. What a run needs to go on is in its workdir, not here.

    Args:
      path: The file; a leading ~ is the home folder.

    Raises:
      CheckpointError: it cannot be written.
    """
    kept = {name: getattr(self, name) for name in saving.Saved._fields}
    saving.save(path, saving.Saved(**kept))


@overload
def fit(*arguments: Any, seeds: None = None, **keywords: Any) -> Fit: ...


@overload
def fit(*arguments: Any, seeds: Sequence[int], **keywords: Any) -> list[Fit]: ...


def fit(
  model: Any,
  loss: Callable[[Any, Batch], jax.Array],
  train: Batch,
  valid: Batch,
  test: Batch | None = None,
  *,
  constraint: Constraint | None = None,
  inputs: Callable[[Batch], tuple[Any, ...]] = task.first,
  metric: Callable[[Any, Batch], jax.Array] | None = None,
  rngs: Sequence[str] = ("dropout",),
  mode: Literal["min", "max"] = "min",
  variables: homotopy.Variables | None = None,
  optimizer: optax.GradientTransformation
  | Mapping[str, optax.GradientTransformation]
  | None = None,
  lr: float | None = None,
  gamma_lr: float | None = None,
  slack_lr: float | None = None,
  dual_lr: float = 1e-3,
  dual: str = "adam",
  clip_norm: float | None = None,
  decay: optax.Schedule | None = None,
  seed: int = 0,
  seeds: Sequence[int] | None = None,
  workdir: str | Path | None = None,
  resume: bool = False,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], Logger] | None = ProgressBar,
  callbacks: Sequence[Logger | Callable[[Record], Any]] = (),
  until: Callable[[int], bool] = lambda epoch: False,
  **settings: Any,
) -> Fit | list[Fit]:
  """Trains a model that contains `Homotopic` layers under a constraint on their gammas.

  Before anything is compiled for training, `ace_jax.check` tries model and loss on two samples.
  What is compiled is kept for the last few trainings: a second one with an equal model, the same
  functions (and optimizer, where one is given) and equal sizes compiles nothing. So these must be
  pure, as under `jax.jit`.

  Args:
    model: A Linen module, an instance of an NNX or Equinox module (which starts from the weights
      that it has, whatever the seed), or `ace_jax.Model(init, apply)`. Called on
      `inputs(batch)`; a Linen or NNX module with `train`, `training` or `deterministic` too if its
      `__call__` takes it, and an Equinox module on one sample at a time.
    loss: `loss(prediction, batch) -> [samples, ...]`, for each sample; its mean is minimised.
    train: Training samples: a pytree of arrays with one leading axis, such as (x, y).
    valid: Validation samples.
    test: Test samples.
    constraint: From `ace_jax.constraints`; `Equality()` by default.
    inputs: Positional arguments of the model, from a batch; x of (x, y) by default. What is no
      array, such as a `Topology`, is static.
    metric: What to report and select by; the loss by default.
    rngs: Names of a Linen module's streams of random numbers in training.
    variables: Initial variables; by default `model.init`. `strict(model.init)(key, x)` trains
      the plain equivariant model.
    mode: Whether the lowest ("min") or the highest ("max") metric selects a predictor.
    optimizer: What moves theta in place of Adam, such as `optax.adamw(1e-3)`; or a dictionary of
      such for some of "theta", "gamma" and "slack". It sees the parameters of its block as the
      model names them; one that asks for `value` gets the training loss.
    lr: Adam step size of theta, 1e-3 by default.
    gamma_lr: Adam step size of gamma; lr by default.
    slack_lr: Adam step size of the slack; lr by default.
    dual_lr: Step size of the multipliers.
    dual: Optimizer of the multipliers: "sgd", "adam" or "nu_pi".
    clip_norm: Largest norm of the gradients for theta and gamma together.
    decay: Factor of the step sizes of theta, gamma and slack by the number of steps done; to be
      given again as it was when resuming.
    seed: Moves initial values and the order of samples.
    seeds: Trains a model a seed at once, as one device program: each comes to what its own `fit`
      would come to on the devices that it gets, and writes to seedN/ in `workdir`.
    workdir: Gets checkpoints and metrics.jsonl, and belongs to this process until it is done; None
      keeps nothing on disk. A leading ~ is the home folder.
    resume: Continue the run in `workdir`.
    mesh: Devices; all of them by default.
    progress: Called with the epochs of the run and those done before; returns what gets the record
      of every epoch, by default a progress bar. None shows nothing, not even the memory that is
      expected.
    callbacks: Each is called with the record of every epoch, which has its `seed` where there are
      several; or is a logger of one run, with `log(record)` and `close()`.
    until: Called with the number of epochs done after each; true makes it the last.
    **settings: epochs, batch_size, eval_every, patience, ...: see `ace_jax.training.Settings`.

  Returns:
    Both predictors, what gamma and multipliers came to, and the history; of `seeds` a list.

  Raises:
    ConfigurationError: a keyword is unknown (named with the nearest known one); arguments
      contradict each other; model, loss or constraint do not fit together (`ace_jax.check`); or
      another process uses `workdir`.
    AceError: see `training.loop.train`.
  """
  options = _options(settings)
  runs = {"": seed} if seeds is None else _runs(seed, seeds)
  loggers = {
    name: _loggers(callbacks, None if seeds is None else number) for name, number in runs.items()
  }
  if optimizer is None:
    lr = 1e-3 if lr is None else lr
    primal = primal_adam(lr, gamma_lr, slack_lr, clip_norm, decay)
  else:
    blocks = FrozenDict(optimizer) if isinstance(optimizer, Mapping) else optimizer  # has a hash
    primal = primal_optimizer(blocks, lr, gamma_lr, slack_lr, clip_norm, decay)
  model = as_model(model, rngs)
  constraint = Equality() if constraint is None else constraint
  sample = task.take(train, slice(0, 2))
  strict = variables is not None and not variables.get(homotopy.GAMMA)
  create = model.init if isinstance(model.init, Partial) else Partial(model.init)
  init, states = _initialiser(inputs, outside(inputs), signature(create)), []
  method = PrimalDual(
    task.from_model(model, loss, inputs, metric, rngs, mode),
    primal,
    dual_optimizer(dual, dual_lr),
  )
  for number in runs.values():
    init_key, run_key = jax.random.split(jax.random.key(number))
    start = dict(init(create, init_key, sample)) if variables is None else variables
    start = homotopy.unbox(start)
    if not states:
      checking.require(method.task, start, sample, constraint, strict=strict)
    if not states and optimizer is not None:
      theta, gamma, _ = homotopy.split(start)
      check_moves(primal, Primal(theta, gamma, constraint.init_slack(gamma)))
    states.append(method.init(start, constraint, run_key))
  peaks: list[Peak] = []

  def report_memory(peak: Peak) -> None:
    peaks.append(peak)
    if progress:
      print(peak.describe(), file=sys.stderr)

  with locked(workdir) if workdir is not None and hosts.first() else contextlib.nullcontext():
    end, histories = loop.train(
      method,
      parallel.stack(states),
      train,
      valid,
      options,
      mesh=mesh,
      workdir=workdir,
      resume=resume,
      progress=progress and (lambda done: progress(options.epochs, done)),
      names=[*runs],
      loggers=lambda name, done: loggers[name],
      report_memory=report_memory,
      until=until,
    )
  tests: list[dict[str, float]] = [{} for _ in runs]
  if test is not None:
    tests = loop.test_errors(method.task, end, test, options.eval_batch_size, mesh)
  rates = _step_sizes(optimizer, lr, gamma_lr, slack_lr)
  trained = []
  for i, number in enumerate(runs.values()):
    state = parallel.select(end, i)
    best = state.selected()
    trained.append(
      Fit(
        projection=best["projection"],
        relaxed=best.get("relaxed", best["projection"]),
        gamma=homotopy.by_name(state.primal.gamma),
        multipliers=homotopy.by_name(state.multipliers),
        history=histories[i],
        test=tests[i],
        method=method,
        state=state,
        memory=peaks[0] if peaks else None,
        settings=saving.FitSettings(
          epochs=options.epochs,
          batch_size=options.batch_size,
          eval_every=options.eval_every,
          patience=options.patience,
          constraint=type(constraint).__name__,
          constants=saving.constants(constraint),
          lr=rates["theta"],
          gamma_lr=rates["gamma"],
          slack_lr=rates["slack"],
          dual_lr=dual_lr,
          dual=dual,
          clip_norm=clip_norm,
          decays=decay is not None,
          seed=number,
          inputs=saving.input_shapes(inputs(sample)),
        ),
      )
    )
  return trained[0] if seeds is None else trained


@kept
def _initialiser(inputs: Callable[[Batch], tuple[Any, ...]], *kept_by: Any) -> Callable[..., Any]:
  del kept_by
  return jax.jit(lambda init, key, batch: init(key, *inputs(batch)))


def _runs(seed: int, seeds: Sequence[int]) -> dict[str, int]:
  """Returns the seed of each run by the name of its folder."""
  if seed:
    raise ConfigurationError(f"seed={seed} and seeds={[*seeds]} contradict each other; give one.")
  if not seeds or len({*seeds}) < len(seeds):
    raise ConfigurationError(f"seeds are {[*seeds]}; give some that differ.")
  return {f"seed{number}": number for number in seeds}


def _loggers(
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


def _options(settings: dict[str, Any]) -> loop.Settings:
  """Returns the loop's settings.

  Raises:
    ConfigurationError: a keyword is unknown, or a value out of range.
  """
  known = [field.name for field in dataclasses.fields(loop.Settings)]
  arguments = [*known, *(name for name in inspect.signature(fit).parameters if name != "settings")]
  for name in settings:
    if name not in known:
      nearest = difflib.get_close_matches(name, arguments, 1, cutoff=0.5)
      advice = f"did you mean {nearest[0]}?" if nearest else f"it takes {', '.join(arguments)}."
      raise ConfigurationError(f"fit takes no argument {name}; {advice}")
  return loop.Settings(**settings)


def _step_sizes(
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
