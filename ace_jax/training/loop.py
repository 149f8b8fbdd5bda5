"""The host's side of a run: epochs, evaluations, checkpoints, and what to do when asked to end."""

import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from ace_jax import finite, signals
from ace_jax.errors import ConfigurationError, Interrupted, NonFiniteError
from ace_jax.files import expanded
from ace_jax.primal_dual import PrimalDual, StepOutput
from ace_jax.state import AceState
from ace_jax.task import Batch, size
from ace_jax.training import (
  checkpoints,
  history,
  hosts,
  memory,
  parallel,
  resuming,
  settling,
  sources,
)
from ace_jax.training.finishing import Finish
from ace_jax.training.history import Record
from ace_jax.training.loaders import Loader
from ace_jax.training.resuming import CHECKPOINTS
from ace_jax.training.sinks import JsonlLogger, Logger
from ace_jax.whole import whole


@dataclasses.dataclass(frozen=True)
class Settings:
  """How long to train, and what to do on the way.

  Attributes:
    epochs: Passes over the training data.
    batch_size: Samples in a batch, over all devices; the last incomplete batch is dropped.
    eval_every: Evaluate after epochs 1, 1 + eval_every, 1 + 2 eval_every, ..., and the last.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    checkpoint_every: Save after every so many epochs, and after the last.
    keep_period: Of the checkpoints, of which only the newest few are kept, keep those after a
      multiple of so many epochs too (a multiple of checkpoint_every); None keeps no others.
    patience: Stop once every predictor has gone so many evaluations without improving; None
      never stops early.
  """

  epochs: int = 100
  batch_size: int = 32
  eval_every: int = 1
  eval_batch_size: int = 500
  checkpoint_every: int = 10
  keep_period: int | None = None
  patience: int | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is None and field.default is None:
        continue
      number = whole(value)
      if number is None and value != math.inf:
        raise ConfigurationError(f"{field.name} is {value!r:.40}; it must be a whole number.")
      if number is not None:
        object.__setattr__(self, field.name, number)  # Python's own, which JSON takes
        if number < 1:
          raise ConfigurationError(f"{field.name} is {number}; it must be at least 1.")
    if self.keep_period and self.keep_period % self.checkpoint_every:
      raise ConfigurationError(
        f"keep_period is {self.keep_period}; it must be a multiple of checkpoint_every, "
        f"{self.checkpoint_every}."
      )

  def evaluates(self, epoch: int) -> bool:
    """Whether an evaluation follows when `epoch` epochs are done."""
    return (epoch - 1) % self.eval_every == 0 or epoch == self.epochs


def _raise(error: Interrupted) -> None:
  raise error


