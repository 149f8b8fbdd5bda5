"""The plan of a campaign, a JSON file: runs in their order, and the comparisons to be tested.

    {"runs": [{"name": "nbody_strict_seed1", "group": "a", "row": "nbody_strict",
               "command": "python -m experiments.nbody --constraint=strict --seed=1",
               "minutes": 45, "commit": null}],
     "comparisons": [{"name": "f_eq below strict", "test": "welch",
                      "rows": ["nbody_equality", "nbody_strict"],
                      "numbers": ["predictors/projection/test_mse", ...], "bound": null}]}

Runs of a row differ in --seed alone. `commit` null is the commit at which the run is first started.
Imports no JAX.
"""

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from data.errors import DataError
from experiments.harness import replicas, result_files
from experiments.harness.usage import UsageError

TESTS = ("welch", "every_seed", "within_standard_error", "at_most")
"""How two rows are compared, or one with a bound: see `campaign_compare`."""

_OWNED = ("workdir", "resume", "dry_run", "coordinator", "process")
_REMEDY = "mend the plan"


@dataclasses.dataclass(frozen=True)
class Run:
  """An entry of the plan: one command, which ends with a result.json.

  Attributes:
    name: Its folder.
    group: The part of the campaign that it belongs to.
    row: What its result is averaged into, with those of other seeds.
    command: Module and flags; $NAME in a flag is read from the environment.
    minutes: Estimate on one CPU core.
    commit: What it runs at; None for the commit at which it is first started.
  """

  name: str
  group: str
  row: str
  command: tuple[str, ...]
  minutes: float
  commit: str | None = None

  def flag(self, name: str) -> str | None:
    """Returns the value of a flag of the command; None where it is not given."""
    values = [word.partition("=")[2] for word in self.command if word.startswith(f"--{name}=")]
    return values[-1] if values else None

  def without_seed(self) -> tuple[str, ...]:
    """Returns what the runs of its row that can be replicas of one program share."""
    return tuple(word for word in self.command if not word.startswith("--seed="))

  def replicas(self) -> tuple[str, ...]:
    """Returns the names of the replicas that it trains by itself; ("",) for one alone."""
    seeds = self.flag("seeds")
    grid = [word.removeprefix("--grid=") for word in self.command if word.startswith("--grid=")]
    plan = replicas.Plan(
      replicas.parse_seeds(seeds.split(",") if seeds else None), replicas.parse_grid(grid)
    )
    return tuple(name for name, _ in plan.points(seed=0))


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What will be tested, said before the first run.

  Attributes:
    name: What is claimed if it holds.
    test: One of `TESTS`.
    rows: One row, or two.
    numbers: Of each row the path of a number in result.json.
    bound: Of "at_most".
  """

  name: str
  test: str
  rows: tuple[str, ...]
  numbers: tuple[str, ...]
  bound: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """Runs in their order, and comparisons."""

  runs: tuple[Run, ...]
  comparisons: tuple[Comparison, ...] = ()


def read(path: Path) -> Plan:
  """Reads a plan.

  Raises:
    DataError: it cannot be read, or says nothing clear; names the entry.
  """
  value = result_files.read_json(path, _REMEDY)
  for name in ("runs", "comparisons"):
    entries = value.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
      raise DataError(f"{path}: damaged (no list of {name}); {_REMEDY}.")
  runs = [_run(path, i, entry) for i, entry in enumerate(value["runs"])]
  names = [run.name for run in runs]
  for name in names:
    if names.count(name) > 1:
      raise DataError(f"{path}: two runs are named {name!r}; {_REMEDY}.")
  rows: dict[str, Run] = {}
  for run in runs:
    first = rows.setdefault(run.row, run)
    if run.without_seed() != first.without_seed():
      raise DataError(
        f"{path}: run {run.name!r} differs from {first.name!r}, of the same row, in more than "
        f"--seed; {_REMEDY}."
      )
  comparisons = tuple(
    _comparison(path, i, entry, rows) for i, entry in enumerate(value["comparisons"])
  )
  if len({comparison.name for comparison in comparisons}) < len(comparisons):
    raise DataError(f"{path}: two comparisons have one name; {_REMEDY}.")
  return Plan(tuple(runs), comparisons)


def _run(path: Path, index: int, entry: Mapping[str, object]) -> Run:
  where = f"{path}: run {entry.get('name', index)!r}"
  unknown = {*entry} - {field.name for field in dataclasses.fields(Run)}
  if unknown:
    raise DataError(f"{where}: {sorted(unknown)[0]!r} is nothing of a run; {_REMEDY}.")
  texts: dict[str, str] = {}
  for name in ("name", "group", "row", "command"):
    text = entry.get(name)
    if not isinstance(text, str) or not text:
      raise DataError(f"{where}: {name} is missing or no text; {_REMEDY}.")
    texts[name] = text
  for name in ("name", "row"):
    if not re.fullmatch(r"\w[\w.+-]*", texts[name]):
      raise DataError(f"{where}: {name} {texts[name]!r} cannot be a folder's; {_REMEDY}.")
  minutes, commit = entry.get("minutes"), entry.get("commit")
  if (
    not isinstance(minutes, int | float) or isinstance(minutes, bool) or not 0 < minutes < math.inf
  ):
    raise DataError(f"{where}: minutes must be a positive number; {_REMEDY}.")
  if not (commit is None or (isinstance(commit, str) and re.fullmatch("[0-9a-f]{4,40}", commit))):
    raise DataError(f"{where}: commit must be null or a hash; {_REMEDY}.")
  try:
    words = shlex.split(texts["command"])
  except ValueError as error:
    raise DataError(f"{where}: command: {error}; {_REMEDY}.") from error
  if words[:2] != ["python", "-m"] or not all(word.startswith("--") for word in words[3:]):
    raise DataError(f"{where}: command must be python -m MODULE --FLAG=VALUE ...; {_REMEDY}.")
  for word in words[3:]:
    if word.lstrip("-").partition("=")[0] in _OWNED:
      raise DataError(f"{where}: {word} is given by the campaign itself; {_REMEDY}.")
  run = Run(texts["name"], texts["group"], texts["row"], tuple(words[2:]), float(minutes), commit)
  try:
    run.replicas()
  except UsageError as error:
    raise DataError(f"{where}: {error}") from error
  return run


def _comparison(
  path: Path, index: int, entry: Mapping[str, object], rows: dict[str, Run]
) -> Comparison:
  where = f"{path}: comparison {entry.get('name', index)!r}"
  title, test = entry.get("name"), entry.get("test")
  if not isinstance(title, str) or not isinstance(test, str) or test not in TESTS:
    raise DataError(f"{where} needs a name and a test, {'|'.join(TESTS)}; {_REMEDY}.")
  count = 1 if test == "at_most" else 2
  lists: dict[str, tuple[str, ...]] = {}
  for name in ("rows", "numbers"):
    texts = entry.get(name)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
      raise DataError(f"{where}: {name} must be a list of texts; {_REMEDY}.")
    if len(texts) != count:
      raise DataError(f"{where}: {test} takes {count} of {name}; {_REMEDY}.")
    lists[name] = tuple(texts)
  for row in lists["rows"]:
    if row not in rows:
      raise DataError(f"{where}: no run is of row {row!r}; {_REMEDY}.")
  bound = entry.get("bound")
  expected = bound is None if test != "at_most" else isinstance(bound, int | float)
  if not expected or isinstance(bound, bool) or not isinstance(bound, int | float | None):
    raise DataError(f"{where}: bound is a number for at_most, else null; {_REMEDY}.")
  return Comparison(title, test, lists["rows"], lists["numbers"], bound)
