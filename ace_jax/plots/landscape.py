"""Figures of loss landscapes: contours, a surface, an animation over gamma."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps, patheffects
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from ace_jax import files
from ace_jax.plots import style

_FINE = (1.0, 1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
_MIDDLE, _COARSE = (1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0), (1.0, 1.5, 2.0, 5.0)
_LARGE = 1e3
_DIRECTIONS = ("first direction (norms of the filters)", "second direction (norms of the filters)")
_OVER_LOWEST = "loss / lowest loss shown in the {}"


def contours(
  slices: Mapping[str, Float[np.ndarray, "rows columns"]],
  a: Float[np.ndarray, " rows"],
  b: Float[np.ndarray, " columns"],
  points: Mapping[str, Float[np.ndarray, "points 2"]] | None = None,
  notes: Mapping[str, str] | None = None,
  labels: tuple[str, str] = _DIRECTIONS,
) -> Figure:
  """Draws losses over a plane side by side, each over its lowest, on one scale of colours.

  Args:
    slices: Losses by label.
    a: Coordinates of the rows.
    b: Coordinates of the columns.
    points: Marked points (a, b) by label, in every panel; several are joined by a line, whose
      first is a square and whose last a star.
    notes: What stands under the title of each panel, beside its lowest loss.
    labels: Of the two axes.
  """
  size = (4.0 * len(slices) + 1.4, 4.7)
  figure, grid = style.panels(1, len(slices), *size, sharey=True)
  ratios = {label: losses / np.min(losses) for label, losses in slices.items()}
  levels = _levels(ratios.values())
  for axes, (label, losses) in zip(grid[0], slices.items(), strict=True):
    image = _filled(axes, a, b, ratios[label], levels)
    for index, (name, path) in enumerate((points or {}).items()):
      _path(axes, path, name, index)
    note = (notes or {}).get(label, "")
    title = f"{label}: lowest loss {np.min(losses):.3g}"
    axes.set_title(f"{title}\n{note}" if note else title, fontsize=9)
    axes.set_xlabel(labels[0])
  _colorbar(figure, image, list(grid[0]), levels, _OVER_LOWEST.format("panel"))
  grid[0, 0].set_ylabel(labels[1])
  if points:
    handles = grid[0, 0].get_legend_handles_labels()[0]
    lines = any(len(path) > 1 for path in points.values())
    note = "lines join checkpoints, from the square to the star" if lines else ""
    style.legend(figure, handles, note, ncols=len(handles))
  return figure


def surface(
  losses: Float[np.ndarray, "rows columns"],
  a: Float[np.ndarray, " rows"],
  b: Float[np.ndarray, " columns"],
  title: str,
) -> Figure:
  """Draws one slice as a surface of log10 of the loss."""
  figure = Figure(figsize=(5.4, 4.4), layout="constrained")
  axes = figure.add_subplot(projection="3d")
  first, second = np.meshgrid(a, b, indexing="ij")
  axes.plot_surface(first, second, np.log10(losses), cmap="viridis", linewidth=0)
  axes.set(xlabel="first direction", ylabel="second direction", zlabel=r"$\log_{10}$ loss")
  for name in ("x", "y"):
    axes.locator_params(axis=name, nbins=5)
  axes.set_title(title, fontsize=9)
  return figure


def along_training(
  rows: Mapping[str, Sequence[Float[np.ndarray, "rows columns"]]],
  epochs: Sequence[int],
  a: Float[np.ndarray, " rows"],
  b: Float[np.ndarray, " columns"],
) -> Figure:
  """Draws a row of slices for each label, a column for each checkpoint.

  Colours are the loss over the lowest of its row, on one scale for all.

  Args:
    rows: Losses around every checkpoint, by label.
    epochs: After how many epochs each checkpoint was saved.
    a: Coordinates of the rows of a slice.
    b: Coordinates of its columns.
  """
  size = (2.1 * len(epochs) + 1.6, 2.2 * len(rows) + 0.7)
  figure, grid = style.panels(len(rows), len(epochs), *size, sharex=True, sharey=True)
  lowest = {label: min(np.min(losses) for losses in slices) for label, slices in rows.items()}
  ratios = {label: [x / lowest[label] for x in slices] for label, slices in rows.items()}
  levels = _levels([ratio for slices in ratios.values() for ratio in slices])
  for axes, epoch in zip(grid[0], epochs, strict=True):
    axes.set_title(f"epoch {epoch}", fontsize=9)
  for line, (label, slices) in zip(grid, ratios.items(), strict=True):
    for axes, ratio in zip(line, slices, strict=True):
      image = _filled(axes, a, b, ratio, levels)
    line[0].set_ylabel(f"{label}\nlowest {lowest[label]:.3g}")
  _colorbar(figure, image, list(grid.flat), levels, _OVER_LOWEST.format("row"))
  figure.supxlabel("first direction", fontsize=9)
  figure.supylabel("second direction (norms of the filters)", fontsize=9)
  return figure


def sharpness(curvatures: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws loss, top Hessian eigenvalue and Hessian trace against the epoch, a line a label.

  Where numbers differ by more than a factor of 1000, absolute values are drawn over a logarithmic
  axis, negative ones hollow, and joined by no line where the sign changes.

  Args:
    curvatures: For each checkpoint its "epoch", and by label a dictionary of "loss",
      "top_eigenvalues", "trace" and "trace_standard_error".
  """
  figure, grid = style.panels(1, 3, 10.5, 3.7)
  epochs = [row["epoch"] for row in curvatures]
  names = [name for name in curvatures[0] if name != "epoch"]
  titles = ("training loss", "top Hessian eigenvalue", "Hessian trace")
  columns = {name: [row[name] for row in curvatures] for name in names}
  hollow = False
  for axes, title in zip(grid[0], titles, strict=True):
    values = {name: np.array([_number(row, title) for row in columns[name]]) for name in names}
    sizes = np.abs(np.concatenate(list(values.values())))
    wide = title == titles[0] or sizes.max() > _LARGE * max(sizes.min(), 1e-30)
    signs = wide and any((v < 0).any() for v in values.values())
    hollow |= signs
    for index, name in enumerate(names):
      look = style.look(name, index)
      drawn = np.abs(values[name]) if wide else values[name]
      negative = wide & (values[name] < 0)
      shift = 0.008 * (epochs[-1] - epochs[0]) * (index - (len(names) - 1) / 2)
      at = np.array(epochs) + shift  # so that bars are seen beside each other
      axes.plot(at, drawn, color=look.color, ls="" if negative.any() else look.dash, lw=1.3)
      for under, face in ((False, look.color), (True, "white")):
        which = negative == under
        axes.plot(at[which], drawn[which], look.marker, color=look.color, mfc=face, ms=5)
      if title == titles[2]:
        errors = [row["trace_standard_error"] for row in columns[name]]
        axes.errorbar(at, drawn, errors, fmt="none", ecolor=look.color, capsize=3, zorder=1)
    axes.set(xlabel="epoch", title=title, xticks=epochs, ylabel="absolute value" if signs else "")
    if wide:
      style.logarithmic(axes, "y")
  grid[0, 0].set_ylabel("loss")
  handles = [style.handle(name, style.look(name, i)) for i, name in enumerate(names)]
  note = "one seed; bars: standard error of the trace"
  if hollow:
    note += "; hollow: negative, drawn by its absolute value"
  style.legend(figure, handles, note, ncols=len(names))
  return figure