@hosts.watched()
def train(
  method: PrimalDual,
  state: AceState,
  data: Batch,
  valid: Batch,
  settings: Settings,
  *,
  mesh: Mesh | None = None,
  workdir: str | Path | None = None,
  names: Sequence[str] = ("",),
  resume: bool = False,
  progress: Callable[[int], Logger] | None = None,
  loggers: Callable[[str, int], Sequence[Logger]] = lambda name, done: (),
  metrics: Mapping[str, Callable[[Any, Batch], Any]] = MappingProxyType({}),
  measure: Callable[[AceState], dict[str, Any]] | None = None,
  finish: Finish | None = None,
  report_memory: Callable[[memory.Peak], None] = lambda peak: None,
  until: Callable[[int], bool] = lambda epoch: False,
  ends_on: Sequence[int] = (signal.SIGTERM,),
  ended: Callable[[Interrupted], Any] = _raise,
  before: Sequence[list[Record]] = (),
  restored: Callable[[AceState], AceState] = lambda state: state,
) -> tuple[AceState, list[list[Record]]]:
  """Trains one or many replicas, as one device program, to the end of their epochs.

  A replica that stops early is frozen while the others go on. So is one that meets a number that
  is not finite, at its state before that epoch; `state.failed` says so, and a warning.

  Args:
    method: Task and optimizers.
    state: Fresh states (`method.init`) with a leading axis of replicas (`parallel.stack`);
      donated.
    data: Training samples; or a `Loader`.
    valid: Validation samples (or a `Loader`), which select each predictor's best variables.
    settings: Lengths and intervals.
    mesh: Devices; by default all (of all hosts), to replicas first, then to data.
    workdir: Gets checkpoints/, and NAME/metrics.jsonl of every replica; None keeps
      nothing. A leading ~ is the home folder.
    names: Of the replicas; the folder of "" is `workdir` itself.
    resume: Continue from the newest whole checkpoint of `workdir`, if it has one.
    progress: Called with the number of epochs done; returns a sink of the replicas' mean record.
    loggers: Called with a replica's name and the epochs done; returns further sinks of its records.
    metrics: What to record of every predictor as NAME/PREDICTOR at every evaluation, the task's
      metric among them.
    measure: Further numbers to record at every evaluation, from the state; each an array with
      one number a replica.
    finish: When gamma and branches go, if they do; every record then has `finish`, 0 before and 1
      from then on. Such a run does not stop early.
    report_memory: Called with the expected peak once the programs are compiled, before the first
      step; not if there is none left to do.
    until: Called with the number of epochs done after each; true makes it the last, evaluated and
      saved as the last of `settings.epochs` is. So a run may end by the clock.
    ends_on: Signals of which the first ends the run after its epoch, saved; the handlers of before
      take the next.
    ended: Called after that with what there is to say, which by default is raised; if it returns,
      so does this function, with the state of that epoch.
    before: Records of the epochs that `state` has behind it, for each replica.
    restored: Called with the state of the checkpoint that is continued; returns the one to train.

  Returns:
    The final state (with each predictor's best variables), and for each replica the record of
    every epoch. A warning says where a constraint on gamma had no time to act, by the rule of
    `settling.unsettled`.

  Raises:
    ConfigurationError: sizes that do not fit (the data, or the memory: says what would), or a
      workdir that holds a run while not resuming.
    NonFiniteError: a loss or gradient of every replica is not finite; names epoch and step.
    CheckpointError: a checkpoint cannot be written, or none can be read.
    Interrupted: one of the signals came; the state was saved.
    HostError: another process of this run was lost.
  """
  workdir = None if workdir is None else expanded(workdir)
  count = parallel.replicas(state)
  samples = settings.batch_size if isinstance(data, Loader) else size(data)
  _check(settings, samples, count, names, finish)
  mesh = parallel.default_mesh(count) if mesh is None else mesh
  run_epoch = sources.compile_epoch(method, mesh, settings.batch_size, data)
  run_finish = finish and sources.compile_epoch(finish.method, mesh, settings.batch_size, data)
  run_evaluation = sources.compile_evaluation(
    method.task, mesh, settings.eval_batch_size, settings.patience, valid, metrics
  )
  writes = workdir if hosts.first() else None
  files = [writes / name / history.FILE for name in names] if writes else []
  like = functools.partial(finish.after_epochs, state) if finish else None
  state, records = resuming.begin(state, workdir, files, resume, like, before, restored)
  epoch = saved = int(np.max(state.epoch))
  if workdir is not None and epoch:
    sources.restore(data, workdir / CHECKPOINTS / f"{epoch:06d}")
  if finish and run_finish and epoch > finish.after:
    run_epoch = run_finish
  going = np.flatnonzero(state.active[:count])
  sources.check_memory(data, valid, mesh)
  state = parallel.shard_replicas(parallel.pad(state, mesh), mesh)
  finish = finish and finish.on(mesh)
  data, valid = sources.put(data, mesh), sources.put(valid, mesh)
  with contextlib.ExitStack() as stack:
    training = epoch < settings.epochs and going.size > 0
    bar = progress(epoch) if progress and training and hosts.first() else None
    if bar:
      stack.callback(bar.close)
    if training:
      # Compiled here, and not again by the calls below.
      programs = {
        memory.EPOCH: run_epoch.compile(state, data),
        memory.EVALUATION: run_evaluation.compile(state, valid),
      }
      kept = sources.resident(data, mesh), sources.resident(valid, mesh)
      peak = memory.expect(state, kept, programs, mesh, workdir is not None)
      report_memory(peak)
      sizes = {memory.EPOCH: settings.batch_size, memory.EVALUATION: settings.eval_batch_size}
      memory.check_programs(peak, sizes, mesh)
    asked_to_end = stack.enter_context(signals.asked_to_end(*ends_on))
    log = stack.enter_context(_opened(names, files, epoch, bar, loggers))
    while epoch < settings.epochs and going.size:
      if finish and run_finish and epoch == finish.after:
        state, run_epoch = finish.begin(state), run_finish
      state, new, problems = _epoch(run_epoch, state, data, epoch, going)
      epoch += 1
      last = epoch == settings.epochs or hosts.any_of(until(epoch))
      for record in new if finish else ():
        record["finish"] = int(finish is not None and epoch > finish.after)
      if last or settings.evaluates(epoch):
        state, measured, bad = _evaluation(run_evaluation, state, valid, epoch, going, measure)
        for i in going:
          new[i] |= measured[i]
          problems[i] = problems[i] or bad[i]
      going = _without_failures(going, problems, names, workdir)
      for i in going:
        records[i].append(new[i])
      log(new, going)
      going = np.flatnonzero(hosts.fetch(state.active)[:count])
      asked = hosts.any_of(asked_to_end.number != 0)
      ending = asked or last or not going.size
      if workdir is not None and (ending or epoch - saved >= settings.checkpoint_every):
        alive = parallel.select(state, slice(count))
        folder = workdir / CHECKPOINTS
        loader = sources.state_of(data)
        checkpoints.save(folder, alive, 3, settings.keep_period, files, loader)
        saved = epoch
      if asked and not last:
        where = f"saved in {workdir}" if workdir else "nothing saved: no workdir"
        # It may have come to another process.
        number = signal.SIGINT if hosts.any_of(asked_to_end.number == signal.SIGINT) else 0
        number = number or asked_to_end.number or signal.SIGTERM
        said = f"asked to end ({signals.name(number)}) after epoch {epoch}; {where}"
        ended(Interrupted(said, number))
      if asked or last:
        break
    end = parallel.select(state, slice(count))
    end = hosts.fetch(end) if hosts.several() else end
    if training and hosts.first() and not asked_to_end.number:
      _warn_of_unsettled(records, end.constraint, end.failed, names)
    return end, records


