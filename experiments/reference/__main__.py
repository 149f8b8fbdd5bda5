"""Holds our runs against the published implementation's errors by epoch, on the same data.

    python -m experiments.reference --experiment=nbody --reference=CURVE.csv

The reference (columns run, epoch, valid_mse_projection, test_mse_projection, valid_mse_relaxed,
test_mse_relaxed; the row of epoch e is taken after e + 1 epochs) is one seed of the published
PyTorch model. Ours are the runs below the folder at the published settings; a reference value that
lies within our mean +- 2 standard deviations over seeds, or above it, counts as matched. Writes
comparison_*.png and comparison.json into the folder.
"""

import csv
import math
from pathlib import Path
from typing import Any

from absl import flags

from experiments.harness import app, paths
from experiments.mocap import settings as mocap_presets
from experiments.nbody import settings as nbody_presets

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "nbody", ["nbody", "mocap"], "Which experiment.")
paths.DEFINE_path("folder", None, "Has SOMETHING/result.json; results/EXPERIMENT by default.")
paths.DEFINE_path("reference", None, "CSV of the reference curves.", required=True)

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


def read_reference(path: Path) -> dict[tuple[str, str, str], dict[int, float]]:
  """Returns {(run, split, predictor): {epochs of training: error}}.

  Raises:
    DataError: the file is missing, has other columns, or an error that is not finite.
  """
  from data.errors import DataError

  curves: dict[tuple[str, str, str], dict[int, float]] = {}
  try:
    with path.open(newline="") as file:
      for row in csv.DictReader(file):
        for split in ("valid", "test"):
          for predictor in PREDICTORS[row["run"]]:
            curve = curves.setdefault((row["run"], split, predictor), {})
            error = float(row[f"{split}_mse_{predictor}"])
            if not math.isfinite(error):
              raise ValueError(f"an error of {error}")
            curve[int(row["epoch"]) + 1] = error
  except OSError as error:
    raise DataError(f"{path}: {error.strerror}; name the CSV with --reference.") from error
  except (KeyError, ValueError, TypeError, csv.Error) as error:
    raise DataError(f"{path}: not a reference curve ({error}); see --help.") from error
  return curves


def compare(
  seeds: list[dict[int, float]], reference: dict[int, float], last: int = 10
) -> dict[str, Any]:
  """Compares curves at the epochs that all of them have.

  Args:
    seeds: {epoch: error} of each of our seeds.
    reference: {epoch: error} of the reference.
    last: Evaluations at the end over which errors are averaged.

  Returns:
    epochs compared, the share of them at which the reference is matched, and the mean over the
    last evaluations of ours (each seed) and of the reference.
  """
  import numpy as np

  epochs = sorted(set(reference).intersection(*seeds))
  ours = np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
  theirs = np.array([reference[epoch] for epoch in epochs])
  low = ours.mean(axis=0) - 2 * ours.std(axis=0, ddof=1 if len(seeds) > 1 else 0)
  return {
    "epochs": [epochs[0], epochs[-1]],
    "evaluations": len(epochs),
    "share_matched": float(np.mean(theirs >= low)),
    "last_evaluations": last,
    "ours_at_the_end": [float(x) for x in ours[:, -last:].mean(axis=1)],
    "reference_at_the_end": float(theirs[-last:].mean()),
  }


def comparable(result: dict[str, Any]) -> bool:
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


def main() -> None:
  """Prints the comparison and draws it."""
  import numpy as np

  from ace_jax import files, plots
  from experiments.harness import tables
  from experiments.table import __main__ as table

  folder = Path(FLAGS.folder or f"results/{FLAGS.experiment}")
  scale = SCALES[FLAGS.experiment]
  reference = read_reference(Path(FLAGS.reference))
  results = table.read([str(folder)])
  runs: dict[str, list[dict[str, Any]]] = {}
  for result in results:
    if comparable(result):
      runs.setdefault(result["constraint"], []).append(result)
  report, rows = {}, []
  for (run, split, predictor), curve in reference.items():
    constraint = CONSTRAINTS[run]
    if constraint not in runs:
      continue
    key = f"{split}/{predictor}"
    seeds = [{int(r["epoch"]): r[key] for r in result["curve"]} for result in runs[constraint]]
    comparison = compare(seeds, curve)
    report[f"{run}/{key}"] = {"seeds": [r["seeds"][0] for r in runs[constraint]], **comparison}
    ours = scale * np.array(comparison["ours_at_the_end"])
    rows.append(
      [
        f"{run}, {predictor}, {split}",
        str(len(seeds)),
        f"{comparison['epochs'][0]}-{comparison['epochs'][1]}",
        f"{ours.mean():.2f} +- {ours.std(ddof=1 if len(ours) > 1 else 0):.2f}",
        f"{scale * comparison['reference_at_the_end']:.2f}",
        f"{comparison['share_matched']:.0%}",
      ]
    )
    figure = plots.against_reference(
      {
        f"ace_jax, {CONSTRAINTS[run].replace('_', '-')}": [
          result["curve"] for result in runs[constraint]
        ]
      },
      {"published PyTorch implementation, 1 seed": tuple(np.array(list(curve.items())).T)},
      key,
      f"{_SPLITS[split]} MSE of the {_PREDICTORS[predictor]} ({UNITS[FLAGS.experiment]})",
    )
    plots.save(figure, folder / f"comparison_{run}_{split}_{predictor}.png")
  files.write_json(folder / "comparison.json", report)
  unit = f"x 10^-{round(math.log10(scale))}"
  header = ["curve", "seeds", "epochs", f"ours {unit}", f"published {unit}", "matched at"]
  print(tables.table(header, rows))


if __name__ == "__main__":
  app.launch(main)
