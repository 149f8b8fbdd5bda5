"""Figures that compare runs by test error and measured equivariance error."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ace_jax.plots import PALETTE

_COLORS = {"resilient": "#0072B2", "inequality": "#D55E00", "strict": "#000000", "none": "#009E73"}
_MARKERS = "osD^v<>P*X"
_SYMBOLS = {"resilient": r"$\rho$", "inequality": r"$\epsilon$"}
_ENDS = {"strict": "strict", "none": "unconstrained"}


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


def tradeoff(found: Mapping[str, Sequence[Mark]]) -> Figure:
  """Draws test error against equivariance error, mean squared above and relative below.

  Lines join the means over seeds along rho or epsilon; points are seeds. The strict model, whose
  equivariance error is rounding, is a line across.

  Args:
    found: Marks by data set.
  """
  figure = Figure(figsize=(5.2 * len(found), 7.2), layout="constrained")
  grid = figure.subplots(2, len(found), squeeze=False, sharex="row")
  for column, (data, marks) in enumerate(found.items()):
    for axes, field in zip(grid[:, column], ("gaps", "relative"), strict=True):
      _curve(axes, marks, field)
    title = "nothing broken" if data == "none" else f"broken: {data}"
    grid[0, column].set_title(title, fontsize=10)
    grid[0, column].set_xlabel("mean squared equivariance error of the prediction")
    grid[1, column].set_xlabel("relative equivariance error of the prediction")
  for axes in grid[:, 0]:
    axes.set_ylabel("test MSE")
  grid[0, 0].legend(fontsize=8)
  return figure


def _curve(axes: Axes, marks: Sequence[Mark], field: str) -> None:
  for constraint, symbol in _SYMBOLS.items():
    own = [mark for mark in marks if mark.constraint == constraint]
    if not own:
      continue
    color = _COLORS[constraint]
    x = [statistics.mean(getattr(mark, field)) for mark in own]
    y = [statistics.mean(mark.errors) for mark in own]
    axes.plot(x, y, "-", color=color, lw=1.4, label=f"{constraint} ({symbol} at the points)")
    for mark, a, b in zip(own, x, y, strict=True):
      right = constraint == "resilient"
      axes.annotate(
        f"{mark.constant:g}",
        (a, b),
        (5, 4) if right else (-5, -10),
        textcoords="offset points",
        color=color,
        fontsize=7,
        ha="left" if right else "right",
      )
  for mark in marks:
    color = _COLORS[mark.constraint]
    if mark.constraint == "strict":
      axes.axhline(statistics.mean(mark.errors), color=color, lw=1, ls="--", label="strict")
      if len(mark.errors) > 1:
        axes.axhspan(min(mark.errors), max(mark.errors), color=color, alpha=0.1, lw=0)
      continue
    label = _ENDS.get(mark.constraint)
    marker, size = ("*", 9) if label else ("o", 4)
    axes.plot(
      getattr(mark, field), mark.errors, marker, color=color, alpha=0.8, ms=size, label=label
    )
  axes.set(xscale="log", yscale="log")
  axes.grid(alpha=0.25, which="both")


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


def branches(found: Mapping[str, Sequence[Entry]]) -> Figure:
  """Draws the errors of relaxation branches, a row of panels a budget.

  Args:
    found: Entries by budget.
  """
  longest = max(len(entries) for entries in found.values())
  figure = Figure(figsize=(9.6, len(found) * (0.3 * longest + 1.4)), layout="constrained")
  grid = figure.subplots(len(found), 2, squeeze=False, sharex="col")
  for (left, right), (budget, entries) in zip(grid, found.items(), strict=True):
    rows = np.arange(len(entries))[::-1]
    for row, entry in zip(rows, entries, strict=True):
      _seeds(left, row + 0.12, entry.relaxed, "#D55E00", "o")
      _seeds(left, row - 0.12, entry.projection, "#0072B2", "s")
      _seeds(right, row, entry.gaps, "#D55E00", "o")
    left.set_yticks(rows, [entry.label for entry in entries], fontsize=8)
    right.set_yticks(rows, [])
    left.set_title(f"at equal {budget}", fontsize=10, loc="left")
    for axes in (left, right):
      axes.set_xscale("log")
      axes.grid(alpha=0.25, which="both")
      axes.set_ylim(-0.6, len(entries) - 0.4)
      # Matplotlib's own labels of the minor ticks run into each other on narrow axes.
      axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
      axes.xaxis.set_major_formatter("{x:.3g}")
      axes.xaxis.set_minor_formatter(NullFormatter())
  grid[-1, 0].set_xlabel("test MSE (orange: relaxed, blue: projection)")
  grid[-1, 1].set_xlabel("mean squared equivariance error, relaxed")
  return figure


def variants(found: Mapping[str, Sequence[Entry]]) -> Figure:
  """Draws the test errors of ways to train, a panel for those that may be compared.

  Points are seeds, bars their means; the grey line is the projection's mean of the first entry.

  Args:
    found: Entries by the title of their panel; `relaxed` may be empty, `gaps` is not drawn.
  """
  counts = [len(entries) for entries in found.values()]
  heights = [0.3 * count + 1 for count in counts]
  figure = Figure(figsize=(8, sum(heights)), layout="constrained")
  grid = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)
  for axes, (title, entries) in zip(grid[:, 0], found.items(), strict=True):
    rows = np.arange(len(entries))[::-1]
    axes.axvline(statistics.mean(entries[0].projection), color="0.6", lw=0.8, zorder=0)
    for row, entry in zip(rows, entries, strict=True):
      if entry.relaxed:
        _seeds(axes, row + 0.12, entry.relaxed, "#D55E00", "o")
      _seeds(axes, row - 0.12, entry.projection, "#0072B2", "s")
    axes.set_yticks(rows, [entry.label for entry in entries], fontsize=8)
    axes.set_ylim(-0.6, len(entries) - 0.4)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.25, axis="x")
  grid[-1, 0].set_xlabel("test MSE (orange: relaxed, blue: projection)")
  return figure


def _seeds(axes: Axes, row: float, values: list[float], color: str, marker: str) -> None:
  axes.plot(values, [row] * len(values), marker, color=color, ms=4, alpha=0.7)
  axes.plot(statistics.mean(values), row, "|", color=color, ms=12, mew=1.6)


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


def at_measured_equivariance(found: Sequence[Rule]) -> Figure:
  """Draws what bounds reach, and for each network the test error against the equivariance error.

  Args:
    found: Rules of one or several networks; those of one name and network are joined by a line.
  """
  networks = list(dict.fromkeys(rule.network for rule in found))
  names = list(dict.fromkeys(rule.name for rule in found))
  markers = dict(zip(names, itertools.cycle(_MARKERS), strict=False))
  colors = dict(zip(names, itertools.cycle(PALETTE), strict=False))
  figure = Figure(figsize=(4.2 * (1 + len(networks)) + 1.8, 4), layout="constrained")
  left, *panels = figure.subplots(1, 1 + len(networks))
  left.axhspan(0.9, 1.1, color="0.9", lw=0)
  left.axhline(1, color="0.6", lw=0.8)
  for rule in found:
    ratios = [reached / asked for reached, asked in zip(rule.reached, rule.asked, strict=True)]
    left.plot(rule.asked, ratios, markers[rule.name], color=colors[rule.name], ms=5, alpha=0.7)
  left.set(xscale="log", xlabel="bound asked for", ylabel="reached on test data / asked for")
  left.set_title("grey: within 10 %; all networks", fontsize=9, color="0.4")
  left.grid(alpha=0.25)
  for axes, network in zip(panels, networks, strict=True):
    for name in names:
      own = [rule for rule in found if (rule.network, rule.name) == (network, name)]
      means = [(statistics.mean(rule.gaps), statistics.mean(rule.errors)) for rule in own]
      if own:
        axes.plot(*zip(*sorted(means), strict=True), "-", color=colors[name], lw=1)
      for rule in own:
        axes.plot(rule.gaps, rule.errors, markers[name], color=colors[name], ms=5, alpha=0.7)
    axes.set(xscale="log", xlabel="mean squared equivariance error", ylabel="test MSE")
    axes.set_title(network, fontsize=9)
    axes.grid(alpha=0.25, which="both")
  handles = [
    left.plot([], [], markers[name], color=colors[name], ms=5, label=name)[0] for name in names
  ]
  figure.legend(handles=handles, loc="outside right center", fontsize=8)
  return figure
