"""A published claim, our runs for it, and whether it holds. Imports no JAX.

The file is a list of claims:

    [{"claim": "Run: EGNO, equality, f_eq", "published": [35.3, 1.6], "scale": 0.01,
      "runs": ["campaign/run600_equality_damped_seed*", "mocap/run_equality_damped_seed*"],
      "number": "predictors/projection/test_mse", "test": "reached", "other": null}]

`runs` are globs below the folder of results, the first that has results counts: so longer runs take
the place of shorter ones as they end. The tests "lower" and "no_worse" compare two rows: `other`
has `runs` and `number` of the second, `published` says what was published of the two.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from experiments.campaign.compare import welch, within_standard_error
from experiments.harness import result_files, tables

HEADER = ["published claim", "published", "ours (seeds, epochs)", "holds"]
_REMEDY = "mend the list of claims"
_KEYS = {"claim", "published", "scale", "runs", "number", "test", "other"}
_TESTS = ("reached", "lower", "no_worse")


@dataclasses.dataclass(frozen=True)
class Errors:
  """Where numbers of a row are.

  Attributes:
    runs: Globs of folders with a result.json, the first that has results counts.
    number: Path of a number in result.json.
  """

  runs: tuple[str, ...]
  number: str

  def read(self, folder: Path) -> tuple[list[float], list[int]]:
    """Returns a number a seed, and the numbers of epochs that occur.

    Raises:
      DataError: a result is damaged, or lacks the number.
    """
    for pattern in self.runs:
      files = sorted(folder.glob(f"{pattern}/result.json"))
      results = [result_files.read_training(file) for file in files]
      if results:
        pairs = zip(files, results, strict=True)
        numbers = [_number(result, self.number, file) for file, result in pairs]
        return numbers, sorted({result["epochs"] for result in results})
    return [], []


@dataclasses.dataclass(frozen=True)
class Claim:
  """A row of the table.

  Attributes:
    name: What is claimed.
    published: Mean and standard deviation, in the unit `scale`; text for a comparison.
    scale: The unit of the numbers shown: 0.01 for errors x 10^-2.
    ours: Our numbers.
    test: "reached", "lower" or "no_worse", see `row`.
    other: The second row of a comparison; None for "reached".
  """

  name: str
  published: tuple[float, float] | str
  scale: float
  ours: Errors
  test: str = "reached"
  other: Errors | None = None


def read(path: Path) -> list[Claim]:
  """Reads claims.

  Raises:
    DataError: the file cannot be read or is empty, or an entry is no claim; says which, and why.
  """
  entries = result_files.read_json(path, _REMEDY, list)
  if not entries:
    raise DataError(f"{path}: holds no claims; {_REMEDY}.")
  return [_claim(entry, f"{path}: claim {index + 1}") for index, entry in enumerate(entries)]


def row(claim: Claim, folder: Path) -> list[str]:
  """Returns the cells of a claim, as `HEADER` has them.

  "reached": mean(ours) <= mean + deviation of the published one. "lower": p < 0.05 in Welch's
  one-sided test, "no" where our mean is not even lower. "no_worse": mean(ours) <= mean(other) + its
  standard error.

  Args:
    claim: The claim.
    folder: Where its runs are.

  Raises:
    DataError: a result is damaged, or lacks the number.
  """
  numbers, epochs = claim.ours.read(folder)
  ours = _shown(numbers, epochs, claim.scale)
  if claim.other is None:
    assert not isinstance(claim.published, str)  # `read` says so of every row without `other`
    mean, deviation = claim.published
    published = f"{mean:g} +- {deviation:g}"
    reached = bool(numbers) and statistics.mean(numbers) <= claim.scale * (mean + deviation)
    return [claim.name, published, ours, ("yes" if reached else "no") if numbers else ""]
  others, other_epochs = claim.other.read(folder)
  shown = f"{ours} against {_shown(others, other_epochs, claim.scale)}"
  if not numbers or not others:
    return [claim.name, str(claim.published), shown, ""]
  if claim.test == "lower":
    holds = _lower(numbers, others)
  else:
    holds = "yes" if within_standard_error(numbers, others) else "no"
  return [claim.name, str(claim.published), shown, holds]


def _lower(numbers: list[float], others: list[float]) -> str:
  if statistics.mean(numbers) >= statistics.mean(others):
    return "no"
  p = welch(numbers, others)
  if math.isnan(p):
    return "lower, untested (one seed)"
  return f"yes (p = {p:.1g})" if p < 0.05 else f"lower, not shown (p = {p:.1g})"


def _shown(numbers: list[float], epochs: list[int], scale: float) -> str:
  if not numbers:
    return "not run"
  lengths = "-".join(str(number) for number in epochs)
  mean, *rest = tables.spread([x / scale for x in numbers]).partition(" ")
  return f"{float(mean):g}{''.join(rest)} ({len(numbers)}, {lengths})"


def _number(result: result_files.Result, path: str, file: Path) -> float:
  number = result_files.number(result, path, file, _REMEDY)
  if not math.isfinite(number):
    raise DataError(f"{file}: {path} is {number}, not a finite number; {_REMEDY}.")
  return number


def _claim(entry: Any, where: str) -> Claim:
  if not isinstance(entry, dict) or entry.keys() != _KEYS:
    raise DataError(f"{where} must have {', '.join(sorted(_KEYS))}; {_REMEDY}.")
  test, other = entry["test"], entry["other"]
  if test not in _TESTS:
    raise DataError(f"{where}: test must be one of {', '.join(_TESTS)}; {_REMEDY}.")
  if test == "reached" and other is not None:
    raise DataError(f"{where}: other must be null, since no row is compared; {_REMEDY}.")
  if test != "reached" and not (isinstance(other, dict) and other.keys() == {"runs", "number"}):
    raise DataError(f"{where}: other must have runs and number; {_REMEDY}.")
  published, scale = entry["published"], entry["scale"]
  if other is None:
    if not (isinstance(published, list) and len(published) == 2 and all(map(_positive, published))):
      raise DataError(f"{where}: published must be a mean and a standard deviation; {_REMEDY}.")
    published = tuple(published)
  elif not isinstance(published, str):
    raise DataError(f"{where}: published must be a text, since two rows are compared; {_REMEDY}.")
  if not isinstance(entry["claim"], str) or not _positive(scale):
    raise DataError(f"{where}: claim must be a text, scale a positive number; {_REMEDY}.")
  second = None if other is None else _errors(other, where)
  return Claim(entry["claim"], published, scale, _errors(entry, where), test, second)


def _errors(entry: Mapping[str, object], where: str) -> Errors:
  runs, number = entry["runs"], entry["number"]
  if not (isinstance(runs, list) and runs and all(isinstance(x, str) and x for x in runs)):
    raise DataError(f"{where}: runs must be a list of patterns; {_REMEDY}.")
  if any(Path(pattern).is_absolute() or ".." in Path(pattern).parts for pattern in runs):
    raise DataError(f"{where}: runs are below the folder of results; {_REMEDY}.")
  if not isinstance(number, str):
    raise DataError(f"{where}: number must be a path in result.json; {_REMEDY}.")
  return Errors(tuple(runs), number)


def _positive(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
