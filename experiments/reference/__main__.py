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

import math
from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.result_files import Result
from experiments.reference import curves

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "nbody", ["nbody", "mocap"], "Which experiment.")
paths.DEFINE_path("folder", None, "Has SOMETHING/result.json; results/EXPERIMENT by default.")
paths.DEFINE_path("reference", None, "CSV of the reference curves.", required=True)
paths.DEFINE_path("out", None, "Where to write; a new folder under runs/ by default.")

SCALES = {"nbody": 1e3, "mocap": 1e2}
UNITS = {"nbody": "length$^2$", "mocap": "31.9 cm$^2$"}
_PREDICTORS = {"projection": "projection", "relaxed": "relaxed model"}
_SPLITS = {"valid": "validation", "test": "test"}


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
  reference = curves.read_reference(Path(FLAGS.reference))
  runs: dict[str, list[Result]] = {}
  for result in table.read([source]):
    if result["experiment"] == FLAGS.experiment and curves.comparable(result):
      runs.setdefault(result["constraint"], []).append(result)
  report: dict[str, curves.ComparedRuns] = {}
  rows, figures = [], {}
  for (run, split, predictor), curve in reference.items():
    constraint, key = curves.CONSTRAINTS[run], f"{split}/{predictor}"
    if constraint not in runs:
      continue
    records = [[r for r in result["curve"] if key in r] for result in runs[constraint]]
    seeds = [{int(r["epoch"]): r[key] for r in of_seed} for of_seed in records]
    try:
      comparison = curves.compare(seeds, curve)
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
    curves.check_size(report)
  except ValueError as error:
    raise DataError(f"{FLAGS.reference}: {error}; nothing was written.") from error
  if FLAGS.out:
    curves.check_kept(Path(FLAGS.out), report)
    folder = folders.tried(Path(FLAGS.out), "out")
  else:
    folder = folders.chosen(None, f"reference_{FLAGS.experiment}")
  for name, figure in figures.items():
    plots.save(figure, folder / name)
  files.write_json(folder / curves.REPORT, report)
  unit = f"x 10^-{round(math.log10(scale))}"
  header = ["curve", "seeds", "epochs", f"ours {unit}", f"published {unit}"]
  header += ["worse at", "better at", "matched at", "cannot tell at"]
  print(tables.table(header, rows))
  print(f"\nWrote {folder}/{curves.REPORT} and {len(figures)} figures.")


if __name__ == "__main__":
  app.launch(main)
