"""Holds our runs against the published implementation's errors by epoch, on the same data.

    python -m experiments.reference --experiment=nbody --reference=CURVE.csv

The reference (columns run, epoch, valid_mse_projection, test_mse_projection, valid_mse_relaxed,
test_mse_relaxed; the row of epoch e is taken after e + 1 epochs) is one seed of the published
PyTorch model. Ours are the runs below the folder at the published settings. At every epoch a
reference value within our mean +- 2 standard deviations over seeds counts as matched, one below it
as ours being worse, one above it as ours being better. Where half our error would lie within the
band too, ours could not have been found worse, and nothing is told. One seed has no band: ours is
then better or worse.

Prints the table; writes comparison_*.png and comparison.json into a new folder under runs/, or into
--out.
"""

import csv
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.result_files import Result
from experiments.mocap import settings as mocap_presets
from experiments.nbody import settings as nbody_presets

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "nbody", ["nbody", "mocap"], "Which experiment.")
paths.DEFINE_path("folder", None, "Has SOMETHING/result.json; results/EXPERIMENT by default.")
paths.DEFINE_path("reference", None, "CSV of the reference curves.", required=True)
paths.DEFINE_path("out", None, "Where to write; a new folder under runs/ by default.")

PREDICTORS = {
  "strict": ["projection"],
  "equality": ["projection", "relaxed"],
  "onesided": ["projection", "relaxed"],
}
CONSTRAINTS = {"strict": "strict", "equality": "equality", "onesided": "one_sided"}
SCALES = {"nbody": 1e3, "mocap": 1e2}
UNITS = {"nbody": "length$^2$", "mocap": "31.9 cm$^2$"}
_PREDICTORS = {"projection": "projection", "relaxed": "relaxed model"}
_SPLITS = {"valid": "validation", "test": "test"}
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


def main() -> None:
  """Prints the comparison and draws it.

  Raises:
    DataError: the reference is none, or nothing of it can be compared; nothing is written then.
  """
  import numpy as np

  from ace_jax import files, plots
  from data.errors import DataError
  from experiments.harness import tables
  from experiments.table import __main__ as table

  source = FLAGS.folder or f"results/{FLAGS.experiment}"
  scale = SCALES[FLAGS.experiment]
  reference = read_reference(Path(FLAGS.reference))
  runs: dict[str, list[Result]] = {}
  for result in table.read([source]):
    if result["experiment"] == FLAGS.experiment and comparable(result):
      runs.setdefault(result["constraint"], []).append(result)
  report: dict[str, ComparedRuns] = {}
  rows, figures = [], {}
  for (run, split, predictor), curve in reference.items():
    constraint, key = CONSTRAINTS[run], f"{split}/{predictor}"
    if constraint not in runs:
      continue
    records = [[r for r in result["curve"] if key in r] for result in runs[constraint]]
    seeds = [{int(r["epoch"]): r[key] for r in of_seed} for of_seed in records]
    try:
      comparison = compare(seeds, curve)
    except ValueError as error:
      raise DataError(f"{FLAGS.reference}, {run}, {key}: {error}; nothing was written.") from error
    report[f"{run}/{key}"] = {"seeds": [r["seeds"][0] for r in runs[constraint]], **comparison}
    ours = [scale * error for error in comparison["ours_at_the_end"]]
    rows.append(
      [
        f"{run}, {predictor}, {split}",
        str(len(seeds)),
        f"{comparison['epochs'][0]}-{comparison['epochs'][1]}",
        tables.spread(ours, ".2f", ".2f"),
        f"{scale * comparison['reference_at_the_end']:.2f}",
        *(f"{share:.0%}" for share in comparison["shares"].values()),
      ]
    )
    figures[f"comparison_{run}_{split}_{predictor}.png"] = plots.against_reference(
      {f"ace_jax, {constraint.replace('_', '-')}": records},
      {"published PyTorch implementation, 1 seed": tuple(np.array(list(curve.items())).T)},
      key,
      f"{_SPLITS[split]} MSE of the {_PREDICTORS[predictor]} ({UNITS[FLAGS.experiment]})",
    )
  if not rows:
    raise DataError(f"{source}: no run at the published settings; nothing was written.")
  try:
    check_size(report)
  except ValueError as error:
    raise DataError(f"{FLAGS.reference}: {error}; nothing was written.") from error
  if FLAGS.out:
    check_kept(Path(FLAGS.out), report)
    folder = folders.tried(Path(FLAGS.out), "out")
  else:
    folder = folders.chosen(None, f"reference_{FLAGS.experiment}")
  for name, figure in figures.items():
    plots.save(figure, folder / name)
  files.write_json(folder / REPORT, report)
  unit = f"x 10^-{round(math.log10(scale))}"
  header = ["curve", "seeds", "epochs", f"ours {unit}", f"published {unit}"]
  header += ["worse at", "better at", "matched at", "cannot tell at"]
  print(f"{tables.table(header, rows)}\n\nWrote {folder}/{REPORT} and {len(figures)} figures.")


if __name__ == "__main__":
  app.launch(main)
