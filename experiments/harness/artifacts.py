"""What a finished run leaves in its folder: everything that is committed under results/ of it.

========================  =====================================================================
config.json               settings, and what it ran on (`workdirs.write_config`)
result.json               errors of the selected parameters on test samples, as they are and
                          turned (`turned`), equivariance errors, training loss and errors of
                          every evaluation, final gamma, u and lambda (`results.make`, `gaps.add`)
records.jsonl.gz          the records of every fifth epoch, of the evaluations and the last epoch:
                          training loss, gamma, u and lambda by layer and stream, errors
variables_projection.npz  variables of f_theta,0 where its validation error was lowest, pruned
variables_relaxed.npz     variables of f_theta,gamma where its own was; not of a strict model
predictions.npz           a fixed few test samples: inputs, truth, predictions of both predictors
========================  =====================================================================

Beside them lie what only this machine needs (checkpoints/, metrics.jsonl, tensorboard/, .lock) and
what can be drawn again (figures/).
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ace_jax import export, files, state, task
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history
from data.errors import DataError
from experiments.harness import workdirs

RECORDS, PREDICTIONS = "records.jsonl.gz", "predictions.npz"
VARIABLES = {name: f"variables_{name}.npz" for name in ("projection", "relaxed")}
FILES = (workdirs.CONFIG, workdirs.RESULT, RECORDS, *VARIABLES.values(), PREDICTIONS)

Predictions = Mapping[str, jax.Array | np.ndarray]
"""Arrays of a fixed few test samples, by name: inputs, the truth, and what each predictor says."""

_EVERY = 5
_DIGITS = 7  # of float32
_ROTATION_SEED = 0


def turned(rotations: Mapping[str, Symmetry], test: task.Batch) -> dict[str, task.Batch]:
  """Returns test samples, inputs and targets, each turned by an element of its own, fixed seed.

  Args:
    rotations: The groups and their action, by name.
    test: The samples.
  """
  key = jax.random.key(_ROTATION_SEED)
  return {name: jax.jit(symmetry.move)(key, test) for name, symmetry in rotations.items()}


def write(
  folder: Path,
  end: state.AceState,
  records: Sequence[history.Record],
  predictions: Predictions,
) -> None:
  """Writes all but config.json and result.json, each atomically.

  Args:
    folder: Of the run.
    end: Its final state.
    records: Its history.
    predictions: Of `Problem.predictions`.
  """
  write_records(folder / RECORDS, records)
  for name, variables in end.selected().items():
    save = export.save_parameters if name == "projection" else export.save_variables
    save(folder / VARIABLES[name], variables)
  arrays: dict[str, Any] = {name: np.asarray(array) for name, array in predictions.items()}
  if arrays:
    files.write_binary(folder / PREDICTIONS, lambda file: np.savez_compressed(file, **arrays))


def write_records(path: Path, records: Sequence[history.Record]) -> None:
  """Writes the records of every fifth epoch, of evaluations and the last epoch, to seven digits."""
  lines = []
  for i, record in enumerate(records):
    evaluated = any(key.startswith("valid/") for key in record)
    if evaluated or i % _EVERY == 0 or i == len(records) - 1:
      numbers = {k: float(f"{v:.{_DIGITS}g}") for k, v in record.items() if k not in _WHOLE}
      lines.append(json.dumps({k: record[k] for k in ("epoch", "step")} | numbers) + "\n")
  data = gzip.compress("".join(lines).encode(), mtime=0)  # the same records, the same bytes
  files.write_binary(path, lambda file: file.write(data))


_WHOLE = ("epoch", "step", "time")


def read_records(folder: Path) -> list[history.Record]:
  """Reads the records of a run, all of them where its metrics.jsonl is there.

  Args:
    folder: Of the run, or of what was kept of it under results/.

  Raises:
    DataError: there are none, or they are damaged.
    RecordsError: metrics.jsonl is damaged.
  """
  if (folder / history.FILE).exists():
    return history.read(folder / history.FILE)
  path = folder / RECORDS
  try:
    lines = gzip.decompress(path.read_bytes()).splitlines()
    records = [json.loads(line) for line in lines]
  except OSError as error:
    reason = error.strerror or "no gzip file"
    raise DataError(f"{path}: cannot be read ({reason}); name the folder of a run.") from error
  except (EOFError, ValueError, RecursionError, zlib.error) as error:
    raise DataError(f"{path}: damaged; take another copy, or run again.") from error
  numbers = [
    isinstance(r, dict) and all(type(v) in (int, float) for v in r.values()) for r in records
  ]
  if not all(numbers) or not all("epoch" in record for record in records):
    raise DataError(f"{path}: damaged (no records); take another copy, or run again.")
  return records
