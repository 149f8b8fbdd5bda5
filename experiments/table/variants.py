"""What makes f_eq better: ways to train it beside the strict model, at equal steps and time."""

import statistics
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scipy import stats

from data.errors import DataError
from experiments.harness import constraints, labels, regularisation, result_files, tables
from experiments.harness.models import experiments
from experiments.harness.result_files import Result

HEADER = [
  *("run", "train", "seeds", "epochs", "steps", "f_eq x 10^-3", "relaxed x 10^-3"),
  *("against strict", "at equal time", "seconds a run", "f_eq valid"),
]
_ALIKE = 1.25
"""Runs whose seconds differ by less than this factor are at equal time."""
_LENGTHS = ("epochs", "eval_every", "checkpoint_every", "log_test", "keep_period")


class Line(NamedTuple):
  """Runs that differ in the seed alone: contents of their result.json."""

  results: list[Result]

  @property
  def protocol(self) -> tuple[Any, ...]:
    """What runs must share, beside their length, to be compared."""
    first = self.results[0]
    sizes = [first["settings"][name] for name in ("hidden_features", "layers", "batch_size")]
    data = (first["train_samples"], first["data"].get("subject", ""))
    return first["experiment"], first["model"], *data, *sizes

  @property
  def epochs(self) -> int:
    return self.results[0]["epochs"]

  @property
  def plain(self) -> bool:
    """Whether it is the strict model, trained as published but for the length."""
    return self.label() == "strict"

  def label(self) -> str:
    """Returns the constraint and what differs from the published settings."""
    first = self.results[0]
    labelled = [c.name for c in constraints.constants().values() if c.shown in ("every", "changed")]
    hidden = {*_LENGTHS, *labelled, *regularisation.NAMES}
    if first["constraint"] in constraints.where(plain=True) | constraints.where(gamma="prescribed"):
      hidden |= {"gamma_lr", "dual_lr", "augmented", "dual_optimizer", "dual_eps"}
    others = [
      f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
      for name, (value, _) in first["differs_from_published"].items()
      if name not in hidden
    ]
    return ", ".join([first["constraint"], *regularisation.describe(first["settings"]), *others])

  def errors(
    self, predictor: str, kind: Literal["test_mse", "valid_mse"] = "test_mse"
  ) -> list[float]:
    """Returns a predictor's error of every seed; [] where there is no such predictor."""
    predictors = [result["predictors"].get(predictor) for result in self.results]
    return [predicted[kind] for predicted in predictors if predicted]

  def relaxed(self) -> list[float]:
    """Returns the relaxed predictor's test errors; [] where the projection alone counts."""
    alone = self.results[0]["constraint"] in constraints.where(predictor="projection")
    return [] if alone else self.errors("relaxed")

  def seconds(self) -> float:
    """Returns the mean seconds of a run."""
    each = [result["seconds"] / result.get("replicas", 1) for result in self.results]
    return statistics.mean(each)


def lines(results: list[Result]) -> list[Line]:
  """Returns the runs of each configuration, by data, length and label.

  Args:
    results: Contents of result.json files.
  """
  groups: dict[str, list[Result]] = {}
  for result in results:
    if result["experiment"] in experiments():
      groups.setdefault(result_files.but_for_seed(result), []).append(result)
  all_lines = [Line(sorted(group, key=lambda result: result["seeds"])) for group in groups.values()]
  return sorted(
    all_lines, key=lambda line: (line.protocol, line.epochs, not line.plain, line.label())
  )


def rows(results: list[Result]) -> list[list[str]]:
  """Returns the rows, one a configuration: errors are mean +- standard deviation over seeds.

  Two columns hold f_eq against the plain strict model: at equal steps, and against the strict runs
  whose seconds are nearest, where they are within a quarter. Each says by how much the mean is
  above or below, and p of Welch's two-sided test, where both have two seeds.

  Args:
    results: Contents of result.json files.
  """
  all_lines = lines(results)
  return [
    _cells(line, name, all_lines) for line, name in zip(all_lines, names(all_lines), strict=True)
  ]


def names(all_lines: list[Line]) -> list[str]:
  """Returns what rows are called: their labels, and what else differs among them."""
  firsts = [line.results[0] for line in all_lines]
  return labels.distinguished([line.label() for line in all_lines], firsts, _SHOWN)


_SHOWN = {
  *("constraint", "keep", "train_samples", "epochs", "eval_every", "patience"),
  *("weight_decay", "dropout", "finish_epochs", "finish_from"),
}
"""What the labels, or the columns beside them, name already."""


def _cells(line: Line, name: str, all_lines: list[Line]) -> list[str]:
  first = line.results[0]
  strict = [other for other in all_lines if other.plain and other.protocol == line.protocol]
  equal_steps = [other for other in strict if other.epochs == line.epochs]
  equal_time = min(strict, key=lambda other: _ratio(other, line), default=line)
  timed = equal_time is not line and _ratio(equal_time, line) < _ALIKE
  return [
    name,
    str(first["train_samples"]),
    ",".join(str(seed) for result in line.results for seed in result["seeds"]),
    str(line.epochs),
    str(first.get("steps", "")),
    _spread(line.errors("projection")),
    _spread(line.relaxed()),
    against(line, equal_steps[0]) if equal_steps and equal_steps[0] is not line else "",
    f"{against(line, equal_time)} ({equal_time.epochs} epochs)" if timed else "",
    f"{line.seconds():.0f}",
    _spread(line.errors("projection", "valid_mse")),
  ]


def against(line: Line, strict: Line) -> str:
  """Returns how far f_eq is from another row's, in percent of it, and p of Welch's test."""
  errors, other = line.errors("projection"), strict.errors("projection")
  share = 100 * (statistics.mean(errors) / statistics.mean(other) - 1)
  if min(len(errors), len(other)) < 2:
    return f"{share:+.1f} %"
  p = stats.ttest_ind(errors, other, equal_var=False).pvalue
  return f"{share:+.1f} %, p = {p:.2g}"


def draw(results: list[Result], path: Path) -> None:
  """Draws f_eq and the relaxed model of every row, a panel for each data set and length.

  Args:
    results: Contents of result.json files.
    path: Of the PNG.

  Raises:
    DataError: there is no training.
  """
  from ace_jax import plots  # Matplotlib is slow to import
  from experiments.harness import comparison_figures

  panels: dict[str, list[comparison_figures.Entry]] = {}
  listed = lines(results)
  for line, name in zip(listed, names(listed), strict=True):
    first = line.results[0]
    title = f"{first['experiment']}, {first['train_samples']} samples, {line.epochs} epochs"
    entry = comparison_figures.Entry(name, line.relaxed(), line.errors("projection"), [])
    panels.setdefault(title, []).append(entry)
  if not panels:
    raise DataError("nothing to draw: no run of nbody or mocap is there.")
  plots.save(comparison_figures.variants(panels), path)


def _ratio(line: Line, other: Line) -> float:
  a, b = line.seconds(), other.seconds()
  return max(a, b) / max(min(a, b), 1e-9)


def _spread(values: list[float]) -> str:
  return tables.spread([1e3 * value for value in values])
