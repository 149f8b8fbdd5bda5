"""What `experiments.sweep` does once its flags are checked."""

import contextlib
import dataclasses
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypedDict

import jax
import tqdm

from ace_jax import files, plots
from ace_jax.errors import AceError
from ace_jax.training.progress import Progress
from experiments.harness import page, programs, result_files, tables, workdirs
from experiments.harness.result_files import Result
from experiments.sweep import figures as sweep_plots
from experiments.sweep import plan as sweep_plan
from experiments.sweep.plan import Program, Sweep, Value

SWEEP, DIVERGED = "sweep.json", "diverged.json"


@dataclasses.dataclass(frozen=True)
class Trial:
  """One point with one seed.

  Attributes:
    folder: Where its result.json lies.
    replica: Its name within its program.
    parameters: What is swept.
    seed: Its seed.
    settings: All settings, with which those of its result must agree.
  """

  folder: Path
  replica: str
  parameters: dict[str, Value]
  seed: int
  settings: dict[str, Any]

  def result(self) -> Result | None:
    """Returns the content of its result.json; None if it has none with its settings."""
    path = self.folder / workdirs.RESULT
    result = result_files.read_json(path, "remove it and run again") if path.exists() else None
    if result is None or workdirs.differences(result["settings"], workdirs.portable(self.settings)):
      return None
    return result


class Outcome(TypedDict):
  """What a trial came to.

  `folder` is its own, below the sweep's; `valid_mse` is by predictor, empty without a result;
  `objective` is that of the predictor that counts; `failure` says why there is no result.
  """

  folder: str
  parameters: dict[str, Value]
  seed: int
  valid_mse: dict[str, float]
  objective: float | None
  failure: str | None


@dataclasses.dataclass(frozen=True)
class Task:
  """A program, its folder, and the trials that it trains."""

  program: Program
  folder: Path
  trials: list[Trial]

  def diverged(self) -> dict[str, str]:
    """Returns why, for each replica that met numbers that are not finite: it is not run again."""
    path = self.folder / DIVERGED
    return result_files.read_json(path, "remove it and run again") if path.exists() else {}

  def ended(self) -> bool:
    """Whether nothing of it is left to run."""
    diverged = self.diverged()
    return all(trial.replica in diverged or trial.result() for trial in self.trials)


def run(
  sweep: Sweep,
  folder: Path,
  trials: int,
  storage: str | None,
  engine: str,
  jobs: int | None,
  pack: int | None,
) -> None:
  """Runs everything that is not finished; then prints, writes and draws what was found.

  Args:
    sweep: What is run.
    folder: Where to write.
    trials: Points of a search.
    storage: Database of a search; SQLite in the workdir by default.
    engine: "local" or "ray".
    jobs: Programs at once; None for the engine's own number.
    pack: Largest number of replicas in a program; None shares them out.

  Raises:
    AceError: a trial failed; the others are written by then.
  """
  jax.config.update("jax_platforms", "cpu")  # the devices are for the programs
  there = workdirs.read_settings(folder)
  with contextlib.ExitStack() as stack:
    stack.enter_context(programs.ended_by_signal())
    machine = stack.enter_context(_engine(engine, jobs))
    identity = sweep.identity()
    if sweep.search is None:
      # As it was first: other programs would have other folders.
      pack = pack or there.get("pack") or _share(sweep, machine.slots)
      identity["pack"] = pack
    stack.enter_context(
      workdirs.opened(folder, identity, resume=(folder / workdirs.CONFIG).exists())
    )
    failed: dict[Path, str] = {}
    if sweep.search:
      tasks, source, settle = _search(sweep, folder, trials, storage)
    else:
      program_list = sweep_plan.programs(sweep.grid, sweep.seeds, pack or sys.maxsize)
      tasks = [make_task(sweep, folder, program) for program in program_list]
      source, settle = iter(tasks), _ignore
    total = trials if sweep.search else sum(not task.ended() for task in tasks)
    _drive(sweep, machine, source, settle, failed, total)
    rows = [row for task in tasks for row in outcomes(task, sweep.objective, failed)]
    write(folder, sweep, rows)


