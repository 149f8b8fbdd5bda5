"""The published motion capture table beside ours, from result.json files."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.harness import tables
from experiments.harness.result_files import Result

SUBJECTS = ("run", "walk")
HEADER = [
  "model",
  *(
    f"{subject.capitalize()}, {column}"
    for subject in SUBJECTS
    for column in ("ours", "published", "turned")
  ),
]
_NOT_RUN, _NOT_KEPT = "not run", "not kept"


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
  wanted: Callable[[Mapping[str, object]], bool]
  choose: str | None = None


def _egno(constraint: str, **fixed: Any) -> Callable[[Mapping[str, object]], bool]:
  return _fixed("egno", constraint, **fixed)


def _fixed(model: str, constraint: str, **fixed: Any) -> Callable[[Mapping[str, object]], bool]:
  # What is left out of the settings is this, unless the row asks for another.
  fixed = {"gamma_optimizer": None, "keep": None, "height": True, **fixed}

  def wanted(settings):
    given = {"height": True, **settings}
    same = all(given.get(name) == value for name, value in fixed.items())
    return settings["model"] == model and settings["constraint"] == constraint and same

  return wanted


def _damped(constraint: str, **fixed: Any) -> Callable[[Mapping[str, object]], bool]:
  inner = _egno(constraint, **fixed)
  return lambda settings: inner(settings) and bool(settings["augmented"])


def _strict(model: str) -> Callable[[Mapping[str, object]], bool]:
  return _fixed(model, "strict")


def _never(settings: Mapping[str, object]) -> bool:
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
  Row("EGNO, without the height", {}, "projection", _egno("strict", height=False)),
  Row("EGNO, keeps axis:y", {}, "projection", _egno("strict", keep="axis:y")),
  Row(
    "EGNO, keeps axis:y, without the height",
    {},
    "projection",
    _egno("strict", keep="axis:y", height=False),
  ),
  *(
    Row(f"{label}, keeps axis:y", {}, "projection", _fixed(model, "strict", keep="axis:y"))
    for label, model in (("TFN", "tfn"), ("SE(3)-Tr.", "se3_transformer"), ("EGNN", "egnn"))
  ),
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


def rows(results: list[Result]) -> list[list[str]]:
  """Returns the rows of the table, a rule of dashes between the published ones and ours alone.

  A cell is mean +- standard deviation over seeds of the test MSE x 10^-2 at the lowest validation
  error, with the number of seeds and the epochs. "turned" is the mean of the same predictor's test
  MSE on samples that are turned, with their targets: about the vertical, and about random axes (the
  height feature held fixed). Older runs have not kept it.

  Args:
    results: Contents of result.json files.
  """
  lines = [_line(row, results) for row in PUBLISHED]
  lines.append(["ours alone", *[""] * (len(HEADER) - 1)])
  return lines + [_line(row, results) for row in OURS]


def _line(row: Row, results: list[Result]) -> list[str]:
  cells = [row.label]
  for subject in SUBJECTS:
    runs, note = _runs(row, results, subject)
    cells += [_cell(row, runs, note), row.published.get(subject, ""), _turned(row, runs)]
  return cells


def _runs(row: Row, results: list[Result], subject: str) -> tuple[list[Result], str]:
  """Returns the runs of a row, and what is said of the setting that was chosen among them."""
  runs = [
    result
    for result in results
    if result["experiment"] == "mocap"
    and result["data"]["subject"] == subject
    and result["data"]["source"] != "synthetic"
    and result["settings"]["preset"] == "paper"
    and result["settings"].get("decay_epochs") is None
    and not _OTHER & {*result["differs_from_published"]}
    and row.predictor in result["predictors"]
    and row.wanted(result["settings"])
  ]
  if not runs or not row.choose or row.predictor is None:
    return runs, ""
  chosen = _chosen(runs, row.choose, row.predictor)
  runs = [result for result in runs if result["settings"][row.choose] == chosen]
  return runs, f", {row.choose}={chosen:g}"


def _cell(row: Row, runs: list[Result], note: str) -> str:
  if row.predictor is None:
    return ""
  if not runs:
    return _NOT_RUN
  errors = [100 * result["predictors"][row.predictor]["test_mse"] for result in runs]
  epochs = sorted({result["epochs"] for result in runs})
  mean = tables.spread(errors, ".1f", ".1f")
  length = "-".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
  seeds = f"{len(errors)} seed{'s' if len(errors) > 1 else ''}"
  return f"{mean} ({seeds}, {length} epochs{note})"


def _turned(row: Row, runs: list[Result]) -> str:
  if not runs or row.predictor is None:
    return ""
  predictors = [result["predictors"][row.predictor] for result in runs]
  kept = [p["test_mse_turned"] for p in predictors if "test_mse_turned" in p]
  if len(kept) < len(runs):
    return _NOT_KEPT
  vertical, random = (
    100 * statistics.mean(errors[name] for errors in kept) for name in ("vertical", "random_axes")
  )
  return f"{vertical:.1f}, {random:.1f}"


_OTHER = {
  *("hidden_features", "layers", "modes", "batch_size", "lr", "train_samples"),
  *("weight_decay", "finish_epochs"),
}
"""A run that differs from the published settings in one of these is no seed of a row."""


def _chosen(results: list[Result], name: str, predictor: str) -> Any:
  """Returns the value of a setting with the lowest mean validation error."""
  errors: dict[Any, list[float]] = {}
  for result in results:
    value = result["settings"][name]
    errors.setdefault(value, []).append(result["predictors"][predictor]["valid_mse"])
  return min(errors, key=lambda value: statistics.mean(errors[value]))
