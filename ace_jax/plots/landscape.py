"""Figures of loss landscapes: contours, a surface, an animation over gamma."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from ace_jax import files

_LEVELS, _LARGE = 18, 1e4


def contours(
  slices: Mapping[str, Float[np.ndarray, "rows columns"]],
  a: Float[np.ndarray, " rows"],
  b: Float[np.ndarray, " columns"],
  points: Mapping[str, Float[np.ndarray, "points 2"]] | None = None,
  notes: Mapping[str, str] | None = None,
  labels: tuple[str, str] = ("first direction", "second direction"),
) -> Figure:
  """Draws losses over a plane side by side, each with logarithmic levels of its own.

  Args:
    slices: Losses by label.
    a: Coordinates of the rows.
    b: Coordinates of the columns.
    points: Marked points (a, b) by label, in every panel; several are joined by a line.
    notes: What stands under the title of each panel.
    labels: Of the two axes.
  """
  figure = Figure(figsize=(4.4 * len(slices), 3.9), layout="constrained")
  panels = figure.subplots(1, len(slices), squeeze=False, sharey=True)[0]
  for axes, (label, losses) in zip(panels, slices.items(), strict=True):
    levels = _levels([losses])
    image = axes.contourf(a, b, np.log10(losses).T, levels=levels, cmap="viridis", extend="both")
    axes.contour(a, b, np.log10(losses).T, levels=levels, colors="k", linewidths=0.3)
    for name, places in (points or {}).items():
      style = "o" if len(places) == 1 else ".-"
      axes.plot(places[:, 0], places[:, 1], style, ms=5, lw=1, label=name)
    note = (notes or {}).get(label, "")
    axes.set_title(f"{label}\n{note}" if note else label, fontsize=9)
    axes.set_xlabel(labels[0], fontsize=8)
    figure.colorbar(image, ax=axes, label=r"$\log_{10}$ loss")
  panels[0].set_ylabel(labels[1], fontsize=8)
  if points:
    panels[-1].legend(fontsize=7)
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
  """Draws a row of slices for each label, a column for each checkpoint; levels are common to a row.

  Args:
    rows: Losses around every checkpoint, by label.
    epochs: After how many epochs each checkpoint was saved.
    a: Coordinates of the rows of a slice.
    b: Coordinates of its columns.
  """
  figure = Figure(figsize=(2 * len(epochs) + 1, 2.1 * len(rows) + 0.3), layout="constrained")
  panels = figure.subplots(len(rows), len(epochs), squeeze=False, sharex=True, sharey=True)
  for line, (label, slices) in zip(panels, rows.items(), strict=True):
    levels = _levels(slices)
    for axes, losses, epoch in zip(line, slices, epochs, strict=True):
      image = axes.contourf(a, b, np.log10(losses).T, levels=levels, cmap="viridis", extend="both")
      axes.contour(a, b, np.log10(losses).T, levels=levels, colors="k", linewidths=0.3)
      axes.set_title(f"epoch {epoch}", fontsize=8)
      axes.tick_params(labelsize=6)
    line[0].set_ylabel(label, fontsize=9)
    figure.colorbar(image, ax=line, label=r"$\log_{10}$ loss")
  return figure


def sharpness(found: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws loss, top Hessian eigenvalue and Hessian trace against the epoch, a line a label.

  Args:
    found: For each checkpoint its "epoch", and by label a dictionary of "loss",
      "top_eigenvalues", "trace" and "trace_standard_error".
  """
  figure = Figure(figsize=(9.5, 3), layout="constrained")
  panels = figure.subplots(1, 3)
  epochs = [one["epoch"] for one in found]
  for label in [name for name in found[0] if name != "epoch"]:
    numbers = [one[label] for one in found]
    panels[0].plot(epochs, [n["loss"] for n in numbers], ".-", label=label)
    panels[1].plot(epochs, [n["top_eigenvalues"][0] for n in numbers], ".-", label=label)
    traces, errors = [n["trace"] for n in numbers], [n["trace_standard_error"] for n in numbers]
    panels[2].errorbar(epochs, traces, errors, fmt=".-", capsize=2, label=label)
  names = ("training loss", "top Hessian eigenvalue", "Hessian trace")
  for axes, name in zip(panels, names, strict=True):
    axes.set(xlabel="epoch", title=name, yscale="log" if name == names[0] else "linear")
    # Within a few decades of 0 a symmetric logarithm has no ticks to read.
    if name != names[0] and max(map(abs, axes.get_ylim())) > _LARGE:
      axes.set_yscale("symlog")
      axes.yaxis.get_major_locator().set_params(numticks=7)
  panels[0].legend(fontsize=8)
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
  figure = Figure(figsize=(4.2, 3.8), layout="constrained")
  axes = figure.subplots()
  levels = _levels(slices)

  def show(i):
    axes.clear()
    axes.contourf(a, b, np.log10(slices[i]).T, levels=levels, cmap="viridis", extend="both")
    axes.contour(a, b, np.log10(slices[i]).T, levels=levels, colors="k", linewidths=0.3)
    axes.set_title(rf"$\gamma$ = {gammas[i]:.2f}", fontsize=10)
    return []

  animation = FuncAnimation(figure, show, frames=len(gammas))
  with files.replaced(path) as temporary:
    animation.save(str(temporary), writer=PillowWriter(fps=4))


def _levels(slices) -> np.ndarray:
  values = np.log10(np.concatenate([np.ravel(losses) for losses in slices]))
  return np.linspace(values.min(), np.quantile(values, 0.98) + 1e-9, _LEVELS)
