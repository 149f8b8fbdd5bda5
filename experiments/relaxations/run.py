"""What `experiments.relaxations` does once its flags are checked."""

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax

from ace_jax import files, plots, signals
from ace_jax.errors import AceError
from data.errors import DataError
from experiments.harness import app, comparison_figures, page, result_files, tables, workdirs
from experiments.harness import programs as processes
from experiments.harness.replicas import Plan
from experiments.harness.result_files import Predictor, Result
from experiments.mocap.settings import Settings as MocapSettings
from experiments.nbody.settings import Settings as NBodySettings
from experiments.relaxations import sizes as branch_sizes
from experiments.relaxations.sizes import Size, Variant
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


class Asked(TypedDict):
  """What a command asks for: the experiment, its flags and seeds; branches, gammas and budgets."""

  experiment: str
  flags: list[str]
  seeds: list[int]
  branches: list[str]
  gammas: list[str]
  budgets: list[str]


class Entry(Size):
  """A branch of a chosen size, and the results of its trainings, one a seed."""

  runs: list[Result]


class Summary(TypedDict):
  """What is kept of the result.json of a training, under the same names."""

  seeds: list[int]
  epochs: int
  train_samples: int
  predictors: dict[str, Predictor]
  seconds: float
  replicas: int
  settings: dict[str, Any]
  differs_from_published: dict[str, list[Any]]
  final: dict[str, dict[str, float]]
  environment: dict[str, Any]


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
  asked: Asked = {
    "experiment": experiment,
    "flags": list(sweep.given),
    "seeds": list(seeds),
    "branches": list(branches),
    "gammas": list(gammas),
    "budgets": list(budgets),
  }
  (_, described), *_ = sweep_plan.describe(sweep, ())
  with workdirs.opened(folder, asked, resume=(folder / workdirs.CONFIG).exists()):
    if not (folder / SIZES).exists():
      print("Choosing the sizes of the branches ...", flush=True)
      settings = {"nbody": NBodySettings, "mocap": MocapSettings}[experiment].from_json(described)
      files.write_json(folder / SIZES, _choose(settings, branches, gammas, budgets))
    sizes: list[Size] = result_files.read_json(folder / SIZES, "remove it and run again", list)
    print(f"\n{tables.table(_HEADER[:6], [cells(entry) for entry in sizes])}\n", flush=True)
    trained = sweep_run.train(sweep, folder, programs(sizes, seeds), jobs)
    by_name = {program.name: results for program, results in trained}
    entries: list[Entry] = [{**entry, "runs": by_name[variant(entry).label()]} for entry in sizes]
    write(folder, asked, [entry for entry in entries if entry["runs"]])


def _choose(settings: NBodySettings | MocapSettings, *names: Sequence[str]) -> list[Size]:
  """Chooses sizes in a process of its own, which gives the devices back when it ends."""
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_choose_there, args=(sender, settings, *names))
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


def _choose_there(
  sender: Connection, settings: NBodySettings | MocapSettings, *names: Sequence[str]
) -> None:
  app.set_up_jax(settings.training.precision)
  try:
    sender.send(branch_sizes.choose(settings, *names))
  except (AceError, DataError) as error:
    sender.send(error)


def variant(entry: Size) -> Variant:
  """Returns the variant of an entry of sizes.json."""
  return Variant(entry["branch"], entry["gamma"], entry["size"])


def programs(sizes: Sequence[Size], seeds: tuple[int, ...]) -> list[Program]:
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


def cells(entry: Size) -> list[str]:
  """Returns the cells of the table that are known before the training."""
  size = entry["size"] or ("" if entry["branch"] == "linear" else "2n, n")
  known = [entry["budget"], entry["branch"], entry["gamma"], str(size), str(entry["parameters"])]
  return [*known, f"{entry['step_ms']:.2f}"]


def row(entry: Entry) -> list[str]:
  """Returns a row of the table."""
  return [
    *cells(entry),
    ",".join(str(result["settings"]["seed"]) for result in entry["runs"]),
    tables.spread(_values(entry, "relaxed", "test_mse")),
    tables.spread(_values(entry, "projection", "test_mse")),
    tables.spread(_values(entry, "relaxed", "test_gap"), deviation=None),
    tables.spread(_values(entry, "relaxed", "test_gap_relative"), deviation=None),
  ]


def _values(
  entry: Entry, predictor: str, name: Literal["test_mse", "test_gap", "test_gap_relative"]
) -> list[float]:
  predictors = [result["predictors"][predictor] for result in entry["runs"]]
  # N-body and motion capture trainings measure their gaps.
  return [measured[name] for measured in predictors]  # pyright: ignore[reportTypedDictNotRequiredAccess]


def write(folder: Path, asked: Asked, entries: list[Entry]) -> None:
  """Prints the table, and writes result.json, table.md and relaxations.png."""
  lines = [row(entry) for entry in entries]
  print(f"\n{tables.table(_HEADER, lines)}\n")
  kept = [{**entry, "runs": [_summary(run) for run in entry["runs"]]} for entry in entries]
  result = {"experiment": "relaxations", "asked": asked, "entries": kept}
  workdirs.write_result(folder, result)
  files.write_text(folder / "table.md", tables.markdown(_HEADER, lines) + "\n")
  drawn: dict[str, list[comparison_figures.Entry]] = {}
  for entry in entries:
    marks = comparison_figures.Entry(
      label=f"{entry['branch']} {entry['size'] or ''}".strip() + f", one gamma a {entry['gamma']}",
      relaxed=_values(entry, "relaxed", "test_mse"),
      projection=_values(entry, "projection", "test_mse"),
      gaps=_values(entry, "relaxed", "test_gap"),
    )
    name = {"parameters": "number of parameters", "time": "step time"}[entry["budget"]]
    drawn.setdefault(name, []).append(marks)
  unit = _UNITS.get(str(asked.get("experiment")), "")
  plots.save(comparison_figures.branches(drawn, unit), folder / "relaxations.png")
  page.write(folder)
  made = f"result.json, table.md, relaxations.png, {page.PAGE}"
  print(f"Everything is in {folder}: {made}, a folder a program.")


def _summary(result: Result) -> Summary:
  return {
    "seeds": result["seeds"],
    "epochs": result["epochs"],
    "train_samples": result["train_samples"],
    "predictors": result["predictors"],
    "seconds": result["seconds"],
    "replicas": result.get("replicas", 1),
    "settings": result["settings"],
    "differs_from_published": result["differs_from_published"],
    "final": result["final"],
    "environment": result.get("environment", {}),
  }
