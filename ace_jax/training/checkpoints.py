"""Checkpoints: written by Orbax, sealed by a manifest of checksums, verified before they are read.

A folder holds the newest few, `checkpoints/000120/` after 120 epochs: `state/` is Orbax's, and
`manifest.json`, written last, lists the sha256 of every file in it. A folder without a manifest
is a save that was cut short. Orbax itself restores flipped bits without a word, hence the sums.
"""

import contextlib
import errno
import gc
import hashlib
import json
import logging as std_logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization, traverse_util

from ace_jax import files
from ace_jax.errors import CheckpointError, first_line
from ace_jax.state import AceState
from ace_jax.training import hosts

_MANIFEST = "manifest.json"
_LOADER = "loader.json"
_FORMAT = 2  # of the tree of arrays in a checkpoint; a manifest that names none is of the first
_NOT_SUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}
_LAST_COMMITS = {1: "a5f5617"}  # the last one that resumes checkpoints of an earlier format


def save(
  folder: str | Path,
  state: AceState,
  keep: int = 3,
  keep_period: int | None = None,
  records: Sequence[Path] = (),
  loader: list[Any] | None = None,
) -> Path:
  """Saves a state; older checkpoints are removed only after it is complete.

  Of several processes all must call it; Orbax writes what each of them holds.

  Args:
    folder: Holds the checkpoints of one run; made if missing. A leading ~ is the home folder.
    state: What to save, all of it; with or without a leading axis of replicas.
    keep: How many to keep, this one included.
    keep_period: Checkpoints after a multiple of so many epochs are kept beyond that, for good.
    records: Files that the run appends to, whose content up to here the manifest seals too.
    loader: Each process's state of a loader (`Loader.state`); None where there is none.

  Returns:
    The new checkpoint's folder, named by the number of epochs done.

  Raises:
    CheckpointError: the disk is full or read-only, say; what was saved before is untouched.
  """
  folder = files.expanded(folder)
  epoch, step = (int(np.max(number)) for number in hosts.fetch((state.epoch, state.step)))
  checkpoint = folder.absolute() / f"{epoch:06d}"
  try:
    if hosts.first():
      checkpoint.mkdir(parents=True, exist_ok=True)
      (checkpoint / _MANIFEST).unlink(missing_ok=True)
      _check_space(checkpoint, state)
    failure = _write(checkpoint / "state", _arrays(state))
    if failure:
      raise OSError(failure)
    if not hosts.first():
      return checkpoint
    (checkpoint / _LOADER).unlink(missing_ok=True)
    if loader is not None:
      files.write_json(checkpoint / _LOADER, loader)
    manifest = {"format": _FORMAT, "epoch": epoch, "step": step, "sha256": _sums(checkpoint)}
    manifest["records"] = {os.path.relpath(path, checkpoint): _start(path) for path in records}
    files.write_json(checkpoint / _MANIFEST, manifest)
  except OSError as error:
    reason = error.strerror or first_line(error)
    raise CheckpointError(
      f"cannot write checkpoint {checkpoint}: {reason}; free or change the disk, then "
      "resume: earlier checkpoints are untouched."
    ) from error
  for cut_short in _folders(folder):
    if cut_short.name < checkpoint.name and not (cut_short / _MANIFEST).exists():
      shutil.rmtree(cut_short, ignore_errors=True)
  for old in _sealed(folder)[keep:]:
    if keep_period is None or int(old.name) % keep_period:
      shutil.rmtree(old, ignore_errors=True)
  return checkpoint


def restore(folder: str | Path, state: AceState) -> AceState:
  """Restores the newest checkpoint that is whole, falling back from damaged ones.

  Args:
    folder: Holds the checkpoints of one run.
    state: A state of the same structure, such as a fresh one.

  Raises:
    CheckpointError: no checkpoint is whole, or it belongs to another model or constraint.
  """
  return load(newest_whole(folder), state)


