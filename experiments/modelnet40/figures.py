"""Figures of the ModelNet40 experiment."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from ace_jax import plots
from ace_jax.plots import style
from ace_jax.training.history import Record

_NUMBERED = 15
"""Classes at most whose shares are written into the matrix."""


def accuracy(label: str, records: Sequence[Record], baseline: float) -> Figure:
  """Draws the validation accuracy of both predictors over epochs.

  Args:
    label: Of the run.
    records: Its history.
    baseline: Error rate on validation shapes of who always says the largest class.
  """
  figure, grid = style.panels(1, 1, 6.4, 4.4)
  axes = grid[0, 0]
  handles = []
  for predictor in ("projection", "relaxed"):
    epochs, errors = plots.series(records, f"valid/{predictor}")
    if len(epochs):
      look = style.look(predictor)
      axes.plot(epochs, 100 * (1 - errors), color=look.color, ls=look.dash, lw=1.4)
      if np.isfinite(errors).any():
        best = int(np.nanargmin(errors))
        axes.plot(epochs[best], 100 * (1 - errors[best]), look.marker, color=look.color, ms=6)
      handles.append(style.handle(f"{label}, {predictor}", look))
  look = style.LOOKS["linear"]
  axes.axhline(100 * (1 - baseline), color=look.color, ls=look.dash, lw=1.2)
  handles.append(style.handle("largest class", look, marker=""))
  axes.set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 102))
  style.legend(figure, handles, "one seed a curve; marks: its best epoch", ncols=3)
  return figure


def shares(
  truth: Int[np.ndarray, " shapes"], predicted: Int[np.ndarray, " shapes"], classes: int
) -> Float[np.ndarray, "classes classes"]:
  """Returns the share of each class's shapes (rows) that is taken for each class (columns)."""
  counts = np.zeros((classes, classes))
  np.add.at(counts, (truth, predicted), 1)
  return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def confusion(
  classes: Sequence[str],
  truth: Int[np.ndarray, " shapes"],
  predicted: Mapping[str, Int[np.ndarray, " shapes"]],
) -> Figure:
  """Draws the confusion matrix of each predictor: a row a predictor, a column a test set.

  Args:
    classes: Their names.
    truth: Labels of the test shapes.
    predicted: Of each predictor, "projection", and "projection_random_axes" on turned shapes.
  """
  sets = {"": "upright", "_random_axes": "turned about random axes"}
  predictors = [name for name in predicted if name in ("projection", "relaxed")]
  side = min(10.0, 1.8 + 0.33 * len(classes))
  figure, grid = style.panels(
    len(predictors), len(sets), side * len(sets), side * len(predictors), sharex=True, sharey=True
  )
  image = None
  names = [name.replace("_", " ") for name in classes]
  for row, predictor in zip(grid, predictors, strict=True):
    for axes, (suffix, title) in zip(row, sets.items(), strict=True):
      labels = predicted[predictor + suffix]
      matrix = 100 * shares(np.asarray(truth), np.asarray(labels), len(classes))
      image = axes.imshow(matrix, vmin=0, vmax=100, cmap="Blues")
      axes.grid(False)
      correct = 100 * np.mean(np.asarray(labels) == np.asarray(truth))
      axes.set_title(f"{predictor}, {title}: {correct:.1f} % right")
      axes.set_xticks(range(len(classes)), names, rotation=90)
      axes.set_yticks(range(len(classes)), names)
      if len(classes) <= _NUMBERED:
        for i, j in zip(*np.nonzero(matrix >= 0.5), strict=True):
          color = "white" if matrix[i, j] > 60 else "black"
          axes.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", fontsize=6, color=color)
    row[0].set_ylabel("class")
  for axes in grid[-1]:
    axes.set_xlabel("taken for")
  if image is not None:
    bar = figure.colorbar(image, ax=grid, shrink=0.7, aspect=30)
    bar.set_label("share of a class's test shapes (%)")
  return figure
