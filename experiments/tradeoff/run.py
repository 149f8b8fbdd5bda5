"""What `experiments.tradeoff` does once its flags are checked."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ace_jax import files, plots
from experiments.harness import comparison_figures, page, tables, workdirs
from experiments.sweep import run as sweep_run
from experiments.sweep.plan import Sweep
from experiments.tradeoff.plan import CONSTANT, programs

_HEADER = [
  *("data", "constraint", "seeds", "test MSE", "projection's"),
  *("equiv. MSE", "equiv. error, relative", "largest gamma"),
]


def run(
  sweep: Sweep,
  grids: Mapping[str, Sequence[float]],
  data: Sequence[str],
  folder: Path,
  jobs: int | None,
) -> None:
  """Trains what is not finished; then writes, prints and draws the curve.

  Args:
    sweep: The experiment, its flags, and the seeds of every point.
    grids: See `programs`.
    data: See `programs`.
    folder: Where to write.
    jobs: Programs at once.
  """
  jax.config.update("jax_platforms", "cpu")  # the devices are for the programs
  # Not the data sets: more of them may be added to a workdir.
  identity = {"flags": list(sweep.given), "grids": grids, "seeds": list(sweep.seeds)}
  asked = {**identity, "data": list(data)}
  with workdirs.opened(folder, identity, resume=(folder / workdirs.CONFIG).exists()):
    begin = time.monotonic()
    trained = sweep_run.train(sweep, folder, programs(grids, data, sweep.seeds), jobs)
    print(f"All programs are finished, after {time.monotonic() - begin:.0f} s in this call.")
    write(folder, asked, [point(result) for _, results in trained for result in results])


def point(result: dict[str, Any]) -> dict[str, Any]:
  """Returns what the curve needs of the result.json of one replica."""
  settings, constraint = result["settings"], result["constraint"]
  return {
    "data": settings["symmetry_breaking"] or "none",
    "constraint": constraint,
    "constant": settings[CONSTANT[constraint]] if constraint in CONSTANT else None,
    "seed": settings["seed"],
    "epochs": result["epochs"],
    "train_samples": result["train_samples"],
    "predictors": result["predictors"],
    "largest_gamma": max(map(abs, result["final"]["gamma"].values()), default=None),
    "seconds": result["seconds"] / result["replicas"],
    "settings": settings,
    "environment": result["environment"],
  }


def groups(points: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
  """Joins the seeds of each point, in the order in which they come."""
  grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
  for entry in points:
    grouped.setdefault((entry["data"], entry["constraint"], entry["constant"]), []).append(entry)
  return list(grouped.values())


def rows(points: Sequence[dict[str, Any]]) -> list[list[str]]:
  """Returns the rows of the table: one a point, means over seeds."""
  lines = []
  for group in groups(points):
    first = group[0]
    name = "relaxed" if "relaxed" in first["predictors"] else "projection"
    constant = (
      f", {CONSTANT[first['constraint']]}={first['constant']:g}" if first["constant"] else ""
    )
    gammas = [entry["largest_gamma"] for entry in group if entry["largest_gamma"] is not None]
    lines.append(
      [
        first["data"],
        f"{first['constraint']}{constant}",
        ",".join(str(entry["seed"]) for entry in group),
        tables.spread(values(group, name, "test_mse")),
        tables.spread(values(group, "projection", "test_mse")),
        tables.spread(values(group, name, "test_gap"), deviation=None),
        tables.spread(values(group, name, "test_gap_relative"), deviation=None),
        tables.spread(gammas, deviation=None),
      ]
    )
  return lines


def values(group: Sequence[dict[str, Any]], predictor: str, name: str) -> list[float]:
  """Returns a number of a predictor, of every seed."""
  return [entry["predictors"][predictor][name] for entry in group]


def write(folder: Path, asked: dict[str, Any], points: list[dict[str, Any]]) -> None:
  """Prints the table, and writes result.json, table.md and tradeoff.png."""
  lines = rows(points)
  print(f"\n{tables.table(_HEADER, lines)}\n")
  result = {"experiment": "tradeoff", "asked": asked, "points": points}
  workdirs.write_result(folder, result)
  files.write_text(folder / "table.md", tables.markdown(_HEADER, lines) + "\n")
  plots.save(comparison_figures.tradeoff(curves(points)), folder / "tradeoff.png")
  page.write(folder)
  made = f"result.json, table.md, tradeoff.png, {page.PAGE}"
  print(f"Everything is in {folder}: {made}, a folder a program.")


def curves(points: Sequence[dict[str, Any]]) -> dict[str, list[comparison_figures.Mark]]:
  """Returns the marks of the figure, by data set."""
  marks: dict[str, list[comparison_figures.Mark]] = {}
  for group in groups(points):
    first = group[0]
    relaxed = "relaxed" in first["predictors"]
    name = "relaxed" if relaxed else "projection"
    mark = comparison_figures.Mark(
      constraint=first["constraint"],
      constant=first["constant"],
      errors=values(group, name, "test_mse"),
      gaps=values(group, name, "test_gap"),
      relative=values(group, name, "test_gap_relative"),
      projection=values(group, "projection", "test_mse") if relaxed else [],
    )
    marks.setdefault(first["data"], []).append(mark)
  return marks
