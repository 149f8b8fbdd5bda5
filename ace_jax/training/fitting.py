"""`fit`: the whole method in one call, for a model and data of one's own."""

import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import jax
import optax
from absl import logging
from jax.sharding import Mesh

from ace_jax import checking, finite, homotopy, padding, saving, signals, task
from ace_jax.constraints.base import Constraint
from ace_jax.errors import Interrupted
from ace_jax.model import as_model
from ace_jax.optimizers import check_moves, dual_optimizer, primal_adam, primal_optimizer
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import AceState, Primal
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch
from ace_jax.training import (
  arguments,
  continuing,
  loaders,
  loop,
  measuring,
  parallel,
  resuming,
  sources,
)
from ace_jax.training.history import Record
from ace_jax.training.memory import Peak
from ace_jax.training.progress import ProgressBar
from ace_jax.training.sinks import Logger

if TYPE_CHECKING:
  from ace_jax.symmetry.misalignment import Misalignment


class Fit(NamedTuple):
  """A trained model.

  Attributes:
    projection: Variables of f_{theta,0} at its lowest validation error, for `model.apply`.
    relaxed: Variables of f_{theta,gamma} at its own lowest validation error; of a strict model,
      the projection's.
    gamma: Final gamma by layer name.
    multipliers: Final multipliers by layer name.
    history: One record an epoch (`ace_jax.training.history.record`).
    test: Test error of each predictor, and of metrics that have names `NAME/PREDICTOR`; {} without
      test data.
    method: Task and optimizers, for going on.
    state: Everything else, for going on.
    memory: The expected peak, in bytes; None if a resumed run had nothing left to do.
    settings: How it was trained.
    interrupted: Whether Ctrl-C ended it before its last epoch.
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
  interrupted: bool = False

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

  def report(
    self,
    data: Batch,
    symmetry: Symmetry,
    *,
    path: str | Path | None = None,
    baseline: float | None = None,
    samples: int = 500,
  ) -> "Misalignment":
    """Prints and draws which layer's symmetry the data resist, and which part of the group.

    Of several seeds together: `ace_jax.symmetry.misalignment.misalignment(fits, ...)`.

    Args:
      data: Held-out samples, such as the test data.
      symmetry: How the group acts on them; the group says where they are moved.
      path: A PNG to save the figure to; the result holds it anyway.
      baseline: The validation error of a prediction that learns nothing of the inputs; by default
        that of the mean prediction.
      samples: How many of the data are measured, from the first.

    Raises:
      ConfigurationError: the group has no generators, or does not say where one moves data.
    """
    # It reads records of trainings, and draws: not before it is asked for.
    from ace_jax.symmetry.misalignment import misalignment

    return misalignment([self], data, symmetry, path=path, baseline=baseline, samples=samples)


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
  metric: measuring.Metric | Mapping[str, measuring.Metric] | None = None,
  select: str | None = None,
  measure: measuring.Measure | None = None,
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
  state: Fit | Sequence[Fit] | None = None,
  steps_per_epoch: int | None = None,
  mesh: Mesh | None = None,
  progress: Callable[[int, int], Logger] | None = ProgressBar,
  callbacks: Sequence[Logger | Callable[[Record], Any]] = (),
  until: Callable[[int], bool] = lambda epoch: False,
  **settings: Any,
) -> Fit | list[Fit]:
  """Trains a model that contains `Homotopic` layers under a constraint on their gammas.

  Before anything is compiled for training, `ace_jax.check` tries model and loss on two samples.
  A second call whose programs are equal (whatever made them) is traced, but compiles nothing; what
  loss, metrics and model read, such as globals, is read anew by every call
  (`ace_jax.compiling`).

  Args:
    model: A Linen module, an instance of an NNX or Equinox module (which starts from the weights
      that it has, whatever the seed; with state, such as that of `eqx.nn.BatchNorm`, the pair that
      `eqx.nn.make_with_state` returns), or `ace_jax.Model(init, apply)`. Called on
      `inputs(batch)`; a Linen or NNX module with `train`, `training` or `deterministic` too if its
      `__call__` takes it, and an Equinox module on one sample at a time.
    loss: `loss(prediction, batch) -> [samples, ...]`, for each sample; its mean is minimised. Or
      (values, weights), whose weighted mean is: padding and missing labels weigh 0. So for metrics.
    train: Training samples: a pytree of arrays with one leading axis, such as (x, y); or a loader
      of batches, which can be iterated over again and again (grain's or torch's DataLoader, a list
      of batches, a generator function). Order and batch sizes are then the loader's; where it has
      saved state, a run is resumed bit for bit.
    valid: Validation samples; or a loader of them.
    test: Test samples; or a loader of them.
    constraint: From `ace_jax.constraints`; `Equality()` by default.
    inputs: Positional arguments of the model, from a batch; x of (x, y) by default. What is no
      array, such as a `Topology`, is static.
    metric: What to report and select by; the loss by default. Or several by name, such as
      `{"mae": f, "accuracy": g}`: each is recorded as `NAME/PREDICTOR` too.
    select: Which of several metrics selects; may be left out where there is but one.
    measure: `measure(predict, valid)`, called at every evaluation for each predictor, whose
      prediction of any batch is `predict(batch)`; the numbers that it returns by name are recorded
      as `NAME/PREDICTOR`. It need not be traceable by JAX.
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
    resume: Continue the run in `workdir`, under the rules below.
    state: Go on from what `fit` returned (with `seeds` a list): parameters, multipliers, optimizers
      and best predictors; `epochs` counts those that are done. A run that is resumed takes its
      checkpoint instead. Best predictors are evaluated anew on other validation samples or metrics.
    steps_per_epoch: Batches of a loader in an epoch, whose iteration goes on from one epoch to the
      next; None makes an epoch of one pass. An infinite loader needs it.
    mesh: Devices; all of them by default.
    progress: Called with the epochs of the run and those done before; returns what gets the record
      of every epoch, by default a progress bar. None shows nothing, not even the memory that is
      expected.
    callbacks: Each is called with the record of every epoch, which has its `seed` where there are
      several; or is a logger of one run, with `log(record)` and `close()`.
    until: Called with the number of epochs done after each; true makes it the last.
    **settings: epochs, batch_size, eval_every, patience, ...: see `ace_jax.training.Settings`.

  What differs from before on `resume` or with `state` is used from there on, with one line that
  says so, or refused:

  ====================================================  ===============  ===============
  changed                                               `resume`         `state`
  ====================================================  ===============  ===============
  lr, gamma_lr, slack_lr, dual_lr, value of clip_norm   used             used
  constants of the constraint                           used             used
  batch_size, eval_every, patience                      used             used
  epochs (and all that changes no result)               used, not said   used, not said
  an optimizer's or decay's own constants, loss         used, not known  used, not known
  metric (or a loss that selects)                       used, best anew  used, best anew
  train, valid, mode, select                            refused          used
  seed, seeds                                           refused          refused
  model, kind of constraint, optimizer or dual          refused          refused
  whether there is clip_norm or decay                   refused          refused
  ====================================================  ===============  ===============

  The first Ctrl-C ends the run after its epoch, saves it if there is a workdir, and returns what
  there is, `interrupted`; the second raises KeyboardInterrupt. At the end a warning says where the
  constraint had no time to act: in the last tenth of the epochs its violation is above a tenth of
  the largest gamma, or gamma still moves by a twentieth of it (`training.settling`).

  Returns:
    Both predictors, what gamma and multipliers came to, and the history; of `seeds` a list.

  Raises:
    ConfigurationError: a keyword is unknown (named with the nearest known one); arguments
      contradict each other, or what the run had before; samples are not finite; model, loss or
      constraint do not fit together (`ace_jax.check`); or another process uses `workdir`.
    AceError: see `training.loop.train`.
  """
  others = [name for name in inspect.signature(fit).parameters if name != "settings"]
  options = arguments.options_of(settings, others)
  runs = arguments.runs_of(seed, seeds)
  lr, gamma_lr, slack_lr, dual_lr, clip_norm = arguments.numbers_of(
    lr=lr, gamma_lr=gamma_lr, slack_lr=slack_lr, dual_lr=dual_lr, clip_norm=clip_norm
  )
  earlier = continuing.earlier_of(state, [*runs.values()], variables, options.epochs)
  if earlier and seeds is None:
    runs = {"": earlier[0].settings.seed}
  callbacks = [*callbacks] if isinstance(callbacks, Iterator) else callbacks  # of several seeds
  loggers = {
    name: arguments.loggers_of(callbacks, None if seeds is None else number)
    for name, number in runs.items()
  }
  if optimizer is None:
    lr = 1e-3 if lr is None else lr
    primal = primal_adam(lr, gamma_lr, slack_lr, clip_norm, decay)
  else:
    primal = primal_optimizer(optimizer, lr, gamma_lr, slack_lr, clip_norm, decay)
  given, model = model, as_model(model, rngs)
  inputs = task.positional(inputs)
  constraint = arguments.constraint_of(constraint)
  train, valid, test, options = sources.opened(
    train, valid, test, steps_per_epoch, options, settings
  )
  arguments.require_samples(train=train, valid=() if valid is None else valid, test=test)
  mesh = parallel.default_mesh(len(runs)) if mesh is None else mesh
  samples = {
    called: data.sample() if isinstance(data, loaders.Loader) else task.take(data, slice(0, 2))
    for called, data in {"train": train, "valid": valid, "test": test}.items()
    if data is not None
  }
  sample = samples.pop("train")
  if padding.padded_graphs(sample) is not None:
    metric = {**metric} if isinstance(metric, Mapping) else metric
    loss, metric = padding.of_real(loss), jax.tree.map(padding.of_real, metric)
  selecting, metrics = measuring.selected(metric, select)
  init, states = arguments.initialiser(given, model, inputs), []
  method = PrimalDual(
    task.from_model(model, loss, inputs, selecting, rngs, mode),
    primal,
    dual_optimizer(dual, dual_lr),
  )
  if earlier:
    continuing.check_model(earlier[0].state.relaxed, lambda: init(jax.random.key(0), sample))
  begins = [run.state.relaxed for run in earlier] or [variables] * len(runs)
  strict = begins[0] is not None and not begins[0].get(homotopy.GAMMA)
  for number, begin in zip(runs.values(), begins, strict=True):
    init_key, run_key = jax.random.split(jax.random.key(number))
    start = dict(init(init_key, sample)) if begin is None else begin
    start = homotopy.unbox(start)
    if begin is not None and not earlier and model.without_sown is not None:
      start = model.without_sown(start, *inputs(sample))
    if not states:
      checking.require(method.task, start, sample, constraint, strict=strict, metrics=metrics)
      checking.require_evaluated(method.task, start, sample, samples, metrics)
      arrays = sources.in_memory(train=train, valid=valid, test=test)
      finite.require_finite(method.task, start, arrays)
    if not states and optimizer is not None:
      theta, gamma, _ = homotopy.split(start)
      check_moves(primal, Primal(theta, gamma, constraint.init_slack(gamma)))
    states.append(method.init(start, constraint, run_key))
  rates = arguments.step_sizes(optimizer, lr, gamma_lr, slack_lr)
  used = saving.FitSettings.of(
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
    seed=0,
    inputs=saving.input_shapes(inputs(sample)),
    mode=mode,
    select=next((name for name in metrics if metrics[name] is selecting), None),
    data=resuming.Fingerprints({"train": train, "valid": valid}),
    metric=None
    if workdir is None
    else resuming.program_of(method.task, states[0].projection, sample),
  )
  settings_of_runs = [used._replace(seed=number) for number in runs.values()]
  fresh = begun = parallel.stack(states)
  if earlier:
    begun = continuing.continued(earlier, settings_of_runs, fresh, options.patience)
    if continuing.selects_otherwise(earlier[0], used, method.task):
      errors = measuring.test_errors(method.task, begun, valid, options.eval_batch_size, mesh)
      begun = continuing.with_errors(begun, errors)
  peaks: list[Peak] = []
  interruptions: list[Interrupted] = []

  def report_memory(peak: Peak) -> None:
    peaks.append(peak)
    if progress:
      print(peak.describe(), file=sys.stderr)

  def ended(interrupted: Interrupted) -> None:
    if interrupted.number != signal.SIGINT:
      raise interrupted
    interruptions.append(interrupted)
    logging.warning("%s; what was trained so far is returned.", interrupted)

  def restored(old: AceState) -> AceState:
    now = resuming.adopted(old, fresh, options.patience)
    if not kept.same_metric:
      errors = measuring.test_errors(method.task, now, valid, options.eval_batch_size, mesh)
      kept.same_metric = continuing.has_errors(now, errors)
      if not kept.same_metric:
        logging.warning(
          "the run in %s goes on with another %s, by which its best predictors are evaluated "
          "anew.", workdir, "loss" if metric is None else "metric",
        )  # fmt: skip
        now = continuing.with_errors(now, errors)
    kept.replace()
    return now

  with resuming.kept(workdir, settings_of_runs, resume, [*runs]) as kept:
    end, histories = loop.train(
      method,
      begun,
      train,
      valid,
      options,
      mesh=mesh,
      workdir=workdir,
      resume=resume,
      progress=progress and (lambda done: progress(options.epochs, done)),
      names=[*runs],
      loggers=lambda name, done: loggers[name],
      metrics=metrics,
      measure=measuring.at_evaluations(method.task, metrics, measure, valid, len(runs)),
      report_memory=report_memory,
      until=until,
      ends_on=signals.not_ignored(signal.SIGINT, signal.SIGTERM),
      ended=ended,
      before=[run.history for run in earlier],
      restored=restored,
    )
  tests: list[dict[str, float]] = [{} for _ in runs]
  if test is not None:
    tests = measuring.test_errors(method.task, end, test, options.eval_batch_size, mesh, metrics)
  trained = []
  for i, used in enumerate(settings_of_runs):
    alone = parallel.select(end, i)
    best = alone.selected()
    trained.append(
      Fit(
        projection=best["projection"],
        relaxed=best.get("relaxed", best["projection"]),
        gamma=homotopy.by_name(alone.primal.gamma),
        multipliers=homotopy.by_name(alone.multipliers),
        history=histories[i],
        test=tests[i],
        method=method,
        state=alone,
        memory=peaks[0] if peaks else None,
        settings=used,
        interrupted=bool(interruptions),
      )
    )
  return trained[0] if seeds is None else trained
