"""The folder of a command, before JAX is imported: chosen, tried, and said first."""

import atexit
import contextlib
import datetime
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError
from experiments.harness import interrupts, result_files
from experiments.harness.usage import UsageError

CONFIG, RESULT, RECORDS = "config.json", "result.json", "metrics.jsonl"
RUNS = Path("runs")
"""Where folders are made that no flag names."""


def chosen(workdir: str | None, label: str, resume: Sequence[str] = ()) -> Path:
  """Returns the folder that a command writes to, made and tried; says it where none was named.

  Args:
    workdir: As --workdir gives it; None for a new folder runs/LABEL_TIME.
    label: What the folder is called.
    resume: Flags that the command needs, beside --workdir, to go on there.

  Raises:
    UsageError: it cannot be written, or holds a result that nothing could go on from.
  """
  if workdir and (refusal := _unknown(Path(workdir))):
    raise UsageError(refusal)
  folder = tried(Path(workdir) if workdir else _new(label), "workdir", resume)
  if workdir is None:
    shown = " ".join([f"--workdir={folder}", *resume])
    print(f"Everything is written to {folder} (add {shown} to go on with it).", flush=True)
  return folder


def tried(folder: Path, flag: str, resume: Sequence[str] = ()) -> Path:
  """Makes a folder, writes to it for a trial, and returns it.

  Args:
    folder: Where a command writes.
    flag: That names it.
    resume: Further flags that the command needs to go on there.

  Raises:
    UsageError: it cannot be written.
  """
  _check_text(folder, flag)
  interrupts.work_in(folder, (f"--{flag}={folder}", *resume))
  try:
    if not folder.exists():  # else a command that is refused later would leave it
      atexit.register(_remove_if_empty, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise unwritable(folder, flag, error) from error
  return folder


def existing(folder: str, flag: str) -> Path:
  """Returns a folder that a command reads.

  Args:
    folder: As the flag gives it.
    flag: Its name.

  Raises:
    UsageError: there is no such folder.
  """
  if not Path(folder).is_dir():
    raise UsageError(f"--{flag}={folder} is no folder; name one that exists.")
  return Path(folder)


def unwritable(folder: Path, flag: str, error: OSError) -> UsageError:
  """Returns the error of a folder that cannot be written, which a flag names."""
  return UsageError(
    f"cannot write to {flag} {folder}: {error.strerror}; choose another with --{flag}."
  )


def _new(label: str) -> Path:
  """Makes a folder that no other command has, however many start in one second."""
  time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  number = 1
  while True:
    folder = RUNS / (f"{label}_{time}" if number == 1 else f"{label}_{time}-{number}")
    try:
      folder.mkdir(parents=True)
    except FileExistsError:
      number += 1
      continue
    except OSError as error:
      raise unwritable(folder, "workdir", error) from error
    atexit.register(_remove_if_empty, folder)
    return folder


def _remove_if_empty(folder: Path) -> None:
  with contextlib.suppress(OSError):
    folder.rmdir()


def check(workdir: str | None, settings: Mapping[str, Any] | None, resume: bool) -> None:
  """Refuses a folder that a run would refuse, and writes nothing.

  Args:
    workdir: As the flag gives it; None is a new folder.
    settings: What decides the run, as in its config.json; None where any may be continued.
    resume: Whether what is there may be continued.

  Raises:
    UsageError: it cannot be written, or holds another run.
  """
  folder = Path(workdir) if workdir else RUNS
  _check_text(folder, "workdir")
  there = _nearest(folder)
  if not there.is_dir():
    raise UsageError(
      f"cannot write to workdir {folder}: {there} is no folder; choose another with --workdir."
    )
  if not os.access(there, os.W_OK | os.X_OK):
    raise UsageError(
      f"cannot write to workdir {folder}: {there} is write-protected; choose another with "
      "--workdir."
    )
  if settings is not None:
    try:
      refusal = why_not(folder / CONFIG, settings, resume)
    except DataError as error:
      raise UsageError(str(error)) from error
    if refusal:
      raise UsageError(refusal)


def _check_text(folder: Path, flag: str) -> None:
  """Refuses a path that checkpoints cannot be written to, since their library takes UTF-8 alone."""
  try:
    os.path.abspath(folder).encode()
  except UnicodeEncodeError as error:
    raise UsageError(
      f"cannot write to {flag} {folder}: the path is not UTF-8 in this locale; set PYTHONUTF8=1, "
      f"or choose another with --{flag}."
    ) from error


def _nearest(folder: Path) -> Path:
  """Returns what exists of a path: itself, or the nearest folder (or file) above it.

  Raises:
    UsageError: a part of it is too long, leads in a circle, or is a link to nothing.
  """
  there = folder
  while True:
    try:
      there.stat()
      return there
    except (FileNotFoundError, NotADirectoryError):
      if there.is_symlink():
        raise UsageError(
          f"cannot write to workdir {folder}: {there} is a link to nothing; choose another with "
          "--workdir."
        ) from None
      there = there.parent
    except OSError as error:
      raise unwritable(folder, "workdir", error) from error


def why_not(config: Path, settings: Mapping[str, Any], resume: bool) -> str:
  """Returns why a run cannot go into the folder of a config.json; "" if it can.

  Args:
    config: The file; it may be missing where nothing has run.
    settings: What decides the run, as JSON.
    resume: Whether a run that is there may be continued.

  Raises:
    DataError: the file is damaged.
  """
  if not config.exists():
    return _unknown(config.parent)
  there, renamed = result_files.read_config(config, "restore it, or choose another --workdir")
  # A run may be resumed to a longer one: its past does not depend on where it ends, unless its last
  # epochs are a finish.
  free = () if settings.get("finish_epochs") else ("epochs",)
  differing = [name for name in differences(there, settings) if name not in free]
  if differing:
    shown = ", ".join(
      f"{k}: {there.get(k)} there, {settings.get(k)} asked for" for k in differing[:3]
    )
    held = f"{EARLIER}, with" if renamed else "a run with"
    return (
      f"{config.parent} holds {held} another configuration ({shown}); "
      "give the same flags, or choose another --workdir."
    )
  if not resume:
    return f"{config.parent} already holds this run; add --resume, or choose another --workdir."
  return ""


def _unknown(folder: Path) -> str:
  """Returns why nothing is written to a folder that holds what is committed of a run, say."""
  if not (folder / RESULT).exists() or (folder / CONFIG).exists():
    return ""
  return f"{folder} holds a {RESULT} without the {CONFIG} of its run; choose another --workdir."


EARLIER = "a run of an earlier version, whose remul is called gap_penalty since then"
"""What a folder holds whose config.json has a setting that has another name now."""


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """Returns the names of settings that differ; one that is left out is None."""
  return sorted(name for name in {*there, *here} if there.get(name) != here.get(name))


def runs_in(folders: Sequence[str]) -> list[str]:
  """Returns the folders of runs; one that holds several (seeds, a grid) stands for all of them.

  Args:
    folders: Of runs, or of commands that trained several at once.

  Raises:
    UsageError: one run is named twice, and would count as two.
  """
  runs = [run for folder in folders for run in ([*map(str, replicas_in(Path(folder)))] or [folder])]
  first: dict[str, str] = {}
  for run in runs:
    real = os.path.realpath(run)
    if real in first:
      other = first[real]
      same = f"{run} is named twice" if run == other else f"{run} and {other} are one run"
      raise UsageError(f"{same}; name each run once.")
    first[real] = run
  return runs


def only_run(folder: str, flag: str) -> str:
  """Returns the folder of one run.

  Args:
    folder: As the flag gives it.
    flag: Its name.

  Raises:
    UsageError: it holds several runs; names them.
  """
  several = replicas_in(Path(folder))
  if len(several) > 1:
    names = ", ".join(map(str, several[:4])) + (", ..." if len(several) > 4 else "")
    raise UsageError(f"--{flag}={folder} holds {len(several)} runs; name one of them: {names}.")
  return str(several[0]) if several else folder


def check_trained(*runs: str) -> None:
  """Refuses folders of no runs, before a folder is made for what would be drawn of them.

  Raises:
    DataError: one of them has no settings of a run.
  """
  for run in runs:
    result_files.read_settings(Path(run) / CONFIG, "name the folder of a finished run")


def replicas_in(folder: Path) -> list[Path]:
  """Returns the folders of the runs that one command trained at once; [] of a run alone."""
  if not folder.is_dir() or any((folder / name).exists() for name in (RESULT, RECORDS)):
    return []
  return sorted({path.parent for name in (RESULT, RECORDS) for path in folder.glob(f"*/{name}")})
