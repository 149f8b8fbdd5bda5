"""Figures of the QM9 experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ace_jax import plots
from ace_jax.plots import style
from ace_jax.training.history import Record


def validation(label: str, records: Sequence[Record], about: Mapping[str, Any]) -> Figure:
  """Draws the validation error over epochs beside that of the training set's mean.

  Args:
    label: Of the run.
    records: Its history.
    about: Summary of the data.
  """
  epochs = np.array([record["epoch"] for record in records])
  mean = np.full(len(epochs), about["linear_mse"]["valid"])
  figure = plots.validation_curve({label: records}, reference={"training mean": (epochs, mean)})
  figure.axes[0].set_ylabel(f"validation MAE of {about['target']} ({about['unit']})")
  return figure


def predictions(
  truth: Float[np.ndarray, " molecules"],
  predicted: Mapping[str, Float[np.ndarray, " molecules"]],
  about: Mapping[str, Any],
) -> Figure:
  """Draws predictions against the truth, one panel for each predictor.

  Args:
    truth: Of some test molecules.
    predicted: By predictor.
    about: Summary of the data.
  """
  figure, grid = style.panels(1, len(predicted), 4.2 * len(predicted), 4, sharex=True, sharey=True)
  for axes, (name, values) in zip(grid[0], predicted.items(), strict=True):
    ends = [truth.min(), truth.max()]
    axes.plot(ends, ends, color="0.6", lw=1)
    axes.plot(truth, values, ".", color=style.look(name).color, ms=4, alpha=0.7)
    error = np.abs(values - truth).mean()
    axes.set_title(f"{name}: MAE {error:.3g} {about['unit']}")
    axes.set_xlabel(f"{about['target']} ({about['unit']})")
  grid[0, 0].set_ylabel(f"predicted {about['target']} ({about['unit']})")
  return figure