def train(
  sweep: Sweep, parent: Path, program_list: list[Program], jobs: int | None = None
) -> list[tuple[Program, list[Result]]]:
  """Runs those of given programs that are not finished, as processes over the local devices.

  Args:
    sweep: The experiment and its flags; it names no grid of its own.
    parent: Where each program gets a folder.
    program_list: The programs.
    jobs: Programs at once; by default one a device, or one on a CPU.

  Returns:
    Each program with the contents of the result.json of its replicas. Those that met numbers that
    are not finite have none, and a warning.

  Raises:
    AceError: a program failed; the others are finished by then.
  """
  failed: dict[Path, str] = {}
  with programs.ended_by_signal(), _engine("local", jobs) as machine:
    tasks = [make_task(sweep, parent, program) for program in program_list]
    left = sum(not task.ended() for task in tasks)
    _drive(sweep, machine, iter(tasks), _ignore, failed, left)
  for task in tasks:
    for replica, reason in task.diverged().items():
      warnings.warn(f"{task.folder.name}/{replica} is left out: {reason}", stacklevel=2)
  if failed:
    folder, reason = next(iter(failed.items()))
    raise AceError(
      f"{len(failed)} of {len(tasks)} programs failed, {folder} by {reason.rstrip('.')}; the same "
      "command runs again what is not finished."
    )
  results = [[trial.result() for trial in task.trials] for task in tasks]
  return [
    (task.program, [result for result in replica_results if result is not None])
    for task, replica_results in zip(tasks, results, strict=True)
  ]


def make_task(sweep: Sweep, parent: Path, program: Program) -> Task:
  """Asks the experiment what the replicas of a program are."""
  folder, swept = parent / program.name, dict(program.fixed)
  riding = [name for name, _ in program.plan.grid]
  trials = []
  for name, settings in sweep_plan.describe(sweep, program.flags()):
    values = {**swept, **{name: settings[name] for name in riding}}
    parameters = {name: values[name] for name in sweep.names()}
    trials.append(Trial(folder / name, name, parameters, settings["seed"], settings))
  return Task(program, folder, trials)


