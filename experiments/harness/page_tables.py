"""The tables of pages: cells of text, with the exact number where one stands there rounded."""

import dataclasses
import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness import page_runs, result_files
from experiments.harness.page_runs import Run, dictionary, items

_ROWS, _COLUMNS, _TEXT = 200, 12, 300
_DROPPED = ("workdir", "resume", "dry_run", "coordinator", "process", "processes")
_HERE = {"seed", "replica"}
_EQUIVARIANCE = "equiv. error"
_NOTES = {
  _EQUIVARIANCE: "Equiv. error: relative equivariance error on validation data, at the last epoch.",
  "equiv. MSE": "Equiv. MSE: mean squared equivariance error on test data, \u00b1 standard error.",
  "equiv. relative": "Equiv. relative: its root over the root mean square of the prediction.",
}
"""What columns are, below the table."""


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell.

  Attributes:
    text: What is shown.
    exact: The number with all digits; "" of text.
  """

  text: str
  exact: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table.

  Attributes:
    title: Above it.
    header: Names of the columns.
    rows: Cells.
    note: Below it.
  """

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  note: str = ""


def cell(value: Any, digits: int = 5) -> Cell:
  """Returns the cell of a JSON value."""
  if value is None or value == "":
    return Cell("")
  if isinstance(value, int):
    return Cell(str(value)[:_TEXT], str(value)[:_TEXT])
  if isinstance(value, float):
    return Cell(f"{value:.{digits}g}", repr(value))
  if isinstance(value, list) and not any(isinstance(word, list | dict) for word in value):
    value = ", ".join(str(word) for word in value)
  text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
  return Cell(text if len(text) <= _TEXT else f"{text[:_TEXT]} ...")


def of_predictors(result: Mapping[str, Any]) -> Table:
  """Returns the table of a training: errors and equivariance of both predictors."""
  metric = result.get("metric", result_files.MSE)
  predictors = result["predictors"]
  turned = dict.fromkeys(
    name
    for predictor in predictors.values()
    for name in dictionary(predictor.get("test_mse_turned"))
  )
  about = any(map(result_files.about_origin, predictors.values()))
  columns = {
    f"test {metric}": lambda predictor: predictor["test_mse"],
    f"valid {metric}": lambda predictor: predictor["valid_mse"],
    "best epoch": lambda predictor: predictor.get("best_epoch"),
    **{
      f"turned, {name.replace('_', ' ')}": lambda predictor, name=name: dictionary(
        predictor.get("test_mse_turned")
      ).get(name)
      for name in turned
    },
    _EQUIVARIANCE: result_files.equivariance_error,
    "equiv. MSE": lambda predictor: predictor.get("test_gap"),
    "\u00b1": lambda predictor: predictor.get("test_gap_error"),
    "equiv. relative": lambda predictor: predictor.get("test_gap_relative"),
    "phase": lambda predictor: predictor.get("phase"),
  }
  linear = result.get("linear_mse")
  digits = {_EQUIVARIANCE: 2, "equiv. MSE": 3, "\u00b1": 2, "equiv. relative": 2}
  rows = [
    [Cell(name), *(cell(of(predictor), digits.get(title, 5)) for title, of in columns.items())]
    for name, predictor in predictors.items()
  ]
  rows.insert(0, [Cell("linear prediction"), cell(linear), *[Cell("")] * (len(columns) - 1)])
  table = without_empty(Table("Result", ["predictor", *columns], rows))
  notes = [note for title, note in _NOTES.items() if title in table.header]
  if about and {_EQUIVARIANCE, "equiv. MSE"} <= {*table.header}:
    notes.append("Equiv. error is of rotations about the origin, the others about another point.")
  if turned:
    notes.insert(0, f"Turned: test {metric} on rotated test data.")
  return dataclasses.replace(table, note=" ".join(notes))


def without_empty(table: Table) -> Table:
  """Returns a table without the columns in which nothing stands."""
  kept = [i for i in range(len(table.header)) if any(row[i].text for row in table.rows)]
  rows = [[row[i] for i in kept] for row in table.rows]
  return dataclasses.replace(table, header=[table.header[i] for i in kept], rows=rows)


def experiment(run: Run) -> str:
  """Returns the name of the experiment in a run's command; "" of one without."""
  command = str(run.environment.get("command", ""))
  return shlex.split(command)[2].removeprefix("experiments.") if given(command) else ""


def of_layers(result: Mapping[str, Any]) -> Table:
  """Returns the table of gamma, multiplier and slack of every layer at the end."""
  final = {
    kind: dictionary(dictionary(result.get("final")).get(kind))
    for kind in ("gamma", "multiplier", "slack")
  }
  names = list(dict.fromkeys(name for values in final.values() for name in values))
  rows = [[Cell(name), *(cell(values.get(name)) for values in final.values())] for name in names]
  return without_empty(Table("By layer, at the end", ["layer", *final], rows)) if rows else Table(
    "By layer, at the end", [], []
  )  # fmt: skip


def given(command: str) -> dict[str, str]:
  """Returns the flags of a command line, by name; {} of one that is none of an experiment.

  Args:
    command: As in the environment of a result.json.
  """
  try:
    words = shlex.split(command)
  except ValueError:
    return {}
  if words[:2] != ["python", "-m"] or not words[2:3] or not words[2].startswith("experiments."):
    return {}
  flags: dict[str, str] = {}
  name = ""
  for word in words[3:]:
    if word.startswith("--"):
      name, equals, value = word.removeprefix("--").partition("=")
      flags[name] = value if equals else "true"
    elif name:  # --epochs 3
      flags[name], name = word, ""
  return flags


