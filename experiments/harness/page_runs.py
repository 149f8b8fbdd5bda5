"""What a page knows of a folder: settings, result and records, or the line that says what is wrong.

A file counts only where it lies below the folder that is shown: links that lead out of it are not
followed. What JSON files hold is not trusted to have any shape.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ace_jax.errors import AceError
from ace_jax.training import history
from data.errors import DataError
from experiments.harness import artifacts, models, result_files, workdirs
from experiments.harness.folders import CONFIG, RECORDS, RESULT

Status = Literal["finished", "running", "stopped", "damaged", "folder"]
"""Of a run; a folder holds runs, or what was made of several."""
SWEEP, CAMPAIGN = "sweep.json", "state.json"
TOGETHER = {SWEEP: "sweep", CAMPAIGN: "campaign"}
"""Files that say that a folder holds many runs, beside result.json of a comparison."""

_IDLE = 120.0  # seconds without a record after which a run is called stopped, ...
_PAUSES = 10  # ... or so many of its epochs
_TAIL = 2**16  # bytes that the last records surely fit into
_SKIPPED = {"checkpoints", "tensorboard", "figures", "commits", "__pycache__"}
_AGAIN = "run again, or restore it"


@dataclasses.dataclass(frozen=True)
class Run:
  """A folder, as far as it can be read.

  Attributes:
    folder: The folder.
    status: How far it is.
    note: One line on what is damaged, or when the last record came; "" where there is nothing.
    result: Content of result.json; {} without.
    settings: Of result.json, else of config.json.
    environment: What it ran on.
    epoch: Epochs done; None where that is not known.
    ended: Unix time of its last file.
  """

  folder: Path
  status: Status
  note: str = ""
  result: dict[str, Any] = dataclasses.field(default_factory=dict)
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  environment: dict[str, Any] = dataclasses.field(default_factory=dict)
  epoch: int | None = None
  ended: float = 0.0

  @property
  def training(self) -> bool:
    """Whether it is one training, of a model with two predictors."""
    return self.status != "folder"


def inside(path: Path, root: Path) -> bool:
  """Whether a path, all links followed, exists below a folder."""
  try:
    return path.resolve(strict=True).is_relative_to(root.resolve())
  except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle
    return False


def dictionary(value: Any) -> dict[str, Any]:
  """Returns a value that is a dictionary, and {} for any other."""
  return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
  """Returns a value that is a list, and [] for any other."""
  return value if isinstance(value, list) else []


def of_many(folder: Path, root: Path) -> tuple[dict[str, Any], list[str]]:
  """Returns what the files of a sweep or campaign hold, and a line for each that is unreadable.

  Args:
    folder: That may have one.
    root: The folder that is shown, which links may not leave.
  """
  content: dict[str, Any] = {}
  damage: list[str] = []
  for name in TOGETHER:
    if inside(folder / name, root):
      try:
        content |= result_files.read_json(folder / name, _AGAIN)
      except DataError as error:
        damage.append(f"Left out: {said(error, folder)}")
    elif (folder / name).is_symlink():
      damage.append(f"Left out: {name} leads out of the folder, or nowhere.")
  return content, damage


def signature(folder: Path, root: Path) -> tuple[Any, ...]:
  """Returns what changes whenever a folder's run has written something."""
  changes = []
  for name in (CONFIG, RESULT, RECORDS, *TOGETHER):
    try:
      about = (folder / name).stat()
      changes.append((name, about.st_mtime_ns, about.st_size, inside(folder / name, root)))
    except OSError:
      continue
  return tuple(changes)


def find(root: Path) -> Iterator[Path]:
  """Yields the folders of runs, and of many runs, at and below a folder, by name."""
  for folder, names, files in os.walk(root):
    names[:] = sorted(n for n in names if n not in _SKIPPED and not n.startswith("."))
    if {CONFIG, RESULT, RECORDS, *TOGETHER}.intersection(files):
      yield Path(folder)