def _share(sweep: Sweep, slots: int) -> int:
  everything = sweep_plan.programs(sweep.grid, sweep.seeds, sys.maxsize)
  return -(-sum(sweep_plan.count(program.plan) for program in everything) // slots)


def _engine(engine: str, jobs: int | None) -> contextlib.AbstractContextManager[programs.Engine]:
  if engine == "ray":
    return programs.ray_engine(jobs)
  import os

  return programs.local_engine(programs.share(*programs.local_devices(), jobs, os.environ))


def _ignore(task: Task) -> None:
  del task


def _search(
  sweep: Sweep, folder: Path, trials: int, storage: str | None
) -> tuple[list[Task], Iterator[Task], Callable[[Task], None]]:
  """Returns the tasks met so far (a list that grows), where they come from, and what ends one."""
  from experiments.sweep import search as sweep_search

  folder = folder.absolute()
  url = storage or f"sqlite:///{folder / 'optuna.db'}"
  if url.startswith("sqlite:///~"):
    url = f"sqlite:///{files.expanded(url.removeprefix('sqlite:///'))}"
  study = sweep_search.open_study(url, folder.name, sweep)
  tasks: list[Task] = []

  def add(number: int, point: dict[str, Value]) -> Task:
    program = Program(f"trial_{number:03d}", tuple(point.items()), sweep_plan.Plan(sweep.seeds))
    tasks.append(make_task(sweep, folder, program))
    return tasks[-1]

  def source() -> Iterator[Task]:
    for number, point in sweep_search.known(study, sweep):
      yield add(number, point)
    while len(study.trials) < trials:
      trial = sweep_search.ask(study, sweep)
      yield add(trial.number, trial.params)

  def settle(task: Task) -> None:
    if task.ended():
      value = _mean([_error(trial, sweep.objective) for trial in task.trials])
      sweep_search.tell(study, int(task.program.name.removeprefix("trial_")), value)

  return tasks, source(), settle


def _error(trial: Trial, predictor: str) -> float | None:
  result = trial.result()
  return None if result is None else result["predictors"][predictor]["valid_mse"]


def _mean(errors: Sequence[float | None]) -> float | None:
  """Returns the mean over the seeds of a point; None while one of them has no error."""
  known = [error for error in errors if error is not None]
  return statistics.mean(known) if len(known) == len(errors) else None


def _drive(
  sweep: Sweep,
  machine: programs.Engine,
  source: Iterator[Task],
  settle: Callable[[Task], None],
  failed: dict[Path, str],
  total: int,
) -> None:
  """Runs what is not finished; `failed` gets why, for each program that ended otherwise."""
  started: dict[Path, float] = {}

  def unfinished() -> Iterator[Task]:
    for task in source:
      if task.ended():
        settle(task)
      else:
        yield task

  def submit(task: Task) -> Future[int]:
    started[task.folder] = time.monotonic()
    command = [sys.executable, "-m", f"experiments.{sweep.experiment}", *sweep.given]
    command += [*task.program.flags(), f"--workdir={task.folder}"]
    if (task.folder / workdirs.CONFIG).exists():
      command.append("--resume")
    tqdm.tqdm.write(f"{task.folder}: {len(task.trials)} replicas")
    return machine.submit(command, task.folder)

  with Progress(total, "program") as shown:
    for task, code in programs.drive(unfinished(), submit, machine.slots):
      reason = str(code) if isinstance(code, Exception) else programs.last_words(task.folder)
      if code and "not finite" in reason:
        left = [trial.replica for trial in task.trials if not trial.result()]
        files.write_json(task.folder / DIVERGED, dict.fromkeys(left, reason))
      elif code in programs.INTERRUPTED:
        failed[task.folder] = f"interruption: {reason}"
      elif code:
        failed[task.folder] = f"exit code {code}: {reason}" if isinstance(code, int) else reason
      settle(task)
      seconds = time.monotonic() - started[task.folder]
      tqdm.tqdm.write(f"{task.folder}: {'failed' if code else 'done'} after {seconds:.0f} s")
      shown.advance()


def outcomes(task: Task, objective: str, failed: dict[Path, str]) -> list[Outcome]:
  """Returns what each trial of a program came to: its validation errors, or why it has none."""
  diverged = task.diverged()
  rows: list[Outcome] = []
  for trial in task.trials:
    result = trial.result()
    valid = {k: v["valid_mse"] for k, v in result["predictors"].items()} if result else {}
    reason = diverged.get(trial.replica) or failed.get(task.folder, "interrupted")
    rows.append(
      {
        "folder": trial.folder.relative_to(task.folder.parent).as_posix(),
        "parameters": trial.parameters,
        "seed": trial.seed,
        "valid_mse": valid,
        "objective": valid.get(objective),
        "failure": None if result else reason,
      }
    )
  return rows


def points(rows: list[Outcome]) -> list[tuple[dict[str, Value], list[Outcome]]]:
  """Joins the seeds of each point, the best point first and those without a result last."""
  groups: dict[tuple[Value, ...], list[Outcome]] = {}
  for row in rows:
    groups.setdefault(tuple(row["parameters"].values()), []).append(row)

  def order(group: list[Outcome]) -> tuple[bool, float]:
    errors = [row["objective"] for row in group if row["objective"] is not None]
    return len(errors) < len(group), statistics.mean(errors) if errors else float("inf")

  return [(group[0]["parameters"], group) for group in sorted(groups.values(), key=order)]


def table(rows: list[Outcome], objective: str) -> str:
  """Formats the outcomes: a row a point, the best first."""
  lines = []
  for rank, (parameters, group) in enumerate(points(rows), 1):
    errors = [row["objective"] for row in group if row["objective"] is not None]
    deviation = f"{statistics.stdev(errors):.1e}" if len(errors) > 1 else ""
    reasons = dict.fromkeys(row["failure"] for row in group if row["failure"])
    lines.append(
      [
        str(rank),
        *(f"{v:g}" if isinstance(v, float) else str(v) for v in parameters.values()),
        f"{len(errors)} of {len(group)}",
        tables.spread(errors, ".5g", deviation=None),
        deviation,
        "; ".join(reasons)[:80],
      ]
    )
  names = list(rows[0]["parameters"])
  header = ["", *names, "seeds", f"valid MSE, {objective}", "deviation", "failed"]
  if not any(line[-1] for line in lines):
    header, lines = header[:-1], [line[:-1] for line in lines]
  return tables.table(header, lines)


def write(folder: Path, sweep: Sweep, rows: list[Outcome]) -> None:
  """Prints the table, and writes sweep.json and the figures.

  Raises:
    AceError: a trial failed.
  """
  print(f"\n{table(rows, sweep.objective)}\n")
  value = {"sweep": sweep.identity(), "objective": sweep.objective, "trials": rows}
  files.write_json(folder / SWEEP, workdirs.portable({**value, "command": workdirs.command()}))
  made = [SWEEP]
  if sweep.names() and any(row["objective"] is not None for row in rows):
    label = f"validation MSE, {sweep.objective}"
    means = [
      (parameters, mean)
      for parameters, group in points(rows)
      if (mean := _mean([row["objective"] for row in group])) is not None
    ]
    seeds = [(r["parameters"], r["objective"]) for r in rows if r["objective"] is not None]
    plots.save(sweep_plots.sensitivity(seeds, label), folder / "sensitivity.png")
    made.append("sensitivity.png")
    if means:
      plots.save(sweep_plots.parallel_coordinates(means, label), folder / "parallel.png")
      made.append("parallel.png")
  page.write(folder)
  made.append(page.PAGE)
  print(f"Everything is in {folder}: {', '.join(made)}, a folder for each program.")
  failures = sum(row["failure"] is not None for row in rows)
  if failures:
    raise AceError(
      f"{failures} of {len(rows)} trials have no result (see the table, and log.txt in their "
      f"folders in {folder}); the same command runs again what was interrupted."
    )
