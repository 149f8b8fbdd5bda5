"""Broken files of runs: records, settings, results, curves."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from ace_jax.errors import ConfigurationError, RecordsError
from ace_jax.training import history
from benchmarks import mutations
from benchmarks.fuzz_loader import expect, packed
from data.errors import DataError
from experiments.harness import result_files, workdirs
from experiments.reference import curves
from experiments.table import __main__ as table
from experiments.table import mocap as mocap_table
from experiments.table import modelnet40 as modelnet40_table
from experiments.table import qm9 as qm9_table
from experiments.table import rivals as rivals_table


def _records(folder: Path, real: Path | None, trap: Path):
  del real, trap
  path = folder / "metrics.jsonl"
  whole = [{"epoch": i, "loss": 1.0 / i, "valid/projection": 0.5} for i in range(1, 6)]
  text = "".join(json.dumps(record) + "\n" for record in whole)

  def load(content: bytes) -> None:
    path.write_bytes(content)
    records = history.read(path)
    expect([r["epoch"] for r in records] == [*range(1, len(records) + 1)], "epochs are missing")
    numbers = [v for record in records for v in record.values()]
    expect(all(isinstance(v, int | float) for v in numbers), "a value is no number")
    expect(history.truncate(path, 2) == records[:2] == history.read(path), "not as truncated")

  return st.one_of(mutations.broken_text(text), _lines(whole)), load, (RecordsError,)


@st.composite
def _lines(draw: st.DrawFn, records: list[Any]) -> bytes:
  lines = [json.dumps(record).encode() for record in records]
  at = draw(st.integers(0, len(lines) - 1))
  lines[at] = draw(mutations.broken_json(records[at]))
  return b"\n".join(lines) + b"\n"


def _config(folder: Path, real: Path | None, trap: Path):
  del real, trap
  settings = {"constraint": "equality", "lr": 1e-3, "train_samples": [10], "epochs": 3}

  def load(content: bytes) -> None:
    (folder / workdirs.CONFIG).write_bytes(content)
    expect(isinstance(workdirs.read_settings(folder), dict), "settings are no dictionary")
    there = workdirs.read_settings(folder)
    with (
      mock.patch.object(workdirs, "write_config"),
      workdirs.opened(folder, settings, resume=True),
    ):
      same = {**there, "epochs": 3} == settings
      expect(same, "the folder of another configuration is opened")

  whole = {"settings": settings, "environment": {"jax": "0"}}
  return mutations.broken_json(whole), load, (ConfigurationError,)


def _training_result() -> dict[str, Any]:
  error = {"valid_mse": 0.1, "test_mse": 0.2, "best_epoch": 2, "final_equivariance_error": 1e-7}
  return {
    **{"experiment": "nbody", "model": "segnn", "constraint": "equality", "seeds": [1]},
    **{"epochs": 3, "train_samples": 10, "predictors": {"projection": error, "relaxed": error}},
    "settings": {
      **{"constraint": "equality", "preset": "paper", "model": "egno", "dual_lr": 2e-4},
      **{"augmented": 0.0, "seed": 1, "rho": 1.0},
      **{"hidden_features": 8, "layers": 1, "batch_size": 4},
    },
    "seconds": 3.0,
    "data": {"subject": "run", "source": "prepared", "split": "published"},
    "curve": [{"epoch": 1, "valid/projection": 0.1}],
    "differs_from_published": {},
  }


def _result(folder: Path, real: Path | None, trap: Path):
  del real, trap
  path = folder / workdirs.RESULT

  def load(content: bytes) -> None:
    path.write_bytes(content)
    result = result_files.read_result(path)
    table.nbody_rows([result, result])
    mocap_table.rows([result, result])
    rivals_table.rows([result, result])
    qm9_table.table([result, result])
    modelnet40_table.rows([result, result])
    if result["experiment"] in ("nbody", "mocap"):
      curves.comparable(result)

  whole = _training_result()
  cases = [mutations.broken_json({**whole, "experiment": name}) for name in _TRAININGS]
  return st.one_of(cases), load, (DataError,)


def _reference(folder: Path, real: Path | None, trap: Path):
  del trap
  path = folder / "curve.csv"
  text = "run,epoch,valid_mse_projection,test_mse_projection,valid_mse_relaxed,test_mse_relaxed\n"
  text += "strict,0,0.1,0.2,,\nequality,0,0.1,0.2,0.3,0.4\n"
  if real and (real / "nbody_reference_curve.csv").exists():
    text = "\n".join((real / "nbody_reference_curve.csv").read_text().splitlines()[:20])

  def load(content: bytes) -> None:
    path.write_bytes(content)
    reference = curves.read_reference(path)
    numbers = [error for of_run in reference.values() for error in of_run.values()]
    expect(np.isfinite(numbers).all(), "an error is not finite")

  return mutations.broken_text(text.replace(",", ", ")).map(packed), load, (DataError,)


_TRAININGS = ("nbody", "mocap", "qm9", "modelnet40")
MAKERS = {"records": _records, "config": _config, "result": _result, "reference": _reference}
