"""The figures of a sweep: which parameters matter, and where the low errors lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import cm, colormaps, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ace_jax.plots import style

Point = Mapping[str, float | int | str]
_TRIAL, _MEAN = style.Look(style.BLUE, "o", ""), style.Look(style.ORANGE, "s", "-")
_GROUPS = 6
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def sensitivity(trials: Sequence[tuple[Point, float]], label: str) -> Figure:
  """Draws the objective against each parameter: trials as points, their mean as a line.

  Args:
    trials: (parameters, objective) of each point and seed.
    label: Of the objective.
  """
  names = list(trials[0][0])
  errors = np.array([error for _, error in trials])
  columns = min(3, len(names))
  rows = -(-len(names) // columns)
  size = (3.4 * columns + 0.6, 3 * rows + 0.9)
  figure, grid = style.panels(rows, columns, *size, sharey=True)
  grouped = False
  for axes, name in zip(grid.flat, names, strict=False):
    values = [point[name] for point, _ in trials]
    positions, log = _positions(axes, values, name)
    axes.plot(positions, errors, _TRIAL.marker, color=_TRIAL.color, alpha=0.5, ms=4)
    means = _means(positions, errors, log)
    grouped |= len(means[0]) < len(np.unique(positions))
    axes.plot(*means, ls="-", marker=_MEAN.marker, color=_MEAN.color, lw=1.6, ms=4)
  if (errors > 0).all():
    style.logarithmic(grid[0, 0], "y")
    for axes in grid.flat[1:]:
      axes.set_yscale("log")
  for axes in grid[:, 0]:
    axes.set_ylabel(label)
  for axes in grid.flat[len(names) :]:
    axes.remove()
  handles = [
    style.handle("a trial of one seed", _TRIAL, ls=""),
    style.handle("mean over trials of a value", _MEAN),
  ]
  counts = len(trials), len({tuple(point.items()) for point, _ in trials})
  note = f"{counts[0]} trials of {counts[1]} points"
  if grouped:
    note += f"; where every value is another, means are over {_GROUPS} groups of neighbours"
  style.legend(figure, handles, note, ncols=2)
  return figure


def _positions(
  axes: Axes, values: Sequence[float | int | str], name: str
) -> tuple[np.ndarray, bool]:
  """Prepares the x axis; returns where each value stands, and whether the axis is logarithmic."""
  axes.set_xlabel(name)
  if any(isinstance(value, str) for value in values):
    words = sorted({str(value) for value in values})
    axes.set_xticks(range(len(words)), words)
    axes.margins(x=0.2)
    return np.array([words.index(str(value)) for value in values], float), False
  positions = np.array(values, float)
  log = _is_log(positions)
  if log:
    style.logarithmic(axes, "x")
  else:
    axes.locator_params(axis="x", nbins=5)
  return positions, log


def _is_log(values: np.ndarray) -> bool:
  return bool((values > 0).all() and values.max() >= 8 * values.min())


def _means(positions: np.ndarray, errors: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean at each position, or over groups of neighbours where all differ."""
  order = np.argsort(positions)
  distinct = np.unique(positions)
  if len(distinct) <= _GROUPS + 2:
    groups = [np.flatnonzero(positions == position) for position in distinct]
  else:
    groups = np.array_split(order, _GROUPS)
  scaled = np.log(positions) if log else positions
  centres = np.array([scaled[group].mean() for group in groups])
  return np.exp(centres) if log else centres, np.array([errors[group].mean() for group in groups])


def parallel_coordinates(points: Sequence[tuple[Point, float]], label: str) -> Figure:
  """Draws each point as a line across one axis a parameter, to its objective on the last axis.

  Args:
    points: (parameters, objective) of each, such as the mean over seeds.
    label: Of the objective.
  """
  names = [*points[0][0], label]
  table = [[*point.values(), error] for point, error in points]
  errors = np.array([error for _, error in points])
  figure, grid = style.panels(1, 1, 1.9 * len(names) + 2.2, 4.6)
  axes = grid[0, 0]
  axes.grid(False)
  heights = np.empty((len(points), len(names)))
  for j in range(len(names)):
    heights[:, j], ticks = _scaled([row[j] for row in table])
    axes.axvline(j, color="0.5", lw=0.8, zorder=1)
    for height, word in ticks:
      axes.plot([j - 0.015, j + 0.015], [height, height], color="0.5", lw=0.8)
      axes.text(
        j - 0.03, height, word, ha="right", va="center", fontsize=8, color="0.25", bbox=_PAPER
      )
  scale = colors.LogNorm if (errors > 0).all() and errors.max() > errors.min() else colors.Normalize
  norm = scale(errors.min(), errors.max())
  shades = colormaps["viridis"]
  for rank, i in enumerate(np.argsort(-errors)):  # the best last, on top
    best = rank == len(errors) - 1
    axes.plot(
      heights[i], color=style.ORANGE if best else shades(norm(errors[i])),
      lw=2.6 if best else 1.2, marker="s" if best else "", ms=6, alpha=1 if best else 0.75,
      zorder=3 if best else 2,
    )  # fmt: skip
  axes.set_xticks(range(len(names)), names)
  axes.set_yticks([])
  axes.set(xlim=(-0.45, len(names) - 0.9), ylim=(-0.06, 1.06))
  axes.spines[:].set_visible(False)
  axes.tick_params(axis="x", length=0)
  bar = figure.colorbar(cm.ScalarMappable(norm, shades), ax=axes, label=label, pad=0.02)
  if isinstance(norm, colors.LogNorm):
    style.logarithmic(bar.ax, "y")
  best = style.handle(f"lowest: {errors.min():.3g}", style.Look(style.ORANGE, "s", "-"), lw=2.6)
  style.legend(figure, [best], "a line a point of the sweep, mean over its seeds")
  return figure


def _scaled(values: Sequence[float | int | str]) -> tuple[np.ndarray, list[tuple[float, str]]]:
  """Returns the height of each value between 0 and 1, and the (height, word) of the ticks."""
  if any(isinstance(value, str) for value in values):
    words = sorted({str(value) for value in values})
    numbers = np.array([words.index(str(value)) for value in values], float)
    marks, labels = np.arange(len(words), dtype=float), words
  else:
    numbers = np.array(values, float)
    log = _is_log(numbers)
    marks = np.unique(numbers)
    if len(marks) > _GROUPS:
      space = np.geomspace if log else np.linspace
      marks = space(numbers.min(), numbers.max(), 5)
    digits = next((n for n in range(3, 17) if len({f"{m:.{n}g}" for m in marks}) == len(marks)), 17)
    labels = [f"{mark:.{digits}g}" for mark in marks]
    if log:
      numbers, marks = np.log(numbers), np.log(marks)
  low, high = numbers.min(), numbers.max()
  if low == high:
    return np.full(len(numbers), 0.5), [(0.5, labels[0])]
  heights = (marks - low) / (high - low)
  return (numbers - low) / (high - low), list(zip(heights.tolist(), labels, strict=True))
