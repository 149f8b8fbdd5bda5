"""What `experiments.relaxations` does once its flags are checked."""

import concurrent.futures
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ace_jax import files, plots
from experiments.harness import app, comparison_figures, result_files, tables, workdirs
from experiments.harness.replicas import Plan
from experiments.mocap.settings import Settings as MocapSettings
from experiments.nbody.settings import Settings as NBodySettings
from experiments.relaxations import sizes as branch_sizes
from experiments.relaxations.sizes import Variant
from experiments.sweep import plan as sweep_plan
from experiments.sweep import run as sweep_run
from experiments.sweep.plan import Program, Sweep

SIZES = "sizes.json"
"""The sizes that were chosen, with what they cost; read again when a workdir is continued."""
_UNITS = {"nbody": "length$^2$", "mocap": "31.9 cm$^2$"}
_HEADER = [
  *("equal", "branch", "gamma", "size", "parameters", "step ms", "seeds"),
  *("test MSE, relaxed", "test MSE, projection", "equiv. MSE", "equiv. error, relative"),
]


def run(
  experiment: str,
  given: tuple[str, ...],
  branches: Sequence[str],
  gammas: Sequence[str],
  budgets: Sequence[str],
  seeds: tuple[int, ...],
  workdir: str | None,
  jobs: int | None,
) -> None:
  """Chooses sizes, trains what is not finished; then writes, prints and draws what was found.

  Args:
    experiment: "nbody" or "mocap".
    given: Its flags.
    branches: Names of branches.
    gammas: "layer", "channel".
    budgets: "parameters", "time".
    seeds: Seeds of every branch.
    workdir: Where to write; a new folder under runs/ by default.
    jobs: Programs at once.
  """
  jax.config.update("jax_platforms", "cpu")  # the devices are for the programs
  place = Path(workdir) if workdir else workdirs.default_workdir("relaxations", experiment)
  asked = {"experiment": experiment, "flags": list(given), "seeds": list(seeds)}
  asked |= {"branches": list(branches), "gammas": list(gammas), "budgets": list(budgets)}
  sweep = Sweep(experiment, given, seeds=seeds)
  (_, described), *_ = sweep_plan.describe(sweep, ())
  with workdirs.opened(place, asked, resume=(place / workdirs.CONFIG).exists()):
    if not (place / SIZES).exists():
      print("Choosing the sizes of the branches ...", flush=True)
      files.write_json(place / SIZES, _choose(experiment, described, branches, gammas, budgets))
    sizes = result_files.read_json(place / SIZES, "remove it and run again", list)
    print(f"\n{tables.table(_HEADER[:6], [cells(one)[:6] for one in sizes])}\n", flush=True)
    trained = sweep_run.train(sweep, place, programs(sizes, seeds), jobs)
    by_name = {program.name: results for program, results in trained}
    entries = [{**one, "runs": by_name[variant(one).label()]} for one in sizes]
    write(place, asked, [one for one in entries if one["runs"]])


def _choose(experiment: str, described: dict[str, Any], *rest: Any) -> list[dict[str, Any]]:
  # In a process of its own, which gives the devices back when it ends.
  context = multiprocessing.get_context("spawn")
  settings = {"nbody": NBodySettings, "mocap": MocapSettings}[experiment].from_json(described)
  precision = settings.training.precision
  with concurrent.futures.ProcessPoolExecutor(1, context, app.set_up_jax, (precision,)) as pool:
    return pool.submit(branch_sizes.choose, settings, *rest).result()


def variant(one: dict[str, Any]) -> Variant:
  """Returns the variant of an entry of sizes.json."""
  return Variant(one["branch"], one["gamma"], one["size"])


def programs(sizes: Sequence[dict[str, Any]], seeds: tuple[int, ...]) -> list[Program]:
  """Returns a program for each variant, those with one gamma a layer first.

  A variant that two budgets share is trained once.
  """
  variants = sorted(dict.fromkeys(map(variant, sizes)), key=lambda one: one.gamma == "channel")
  return [Program(one.label(), tuple(one.settings().items()), Plan(seeds)) for one in variants]


def cells(one: dict[str, Any]) -> list[str]:
  """Returns a row of the table; before training, without what it found."""
  size = one["size"] or ("" if one["branch"] == "linear" else "2n, n")
  known = [one["budget"], one["branch"], one["gamma"], str(size), str(one["parameters"])]
  known.append(f"{one['step_ms']:.2f}")
  if not one.get("runs"):
    return known
  return [
    *known,
    ",".join(str(result["settings"]["seed"]) for result in one["runs"]),
    tables.spread(_values(one, "relaxed", "test_mse")),
    tables.spread(_values(one, "projection", "test_mse")),
    tables.spread(_values(one, "relaxed", "test_gap"), deviation=None),
    tables.spread(_values(one, "relaxed", "test_gap_relative"), deviation=None),
  ]


def _values(one: dict[str, Any], predictor: str, name: str) -> list[float]:
  return [result["predictors"][predictor][name] for result in one["runs"]]


def write(place: Path, asked: dict[str, Any], entries: list[dict[str, Any]]) -> None:
  """Prints the table, and writes result.json, table.md and relaxations.png."""
  lines = [cells(one) for one in entries]
  print(f"\n{tables.table(_HEADER, lines)}\n")
  kept = [{**one, "runs": [_summary(result) for result in one["runs"]]} for one in entries]
  result = {"experiment": "relaxations", "asked": asked, "entries": kept}
  workdirs.write_result(place, result)
  files.write_text(place / "table.md", tables.markdown(_HEADER, lines) + "\n")
  drawn: dict[str, list[comparison_figures.Entry]] = {}
  for one in entries:
    entry = comparison_figures.Entry(
      label=f"{one['branch']} {one['size'] or ''}".strip() + f", one gamma a {one['gamma']}",
      relaxed=_values(one, "relaxed", "test_mse"),
      projection=_values(one, "projection", "test_mse"),
      gaps=_values(one, "relaxed", "test_gap"),
    )
    name = {"parameters": "number of parameters", "time": "step time"}[one["budget"]]
    drawn.setdefault(name, []).append(entry)
  unit = _UNITS.get(str(asked.get("experiment")), "")
  plots.save(comparison_figures.branches(drawn, unit), place / "relaxations.png")
  print(f"Everything is in {place}: result.json, table.md, relaxations.png, a folder a program.")


_KEPT = (
  *("seeds", "epochs", "train_samples", "predictors", "seconds", "replicas", "settings"),
  *("differs_from_published", "final", "environment"),
)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
  return {name: result[name] for name in _KEPT}
