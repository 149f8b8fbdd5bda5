"""The table of rival training rules: test error, measured equivariance error, seconds, seeds."""

import math
import statistics
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.errors import DataError
from experiments.harness import constraints, labels, regularisation, result_files, tables
from experiments.harness.models import experiments, plain_models
from experiments.harness.result_files import Result

HEADER = [
  *("run", "predictor", "train", "epochs", "seeds", "test MSE"),
  *("equiv. MSE", "asked", "equiv. error", "seconds a run"),
]


class Line(NamedTuple):
  """Runs that differ in the seed alone, and one of their predictors.

  Attributes:
    results: Contents of their result.json.
    predictor: "projection" or "relaxed".
  """

  results: list[Result]
  predictor: str

  @property
  def constraint(self) -> str:
    return self.results[0]["constraint"]

  @property
  def protocol(self) -> tuple[Any, ...]:
    """What runs must share to be compared."""
    first, settings = self.results[0], self.results[0]["settings"]
    sizes = (settings["hidden_features"], settings["layers"], settings["batch_size"])
    decay = settings.get("decay_epochs") or 0
    lengths = (first["train_samples"], first["epochs"], decay)
    graph = tuple(result_files.graph_label(first))
    kept_rotations = settings.get("keep") or ""
    return first["experiment"], first["model"], *sizes, *lengths, *graph, kept_rotations

  def values(self, name: Literal["test_mse", "test_gap"]) -> list[float]:
    """Returns a number of the predictor, of every seed that has it."""
    numbers = [result["predictors"][self.predictor].get(name) for result in self.results]
    return [value for value in numbers if value is not None]

  def error(self) -> str:
    """Returns the mean of the last relative errors, and of which rotations if not the gap's."""
    predictors = [result["predictors"][self.predictor] for result in self.results]
    errors = [result_files.equivariance_error(predictor) for predictor in predictors]
    mean = tables.spread([error for error in errors if error is not None], deviation=None)
    return f"{mean} (origin)" if any(map(result_files.about_origin, predictors)) else mean

  def label(self) -> str:
    """Returns model, constraint and its constants, and whether step sizes fell."""
    settings = self.results[0]["settings"]
    constants = constraints.labels(settings, rivals=True) + regularisation.describe(settings)
    if self.constraint in constraints.where(on_error=True):
      constants.append(f"{settings['dual_optimizer']} {settings['dual_lr']:g}")
    decay = settings.get("decay_epochs")
    if decay:
      whole = decay == self.results[0]["epochs"]
      constants.append("decayed" if whole else f"decayed over {decay}")
    graph = result_files.graph_label(self.results[0])
    return ", ".join([self.results[0]["model"], *graph, self.constraint, *constants])

  def cells(self, label: str) -> list[str]:
    """Returns the row."""
    first = self.results[0]
    asked = [result["functional"]["asked"] for result in self.results if "functional" in result]
    seconds = [result["seconds"] / result.get("replicas", 1) for result in self.results]
    return [
      label,
      "network" if first["model"] in plain_models() else self.predictor,
      str(first["train_samples"]),
      str(first["epochs"]),
      ",".join(str(seed) for result in self.results for seed in result["seeds"]),
      tables.spread(self.values("test_mse")),
      tables.spread(self.values("test_gap")),
      f"{statistics.mean(asked):.2g}" if asked else "",
      self.error(),
      f"{statistics.mean(seconds):.0f}",
    ]