def save_animation(
  path: str | Path,
  gammas: Sequence[float],
  slices: Float[np.ndarray, "gammas rows columns"],
  a: Float[np.ndarray, " rows"],
  b: Float[np.ndarray, " columns"],
) -> None:
  """Writes a GIF of the landscape while every gamma goes from its first to its last value.

  Args:
    path: The file, written atomically.
    gammas: Values of gamma.
    slices: Losses at each.
    a: Coordinates of the rows.
    b: Coordinates of the columns.
  """
  figure, grid = style.panels(1, 1, 5.6, 4.4)
  axes = grid[0, 0]
  ratios = slices / np.min(slices)
  levels = _levels(ratios)
  image = _filled(axes, a, b, ratios[0], levels)
  label = f"loss / lowest of all frames ({np.min(slices):.3g})"
  _colorbar(figure, image, [axes], levels, label)

  def show(i):
    axes.clear()
    _filled(axes, a, b, ratios[i], levels)
    axes.set(xlabel=_DIRECTIONS[0], ylabel=_DIRECTIONS[1])
    axes.set_title(rf"every $\gamma$ = {gammas[i]:.2f}")
    return []

  animation = FuncAnimation(figure, show, frames=len(gammas))
  with files.replaced(path) as temporary:
    animation.save(str(temporary), writer=PillowWriter(fps=4))


