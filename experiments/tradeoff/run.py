"""What `experiments.tradeoff` does once its flags are checked."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax

from ace_jax import files, plots
from experiments.harness import comparison_figures, page, tables, workdirs
from experiments.harness.result_files import Predictor, Result
from experiments.sweep import run as sweep_run
from experiments.sweep.plan import Sweep
from experiments.tradeoff.plan import CONSTANT, programs

_HEADER = [
  *("data", "constraint", "seeds", "test MSE", "projection's"),
  *("equiv. MSE", "equiv. error, relative", "largest gamma"),
]


class Asked(TypedDict):
  """What a command asks for: flags of the experiment, constants, seeds and data sets."""

  flags: list[str]
  grids: Mapping[str, Sequence[float]]
  seeds: list[int]
  data: list[str]


class Point(TypedDict):
  """What the curve needs of one training.

  `data` is the broken symmetry or "none"; `constant` that of the constraint, if it has one;
  `largest_gamma` the largest |gamma| of the final model, None of one without; `seconds` are those
  of a program over its replicas; `settings` and `environment` are as in its result.json.
  """

  data: str
  constraint: str
  constant: float | None
  seed: int
  epochs: int
  train_samples: int
  predictors: dict[str, Predictor]
  largest_gamma: float | None
  seconds: float
  settings: dict[str, Any]
  environment: dict[str, Any]


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
  asked = Asked(flags=list(sweep.given), grids=grids, seeds=list(sweep.seeds), data=list(data))
  with workdirs.opened(folder, identity, resume=(folder / workdirs.CONFIG).exists()):
    begin = time.monotonic()
    trained = sweep_run.train(sweep, folder, programs(grids, data, sweep.seeds), jobs)
    print(f"All programs are finished, after {time.monotonic() - begin:.0f} s in this call.")
    write(folder, asked, [point(result) for _, results in trained for result in results])


def point(result: Result) -> Point:
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
    "seconds": result["seconds"] / result.get("replicas", 1),
    "settings": settings,
    "environment": result.get("environment", {}),
  }


def groups(points: Sequence[Point]) -> list[list[Point]]:
  """Joins the seeds of each point, in the order in which they come."""
  grouped: dict[tuple[str, str, float | None], list[Point]] = {}
  for entry in points:
    grouped.setdefault((entry["data"], entry["constraint"], entry["constant"]), []).append(entry)
  return list(grouped.values())


def rows(points: Sequence[Point]) -> list[list[str]]:
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


def values(
  group: Sequence[Point],
  predictor: str,
  name: Literal["test_mse", "test_gap", "test_gap_relative"],
) -> list[float]:
  """Returns a number of a predictor, of every seed."""
  predictors = [entry["predictors"][predictor] for entry in group]
  # Every N-body training measures its gaps.
  return [measured[name] for measured in predictors]  # pyright: ignore[reportTypedDictNotRequiredAccess]


def write(folder: Path, asked: Asked, points: list[Point]) -> None:
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


def curves(points: Sequence[Point]) -> dict[str, list[comparison_figures.Mark]]:
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
