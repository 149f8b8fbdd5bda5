"""What a run records: one flat dictionary of numbers for each epoch, one line of JSON in a file."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ace_jax import homotopy
from ace_jax.errors import RecordsError
from ace_jax.files import expanded, write_text
from ace_jax.primal_dual import StepOutput
from ace_jax.state import AceState
from ace_jax.training import hosts, parallel

Record = dict[str, float]
FILE = "metrics.jsonl"


def records(state: AceState, outputs: StepOutput, seconds: float) -> list[Record]:
  """Summarises an epoch, one record a replica.

  Args:
    state: After the epoch, with a leading axis of replicas.
    outputs: Of its steps, each leaf with leading axes of replicas and steps.
    seconds: What the epoch took, for all replicas together.

  Returns:
    epoch and step (both counted from 1 up to now), Unix time, mean loss and lagrangian, mean
    gradient norms,
    and for each homotopic layer NAME `gamma/NAME`, `multiplier/NAME`, `slack/NAME` after the
    epoch and `violation/NAME` before its last step (of a vector: the entry of largest absolute
    value).
  """
  trees = {
    "gamma": state.primal.gamma,
    "multiplier": state.multipliers,
    "slack": state.primal.slack,
    "violation": jax.tree.map(lambda v: v[:, -1], outputs.violation),
  }
  trees, outputs, steps, epochs = hosts.fetch((trees, outputs, state.step, state.epoch))
  return [
    _record(parallel.select(trees, i), parallel.select(outputs, i), steps[i], epochs[i], seconds)
    for i in range(len(epochs))
  ]


def _record(trees: Any, outputs: StepOutput, step: Any, epoch: Any, seconds: float) -> Record:
  result = {
    "epoch": int(epoch),
    "step": int(step),
    "time": time.time(),
    "loss": float(np.mean(outputs.loss)),
    "lagrangian": float(np.mean(outputs.lagrangian)),
    "gradient_norm/theta": float(np.mean(outputs.theta_norm)),
    "gradient_norm/gamma": float(np.mean(outputs.gamma_norm)),
    "seconds": seconds,
    "steps_per_second": len(outputs.loss) / seconds,
  }
  for kind, tree in trees.items():
    for name, leaf in homotopy.by_name(tree).items():
      result[f"{kind}/{name}"] = float(np.ravel(leaf)[np.argmax(np.abs(leaf))])
  return result


def mean(records: Sequence[Record]) -> Record:
  """Returns the mean of records of one epoch, of the numbers that all of them have."""
  shared = set.intersection(*(set(record) for record in records))
  return {k: float(np.mean([r[k] for r in records])) for k in records[0] if k in shared}


def first_non_finite(outputs: StepOutput) -> tuple[int, str] | None:
  """Returns (step within the epoch, which quantity) of the first NaN or infinity, else None."""
  names = ("loss", "Lagrangian", "gradient for theta", "gradient for gamma")
  table = ~np.isfinite(np.stack([np.asarray(values) for values in outputs.scalars()]))
  steps = np.flatnonzero(table.any(axis=0))
  if not steps.size:
    return None
  return int(steps[0]), names[int(np.argmax(table[:, steps[0]]))]


def largest(record: Mapping[str, float], kind: str) -> float | None:
  """Returns the largest absolute value over the layers of `kind`, None where there are none."""
  values = [abs(v) for k, v in record.items() if k.startswith(f"{kind}/")]
  return max(values) if values else None


def of_kind(record: Mapping[str, float], kind: str) -> dict[str, float]:
  """Returns the numbers of `kind` ("gamma", "multiplier", ...) by the layer's name."""
  return {k.removeprefix(f"{kind}/"): v for k, v in record.items() if k.startswith(f"{kind}/")}


def read(path: str | Path, epochs: int | None = None) -> list[Record]:
  """Reads a metrics file; a last line that was cut off by a kill is left out.

  Args:
    path: The file.
    epochs: Read so many lines, one an epoch, and nothing after them; None reads all.

  Raises:
    RecordsError: another line is no record, epochs are missing, or the file cannot be read.
  """
  path = expanded(path)
  try:
    lines = path.read_bytes().split(b"\n")
  except OSError as error:
    raise RecordsError(f"cannot read {path}: {error.strerror}; restore it.") from error
  records: list[Record] = []
  for number, line in enumerate(lines[:epochs], start=1):
    record = _parse(line)
    if record is None and number == len(lines):  # the empty rest, or what a kill cut off
      break
    if record is None or record["epoch"] != len(records) + 1:
      raise RecordsError(
        f"{path}:{number}: not the record of epoch {len(records) + 1}; the file is damaged: "
        "restore it, or start afresh in another workdir."
      )
    records.append(record)
  return records


def _parse(line: bytes) -> Record | None:
  try:
    record = json.loads(line)
  except (ValueError, RecursionError):
    return None
  numbers = isinstance(record, dict) and all(type(v) in (int, float) for v in record.values())
  return record if numbers and "epoch" in record else None


def truncate(path: str | Path, epoch: int) -> list[Record]:
  """Drops what lies after `epoch` from a metrics file, so that a resumed run can append to it.

  Args:
    path: The file; it may be missing.
    epoch: Last epoch to keep.

  Returns:
    The records kept.

  Raises:
    RecordsError: the file is damaged.
  """
  path = expanded(path)
  records = read(path, epoch) if path.exists() else []
  write(path, records)
  return records


def write(path: str | Path, records: Sequence[Record]) -> None:
  """Writes a metrics file, atomically."""
  write_text(path, "".join(json.dumps(record) + "\n" for record in records))
