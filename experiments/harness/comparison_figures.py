"""Figures that compare runs by test error and measured equivariance error."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ace_jax.plots import style

_SYMBOLS = {"resilient": r"$\rho$", "inequality": r"$\epsilon$"}
_CONSTRAINTS = {"strict": "strict", "none": "no constraint"}

RULES = {
  "plain": style.LOOKS["strict"],
  "gap penalty": style.Look(style.BLUE, "o", "-"),
  "remul": style.Look(style.SKY, "P", "-."),
  "augment": style.Look(style.GREEN, "X", ":"),
  "functional": style.Look(style.YELLOW, "v", "--"),
  "functional resilient": style.LOOKS["resilient"],
}
"""Training rules of networks without symmetry; variants of a rule are hollow."""


class Mark(NamedTuple):
  """A point of the trade-off curve; lists have an entry a seed.

  Attributes:
    constraint: "resilient", "inequality", "strict" or "none".
    constant: Its rho or epsilon; None for the ends.
    errors: Test mean squared errors of the relaxed model (of the strict one: its own).
    gaps: Its mean squared equivariance errors.
    relative: Its relative equivariance errors.
    projection: Test mean squared errors of the projection.
  """

  constraint: str
  constant: float | None
  errors: list[float]
  gaps: list[float]
  relative: list[float]
  projection: list[float]


def tradeoff(curves: Mapping[str, Sequence[Mark]]) -> Figure:
  """Draws test error against equivariance error, relative above and mean squared below.

  Large marks are means over seeds, the larger the larger rho or epsilon; lines join them along it;
  faint marks are seeds. The strict model, whose equivariance error is rounding, is a line across
  with a band from its lowest to its highest seed. Every panel has limits of its own.

  Args:
    curves: Marks by data set.
  """
  figure, grid = style.panels(2, len(curves), 4.2 * len(curves) + 0.4, 7.4)
  for column, (data, marks) in zip(grid.T, curves.items(), strict=True):
    for axes, field in zip(column, ("relative", "gaps"), strict=True):
      _curve(axes, marks, field)
    column[0].set_title(
      "nothing broken" if data == "none" else f"broken by {data.replace(':', ' ')}"
    )
    column[0].set_xlabel("relative equivariance error of the prediction")
    column[1].set_xlabel("mean squared equivariance error (length$^2$)")
  for axes in grid[:, 0]:
    axes.set_ylabel("test MSE (length$^2$)")
  style.legend(figure, *_tradeoff_legend([m for marks in curves.values() for m in marks]), ncols=4)
  return figure


def _curve(axes: Axes, marks: Sequence[Mark], field: str) -> None:
  others = [error for mark in marks if mark.constraint != "strict" for error in mark.errors]
  for constraint in dict.fromkeys(mark.constraint for mark in marks):
    look = style.LOOKS[constraint]
    alike = sorted((mark for mark in marks if mark.constraint == constraint), key=_constant)
    means = [statistics.mean(mark.errors) for mark in alike]
    if constraint == "strict":
      if others and means[0] > 3 * max(others):  # would leave the others no room
        far = f"strict: {means[0]:.3g}, far above"
        axes.annotate(far, (0.5, 0.97), xycoords="axes fraction", fontsize=8, ha="center", va="top")
        continue
      axes.axhline(means[0], color=look.color, lw=1.2, ls=look.dash)
      axes.axhspan(min(alike[0].errors), max(alike[0].errors), color=look.color, alpha=0.08, lw=0)
      continue
    x = [statistics.mean(getattr(mark, field)) for mark in alike]
    axes.plot(x, means, ls=look.dash, color=look.color, lw=1.2)
    for mark, a, b, size in zip(alike, x, means, _sizes(len(alike)), strict=True):
      axes.plot(getattr(mark, field), mark.errors, look.marker, color=look.color, alpha=0.35, ms=4)
      axes.plot(a, b, look.marker, color=look.color, mec="white", mew=0.5, ms=size, zorder=3)
  style.logarithmic(axes, "x")
  axes.margins(y=0.12)
  axes.locator_params(axis="y", nbins=6)


def _constant(mark: Mark) -> float:
  return mark.constant or 0.0


def _sizes(count: int) -> np.ndarray:
  return np.linspace(5, 11, count) if count > 1 else np.array([10.0])


def _tradeoff_legend(marks: Sequence[Mark]) -> tuple[list[Line2D], str]:
  handles = []
  for constraint in dict.fromkeys(mark.constraint for mark in marks):
    constants = [m.constant for m in marks if m.constraint == constraint and m.constant is not None]
    label = _CONSTRAINTS.get(constraint, constraint)
    if constants:
      symbol = _SYMBOLS[constraint]
      label += f", {symbol} = {min(constants):g} (small) to {max(constants):g} (large)"
    marker = {"marker": ""} if constraint == "strict" else {} if constants else {"ls": ""}
    handles.append(style.handle(label, style.LOOKS[constraint], ms=7, **marker))
  seeds = max(len(mark.errors) for mark in marks)
  note = (
    f"large: means of {seeds} seeds, joined along the constant; faint: each seed; "
    "band: from the lowest to the highest seed of the strict model"
  )
  return handles, note if seeds > 1 else "one seed"


class Entry(NamedTuple):
  """One branch in a comparison; lists have an entry a seed.

  Attributes:
    label: Branch, gamma and size.
    relaxed: Test mean squared errors of the relaxed model.
    projection: Those of the projection.
    gaps: Mean squared equivariance errors of the relaxed model.
  """

  label: str
  relaxed: list[float]
  projection: list[float]
  gaps: list[float]


def branches(budgets: Mapping[str, Sequence[Entry]], unit: str = "") -> Figure:
  """Draws the errors of relaxation branches, a row of panels a budget.

  Args:
    budgets: Entries by budget.
    unit: Of the mean squared errors.
  """
  longest = max(len(entries) for entries in budgets.values())
  size = (10.4, len(budgets) * (0.3 * longest + 1.1) + 0.8)
  figure, grid = style.panels(len(budgets), 2, *size, sharex="col")
  for (left, right), (budget, entries) in zip(grid, budgets.items(), strict=True):
    rows = np.arange(len(entries))[::-1]
    for row, entry in zip(rows, entries, strict=True):
      _seeds(left, row + 0.14, entry.relaxed, style.LOOKS["relaxed"])
      _seeds(left, row - 0.14, entry.projection, style.LOOKS["projection"])
      _seeds(right, row, entry.gaps, style.LOOKS["relaxed"])
    left.set_yticks(rows, [entry.label for entry in entries])
    right.set_yticks(rows, [])
    left.set_title(f"at equal {budget}", loc="left")
    for axes in (left, right):
      style.logarithmic(axes, "x", most=6)
      axes.set_ylim(-0.6, len(entries) - 0.4)
  grid[-1, 0].set_xlabel(f"test MSE{unit and f' ({unit})'}")
  grid[-1, 1].set_xlabel(f"mean squared equivariance error{unit and f' ({unit})'}")
  style.legend(figure, _predictor_handles(), "points: seeds; bars: their means", ncols=2)
  return figure


def variants(panels: Mapping[str, Sequence[Entry]]) -> Figure:
  """Draws the test errors of ways to train, a panel for those that may be compared.

  Points are seeds, bars their means; the grey line is the projection's mean of the first entry.

  Args:
    panels: Entries by the title of their panel; `relaxed` may be empty, `gaps` is not drawn.
  """
  heights = [0.3 * len(entries) + 1 for entries in panels.values()]
  figure, grid = style.panels(len(panels), 1, 8, sum(heights) + 0.6, height_ratios=heights)
  for axes, (title, entries) in zip(grid[:, 0], panels.items(), strict=True):
    rows = np.arange(len(entries))[::-1]
    axes.axvline(statistics.mean(entries[0].projection), color="0.6", lw=0.8, zorder=0)
    for row, entry in zip(rows, entries, strict=True):
      if entry.relaxed:
        _seeds(axes, row + 0.14, entry.relaxed, style.LOOKS["relaxed"])
      _seeds(axes, row - 0.14, entry.projection, style.LOOKS["projection"])
    axes.set_yticks(rows, [entry.label for entry in entries])
    axes.set_ylim(-0.6, len(entries) - 0.4)
    axes.set_title(title, loc="left")
    axes.locator_params(axis="x", nbins=6)
  grid[-1, 0].set_xlabel("test MSE (squared lengths of the data)")
  note = "points: seeds; bars: their means; grey line: f_eq of the first row"
  style.legend(figure, _predictor_handles(), note, ncols=2)
  return figure


def _predictor_handles() -> list[Line2D]:
  return [style.handle(name, style.LOOKS[name], ls="") for name in ("relaxed", "projection")]


def _seeds(axes: Axes, row: float, values: list[float], look: style.Look) -> None:
  axes.plot(values, [row] * len(values), look.marker, color=look.color, ms=4, alpha=0.6)
  axes.plot(statistics.mean(values), row, "|", color=look.color, ms=12, mew=1.8)


class Rule(NamedTuple):
  """One training rule of a network without symmetry; lists have an entry a seed.

  Attributes:
    network: Its name, and what else runs must share to be compared: a panel's title.
    name: Of the rule, and of the line that joins its constants.
    errors: Test mean squared errors.
    gaps: Mean squared equivariance errors on test data, of the same parameters.
    asked: Bounds on them; [] of a rule that has none.
    reached: Those of the final parameters, beside the bounds.
  """

  network: str
  name: str
  errors: list[float]
  gaps: list[float]
  asked: list[float]
  reached: list[float]


def at_measured_equivariance(rules: Sequence[Rule]) -> Figure:
  """Draws what bounds reach, and for each network the test error against the equivariance error.

  Args:
    rules: Of one or several networks; those of one name and network are joined by a line.
  """
  networks = list(dict.fromkeys(rule.network for rule in rules))
  names = list(dict.fromkeys(rule.name for rule in rules))
  figure, grid = style.panels(1, 1 + len(networks), 4.2 * (1 + len(networks)), 5)
  left, *panels = grid[0]
  left.axhspan(0.9, 1.1, color="0.93", lw=0)
  left.axhline(1, color="0.6", lw=0.8)
  for rule in rules:
    ratios = [reached / asked for reached, asked in zip(rule.reached, rule.asked, strict=True)]
    left.plot(rule.asked, ratios, **_points(rule.name))
  left.set(xlabel="bound asked for (length$^2$)", ylabel="reached on test data / asked for")
  left.set_title("what a bound reaches, all networks\n(band: within 10 %)")
  style.logarithmic(left, "x")
  for axes, network in zip(panels, networks, strict=True):
    for name in names:
      alike = [rule for rule in rules if (rule.network, rule.name) == (network, name)]
      means = [(statistics.mean(rule.gaps), statistics.mean(rule.errors)) for rule in alike]
      if alike:
        look = _look(name)
        axes.plot(*zip(*sorted(means), strict=True), ls=look.dash, color=look.color, lw=1.2)
      for rule in alike:
        axes.plot(rule.gaps, rule.errors, **_points(name))
    axes.set_xlabel("mean squared equivariance error (length$^2$)")
    axes.set_ylabel("test MSE (length$^2$)")
    axes.set_title(network)
    style.logarithmic(axes, "x")
    axes.locator_params(axis="y", nbins=6)
  handles = [style.handle(name, _look(name), mfc=_points(name)["mfc"]) for name in names]
  note = "points: seeds; lines join the means of a rule's constants, from strong to weak"
  style.legend(figure, handles, note, ncols=4)
  return figure


def _look(name: str) -> style.Look:
  rule = name.partition(",")[0]
  return RULES.get(rule, style.look(rule))


def _points(name: str) -> dict[str, Any]:
  look = _look(name)
  face = "white" if "," in name else look.color
  return {"marker": look.marker, "ls": "", "color": look.color, "mfc": face, "ms": 5, "alpha": 0.8}