def rows(results: list[Result]) -> list[list[str]]:
  """Returns the rows, one a configuration and predictor.

  Below each row of a functional constraint stand, once more, the REMUL run and the one with the gap
  as a penalty, of the same model and protocol, whose measured mean squared equivariance error is
  nearest to it (by ratio): rules at equal equivariance, as far as there are runs.

  Args:
    results: Contents of result.json files.
  """
  lines = _lines(results)
  names = dict(zip(map(id, lines), _names(lines), strict=True))
  table = []
  for line in lines:
    table.append(line.cells(names[id(line)]))
    if line.constraint not in constraints.where(on_error=True):
      continue
    alike = [other for other in lines if other.protocol == line.protocol]
    for rule in sorted(constraints.users("weighting"), reverse=True):
      same_rule = [other for other in alike if other.constraint == rule]
      if same_rule:
        nearest = min(same_rule, key=lambda other: abs(_log_gap(other) - _log_gap(line)))
        table.append(nearest.cells(f"  beside it: {names[id(nearest)]}"))
  return table


_SHOWN = {
  *("constraint", "keep", "model", "train_samples", "epochs", "decay_epochs"),
  *("particles", "neighbours"),
}
"""What the labels, or the columns beside them, name already."""


def _names(lines: list[Line]) -> list[str]:
  firsts = [line.results[0] for line in lines]
  return labels.distinguished([line.label() for line in lines], firsts, _SHOWN)


def draw(results: list[Result], path: Path) -> None:
  """Draws networks without symmetry: bounds and what they reach, test against equivariance error.

  Args:
    results: Contents of result.json files.
    path: Of the PNG.

  Raises:
    DataError: no run of such a network has a measured equivariance error.
  """
  from ace_jax import plots  # Matplotlib is slow to import
  from experiments.harness import comparison_figures

  rules = []
  for line in _lines([result for result in results if result.get("model") in plain_models()]):
    if len(line.values("test_gap")) < len(line.results):
      continue  # from before it was measured
    bounds = [result["functional"] for result in line.results if "functional" in result]
    first, settings = line.results[0], line.results[0]["settings"]
    sizes = f"{settings['hidden_features']} features, {settings['layers']} layers"
    sizes = ", ".join([*result_files.graph_label(first), sizes])
    lengths = f"{first['train_samples']} samples, {first['epochs']} epochs"
    rules.append(
      comparison_figures.Rule(
        network=f"{first['experiment']}: {first['model']}, {sizes}\n{lengths}",
        name=_rule(line),
        errors=line.values("test_mse"),
        gaps=line.values("test_gap"),
        asked=[bound["asked"] for bound in bounds],
        reached=[bound["final"]["test_gap"] for bound in bounds],
      )
    )
  if not rules:
    raise DataError(
      f"nothing to draw: no run of {' or '.join(sorted(plain_models()))} is there that has its "
      "equivariance error."
    )
  plots.save(comparison_figures.at_measured_equivariance(rules), path)


def _rule(line: Line) -> str:
  settings = line.results[0]["settings"]
  decay = "" if settings.get("decay_epochs") else ", constant step sizes"
  if line.constraint == "strict":
    return f"plain{decay}"
  weighting = ", GradNorm" if settings.get("weighting") == "gradnorm" else ""
  return line.constraint.replace("_", " ") + weighting + decay


def _lines(results: list[Result]) -> list[Line]:
  groups: dict[str, list[Result]] = {}
  for result in results:
    if result["experiment"] in experiments():
      groups.setdefault(result_files.but_for_seed(result), []).append(result)
  lines = [
    Line(sorted(group, key=lambda result: result["seeds"]), name)
    for group in groups.values()
    for name in _shown(group[0])
  ]
  order = {name: i for i, name in enumerate(constraints.names())}
  return sorted(
    lines,
    key=lambda line: (line.protocol, order.get(line.constraint, 0), line.label(), line[1]),
  )


def _shown(result: Result) -> list[str]:
  names = list(result["predictors"])
  if result["constraint"] in constraints.where(predictor="projection"):
    return ["projection"]
  # Of one network, with gamma where it has one, the relaxed predictor is the last.
  return names[-1:] if result["constraint"] in constraints.where(predictor="relaxed") else names


def _log_gap(line: Line) -> float:
  gaps = line.values("test_gap")
  return math.log(max(statistics.mean(gaps), 1e-30)) if gaps else math.inf