def newest_whole(folder: str | Path, records: Sequence[Path] = ()) -> Path:
  """Returns the newest checkpoint that is whole; each damaged one is named in a warning.

  Args:
    folder: Holds the checkpoints of one run.
    records: Files given to `save`; a checkpoint is whole only if they still begin as they did then.

  Raises:
    CheckpointError: there is none.
  """
  folder = files.expanded(folder)
  for checkpoint in _folders(folder):
    damage = _damage(checkpoint) or _damage_of_records(checkpoint, records)
    if damage:
      logging.warning("checkpoint %s; falling back to the one before it.", damage)
      continue
    return checkpoint
  raise CheckpointError(
    f"{folder} holds no whole checkpoint; start afresh with another workdir, or remove this one."
  )


def restore_all(folder: str | Path, state: AceState, last: int | None = None) -> list[AceState]:
  """Restores every checkpoint that is whole, the oldest first: the run along its training.

  Args:
    folder: Holds the checkpoints of one run.
    state: A state of the same structure, such as a fresh one.
    last: Epoch after which they are left out; None takes all.

  Raises:
    CheckpointError: one belongs to another model or constraint.
  """
  sealed = [
    checkpoint
    for checkpoint in _sealed(files.expanded(folder))
    if last is None or int(checkpoint.name) <= last
  ]
  return [load(checkpoint, state) for checkpoint in reversed(sealed) if not _damage(checkpoint)]


def exists(folder: str | Path) -> bool:
  """Whether a folder holds a checkpoint that was completed (and perhaps damaged since)."""
  return bool(_sealed(files.expanded(folder)))


def newest(folder: str | Path) -> Path:
  """Returns the newest completed checkpoint of a folder that has one."""
  return _sealed(files.expanded(folder))[0]


def _sealed(folder: Path) -> list[Path]:
  return sorted((path.parent for path in folder.glob(f"[0-9]*/{_MANIFEST}")), reverse=True)


def _folders(folder: Path) -> list[Path]:
  return sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), reverse=True)


def _write(checkpoint: Path, arrays: Any) -> str:
  """Lets Orbax write; returns what went wrong, "" if nothing.

  When a disk fails, so do several of Orbax's threads, tasks and callbacks, which print tracebacks
  or log errors while it goes on, or when they are collected. They are muted until then; what it
  raised is returned as text, since the exception itself would keep them alive.
  """
  others = {*threading.enumerate()} - {threading.current_thread()}
  reason = ""
  with _muted(lambda: threading.current_thread() not in others):
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoint, arrays, force=True)
        checkpointer.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      reason = getattr(error, "strerror", None) or first_line(error)
    if reason:
      for thread in {*threading.enumerate()} - others - {threading.current_thread()}:
        thread.join(0.5)
      gc.collect()
  return reason


_LOGGERS = ("absl", "asyncio", "concurrent.futures")
"""Through which Orbax and what it stands on report."""


@contextlib.contextmanager
def _muted(mute: Callable[[], bool]) -> Iterator[None]:
  """Keeps some threads from logging and from writing to stderr; all others go on as before.

  Args:
    mute: Whether the thread that asks is one of them.
  """

  def admits(record: std_logging.LogRecord) -> bool:
    del record
    return not mute()

  loggers = [std_logging.getLogger(name) for name in _LOGGERS]
  for logger in loggers:
    logger.addFilter(admits)
  try:
    with contextlib.redirect_stderr(_Muted(sys.stderr, mute)):  # pyright: ignore[reportArgumentType]
      yield
  finally:
    for logger in loggers:
      logger.removeFilter(admits)


class _Muted:
  """A stream that takes nothing from threads that are to be mute."""

  def __init__(self, stream: Any, mute: Callable[[], bool]):
    self._stream, self._mute = stream, mute

  def write(self, text: str) -> int:
    return len(text) if self._mute() else self._stream.write(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def _check_space(checkpoint: Path, state: AceState) -> None:
  # Asked of the disk beforehand, since Orbax's writers, when they fail half-way, leave threads
  # behind that print tracebacks.
  needed = int(1.25 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))) + 2**20
  probe = checkpoint / ".probe"
  try:
    with probe.open("wb") as file:
      if not _allocated(file.fileno(), needed) and shutil.disk_usage(checkpoint).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  finally:
    probe.unlink(missing_ok=True)