def to_repeat(command: str) -> str:
  """Returns a command without the flags that say where it wrote, and how it went on."""
  try:
    words = shlex.split(command)
  except ValueError:
    return command
  kept, skip = [], False
  for word in words:
    name, equals, _ = word.removeprefix("--").partition("=")
    dropped = word.startswith("--") and name in _DROPPED
    if not dropped and not (skip and not word.startswith("--")):
      kept.append(word)
    skip = dropped and not equals and name not in ("resume", "dry_run")
  return "".join(
    word if not i else f" \\\n  {word}" if word.startswith("--") else f" {word}"
    for i, word in enumerate(map(shlex.quote, kept))
  )


def asked(run: Run) -> list[Table]:
  """Returns the tables of the settings: those that were asked for first, all of them last."""
  command = str(run.environment.get("command", ""))
  flags = given(command)
  settings = run.settings
  named = [n for n in settings if n in flags or (n in _HERE and f"{n}s" in flags)]
  others = [n for n in flags if n not in settings and n not in _DROPPED]
  rows = [[Cell(n), cell(settings[n])] for n in named] + [[Cell(n), cell(flags[n])] for n in others]
  differing = dictionary(run.result.get("differs_from_published"))
  published = [
    [Cell(n), *(Cell("\u2013") if v is None else cell(v) for v in items(pair)[:2])]
    for n, pair in differing.items()
  ]
  everything = [[Cell(n), cell(v)] for n, v in settings.items()]
  pair = ["setting", "value"]
  return [
    Table(
      "Asked for on the command line",
      pair,
      rows,
      "Nothing: all defaults." if command and not rows else "",
    ),
    Table("Differs from what was published", ["setting", "here", "published"], published),
    Table("All settings", pair, everything),
  ]


def of_environment(run: Run) -> Table:
  """Returns the table of what a run ran on, and how long it took."""
  environment = {k: v for k, v in run.environment.items() if k not in ("command", "packages")}
  packages = dictionary(run.environment.get("packages"))
  facts = {**environment, **packages}
  for name in ("seconds", "steps", "steps_per_second", "replicas"):
    if name in run.result:
      facts[name] = run.result[name]
  rows = [[Cell(str(name)), cell(value)] for name, value in facts.items()]
  return Table("Environment", ["what", "value"], rows)


def of_data(result: Mapping[str, Any]) -> Table:
  """Returns the table of what is known of the data."""
  rows = [[Cell(str(k)), cell(v)] for k, v in dictionary(result.get("data")).items()]
  return Table("Data", ["what", "value"], rows)


def of_lists(content: Mapping[str, Any]) -> list[Table]:
  """Returns a table for each list of dictionaries in the result of a comparison.

  Args:
    content: Of its result.json, sweep.json or state.json.
  """
  listed = []
  for name, value in content.items():
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
      entries = [{name.rstrip("s"): key, **entry} for key, entry in value.items()]
    else:
      entries = [entry for entry in items(value) if isinstance(entry, dict)]
    flat = [_flat(entry) for entry in entries]
    header = list(dict.fromkeys(key for entry in flat for key in entry))
    if not header:
      continue
    left = len(flat) - _ROWS
    note = f"{left} more rows are in the file." if left > 0 else ""
    rows = [[cell(entry.get(key)) for key in header] for entry in flat[:_ROWS]]
    table = without_empty(Table(name, header, rows, note))
    if len(table.header) > _COLUMNS:
      table = dataclasses.replace(
        table, header=table.header[:_COLUMNS], rows=[row[:_COLUMNS] for row in table.rows]
      )
    listed.append(table)
  return listed


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns the scalars of an entry, those of small dictionaries in it by joined names."""
  scalars: dict[str, Any] = {}
  for key, value in entry.items():
    if isinstance(value, dict) and not prefix and key not in ("settings", "environment"):
      scalars |= _flat(value, f"{key} ")
    elif not isinstance(value, dict | list):
      scalars[f"{prefix}{key}"] = value
  return scalars


def of_text(path: Path, root: Path) -> list[Table]:
  """Returns the tables in a Markdown file; [] where there is none.

  Args:
    path: Such as table.md.
    root: The folder that is shown.
  """
  if not page_runs.inside(path, root):
    return []
  try:
    lines = path.read_text(errors="replace").splitlines()
  except OSError:
    return []
  blocks: list[list[list[Cell]]] = [[]]
  for line in [*lines, ""]:
    if line.startswith("|"):
      words = line.replace("+-", "\u00b1").strip().strip("|").split("|")
      blocks[-1].append([Cell(word.strip()) for word in words])
    elif blocks[-1]:
      blocks.append([])
  tables = []
  for header, *rows in filter(None, blocks):
    width = len(header)
    rows = [row for row in rows if len(row) == width and not _rule(row)]
    tables.append(Table(path.stem.capitalize(), [word.text for word in header], rows))
  return tables


def _rule(row: Sequence[Cell]) -> bool:
  return all(word.text and not word.text.strip("-:") for word in row)


def when(seconds: float) -> str:
  """Returns a Unix time as a date, in local time."""
  if not seconds:
    return ""
  return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