def _check(
  settings: Settings, samples: int, count: int, names: Sequence[str], finish: Finish | None
) -> None:
  """Refuses what contradicts itself, before anything is written."""
  if samples < settings.batch_size:
    raise ConfigurationError(
      f"a batch of {settings.batch_size} is larger than the {samples} training samples; "
      "lower the batch size or take more samples."
    )
  if len(names) != count:
    raise ConfigurationError(f"{count} replicas, but {len(names)} names for them.")
  if finish and (settings.patience is not None or finish.after >= settings.epochs):
    raise ConfigurationError(
      f"a finish after {finish.after} epochs needs a run of more, without patience; it has "
      f"{settings.epochs}, and patience is {settings.patience}."
    )


def _warn_of_unsettled(
  records: Sequence[Sequence[Record]], constraint: Any, failed: Any, names: Sequence[str]
) -> None:
  """Says of each replica in a line whether the constraint had no time to act."""
  for i, name in enumerate(names):
    said = "" if failed[i] else settling.unsettled(records[i], constraint)
    if said:
      logging.warning("%s%s.", f"{name}: " if name else "", said)


@contextlib.contextmanager
def _opened(
  names: Sequence[str],
  files: Sequence[Path],
  epoch: int,
  bar: Logger | None,
  loggers: Callable[[str, int], Sequence[Logger]],
) -> Iterator[Callable[[list[Record], np.ndarray], None]]:
  """Opens the sinks of records; yields what logs an epoch, `log(records, which replicas)`."""
  with contextlib.ExitStack() as stack:
    sinks = [[*loggers(name, epoch)] if hosts.first() else [] for name in names]
    for mine, file in zip(sinks, files, strict=bool(files)):
      mine.append(JsonlLogger(file))
    for sink in itertools.chain(*sinks):
      stack.callback(sink.close)

    def log(records: list[Record], going: np.ndarray) -> None:
      for i in going:
        for sink in sinks[i]:
          sink.log(records[i])
      if bar:
        bar.log(history.mean([records[i] for i in going]))

    yield log