def read(folder: Path, root: Path | None = None) -> Run:
  """Reads what a folder holds, its records aside; damage is in the note.

  Args:
    folder: Of a run, or of many.
    root: The folder that is shown, which links may not leave; the folder itself by default.
  """
  root = root or folder
  there = {n for n in (CONFIG, RESULT, RECORDS, *TOGETHER) if inside(folder / n, root)}
  if not there:
    return Run(folder, "folder", " ".join(of_many(folder, root)[1]))
  ended = max(_changed(folder / name) for name in there)
  config: dict[str, Any] = {}
  result: dict[str, Any]
  try:
    # Replicas that still train have the config.json of their command alone.
    shared = folder if CONFIG in there or RECORDS not in there else folder.parent
    if inside(shared / CONFIG, root):
      config = result_files.read_json(shared / CONFIG, _AGAIN)
    result = {**result_files.read_result(folder / RESULT)} if RESULT in there else {}
  except DataError as error:
    facts: dict[str, Any] = {
      "settings": dictionary(workdirs.portable(config.get("settings"))),
      "environment": dictionary(config.get("environment")),
    }
    return Run(folder, "damaged", said(error, folder), ended=ended, **facts)
  known = result.get("settings") or workdirs.portable(config.get("settings"))
  facts = {
    "result": result,
    "settings": dictionary(known),
    "environment": dictionary(result.get("environment") or config.get("environment")),
    "ended": ended,
  }
  together = not there.isdisjoint(TOGETHER) or (RESULT in there and not _trained(result))
  if together or (there == {CONFIG} and any(True for _ in _runs_below(folder))):
    return Run(folder, "folder", " ".join(of_many(folder, root)[1]), **facts)
  if RESULT in there:
    note = _damage(folder) if RECORDS in there else ""
    status = "damaged" if note else "finished"
    return Run(folder, status, note, epoch=result.get("epochs"), **facts)
  if RECORDS not in there:
    return _begun(Run(folder, "running", **facts))
  note = _damage(folder)
  if note:
    return Run(folder, "damaged", note, **facts)
  last = _last(folder / RECORDS)
  idle = time.time() - _changed(folder / RECORDS)
  seconds = last.get("seconds", 0.0)
  limit = max(_IDLE, _PAUSES * seconds) if result_files.finite(seconds) else _IDLE
  note = "" if idle < limit else f"no result; the last record came {ago(idle)}"
  status, epoch = "stopped" if note else "running", _whole(last.get("epoch"))
  return Run(folder, status, note, epoch=epoch, **facts)


def records(run: Run, root: Path | None = None) -> tuple[list[history.Record], str]:
  """Returns the records of a run, and the line that says why there are fewer than there should be.

  Args:
    run: The run.
    root: As in `read`.
  """
  names = [n for n in (RECORDS, artifacts.RECORDS) if (run.folder / n).exists()]
  if names and not inside(run.folder / names[0], root or run.folder):
    return [], f"{names[0]} leads out of the folder and is not read."
  try:
    if names:
      return artifacts.read_records(run.folder), ""
  except (AceError, DataError) as error:
    return _curve(run.result), said(error, run.folder)
  return _curve(run.result), ""


def said(error: BaseException, folder: Path) -> str:
  """Returns an error's line, in which paths in the folder are relative to it."""
  line = " ".join(str(error).split())
  return workdirs.portable(line.replace(f"{folder}{os.sep}", ""))


def ago(seconds: float) -> str:
  """Returns how long ago something was, in words."""
  for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:.0f} {unit} ago"
  return f"{max(0, seconds):.0f} seconds ago"


def _trained(result: Mapping[str, object]) -> bool:
  return result.get("experiment") in models.experiments()


def _runs_below(folder: Path) -> Iterator[Path]:
  return (path for name in (CONFIG, RESULT, RECORDS) for path in folder.glob(f"*/{name}"))


def _begun(run: Run) -> Run:
  idle = time.time() - run.ended
  if idle < _IDLE:
    return dataclasses.replace(run, note="no epoch is done yet")
  return dataclasses.replace(run, status="stopped", note=f"no epoch was done; begun {ago(idle)}")


def _changed(path: Path) -> float:
  try:
    return path.stat().st_mtime
  except OSError:
    return 0.0


def _damage(folder: Path) -> str:
  """Returns what is wrong with metrics.jsonl, "" of a whole one; reads it closely on suspicion."""
  try:
    *lines, _ = (folder / RECORDS).read_bytes().split(b"\n")
    if all(line[:1] == b"{" and line[-1:] == b"}" and b"\0" not in line for line in lines):
      return ""
    history.read(folder / RECORDS)
  except OSError as error:
    return f"{RECORDS}: cannot be read ({error.strerror})."
  except AceError as error:
    return said(error, folder)
  return ""


def _last(path: Path) -> dict[str, Any]:
  with path.open("rb") as file:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
    for line in reversed(file.read().splitlines()):
      try:
        record = json.loads(line)
      except (ValueError, RecursionError):  # what is being written
        continue
      if isinstance(record, dict):
        return record
  return {}


def _whole(value: Any) -> int | None:
  return int(value) if result_files.finite(value) else None


def _curve(result: Mapping[str, object]) -> list[history.Record]:
  """Returns the evaluations that a result.json has."""
  return [
    {name: value for name, value in record.items() if isinstance(value, int | float)}
    for record in items(result.get("curve"))
    if isinstance(record, dict) and result_files.finite(record.get("epoch"))
  ]