def _allocated(descriptor: int, size: int) -> bool:
  """Takes bytes on the disk for an open file; False where the system cannot.

  Raises:
    OSError: the disk has not so much.
  """
  allocate = getattr(os, "posix_fallocate", None)
  if allocate is None:  # macOS, Windows
    return False
  try:
    allocate(descriptor, 0, size)
  except OSError as error:
    if error.errno in _NOT_SUPPORTED:  # by the file system
      return False
    raise
  return True


def load(checkpoint: str | Path, state: AceState) -> AceState:
  """Restores a checkpoint that is known to be whole.

  Args:
    checkpoint: Its folder.
    state: A state of the same structure, such as a fresh one.

  Raises:
    CheckpointError: it belongs to another model or constraint, or was written before version 0.2.
  """
  checkpoint = files.expanded(checkpoint)
  _check_format(checkpoint)
  target = _arrays(state)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      saved = checkpointer.restore(checkpoint.absolute() / "state", target)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(
      f"checkpoint {checkpoint} does not fit this model and constraint: {first_line(error)}"
    ) from error
  # Empty containers are not stored; they come back from the given state.
  flat = traverse_util.flatten_dict(serialization.to_state_dict(state), keep_empty_nodes=True)
  flat |= traverse_util.flatten_dict(saved)
  restored: Any = serialization.from_state_dict(state, traverse_util.unflatten_dict(flat))
  return restored


def _check_format(checkpoint: Path) -> None:
  """Refuses a checkpoint whose arrays have the names of an earlier version."""
  written = json.loads((checkpoint / _MANIFEST).read_text()).get("format", 1)
  if written != _FORMAT:
    commit = _LAST_COMMITS.get(written)
    version = f"commit {commit} is the last that resumes it" if commit else "take a newer ace_jax"
    raise CheckpointError(
      f"checkpoint {checkpoint} has format {written}, not {_FORMAT}: {version}; or start afresh in "
      "another workdir."
    )


def _arrays(state: AceState) -> Any:
  flat = traverse_util.flatten_dict(serialization.to_state_dict(state))
  return traverse_util.unflatten_dict({k: v for k, v in flat.items() if _is_array(v)})


def _is_array(leaf: Any) -> bool:
  return bool(jax.tree.leaves(leaf))


def _sums(checkpoint: Path) -> dict[str, str]:
  members = sorted(path for path in (checkpoint / "state").rglob("*") if path.is_file())
  members += [path for path in (checkpoint / _LOADER,) if path.is_file()]
  return {str(path.relative_to(checkpoint)): files.sha256(path) for path in members}


def loader_state(checkpoint: str | Path) -> list[Any] | None:
  """Returns each process's state of a loader from a checkpoint; None if it has none."""
  path = files.expanded(checkpoint) / _LOADER
  return json.loads(path.read_text()) if path.exists() else None


def _start(path: Path, size: int | None = None) -> list[Any]:
  content = path.read_bytes()[:size]
  return [len(content), hashlib.sha256(content).hexdigest()]


def _damage_of_records(checkpoint: Path, records: Sequence[Path]) -> str:
  sealed = json.loads((checkpoint / _MANIFEST).read_text()).get("records", {})
  for path in records:
    expected = sealed.get(os.path.relpath(path, checkpoint))
    if expected and (not path.exists() or _start(path, expected[0]) != expected):
      return f"{checkpoint} is whole, but {path} is damaged before its end"
  return ""


def _damage(checkpoint: Path) -> str:
  """Returns what is wrong with a checkpoint, "" if nothing."""
  try:
    manifest = json.loads((checkpoint / _MANIFEST).read_text())["sha256"]
  except FileNotFoundError:
    return f"{checkpoint} is incomplete (it has no {_MANIFEST})"
  except (OSError, ValueError, KeyError, TypeError):
    return f"{checkpoint / _MANIFEST} is damaged"
  sums = _sums(checkpoint)
  for name, digest in manifest.items():
    if name not in sums:
      return f"{checkpoint / name} is missing"
    if sums[name] != digest:
      return f"{checkpoint / name} is damaged (its sha256 is not the manifest's)"
  return ""
