"""Which programs a sweep runs, and which replicas each of them trains. Imports no JAX.

--grid=layers=2,4 --grid=rho=0.1,1 --seeds=0,1,2    two programs (layers), six replicas in each
"""

import dataclasses
import difflib
import functools
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.harness import constraints
from experiments.harness.programs import last_line
from experiments.harness.replicas import Plan
from experiments.harness.usage import UsageError

Value = float | int | str
Grid = tuple[tuple[str, tuple[Value, ...]], ...]

OWNED = (
  *("workdir", "resume", "seed", "seeds", "grid", "dry_run"),
  *("coordinator", "processes", "process"),
)
"""Flags of an experiment that the sweep gives itself."""


@dataclasses.dataclass(frozen=True)
class Range:
  """An interval that a search draws from: whole numbers if both ends are."""

  low: float | int
  high: float | int
  log: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is asked for; a workdir holds one of these.

  Attributes:
    experiment: Its name.
    given: Its flags.
    grid: Values of each parameter; choices of a search.
    ranges: Intervals of a search.
    seeds: Seeds of every point; empty for the experiment's own.
    objective: The predictor whose validation error counts.
    search: "random" or "tpe"; None for the whole grid.
    search_seed: Moves the points of a search.
  """

  experiment: str
  given: tuple[str, ...] = ()
  grid: Grid = ()
  ranges: tuple[tuple[str, Range], ...] = ()
  seeds: tuple[int, ...] = ()
  objective: str = "projection"
  search: str | None = None
  search_seed: int = 0

  def names(self) -> list[str]:
    """Returns the names of the swept parameters."""
    return [name for name, _ in (*self.grid, *self.ranges)]

  def identity(self) -> dict[str, Any]:
    """Returns what a command must share to continue this sweep."""
    fields = dataclasses.asdict(self)
    if self.search is None:  # then the objective only orders what is found
      for name in ("objective", "ranges", "search", "search_seed"):
        fields.pop(name)
    return json.loads(json.dumps(fields))

  def probes(self) -> list[tuple[tuple[str, Value], ...]]:
    """Returns points of a search that together show each choice, and both ends of each range."""
    first = {name: values[0] for name, values in self.grid}
    first |= {name: interval.low for name, interval in self.ranges}
    points = [first]
    points += [{**first, name: v} for name, values in self.grid for v in values[1:]]
    points += [{**first, name: interval.high} for name, interval in self.ranges]
    return [tuple(point.items()) for point in points]


@dataclasses.dataclass(frozen=True)
class Program:
  """One command: settings that decide its device program, and the replicas that share it.

  Attributes:
    name: Its folder in the sweep's workdir.
    fixed: Settings given as flags.
    plan: The replicas.
  """

  name: str
  fixed: tuple[tuple[str, Value], ...]
  plan: Plan

  def flags(self) -> tuple[str, ...]:
    """Returns the flags that ask an experiment for it."""
    flags = [f"--{name}={value}" for name, value in self.fixed]
    flags += [f"--grid={name}={','.join(map(repr, values))}" for name, values in self.plan.grid]
    seeds = [f"--seeds={','.join(map(str, self.plan.seeds))}"] if self.plan.seeds else []
    return (*flags, *seeds)


def parse_grid(entries: Sequence[str]) -> Grid:
  """Reads --grid=NAME=VALUE,VALUE, given any number of times.

  Raises:
    UsageError: says which entry is wrong.
  """
  grid: dict[str, tuple[Value, ...]] = {}
  for entry in entries:
    name, _, words = entry.partition("=")
    if name in grid:
      raise UsageError(f"--grid={entry}: {name!r} is there twice; give all its values at once.")
    values = tuple(_number(word) for word in words.split(",") if word)
    if not name or not values or len({*values}) < len(words.split(",")):
      raise UsageError(
        f"--grid={entry} must be NAME=VALUE,VALUE with different values and none left out."
      )
    if name in constraints.gridded():
      if any(isinstance(value, str) for value in values):
        raise UsageError(f"--grid={entry}: the values must be numbers.")
      values = tuple(map(float, values))
    grid[name] = values
  return tuple(grid.items())


def parse_ranges(entries: Sequence[str]) -> dict[str, Range]:
  """Reads --range=NAME=LOW..HIGH or NAME=LOW..HIGH:log, given any number of times.

  Raises:
    UsageError: says which entry is wrong.
  """
  ranges: dict[str, Range] = {}
  for entry in entries:
    name, _, interval = entry.partition("=")
    if name in ranges:
      raise UsageError(f"--range={entry}: {name!r} is there twice; leave out one.")
    ends, _, scale = interval.partition(":")
    low, _, high = map(_number, ends.partition(".."))
    if isinstance(low, str) or isinstance(high, str) or scale not in ("", "log") or not name:
      raise UsageError(f"--range={entry} must be NAME=LOW..HIGH or NAME=LOW..HIGH:log.")
    if not float("-inf") < low < high < float("inf") or (scale and low <= 0):
      rule = "0 < LOW < HIGH" if scale else "LOW < HIGH"
      raise UsageError(f"--range={entry}: take {rule}, both finite.")
    if name in constraints.gridded() or isinstance(low, float) or isinstance(high, float):
      low, high = float(low), float(high)
    ranges[name] = Range(low, high, bool(scale))
  return ranges


def check_names(names: Sequence[str], known: Iterable[str], given: Sequence[str]) -> None:
  """Refuses parameters that the experiment does not have, or that are given twice.

  Args:
    names: What is swept.
    known: Settings of the experiment.
    given: Its flags after the --.

  Raises:
    UsageError: names the parameter, and those that it may stand for.
  """
  known = sorted({*known} - {*OWNED})
  given_names = {re.sub(r"^--?(no)?", "", word.partition("=")[0]): word for word in given}
  given_names |= {word.lstrip("-").partition("=")[0]: word for word in given}
  for name in OWNED:
    if name in given_names:
      raise UsageError(f"{given_names[name]} after the --: the sweep sets --{name} itself.")
  for name in names:
    if name in ("seed", "seeds"):
      raise UsageError("seeds are not a grid; give them as --seeds=0,1,2.")
    if name not in known:
      near = difflib.get_close_matches(name, known, cutoff=0.5)
      hint = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(known)}."
      raise UsageError(f"the experiment has no parameter {name!r}; {hint}")
    if name in given_names:
      raise UsageError(f"{name} is swept, and given after the --; leave out one.")


def programs(grid: Grid, seeds: tuple[int, ...], most: int) -> list[Program]:
  """Returns the fewest programs that together train every point of a grid with every seed.

  Replicas share a program if they differ in seeds and in what `constraints.gridded` names alone. A
  program with more than `most` of them is halved along the first constant that has several values,
  and along the seeds last: seeds of one point stay together as long as they can.

  Args:
    grid: Values of each parameter.
    seeds: Seeds; empty for the experiment's own.
    most: The largest number of replicas in a program.
  """
  changing = [(name, values) for name, values in grid if name not in constraints.gridded()]
  riding: Any = tuple((name, values) for name, values in grid if name in constraints.gridded())
  program_list = []
  for point in itertools.product(*(values for _, values in changing)):
    fixed = tuple((name, value) for (name, _), value in zip(changing, point, strict=True))
    for plan in _split(Plan(seeds, riding), most):
      program_list.append(Program(_name(len(program_list), fixed), fixed, plan))
  return program_list


@functools.cache
def describe(sweep: Sweep, flags: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
  """Asks the experiment for the (name, settings) of every replica of a program.

  Args:
    sweep: The sweep.
    flags: Of the program, beside those given.

  Raises:
    UsageError: the experiment refuses the flags.
  """
  command = [sys.executable, "-m", f"experiments.{sweep.experiment}", *sweep.given, *flags]
  done = subprocess.run(
    [*command, "--dry_run"], capture_output=True, encoding="utf-8", errors="replace"
  )
  if done.returncode:
    said = last_line(done.stderr)
    flags_said = f" ({' '.join(flags)})" if flags else ""
    raise UsageError(f"{sweep.experiment}{flags_said}: {said.removeprefix('error: ')}")
  try:
    described = json.loads(done.stdout)
  except ValueError:  # --help, say, which ends before
    raise UsageError(
      f"{sweep.experiment} did not say its settings with the flags after the --; leave out --help "
      "and its like."
    ) from None
  return [(replica["replica"], replica["settings"]) for replica in described]


def check(sweep: Sweep) -> None:
  """Refuses names that the experiment does not have, and points that it or the sweep cannot take.

  Raises:
    UsageError: says which.
  """
  (_, defaults), *_ = describe(dataclasses.replace(sweep, given=()), ())
  check_names(sweep.names(), defaults, sweep.given)
  if sweep.search:
    flags = [Program("", point, Plan(sweep.seeds)).flags() for point in sweep.probes()]
  else:
    flags = [program.flags() for program in programs(sweep.grid, sweep.seeds, sys.maxsize)]
  for program_flags in flags:
    for _, settings in describe(sweep, program_flags):
      if sweep.objective == "relaxed" and settings["constraint"] == "strict":
        raise UsageError(
          "--constraint=strict has no relaxed predictor; leave it out, or take "
          "--objective=projection."
        )
      if len(settings["train_samples"] or ()) > 1:
        raise UsageError(
          "several --train_samples are a curve of their own; give them as --grid=train_samples=..."
        )


def count(plan: Plan) -> int:
  """Returns the number of replicas of a plan."""
  total = max(1, len(plan.seeds))
  for _, values in plan.grid:
    total *= len(values)
  return total


def _split(plan: Plan, most: int) -> list[Plan]:
  if count(plan) <= most:
    return [plan]
  for i, (name, values) in enumerate(plan.grid):
    if len(values) > 1:
      parts = [(*plan.grid[:i], (name, half), *plan.grid[i + 1 :]) for half in _halves(values)]
      return [part for grid in parts for part in _split(Plan(plan.seeds, grid), most)]
  if len(plan.seeds) < 2:
    return [plan]
  return [part for half in _halves(plan.seeds) for part in _split(Plan(half, plan.grid), most)]


def _halves(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  middle = (len(values) + 1) // 2
  return values[:middle], values[middle:]


def _name(index: int, fixed: tuple[tuple[str, Value], ...]) -> str:
  label = "_".join(f"{name}{value}" for name, value in fixed)
  label = re.sub(r"[^\w.+-]", "-", label)[:80]
  return f"{index:03d}_{label}" if label else f"{index:03d}"


def _number(word: str) -> Value:
  for kind in (int, float):
    try:
      return kind(word)
    except ValueError:
      pass
  return word
