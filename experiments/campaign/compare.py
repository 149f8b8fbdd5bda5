"""The comparisons of a campaign, tested on collected results. Imports no JAX."""

import math
import statistics
from pathlib import Path
from typing import Any

from experiments.campaign.plan import Comparison, Plan
from experiments.harness import result_files, tables

HEADER = ["claim", "test", "first", "second", "p", "holds"]


def welch(first: list[float], second: list[float]) -> float:
  """Returns the one-sided p-value of Welch's t-test for mean(first) < mean(second).

  .. math:: t = (m_1 - m_2) / \\sqrt{s_1^2 / n_1 + s_2^2 / n_2}

  with the degrees of freedom of Welch and Satterthwaite. NaN where a sample has one number.

  Reference: Welch, "The generalization of Student's problem when several different population
  variances are involved", Biometrika 1947.
  """
  from scipy import stats

  if min(len(first), len(second)) < 2:
    return math.nan
  return float(stats.ttest_ind(first, second, equal_var=False, alternative="less").pvalue)


def within_standard_error(first: list[float], second: list[float]) -> bool:
  """Whether mean(first) <= mean(second) + its standard error, which is 0 of one number."""
  error = statistics.stdev(second) / math.sqrt(len(second)) if len(second) > 1 else 0.0
  return statistics.mean(first) <= statistics.mean(second) + error


def table(plan: Plan, folder: Path) -> str:
  """Returns a table of the plan's comparisons: means +- standard deviations over seeds.

  "welch" holds at p < 0.05, one-sided; "every_seed" if the first row is below the second with each
  seed; "within_standard_error" if its mean is at most the second's plus that mean's standard error;
  "at_most" if it is at most the bound. While seeds of the plan are missing, nothing is decided.

  Args:
    plan: The plan.
    folder: What `campaign_run.collect` filled.

  Raises:
    DataError: a result is damaged, or lacks a number.
  """
  return tables.table(HEADER, [_row(plan, comparison, folder) for comparison in plan.comparisons])


def _row(plan: Plan, comparison: Comparison, folder: Path) -> list[str]:
  sides, missing = [], 0
  for row, number in zip(comparison.rows, comparison.numbers, strict=True):
    runs = [run for run in plan.runs if run.row == row]
    by_seed = {run.flag("seed") or run.name: _numbers(folder / run.name, number) for run in runs}
    missing += sum(not values for values in by_seed.values())
    sides.append({key: values for key, values in by_seed.items() if values})
  values = [[value for numbers in side.values() for value in numbers] for side in sides]
  shown = [f"{tables.spread(sample)} ({len(sample)})" if sample else "" for sample in values]
  if comparison.bound is not None:
    shown.append(f"<= {comparison.bound:g}")
  p = welch(*values) if comparison.test == "welch" and all(values) else math.nan
  holds = "" if missing else ("yes" if _holds(comparison, sides, values, p) else "no")
  decided = holds or f"{missing} runs missing"
  return [comparison.name, comparison.test, *shown, "" if math.isnan(p) else f"{p:.2g}", decided]


def _holds(comparison: Comparison, sides: list[Any], values: list[list[float]], p: float) -> bool:
  if comparison.test == "welch":
    return p < 0.05
  if comparison.test == "at_most":
    assert comparison.bound is not None
    return statistics.mean(values[0]) <= comparison.bound
  if comparison.test == "every_seed":
    shared = sides[0].keys() & sides[1].keys()
    return bool(shared) and all(sides[0][key] < sides[1][key] for key in shared)
  return within_standard_error(*values)


def _numbers(folder: Path, path: str) -> list[float]:
  numbers = []
  for file in sorted(folder.rglob("result.json")):
    result = result_files.read_json(file, "collect it again")
    remedy = "mend the plan, or collect it again"
    numbers.append(result_files.number(result, path, file, remedy))
  return numbers
