"""The published motion capture table beside ours, from result.json files."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.harness import tables

HEADER = ["model", "Run, ours", "Run, published", "Walk, ours", "Walk, published"]
SUBJECTS = ("run", "walk")
_NOT_RUN = "not run"


class Row(NamedTuple):
  """A row of the table.

  Attributes:
    label: What stands in its first column.
    published: Published test MSE x 10^-2 by subject; {} for a row of ours alone.
    predictor: "projection" or "relaxed"; None for a row that only has published values.
    wanted: Whether the settings of a run belong to it.
    choose: Name of a setting that is chosen by validation error, if any.
  """

  label: str
  published: Mapping[str, str]
  predictor: str | None
  wanted: Callable[[dict[str, Any]], bool]
  choose: str | None = None


def _egno(constraint: str, **fixed: Any) -> Callable[[dict[str, Any]], bool]:
  fixed = {"gamma_optimizer": None, **fixed}  # recorded only where it is not Adam

  def wanted(settings):
    same = all(settings.get(name) == value for name, value in fixed.items())
    return settings["model"] == "egno" and settings["constraint"] == constraint and same

  return wanted


def _damped(constraint: str, **fixed: Any) -> Callable[[dict[str, Any]], bool]:
  inner = _egno(constraint, **fixed)
  return lambda settings: inner(settings) and bool(settings["augmented"])


def _strict(model: str) -> Callable[[dict[str, Any]], bool]:
  return lambda settings: settings["model"] == model and settings["constraint"] == "strict"


def _never(settings: dict[str, Any]) -> bool:
  del settings
  return False


# The lower end of the published dual rates, 2e-4 to 5e-4; runs at another are not joined with it.
_PUBLISHED_RATES = _egno("equality", augmented=0.0, dual_lr=2e-4)
_SGD = _egno("equality", gamma_optimizer="sgd")

# Published values: Manolache et al., NeurIPS 2025, and Xu et al., ICML 2024.
PUBLISHED = (
  Row("MPNN", {"run": "66.4 +- 2.2", "walk": "36.1 +- 1.5"}, "projection", _strict("mpnn")),
  Row("RF", {"run": "521.3 +- 2.3", "walk": "188.0 +- 1.9"}, "projection", _strict("radial_field")),
  Row("TFN", {"run": "56.6 +- 1.7", "walk": "32.0 +- 1.8"}, "projection", _strict("tfn")),
  Row(
    "SE(3)-Tr.",
    {"run": "61.2 +- 2.3", "walk": "31.5 +- 2.1"},
    "projection",
    _strict("se3_transformer"),
  ),
  Row("EGNN", {"run": "50.9 +- 0.9", "walk": "28.7 +- 1.6"}, "projection", _strict("egnn")),
  Row("EGNO (reported)", {"run": "33.9 +- 1.7", "walk": "8.1 +- 1.6"}, None, _never),
  Row(
    "EGNO (reproduced)",
    {"run": "35.3 +- 3.2", "walk": "8.5 +- 1.0"},
    "projection",
    _egno("strict"),
  ),
  Row(
    "EGNO, equality, f_eq",
    {"run": "35.3 +- 1.6", "walk": "7.9 +- 0.3"},
    "projection",
    _damped("equality"),
  ),
  Row(
    "EGNO, equality, f_eq + f_neq",
    {"run": "32.6 +- 1.6", "walk": "7.5 +- 0.3"},
    "relaxed",
    _damped("equality"),
  ),
  Row(
    "EGNO, resilient, f_eq + f_neq",
    {"run": "23.8 +- 1.5", "walk": "7.4 +- 0.2"},
    "relaxed",
    _damped("resilient", rho=1.0),
  ),
)
OURS = (
  Row("EGNO, no constraint, f_eq + f_neq", {}, "relaxed", _egno("none")),
  Row("EGNO, one-sided, f_eq + f_neq", {}, "relaxed", _egno("one_sided")),
  Row("EGNO, published resilient, f_eq + f_neq", {}, "relaxed", _egno("published_resilient")),
  Row("EGNO, resilient, f_eq", {}, "projection", _damped("resilient", rho=1.0)),
  Row("EGNO, resilient, rho by validation, f_eq", {}, "projection", _damped("resilient"), "rho"),
  Row(
    "EGNO, resilient, rho by validation, f_eq + f_neq", {}, "relaxed", _damped("resilient"), "rho"
  ),
  Row("EGNO, equality, published rates, f_eq", {}, "projection", _PUBLISHED_RATES),
  Row(
    "EGNO, equality, published rates, f_eq + f_neq",
    {},
    "relaxed",
    _PUBLISHED_RATES,
  ),
  Row("EGNO, equality, gamma by SGD, f_eq", {}, "projection", _SGD),
  Row("EGNO, equality, gamma by SGD, f_eq + f_neq", {}, "relaxed", _SGD),
)


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
  """Returns the rows of the table, a rule of dashes between the published ones and ours alone.

  A cell is mean +- standard deviation over seeds of the test MSE x 10^-2 at the lowest validation
  error, with the number of seeds and the epochs.

  Args:
    results: Contents of result.json files.
  """
  lines = [_line(row, results) for row in PUBLISHED]
  lines.append(["ours alone", *[""] * (len(HEADER) - 1)])
  return lines + [_line(row, results) for row in OURS]


def _line(row: Row, results: list[dict[str, Any]]) -> list[str]:
  cells = [row.label]
  for subject in SUBJECTS:
    cells += [_cell(row, results, subject), row.published.get(subject, "")]
  return cells


def _cell(row: Row, results: list[dict[str, Any]], subject: str) -> str:
  if row.predictor is None:
    return ""
  runs = [
    result
    for result in results
    if result["experiment"] == "mocap"
    and result["data"]["subject"] == subject
    and result["data"]["source"] != "synthetic"
    and result["settings"]["preset"] == "paper"
    and result["settings"].get("decay_epochs") is None
    and row.predictor in result["predictors"]
    and row.wanted(result["settings"])
  ]
  if not runs:
    return _NOT_RUN
  note = ""
  if row.choose:
    chosen = _chosen(runs, row.choose, row.predictor)
    runs = [result for result in runs if result["settings"][row.choose] == chosen]
    note = f", {row.choose}={chosen:g}"
  errors = [100 * result["predictors"][row.predictor]["test_mse"] for result in runs]
  epochs = sorted({result["epochs"] for result in runs})
  mean = tables.spread(errors, ".1f", ".1f")
  length = "-".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
  seeds = f"{len(errors)} seed{'s' if len(errors) > 1 else ''}"
  return f"{mean} ({seeds}, {length} epochs{note})"


def _chosen(results: list[dict[str, Any]], name: str, predictor: str) -> Any:
  """Returns the value of a setting with the lowest mean validation error."""
  errors: dict[Any, list[float]] = {}
  for result in results:
    value = result["settings"][name]
    errors.setdefault(value, []).append(result["predictors"][predictor]["valid_mse"])
  return min(errors, key=lambda value: statistics.mean(errors[value]))
