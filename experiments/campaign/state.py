"""What a campaign has done so far: its folder, how far each program is, how long the rest takes.

    WORKDIR/state.json    commit and command of every program that was started, seconds, failures
    WORKDIR/commits/HASH  a clone of the repository at each commit that runs need
    WORKDIR/runs/NAME     the workdir of each program, with log.txt

A program is one process: a run, or on an accelerator runs of a row as replicas. Imports no JAX.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from data.errors import DataError
from experiments.campaign.plan import Plan, Run
from experiments.harness import result_files

STATE, RUNS, COMMITS, RUNNER = "state.json", "runs", "commits", ".runner"
_RESULT, _CONFIG, _METRICS = "result.json", "config.json", "metrics.jsonl"
_FORMAT = 1
_LAST = 60  # records that a speed is measured on
_TAIL = 2**19  # bytes that they surely fit into
_PAUSE = 10  # a record that took so many times the median was interrupted
_ENDING = 60.0  # seconds of tests and figures after the last epoch


@dataclasses.dataclass(frozen=True)
class Program:
  """Runs that one process trains.

  Attributes:
    name: Its folder.
    runs: Several are replicas.
    folder: Where it writes.
    collected: Where results of finished runs are kept, RUN/REPLICA.
  """

  name: str
  runs: tuple[Run, ...]
  folder: Path
  collected: Path

  def command(self) -> tuple[str, ...]:
    """Returns module and flags."""
    if len(self.runs) == 1:
      return self.runs[0].command
    seeds = ",".join(run.flag("seed") or "" for run in self.runs)
    return (*self.runs[0].without_seed(), f"--seeds={seeds}")

  def results(self, run: Run) -> list[tuple[str, Path]]:
    """Returns (replica's name, folder of its result) for what a run trains."""
    if len(self.runs) > 1:
      return [("", self.folder / f"seed{run.flag('seed')}")]
    return [(name, self.folder / name) for name in run.replicas()]

  def trained(self, run: Run) -> bool:
    """Whether every result of a run is in this campaign's folder."""
    return all((folder / _RESULT).exists() for _, folder in self.results(run))

  def finished(self, run: Run) -> bool:
    """Whether every result of a run is there, or was collected before, perhaps elsewhere."""
    kept = self.collected / run.name
    return self.trained(run) or all(
      (kept / replica / _RESULT).exists() for replica in run.replicas()
    )

  def ended(self) -> bool:
    """Whether nothing of it is left to train."""
    return all(map(self.finished, self.runs))

  def progress(self) -> tuple[int, int, float] | None:
    """Returns (epochs done, epochs of the whole, seconds an epoch); None before the third epoch."""
    folder = self.results(self.runs[0])[0][1]
    try:
      with (folder / _METRICS).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = file.read().splitlines()[-_LAST:]
      settings = result_files.read_settings(self.folder / _CONFIG, "")
      records = []
      for line in lines:
        with contextlib.suppress(ValueError):  # what a kill, or the tail, cut off
          records.append(json.loads(line))
      steps = [b["time"] - a["time"] for a, b in itertools.pairwise(records)]
      done, total = int(records[-1]["epoch"]), int(settings["epochs"])
    except (OSError, DataError, LookupError, TypeError, ValueError):
      return None
    if len(steps) < 2:
      return None
    usual = [step for step in steps if step <= _PAUSE * statistics.median(steps)]
    return done, total, statistics.mean(usual)


class Started(TypedDict):
  """What state.json keeps of a program that was started.

  `runs` are names; `command` is module and flags, `commit` the hash that they ran at; `seconds` is
  the time spent in all attempts; `failure` is why the last one ended, null where it did not fail.
  """

  runs: list[str]
  command: list[str]
  commit: str
  seconds: float
  failure: NotRequired[str | None]


@dataclasses.dataclass
class State:
  """What is in state.json.

  Attributes:
    workdir: The campaign's folder.
    programs: By name.
    comparisons: As they were when the first run started.
    running: Names of the programs that the runner has started, and not seen end.
  """

  workdir: Path
  programs: dict[str, Started] = dataclasses.field(default_factory=dict)
  comparisons: dict[str, Any] = dataclasses.field(default_factory=dict)
  running: list[str] = dataclasses.field(default_factory=list)

  def content(self) -> dict[str, Any]:
    """Returns what is written to state.json."""
    return {
      "state_format": _FORMAT,
      "programs": self.programs,
      "comparisons": self.comparisons,
      "running": self.running,
    }

  def runner(self) -> int | None:
    """Returns the process that runs this campaign; None if none does."""
    try:
      pid = int((self.workdir / RUNNER).read_text())
      os.kill(pid, 0)
    except (OSError, ValueError):
      return None
    return pid


def read(workdir: Path) -> State:
  """Reads the state of a campaign; one that has not begun is empty.

  Raises:
    DataError: it is damaged.
  """
  path, remedy = workdir / STATE, "restore it (runs/ holds what was trained)"
  if not path.exists():
    return State(workdir)
  value = result_files.read_json(path, remedy)
  shaped = isinstance(value.get("programs"), dict) and isinstance(value.get("comparisons"), dict)
  if (
    value.get("state_format") != _FORMAT or not shaped or not isinstance(value.get("running"), list)
  ):
    raise DataError(f"{path}: damaged (no state of a campaign); {remedy}.")
  for name, entry in value["programs"].items():
    known = {"runs": list, "command": list, "commit": str, "seconds": int | float}
    if not isinstance(entry, dict) or not all(
      isinstance(entry.get(key), kind) for key, kind in known.items()
    ):
      raise DataError(f"{path}: damaged (program {name!r}); {remedy}.")
  return State(workdir, value["programs"], value["comparisons"], value["running"])


def programs(plan: Plan, state: State, together: bool, collected: Path) -> list[Program]:
  """Returns the programs of a plan, in its order.

  Args:
    plan: The plan.
    state: What was started stays in the program that it was started in.
    together: Whether runs of a row that were not started become replicas of one program.
    collected: Where results of finished runs are kept.

  Raises:
    DataError: the plan changed the command or the commit of a run that was started.
  """
  by_name = {run.name: run for run in plan.runs}
  begun = {run: name for name, entry in state.programs.items() for run in entry["runs"]}
  by_program_name: dict[str, Program] = {}
  taken: set[str] = set()
  for run in plan.runs:
    if run.name in taken:
      continue
    if run.name in begun:
      name = begun[run.name]
      runs = tuple(
        by_name[run_name] for run_name in state.programs[name]["runs"] if run_name in by_name
      )
    elif together and run.flag("seed") is not None:
      runs = tuple(_companions(run, plan.runs, begun))
      seeds = "-".join(str(member.flag("seed")) for member in runs)
      name = run.name if len(runs) == 1 else f"{run.row}_seeds{seeds}"
    else:
      runs, name = (run,), run.name
    by_program_name[name] = Program(name, runs, state.workdir / RUNS / name, collected)
    taken |= {member.name for member in runs}
    if name in state.programs:
      _check_unchanged(by_program_name[name], state.programs[name])
  return list(by_program_name.values())


def _companions(run: Run, runs: Iterable[Run], begun: dict[str, str]) -> list[Run]:
  shared = (run.row, run.commit)
  return [
    other for other in runs if (other.row, other.commit) == shared and other.name not in begun
  ]


def _check_unchanged(program: Program, entry: Started) -> None:
  missing = len(program.runs) < len(entry["runs"])
  if missing or list(program.command()) != entry["command"]:
    raise DataError(
      f"{program.name} was started as {' '.join(entry['command'])}, and the plan now says "
      "otherwise; give what changed another name, or move its folder and its entry in state.json "
      "away."
    )
  for run in program.runs:
    if run.commit and not entry["commit"].startswith(run.commit):
      raise DataError(
        f"{run.name} was started at commit {entry['commit'][:12]}, and the plan now says "
        f"{run.commit}; a run keeps its commit: give the new one another name."
      )


Speeds = dict[str, tuple[Program, tuple[int, int, float]]]
"""Of every program that has begun, itself and its `progress`."""


def speeds(everything: Iterable[Program]) -> Speeds:
  """Reads how fast the programs of a plan are, or were."""
  return {
    program.name: (program, progress) for program in everything if (progress := program.progress())
  }


def minutes_left(program: Program, measured: Speeds) -> float:
  """Estimates how long a program still takes, from its own speed, or else from that of others.

  Args:
    program: What is asked for.
    measured: The speeds of all programs. What those of the same row took of their planned minutes,
      else those of the same module, else all, scales the planned minutes.
  """
  if program.ended():
    return 0.0
  if program.name in measured:
    done, total, seconds = measured[program.name][1]
    return (max(0, total - done) * seconds + _ENDING) / 60
  planned = _planned(program)
  run = program.runs[0]
  for alike in (
    lambda member: member.row == run.row,
    lambda member: member.command[0] == run.command[0],
    lambda member: True,
  ):
    ratios = [
      total * seconds / 60 / _planned(other)
      for other, (_, total, seconds) in measured.values()
      if alike(other.runs[0])
    ]
    if ratios:
      return planned * statistics.median(ratios) + _ENDING / 60
  return planned


def _planned(program: Program) -> float:
  return sum(run.minutes for run in program.runs)
