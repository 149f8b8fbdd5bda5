"""Going on with a run: from a checkpoint of its workdir, or from a `Fit`; what may differ by then.

Step sizes and the constants of a constraint ride in a run's state, so that a checkpoint brings the
old ones: `adopted` puts in those that are given now. What cannot change is refused by `compared`,
which reads what the run was started with from `fit.json` in its workdir.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from ace_jax import compiling, files
from ace_jax.errors import CheckpointError, ConfigurationError
from ace_jax.homotopy import Variables
from ace_jax.saving import FitSettings
from ace_jax.state import AceState
from ace_jax.task import Batch, Task
from ace_jax.training import checkpoints, history, hosts, parallel
from ace_jax.training.history import Record
from ace_jax.training.locks import locked

CHECKPOINTS = "checkpoints"
SETTINGS = "fit.json"
_FORMAT = 1
_RATES = ("lr", "gamma_lr", "slack_lr")
_USED = (*_RATES, "dual_lr", "clip_norm", "batch_size", "eval_every", "patience")


def begin(
  state: AceState,
  workdir: Path | None,
  records: Sequence[Path],
  resume: bool,
  like: Any = None,
  before: Sequence[list[Record]] = (),
  restored: Callable[[AceState], AceState] = lambda state: state,
) -> tuple[AceState, list[list[Record]]]:
  """Returns the state with which a run begins, and the records of what was done before.

  Args:
    state: The one that it begins with where there is no checkpoint.
    workdir: Its folder; None keeps nothing.
    records: The metrics file of each replica; none in a process that does not write.
    resume: Continue from the newest whole checkpoint, if there is one.
    like: `like(epoch)` has the structure of the checkpoint after that epoch; `state` if None.
    before: Each replica's records of the epochs that `state` has behind it.
    restored: Called with a checkpoint's state; returns the one to go on with.

  Raises:
    ConfigurationError: the folder holds a run, and `resume` is False.
    CheckpointError: the folder cannot be written, or no checkpoint of it can be read.
  """
  kept = [[*lines] for lines in before] or [[] for _ in range(parallel.replicas(state))]
  if workdir is None:
    return state, kept
  folder = workdir / CHECKPOINTS
  try:
    epoch = hosts.from_first(lambda: _epoch_of(folder, records, resume))
    if epoch:
      old = checkpoints.load(folder / f"{epoch:06d}", like(epoch) if like else state)
      state = restored(old)
      kept = [history.truncate(file, epoch) for file in records] or kept
    else:
      for file, lines in zip(records, kept if records else (), strict=True):
        history.write(file, lines)
  except OSError as error:
    raise CheckpointError(
      f"cannot write to workdir {workdir}: {error.strerror}; choose another one."
    ) from error
  return state, kept


def _epoch_of(folder: Path, records: Sequence[Path], resume: bool) -> int:
  """Returns the epoch of the checkpoint to start from, 0 for none; makes the folders."""
  for file in records:
    file.parent.mkdir(parents=True, exist_ok=True)
  if not checkpoints.exists(folder):
    if resume:
      logging.warning("%s holds no checkpoint yet; starting at epoch 0.", folder.parent)
    return 0
  if not resume:
    raise ConfigurationError(
      f"{folder.parent} already holds a run; resume it, or choose another workdir."
    )
  return int(checkpoints.newest_whole(folder, records).name)


def fingerprint(data: Batch) -> str | None:
  """Returns a checksum of names, shapes and numbers; None of what is not made of arrays."""
  sums = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(data)[0]:
    if not isinstance(leaf, np.ndarray | jax.Array):
      return None
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      leaf = jax.random.key_data(leaf)
    # As JAX will hold it, so that float64 and float32 of the same numbers are the same data.
    array = np.ascontiguousarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    sums.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
    sums.update(array.view(np.uint8).data if array.size else b"")
  return sums.hexdigest()


def program_of(task: Task, variables: Variables, sample: Batch) -> str | None:
  """Returns a checksum of the program by which a task's predictors are selected.

  It is that of the metric alone, of predictions of two samples; whatever else the metric reads is
  a constant of the program. None where that has no text, such as of one that calls Python.

  Args:
    task: Its metric, or without one its loss.
    variables: Of a predictor.
    sample: Samples of the shapes of which the program is.
  """
  prediction = jax.eval_shape(task.predict, variables, sample)
  text = jax.jit(task.metric or task.loss).lower(prediction, sample).as_text()
  return None if compiling.outside(text) else hashlib.sha256(text.encode()).hexdigest()


class Fingerprints(Mapping[str, str | None]):
  """Checksums of data by name, each made when it is first asked for.

  Until then the data are held, and what is changed in place counts as changed.

  Args:
    data: Samples by name.
  """

  def __init__(self, data: Mapping[str, Batch]):
    self._data, self._sums = dict(data), {}

  def __getitem__(self, name: str) -> str | None:
    if name in self._data:
      self._sums[name] = fingerprint(self._data.pop(name))
    return self._sums[name]

  def __iter__(self) -> Iterator[str]:
    return iter([*self._sums, *self._data])

  def __len__(self) -> int:
    return len(self._sums) + len(self._data)


def adopted(old: AceState, fresh: AceState, patience: int | None) -> AceState:
  """Returns a state of before with the constants, step sizes and patience that are given now.

  Args:
    old: With a leading axis of replicas, as `fresh`.
    fresh: Of the same structure, made of what is given now.
    patience: Evaluations without improvement to stop after; who stopped after fewer goes on.
  """
  failed, epoch = np.asarray(old.failed), np.asarray(old.epoch)
  stalled = np.stack([np.asarray(best.stalled) for best in old.best.values()])
  waits = np.ones_like(failed, bool) if patience is None else np.any(stalled < patience, axis=0)
  # Replicas that stopped before the others have no records of the epochs between.
  active = np.where(epoch == epoch.max(), waits & (failed == 0), np.asarray(old.active))
  return old.replace(  # pyright: ignore[reportAttributeAccessIssue]
    constraint=fresh.constraint,
    primal_state=_with_step_sizes(old.primal_state, fresh.primal_state),
    dual_state=_with_step_sizes(old.dual_state, fresh.dual_state),
    active=jnp.asarray(active),
  )


def _with_step_sizes(old: Any, fresh: Any) -> Any:
  def injected(node: Any) -> bool:
    return isinstance(node, optax.InjectStatefulHyperparamsState)

  def replaced(old: Any, fresh: Any) -> Any:
    if not injected(old):
      return old
    inner = _with_step_sizes(old.inner_state, fresh.inner_state)
    return old._replace(hyperparams=fresh.hyperparams, inner_state=inner)

  return jax.tree.map(replaced, old, fresh, is_leaf=injected)


def compared(what: str, old: FitSettings, new: FitSettings, same_data: bool) -> list[str]:
  """Returns what differs and is used from now on, in words.

  Args:
    what: Is gone on with, for messages.
    old: How it was trained.
    new: How it is to be trained.
    same_data: Whether data and what selects must be the same.

  Raises:
    ConfigurationError: what cannot change has changed; names the first.
  """

  def refuse(name: str, before: Any, now: Any) -> None:
    raise ConfigurationError(
      f"{what} was trained with {name} {before}, which cannot become {now}; give what it had, or "
      "begin another run."
    )

  fixed = ["constraint", "dual", "decays", *(("mode", "select") if same_data else ())]
  for name in fixed:
    if getattr(old, name) != getattr(new, name):
      refuse(name, getattr(old, name), getattr(new, name))
  for name in (*_RATES, "clip_norm"):  # without one, a state has another structure
    if (getattr(old, name) is None) != (getattr(new, name) is None):
      refuse(name, getattr(old, name), getattr(new, name))
  if same_data:
    for name, sum_before in (old.data or {}).items():
      now = (new.data or {}).get(name)
      if sum_before and now and sum_before != now:
        raise ConfigurationError(
          f"{what} was trained with other data: {name} has changed; give the same arrays, or go on "
          "from its Fit with state=."
        )
  changes = {name: (getattr(old, name), getattr(new, name)) for name in _USED}
  for name in {**old.constants, **new.constants}:
    changes[name] = (old.constants.get(name), new.constants.get(name))
  return [f"{name} {before} -> {now}" for name, (before, now) in changes.items() if before != now]


class Kept:
  """Keeps how the replicas of a run are trained in its workdir.

  Attributes:
    same_metric: Whether the errors in its checkpoint are known to be of the metric given now.

  Args:
    workdir: The folder; None keeps nothing.
    settings: Of each replica.
  """

  def __init__(self, workdir: Path | None, settings: Sequence[FitSettings]):
    self._workdir, self._settings = workdir, settings
    self.same_metric = True

  def replace(self) -> None:
    """Writes the file.

    Raises:
      CheckpointError: it cannot be written.
    """
    if self._workdir is None or not hosts.first():
      return
    # Until a checkpoint of the new errors is there, the next run must not take them for such.
    runs = [run if self.same_metric else run._replace(metric=None) for run in self._settings]
    content = {"format": _FORMAT, "runs": [run.content() for run in runs]}
    try:
      files.write_json(self._workdir / SETTINGS, content)
    except OSError as error:
      raise CheckpointError(
        f"cannot write to workdir {self._workdir}: {error.strerror}; choose another one."
      ) from error


@contextlib.contextmanager
def kept(
  workdir: str | Path | None, settings: Sequence[FitSettings], resume: bool, names: Sequence[str]
) -> Iterator[Kept]:
  """Locks a workdir, and compares its run, if it is resumed, with what is given now.

  Args:
    workdir: The folder; None has no run.
    settings: Of each replica, as given now.
    resume: Whether the run in the folder is continued.
    names: Folder of each replica in it, "" of one that was given alone.

  Yields:
    What writes the settings, once the run is read; a new run's are written before.

  Raises:
    ConfigurationError: another process uses the folder; or what cannot change has changed.
    CheckpointError: the folder cannot be written, or its file is damaged.
  """
  if workdir is None:
    yield Kept(None, settings)
    return
  folder = files.expanded(workdir)
  with locked(folder) if hosts.first() else contextlib.nullcontext():
    keeps = Kept(folder, settings)
    if not checkpoints.exists(folder / CHECKPOINTS):
      keeps.replace()
    elif resume:
      keeps.same_metric = bool(hosts.from_first(lambda: _compare(folder, settings, names)))
    yield keeps


def _compare(workdir: Path, settings: Sequence[FitSettings], names: Sequence[str]) -> int:
  """Says in a line what differs from the settings in a workdir, or refuses it.

  Returns:
    1 if the errors in its checkpoint are of the metric given now, 0 if that is not known.
  """
  path = workdir / SETTINGS
  try:
    runs = [FitSettings(**run) for run in json.loads(path.read_text())["runs"]]
  except FileNotFoundError:
    logging.warning(
      "%s is missing, as before version 0.2: what is given now is used, data are not compared.",
      path,
    )
    return 0
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f"{path} is damaged; restore it, or remove it to resume.") from error
  if [run.seed for run in runs] != [run.seed for run in settings]:
    seeds = [[run.seed for run in those] for those in (runs, settings)]
    names = [f"seed={those[0]}" if len(those) == 1 else f"seeds={those}" for those in seeds]
    raise ConfigurationError(
      f"the run in {workdir} has {names[0]}, not {names[1]}; give that, or choose another workdir."
    )
  # One seed may have been given alone, or in a list of one, whose records lie elsewhere.
  seed = settings[0].seed
  given, other = f"seed={seed}", f"seeds=[{seed}]"
  given, other = (other, given) if names[0] else (given, other)
  folders = (names[0], "" if names[0] else f"seed{seed}")
  here, there = ((workdir / folder / history.FILE).exists() for folder in folders)
  if len(names) == 1 and there and not here:
    raise ConfigurationError(
      f"the run in {workdir} has {other}, not {given}; give that, or choose another workdir."
    )
  what = f"the run in {workdir}"
  say(what, compared(what, runs[0], settings[0], same_data=True))
  return int(runs[0].metric is not None and runs[0].metric == settings[0].metric)


def say(what: str, changes: Sequence[str]) -> None:
  """Says in one line what a run goes on with that differs; nothing if nothing does."""
  if changes:
    logging.warning("%s goes on with %s.", what, ", ".join(changes))
