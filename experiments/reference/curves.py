"""What a comparison with reference curves is: their file, the band of ours, what is refused."""

import csv
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from experiments.harness.result_files import Result
from experiments.mocap import settings as mocap_presets
from experiments.nbody import settings as nbody_presets

PREDICTORS = {
  "strict": ["projection"],
  "equality": ["projection", "relaxed"],
  "onesided": ["projection", "relaxed"],
}
CONSTRAINTS = {"strict": "strict", "equality": "equality", "onesided": "one_sided"}
MODELS = {"nbody": "segnn", "mocap": "egno"}
PRESETS = {
  "nbody": nbody_presets.PRESETS["paper"],
  "mocap": mocap_presets.preset_values("paper", "egno"),
}


COLUMNS = [
  *("run", "epoch", "valid_mse_projection", "test_mse_projection"),
  *("valid_mse_relaxed", "test_mse_relaxed"),
]
REPORT = "comparison.json"
LAST = 10
"""Evaluations at the end over which errors are averaged; fewer in common are no comparison."""
_UNLIKE = 10.0
"""Ratio of the first errors, at the median over curves, above which data or units are others."""
_LOOSE = 0.5
"""A band that reaches below this share of our mean could not have shown ours to be worse."""

Curve = dict[int, float]
"""Errors by the epochs of training."""


class Comparison(TypedDict):
  """Ours against a curve of the reference, at the epochs that all of them have.

  `epochs` are the first and the last of them, `evaluations` how many there are. `shares` of them
  are "worse", "better", "matched", or "cannot_tell" where ours could not have been worse.
  `first_ratio` is their first error over ours. The mean errors over the `last_evaluations` are
  `ours_at_the_end`, one a seed, and `reference_at_the_end`.
  """

  epochs: list[int]
  evaluations: int
  shares: dict[str, float]
  first_ratio: float
  last_evaluations: int
  ours_at_the_end: list[float]
  reference_at_the_end: float


class ComparedRuns(Comparison):
  """An entry of comparison.json: a comparison, and the seeds of our runs."""

  seeds: list[int]


def read_reference(path: Path) -> dict[tuple[str, str, str], Curve]:
  """Returns {(run, split, predictor): {epochs of training: error}}.

  Raises:
    DataError: the file is missing or empty, has other columns or runs, an epoch twice, or an error
      that is not positive and finite; names the line.
  """
  from data.errors import DataError

  curves: dict[tuple[str, str, str], Curve] = {}
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      rows = csv.DictReader(file)
      if [*(rows.fieldnames or [])] != COLUMNS:
        raise ValueError(f"its columns must be {', '.join(COLUMNS)}")
      for row in rows:
        try:
          if None in row:
            raise ValueError(f"it has {len(COLUMNS) + len(row[None])} values")  # pyright: ignore
          _add(curves, row)
        except ValueError as error:
          raise ValueError(f"line {rows.line_num}: {error}") from error
  except OSError as error:
    raise DataError(f"{path}: {error.strerror}; name the CSV with --reference.") from error
  except (ValueError, csv.Error) as error:
    raise DataError(f"{path}: not a reference curve ({error}); see --help.") from error
  if not curves:
    raise DataError(f"{path}: not a reference curve (it has no rows); see --help.")
  return curves


def _add(curves: dict[tuple[str, str, str], Curve], row: Mapping[str, str | None]) -> None:
  run, epoch = row["run"] or "", row["epoch"] or ""
  if run not in PREDICTORS:
    raise ValueError(f"run {run!r} is none of {', '.join(PREDICTORS)}")
  if not epoch.isdecimal():
    raise ValueError(f"epoch {epoch!r} is no whole number")
  for split in ("valid", "test"):
    for predictor in PREDICTORS[run]:
      curve = curves.setdefault((run, split, predictor), {})
      text = row[f"{split}_mse_{predictor}"]
      try:
        error = float(text or "")
      except ValueError:
        error = math.nan
      if not 0 < error < math.inf:
        raise ValueError(f"{split}_mse_{predictor} is {text!r}, no positive number")
      if int(epoch) + 1 in curve:
        raise ValueError(f"epoch {epoch} of {run} is there twice")
      curve[int(epoch) + 1] = error


def compare(seeds: list[Curve], reference: Curve) -> Comparison:
  """Compares curves at the epochs that all of them have.

  Args:
    seeds: {epoch: error} of each of our seeds.
    reference: {epoch: error} of the reference.

  Raises:
    ValueError: fewer epochs in common than are averaged.
  """
  import numpy as np

  epochs = sorted(set(reference).intersection(*seeds))
  if len(epochs) < LAST:
    raise ValueError(f"{len(epochs)} epochs in common with our runs, and {LAST} are needed")
  ours = np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
  theirs = np.array([reference[epoch] for epoch in epochs])
  mean = ours.mean(axis=0)
  band = 2 * ours.std(axis=0, ddof=1 if len(seeds) > 1 else 0)
  loose = mean - band < _LOOSE * mean
  worse, better = theirs < mean - band, theirs > mean + band
  kinds = {"worse": worse, "better": better, "matched": ~worse & ~better & ~loose}
  kinds["cannot_tell"] = ~worse & ~better & loose
  return {
    "epochs": [epochs[0], epochs[-1]],
    "evaluations": len(epochs),
    "shares": {name: float(np.mean(kind)) for name, kind in kinds.items()},
    "first_ratio": float(theirs[0] / mean[0]),
    "last_evaluations": LAST,
    "ours_at_the_end": [float(x) for x in ours[:, -LAST:].mean(axis=1)],
    "reference_at_the_end": float(theirs[-LAST:].mean()),
  }


def comparable(result: Result) -> bool:
  """Whether a run had the model, data and settings of the reference, seed and length apart."""
  settings, data = result["settings"], result["data"]
  from_file = bool(settings.get("data_file")) or data.get("source") == "file"
  same_data = data.get("split") == "published" or from_file
  # Older results were made when the preset had another dual rate.
  dual_lr = PRESETS[result["experiment"]]["dual_lr"]
  same_rate = result["constraint"] == "strict" or settings["dual_lr"] == dual_lr
  # Of the settings only the number of epochs may differ, and what decides nothing.
  differing = set(result["differs_from_published"]) - {"epochs"}
  same_model = result["model"] == MODELS[result["experiment"]]
  same = same_model and same_data and same_rate
  return same and settings["preset"] == "paper" and not differing


def check_size(report: Mapping[str, ComparedRuns]) -> None:
  """Refuses curves of other data or in other units, by their errors after the first epoch.

  A single curve may begin far from ours: a projection that is not trained as a predictor, say.

  Raises:
    ValueError: the errors are of another size.
  """
  ratio = statistics.median(comparison["first_ratio"] for comparison in report.values())
  if not 1 / _UNLIKE < ratio < _UNLIKE:
    raise ValueError(
      f"its errors after the first epoch in common are {ratio:.2g} times ours, so that it is of "
      "another experiment, or in other units"
    )


def check_kept(folder: Path, report: Mapping[str, ComparedRuns]) -> None:
  """Refuses to write over a comparison that has more than this one.

  Raises:
    DataError: it does, or cannot be read.
  """
  from data.errors import DataError
  from experiments.harness import result_files

  path = folder / REPORT
  if not path.exists():
    return
  lost = {*result_files.read_json(path, "remove it, or choose another --out")} - {*report}
  if lost:
    raise DataError(
      f"{path} has {', '.join(sorted(lost))}, and this comparison has not; choose another --out."
    )
