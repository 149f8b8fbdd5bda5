"""The host's side of a run: epochs, evaluations, checkpoints, and what to do when asked to end."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from ace_jax import checkpoints, epochs, history, parallel, task
from ace_jax.errors import CheckpointError, ConfigurationError, Interrupted, NonFiniteError
from ace_jax.history import Record
from ace_jax.logging import JsonlLogger, Logger
from ace_jax.state import AceState
from ace_jax.task import Batch

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Settings:
  """How long to train, and what to do on the way.

  Attributes:
    epochs: Passes over the training data.
    batch_size: Samples in a batch, over all devices; the last incomplete batch is dropped.
    eval_every: Evaluate after epochs 1, 1 + eval_every, 1 + 2 eval_every, ..., and the last.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    checkpoint_every: Save after every so many epochs, and after the last.
    patience: Stop once every predictor has gone so many evaluations without improving; None
      never stops early.
  """

  epochs: int = 100
  batch_size: int = 32
  eval_every: int = 1
  eval_batch_size: int = 500
  checkpoint_every: int = 10
  patience: int | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and value < 1:
        raise ConfigurationError(f"{field.name} is {value}; it must be at least 1.")

  def evaluates(self, epoch: int) -> bool:
    """Whether an evaluation follows when `epoch` epochs are done."""
    return (epoch - 1) % self.eval_every == 0 or epoch == self.epochs


def train(
  state: AceState,
  data: Batch,
  valid: Batch,
  settings: Settings,
  *,
  mesh: Mesh | None = None,
  workdir: Path | None = None,
  resume: bool = False,
  loggers: Callable[[int], Sequence[Logger]] = lambda done: (),
  measure: Callable[[AceState], Record] | None = None,
) -> tuple[AceState, list[Record]]:
  """Trains a state to the end of its epochs.

  Args:
    state: A fresh state (`state.create`); donated.
    data: Training samples.
    valid: Validation samples, which select each predictor's best variables.
    settings: Lengths and intervals.
    mesh: Devices; all of this host along "data" by default.
    workdir: Gets checkpoints/ and metrics.jsonl; None keeps nothing on disk.
    resume: Continue from the newest whole checkpoint of `workdir`, if it has one.
    loggers: Called with the number of epochs done; returns further sinks of records.
    measure: Further numbers to record at every evaluation, from the state.

  Returns:
    The final state (with each predictor's best variables) and the record of every epoch.

  Raises:
    ConfigurationError: sizes that do not fit, or a workdir that holds a run while not resuming.
    NonFiniteError: a loss or gradient is not finite; names the epoch and the step.
    CheckpointError: a checkpoint cannot be written, or none can be read.
    Interrupted: SIGTERM came; the state was saved.
  """
  samples = task.size(data)
  if samples < settings.batch_size:
    raise ConfigurationError(
      f"a batch of {settings.batch_size} is larger than the {samples} training samples; "
      "lower the batch size or take more samples."
    )
  mesh = parallel.make_mesh() if mesh is None else mesh
  run_epoch = epochs.compile_epoch(mesh, settings.batch_size)
  run_evaluation = epochs.compile_evaluation(mesh, settings.eval_batch_size, settings.patience)
  state, records = _start(state, workdir, resume)
  state, data, valid = parallel.replicate((state, data, valid), mesh)

  with contextlib.ExitStack() as stack:
    asked_to_end = stack.enter_context(_sigterm())
    sinks = [*loggers(int(state.epoch))]
    if workdir is not None:
      sinks.append(JsonlLogger(workdir / history.FILE))
    for sink in sinks:
      stack.callback(sink.close)
    saved = int(state.epoch)
    while int(state.epoch) < settings.epochs and bool(state.active):
      start = time.perf_counter()
      state, outputs = run_epoch(state, data)
      outputs = jax.device_get(outputs)
      _check_finite(outputs, state, samples // settings.batch_size, workdir)
      record = history.record(state, outputs, time.perf_counter() - start)
      epoch = int(record["epoch"])
      if settings.evaluates(epoch):
        state, errors = run_evaluation(state, valid)
        record |= {f"valid/{name}": float(error) for name, error in errors.items()}
        _check_evaluation(record, workdir)
        if measure is not None:
          record |= measure(state)
      records.append(record)
      for sink in sinks:
        sink.log(record)
      ending = asked_to_end.is_set() or epoch == settings.epochs or not bool(state.active)
      if workdir is not None and (ending or epoch - saved >= settings.checkpoint_every):
        checkpoints.save(workdir / CHECKPOINTS, state)
        saved = epoch
      if asked_to_end.is_set() and epoch < settings.epochs:
        where = (
          f"saved in {workdir}; resume to continue" if workdir else "nothing saved: no workdir"
        )
        raise Interrupted(f"asked to end (SIGTERM) after epoch {epoch}; {where}.")
  return state, records


def test_errors(
  state: AceState, test: Batch, batch_size: int = 500, mesh: Mesh | None = None
) -> dict[str, float]:
  """Returns each predictor's test error, at its own lowest validation error.

  Args:
    state: A trained state.
    test: Test samples.
    batch_size: Samples evaluated at once.
    mesh: Devices.
  """
  mesh = parallel.make_mesh() if mesh is None else mesh
  errors = epochs.compile_errors(mesh, batch_size, state.task)
  found = errors(*parallel.replicate((state.selected(), test), mesh))
  return {name: float(error) for name, error in found.items()}


def _start(state: AceState, workdir: Path | None, resume: bool) -> tuple[AceState, list[Record]]:
  if workdir is None:
    return state, []
  folder = workdir / CHECKPOINTS
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if checkpoints.exists(folder):
      if not resume:
        raise ConfigurationError(
          f"{workdir} already holds a run; resume it, or choose another workdir."
        )
      state = checkpoints.restore(folder, state)
    elif resume:
      logging.warning("%s holds no checkpoint yet; starting at epoch 0.", workdir)
    return state, history.truncate(workdir / history.FILE, int(state.epoch))
  except OSError as error:
    raise CheckpointError(
      f"cannot write to workdir {workdir}: {error.strerror}; choose another one."
    ) from error


def _check_finite(outputs: Any, state: AceState, steps: int, workdir: Path | None) -> None:
  found = history.first_non_finite(outputs)
  if found is not None:
    step, quantity = found
    raise NonFiniteError(
      f"the {quantity} is not finite in epoch {int(state.epoch)}, step {step + 1} of {steps}; "
      f"lower the step sizes or clip gradients. {_last_good(workdir)}"
    )


def _check_evaluation(record: Record, workdir: Path | None) -> None:
  bad = [k for k, v in record.items() if k.startswith("valid/") and not np.isfinite(v)]
  if bad:
    raise NonFiniteError(
      f"the error {bad[0]} is not finite after epoch {int(record['epoch'])}, step "
      f"{int(record['step'])}; lower the step sizes or clip gradients. {_last_good(workdir)}"
    )


def _last_good(workdir: Path | None) -> str:
  folder = None if workdir is None else workdir / CHECKPOINTS
  if folder is None or not checkpoints.exists(folder):
    return "No checkpoint had been saved yet."
  return f"The last good checkpoint is {checkpoints.newest(folder)}."


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
  """Turns SIGTERM into an event for as long as it lasts (in the main thread; elsewhere never)."""
  asked = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield asked
    return
  before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
  try:
    yield asked
  finally:
    signal.signal(signal.SIGTERM, before)
