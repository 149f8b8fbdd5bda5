"""What `experiments.relaxations` does once its flags are checked."""

import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ace_jax import files, plots, signals
from ace_jax.errors import AceError
from data.errors import DataError
from experiments.harness import app, comparison_figures, page, result_files, tables, workdirs
from experiments.harness import programs as processes
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
  sweep: Sweep,
  branches: Sequence[str],
  gammas: Sequence[str],
  budgets: Sequence[str],
  folder: Path,
  jobs: int | None,
) -> None:
  """Chooses sizes, trains what is not finished; then writes, prints and draws what was found.

  Args:
    sweep: The experiment, "nbody" or "mocap", its flags, and the seeds of every branch.
    branches: Names of branches.
    gammas: "layer", "channel".
    budgets: "parameters", "time".
    folder: Where to write.
    jobs: Programs at once.
  """
  jax.config.update("jax_platforms", "cpu")  # the devices are for the programs
  experiment, seeds = sweep.experiment, sweep.seeds
  asked = {"experiment": experiment, "flags": list(sweep.given), "seeds": list(seeds)}
  asked |= {"branches": list(branches), "gammas": list(gammas), "budgets": list(budgets)}
  (_, described), *_ = sweep_plan.describe(sweep, ())
  with workdirs.opened(folder, asked, resume=(folder / workdirs.CONFIG).exists()):
    if not (folder / SIZES).exists():
      print("Choosing the sizes of the branches ...", flush=True)
      files.write_json(folder / SIZES, _choose(experiment, described, branches, gammas, budgets))
    sizes = result_files.read_json(folder / SIZES, "remove it and run again", list)
    print(f"\n{tables.table(_HEADER[:6], [cells(entry)[:6] for entry in sizes])}\n", flush=True)
    trained = sweep_run.train(sweep, folder, programs(sizes, seeds), jobs)
    by_name = {program.name: results for program, results in trained}
    entries = [{**entry, "runs": by_name[variant(entry).label()]} for entry in sizes]
    write(folder, asked, [entry for entry in entries if entry["runs"]])


def _choose(experiment: str, described: dict[str, Any], *rest: Any) -> list[dict[str, Any]]:
  """Chooses sizes in a process of its own, which gives the devices back when it ends."""
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_choose_there, args=(sender, experiment, described, *rest))
  with processes.ended_by_signal(left="no sizes were chosen yet"):
    # It inherits that Ctrl-C is not for it.
    with signals.handling(signal.SIG_IGN, signal.SIGINT):  # pyright: ignore[reportArgumentType]
      process.start()
    sender.close()
    try:
      answer = receiver.recv()
    except EOFError as error:
      raise AceError(
        "the process that measures the branches ended early; what it said stands above."
      ) from error
    finally:
      process.terminate()
      process.join()
  if isinstance(answer, Exception):
    raise answer
  return answer


def _choose_there(sender: Any, experiment: str, described: dict[str, Any], *rest: Any) -> None:
  settings = {"nbody": NBodySettings, "mocap": MocapSettings}[experiment].from_json(described)
  app.set_up_jax(settings.training.precision)
  try:
    sender.send(branch_sizes.choose(settings, *rest))
  except (AceError, DataError) as error:
    sender.send(error)


def variant(entry: dict[str, Any]) -> Variant:
  """Returns the variant of an entry of sizes.json."""
  return Variant(entry["branch"], entry["gamma"], entry["size"])


def programs(sizes: Sequence[dict[str, Any]], seeds: tuple[int, ...]) -> list[Program]:
  """Returns a program for each variant, those with one gamma a layer first.

  A variant that two budgets share is trained once.
  """
  variants = sorted(
    dict.fromkeys(map(variant, sizes)), key=lambda candidate: candidate.gamma == "channel"
  )
  return [
    Program(candidate.label(), tuple(candidate.settings().items()), Plan(seeds))
    for candidate in variants
  ]


def cells(entry: dict[str, Any]) -> list[str]:
  """Returns a row of the table; before training, without what it found."""
  size = entry["size"] or ("" if entry["branch"] == "linear" else "2n, n")
  known = [entry["budget"], entry["branch"], entry["gamma"], str(size), str(entry["parameters"])]
  known.append(f"{entry['step_ms']:.2f}")
  if not entry.get("runs"):
    return known
  return [
    *known,
    ",".join(str(result["settings"]["seed"]) for result in entry["runs"]),
    tables.spread(_values(entry, "relaxed", "test_mse")),
    tables.spread(_values(entry, "projection", "test_mse")),
    tables.spread(_values(entry, "relaxed", "test_gap"), deviation=None),
    tables.spread(_values(entry, "relaxed", "test_gap_relative"), deviation=None),
  ]


def _values(entry: dict[str, Any], predictor: str, name: str) -> list[float]:
  return [result["predictors"][predictor][name] for result in entry["runs"]]


def write(folder: Path, asked: dict[str, Any], entries: list[dict[str, Any]]) -> None:
  """Prints the table, and writes result.json, table.md and relaxations.png."""
  lines = [cells(row) for row in entries]
  print(f"\n{tables.table(_HEADER, lines)}\n")
  kept = [{**row, "runs": [_summary(result) for result in row["runs"]]} for row in entries]
  result = {"experiment": "relaxations", "asked": asked, "entries": kept}
  workdirs.write_result(folder, result)
  files.write_text(folder / "table.md", tables.markdown(_HEADER, lines) + "\n")
  drawn: dict[str, list[comparison_figures.Entry]] = {}
  for row in entries:
    entry = comparison_figures.Entry(
      label=f"{row['branch']} {row['size'] or ''}".strip() + f", one gamma a {row['gamma']}",
      relaxed=_values(row, "relaxed", "test_mse"),
      projection=_values(row, "projection", "test_mse"),
      gaps=_values(row, "relaxed", "test_gap"),
    )
    name = {"parameters": "number of parameters", "time": "step time"}[row["budget"]]
    drawn.setdefault(name, []).append(entry)
  unit = _UNITS.get(str(asked.get("experiment")), "")
  plots.save(comparison_figures.branches(drawn, unit), folder / "relaxations.png")
  page.write(folder)
  made = f"result.json, table.md, relaxations.png, {page.PAGE}"
  print(f"Everything is in {folder}: {made}, a folder a program.")


_KEPT = (
  *("seeds", "epochs", "train_samples", "predictors", "seconds", "replicas", "settings"),
  *("differs_from_published", "final", "environment"),
)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
  return {name: result[name] for name in _KEPT}