def _epoch(
  run: Callable[..., Any], state: AceState, data: Batch, epoch: int, going: np.ndarray
) -> tuple[AceState, list[Record], dict[Any, str]]:
  """Returns the state after one more epoch, every replica's record, and what is not finite."""
  start = time.perf_counter()
  state, outputs = run(state, data)
  outputs = hosts.fetch(outputs)
  new = history.records(state, outputs, time.perf_counter() - start)
  problems = {i: _not_finite(parallel.select(outputs, i), epoch + 1) for i in going}
  return state, new, _with_advice(problems, "train", data)


def _evaluation(
  run: Callable[..., Any],
  state: AceState,
  valid: Batch,
  epoch: int,
  going: np.ndarray,
  measure: Callable[[AceState], dict[str, Any]] | None,
) -> tuple[AceState, dict[Any, Record], dict[Any, str]]:
  """Returns the state with its best predictors, every replica's numbers, and what is not finite."""
  state, errors, named = run(state, valid)
  numbers = {f"valid/{name}": values for name, values in hosts.fetch(errors).items()}
  problems = {i: _not_finite_errors(parallel.select(numbers, i), epoch) for i in going}
  numbers |= hosts.fetch(named)
  if measure is not None:
    numbers |= hosts.fetch(measure(state))
  measured = {i: {name: float(values[i]) for name, values in numbers.items()} for i in going}
  return state, measured, _with_advice(problems, "valid", valid)


def _not_finite(outputs: StepOutput, epoch: int) -> str:
  first = history.first_non_finite(outputs)
  if first is None:
    return ""
  step, quantity = first
  steps = len(outputs.loss)
  return f"the {quantity} is not finite in epoch {epoch}, step {step + 1} of {steps}"


def _not_finite_errors(errors: dict[str, Any], epoch: int) -> str:
  bad = [name for name, error in errors.items() if not np.isfinite(error)]
  return f"the error {bad[0]} is not finite after epoch {epoch}" if bad else ""


def _with_advice(problems: dict[Any, str], called: str, data: Batch) -> dict[Any, str]:
  """Returns what is not finite with what may mend it: the samples, where they are not finite."""
  if not any(problems.values()):
    return problems
  advice = "lower the step sizes or clip gradients."
  samples = sources.in_memory(**{called: data})
  held = "".join(finite.first_not_finite(name, those) for name, those in samples.items())
  if held:
    advice = (
      f"{held}: leave out these samples, or put numbers in their place before the arithmetic of "
      f"the loss; where that is done, {advice}"
    )
  return {i: said and f"{said}; {advice}" for i, said in problems.items()}


def _without_failures(
  going: np.ndarray, problems: dict[Any, str], names: Sequence[str], workdir: Path | None
) -> np.ndarray:
  """Returns the replicas that go on; raises if none does, else warns of those that do not."""
  left = np.array([i for i in going if not problems[i]], int)
  if not left.size:
    raise NonFiniteError(f"{problems[going[0]]} {_last_good(workdir)}")
  for i in going:
    if problems[i]:
      logging.warning("replica %s: %s It is left behind, the others go on.", names[i], problems[i])
  return left


def _last_good(workdir: Path | None) -> str:
  folder = None if workdir is None else workdir / CHECKPOINTS
  if folder is None or not checkpoints.exists(folder):
    return "No checkpoint had been saved yet."
  return f"The last good checkpoint is {checkpoints.newest(folder)}."