def _number(row: Mapping[str, Any], title: str) -> float:
  if title == "top Hessian eigenvalue":
    return row["top_eigenvalues"][0]
  return row["loss" if title == "training loss" else "trace"]


def _levels(ratios: Any) -> np.ndarray:
  """Returns round levels from 1 to the largest ratio: fine near 1, few a power of 10 far away."""
  largest = max(float(np.max(ratio)) for ratio in ratios)
  decades = int(np.ceil(np.log10(max(largest, 1.02))))
  near, factors = (_FINE, (1, 1.5, 2, 3, 5, 7)) if decades <= 2 else (_COARSE, (1,))
  if 2 < decades <= 5:
    near, factors = _MIDDLE, (1, 2, 5)
  far = [factor * 10.0**n for n in range(1, decades + 1) for factor in factors]
  levels = np.array([*near, *far])
  enough = int(np.searchsorted(levels, largest)) + 1
  return levels[: max(enough, 3)]


def _filled(axes: Axes, a: Any, b: Any, ratio: np.ndarray, levels: np.ndarray) -> Any:
  colors = colormaps["viridis"].resampled(len(levels) - 1)
  norm = BoundaryNorm(levels, len(levels) - 1)
  inside = np.clip(ratio, levels[0], levels[-1])
  image = axes.contourf(a, b, inside.T, levels=levels, cmap=colors, norm=norm)
  axes.contour(a, b, inside.T, levels=levels[1:-1], colors="k", linewidths=0.3)
  axes.grid(False)
  return image


def _colorbar(
  figure: Figure, image: Any, panels: list[Axes], levels: np.ndarray, label: str
) -> None:
  bar = figure.colorbar(image, ax=panels, spacing="uniform", label=label)
  shown = levels[:: 1 + len(levels) // 14]
  words = [f"{level:g}" if level < 1e3 else style.power(level) for level in shown]
  bar.set_ticks(list(shown), labels=words)
  bar.ax.tick_params(labelsize=8)
  bar.ax.minorticks_off()


def _path(axes: Axes, path: np.ndarray, name: str, index: int) -> None:
  """Draws points that are seen on every colour: white, with a black edge."""
  color = ("white", style.ORANGE, style.SKY)[index % 3]
  edge = {"mec": "black", "mew": 0.9, "color": color}
  if len(path) == 1:
    axes.plot(*path.T, style.MARKERS[index], ls="", ms=7, label=name, zorder=7, **edge)
    return
  outline = [patheffects.Stroke(linewidth=4, foreground="black"), patheffects.Normal()]
  axes.plot(*path.T, "-", color=color, lw=2, path_effects=outline, zorder=4)
  axes.plot(*path.T, "o", ms=5, ls="", label=name, zorder=5, **edge)
  axes.plot(*path[0], "s", ms=8, zorder=6, **edge)
  axes.plot(*path[-1], "*", ms=13, zorder=6, **edge)
