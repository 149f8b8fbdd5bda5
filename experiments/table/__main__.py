"""Tables from result.json files: `python -m experiments.table --folders=results/nbody`.

Runs that differ in the seed alone are one row, mean +- standard deviation over seeds.
"""

import os
import statistics
from pathlib import Path

from absl import flags

from data.errors import DataError
from experiments.harness import app, labels, paths, regularisation, result_files, tables
from experiments.harness.result_files import ERROR, Result
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  "table",
  "nbody",
  ["nbody", "mocap", "rivals", "variants", "qm9", "modelnet40"],
  "Which table.",
)
paths.DEFINE_paths("folders", None, "Where to look for result.json files; results/TABLE.")
paths.DEFINE_path(
  "figure",
  None,
  "Where to draw a PNG: the rivals of networks without symmetry (--table=rivals), or the test "
  "errors of every row (--table=variants).",
)
paths.DEFINE_path(
  "page", None, "Where to write the table as a page (.html), with links to the pages of its runs."
)
flags.DEFINE_enum("format", "text", ["text", "markdown", "latex"], "How to write it.")

NBODY_HEADER = ["run", "predictor", "epochs", "seeds", "test MSE x 10^-3", "equiv. error"]


def read(folders: list[str]) -> list[Result]:
  """Returns the result of every training below the folders; comparisons are left out.

  Raises:
    DataError: a folder has none, or a file is damaged.
  """
  return [*filter(result_files.is_training, map(result_files.read_result, files(folders)))]


def files(folders: list[str]) -> list[Path]:
  """Returns the result.json files below the folders.

  Raises:
    DataError: a folder has none.
  """
  # By the real path: a folder and one below it, or one of them twice, hold the same runs.
  there: dict[str, Path] = {}
  for folder in folders:
    below = sorted(Path(folder).rglob("result.json"))
    if not below:
      raise DataError(f"{folder}: no result.json below it; name folders of finished runs.")
    for file in below:
      there.setdefault(os.path.realpath(file), file)
  return [*there.values()]


def nbody_rows(results: list[Result]) -> list[list[str]]:
  """Returns the rows of the N-body table: one a configuration and predictor."""
  groups: dict[str, list[Result]] = {}
  for result in results:
    if result["experiment"] == "nbody":
      groups.setdefault(result_files.but_for_seed(result), []).append(result)
  firsts = [group[0] for group in groups.values()]
  names = labels.distinguished([_label(first) for first in firsts], firsts, _SHOWN)
  rows = []
  for label, group in zip(names, groups.values(), strict=True):
    for name in group[0]["predictors"]:
      metrics = [result["predictors"][name] for result in group]
      errors = [error for f in metrics if (error := f.get(ERROR)) is not None]
      rows.append(
        [
          label,
          name,
          epochs_of(group),
          ",".join(str(seed) for result in group for seed in result["seeds"]),
          _spread([1e3 * f["test_mse"] for f in metrics]),
          f"{statistics.mean(errors):.1e}" if len(errors) == len(metrics) else "",
        ]
      )
  return sorted(rows)


_SHOWN = {"constraint", "keep", "preset", "train_samples", "epochs", "particles", "neighbours"}
"""What the labels of the N-body table, or its columns, name already."""


def _label(result: Result) -> str:
  settings = result["settings"]
  kind = [settings["constraint"], *regularisation.describe(settings), settings["preset"]]
  graph = result_files.graph_label(result)
  return ", ".join([*kind, f"{result['train_samples']} samples", *graph])


def epochs_of(group: list[Result]) -> str:
  """Returns the epochs of some runs, as an interval where some stopped earlier."""
  epochs = sorted({result["epochs"] for result in group})
  return "-".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))


def _spread(values: list[float]) -> str:
  return tables.spread(values, ".2f", ".2f")


def latex(header: list[str], rows: list[list[str]]) -> str:
  """Formats rows as a LaTeX tabular (package booktabs)."""

  def line(cells):
    escaped = (cell.replace("_", r"\_").replace(" +- ", r" $\pm$ ") for cell in cells)
    return " & ".join(cell.replace("^-2", "$^{-2}$").replace("^-3", "$^{-3}$") for cell in escaped)

  body = [rf"{line(row)} \\" for row in rows]
  columns = "l" + "r" * (len(header) - 1)
  head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{line(header)} \\", r"\midrule"]
  return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])


def _figure() -> Path:
  if FLAGS.table not in ("rivals", "variants"):
    raise UsageError(f"--figure is of --table=rivals|variants, not of --table={FLAGS.table}.")
  figure = Path(FLAGS.figure)
  if figure.suffix != ".png" or not figure.parent.is_dir():
    raise UsageError(f"--figure={figure} must be a .png in a folder that exists.")
  return figure


def _page() -> Path:
  path = Path(FLAGS.page)
  if path.suffix != ".html" or not path.parent.is_dir():
    raise UsageError(f"--page={path} must be an .html in a folder that exists.")
  return path


def _write_page(path: Path, header: list[str], rows: list[list[str]], folders: list[str]) -> None:
  from experiments.harness import page, page_tables  # imports JAX

  name = f"Table {FLAGS.table}"
  cells = [[page_tables.Cell(word) for word in row] for row in rows]
  runs = [file.parent for file in files(folders)]
  try:
    page.write_table(path, name, page_tables.Table(name, header, cells), runs)
  except OSError as error:
    raise UsageError(f"--page={path} cannot be written: {error.strerror}.") from error


def main() -> None:
  """Prints the table.

  Raises:
    UsageError: there is no figure of this table, or it cannot be written there.
    DataError: a folder has no results, or none that the table shows; or one is damaged.
  """
  from experiments.table import mocap as mocap_table
  from experiments.table import modelnet40 as modelnet40_table
  from experiments.table import qm9 as qm9_table
  from experiments.table import rivals as rivals_table
  from experiments.table import variants as variants_table

  figure = _figure() if FLAGS.figure else None
  page = _page() if FLAGS.page else None
  folders = FLAGS.folders or [f"results/{FLAGS.table}"]
  results = read(folders)
  header, rows = {
    "nbody": lambda: (NBODY_HEADER, nbody_rows(results)),
    "mocap": lambda: (mocap_table.HEADER, mocap_table.rows(results)),
    "rivals": lambda: (rivals_table.HEADER, rivals_table.rows(results)),
    "variants": lambda: (variants_table.HEADER, variants_table.rows(results)),
    "qm9": lambda: qm9_table.table(results),
    "modelnet40": lambda: (modelnet40_table.HEADER, modelnet40_table.rows(results)),
  }[FLAGS.table]()
  of_any = FLAGS.table in ("rivals", "variants")
  if not rows or not (of_any or any(r["experiment"] == FLAGS.table for r in results)):
    raise DataError(f"{','.join(folders)}: no run that --table={FLAGS.table} shows; name others.")
  print(
    {"text": tables.table, "markdown": tables.markdown, "latex": latex}[FLAGS.format](header, rows)
  )
  if page:
    _write_page(page, header, rows, folders)
  if figure:
    try:
      drawn = {"rivals": rivals_table, "variants": variants_table}[FLAGS.table]
      drawn.draw(results, figure)
    except OSError as error:
      raise UsageError(f"--figure={figure} cannot be written: {error.strerror}.") from error


if __name__ == "__main__":
  app.launch(main)
