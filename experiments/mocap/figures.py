"""Stick figures of predicted and true poses, as a figure and as an animation."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ace_jax import files
from ace_jax.plots import style

_TRUTH, _START, _PREDICTION = "0.25", "0.7", style.LOOKS["relaxed"].color
LEFT = frozenset((*range(1, 6), *range(17, 24)))
"""Joints of the left leg and arm, in the order that all sources of `data.mocap` have."""
_UNIT = 5.644
"""Centimetres in a unit of the data."""


def stick_figures(
  bones: Int[np.ndarray, "bones 2"],
  start: Float[np.ndarray, "windows joints 3"],
  truth: Float[np.ndarray, "windows joints steps 3"],
  predictions: Mapping[str, Float[np.ndarray, "windows joints steps 3"]],
  step: int = -1,
) -> Figure:
  """Draws one row for each window and one column for each prediction, seen from the side.

  All panels have the same limits; ways are measured from the centre of the input pose. The left
  leg and arm are dotted.

  Args:
    bones: Pairs of joints.
    start: Input poses; y is up.
    truth: True poses.
    predictions: Predicted poses, by label.
    step: Which of the predicted frames.
  """
  sides = [_side(start[i], truth[i]) for i in range(len(start))]
  seen = [side(start[i]) for i, side in enumerate(sides)]
  seen += [side(truth[i, :, step]) for i, side in enumerate(sides)]
  seen += [side(p[i, :, step]) for p in predictions.values() for i, side in enumerate(sides)]
  low, high = np.min(np.concatenate(seen), 0) - 8, np.max(np.concatenate(seen), 0) + 8
  # Panels of the shape that the data have, so that equal aspects leave no empty space.
  width, height = (high - low) * min(2.4 / (high[0] - low[0]), 2.6 / (high[1] - low[1]))
  size = (max(width * len(predictions) + 0.7, 5), (height + 0.3) * len(start) + 1.2)
  figure, grid = style.panels(len(start), len(predictions), *size, sharex=True, sharey=True)
  for i, side in enumerate(sides):
    for j, (label, predicted) in enumerate(predictions.items()):
      axes = grid[i, j]
      _draw(axes, bones, side(start[i]), color=_START, lw=1)
      _draw(axes, bones, side(truth[i, :, step]), color=_TRUTH, lw=2.2)
      _draw(axes, bones, side(predicted[i, :, step]), color=_PREDICTION, lw=1.3)
      axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
      error = np.mean(np.square(predicted[i, :, step] - truth[i, :, step]))
      head = label.replace(", ", "\n") + "\n" if i == 0 else ""
      axes.set_title(f"{head}MSE {error:.3g}", fontsize=8)
      if i == len(start) - 1:
        axes.set_xlabel("way (cm)")
      if j == 0:
        axes.set_ylabel(f"window {i + 1}\nheight (cm)")
  style.legend(
    figure, _handles(), "MSE over joints and coordinates, in units of 31.9 cm$^2$", ncols=5
  )
  return figure


def _handles() -> list[Line2D]:
  looks = {
    "input": (_START, 1.0, "-"),
    "truth": (_TRUTH, 2.2, "-"),
    "prediction": (_PREDICTION, 1.3, "-"),
    "right limbs, trunk": ("black", 1.3, "-"),
    "left limbs": ("black", 1.3, ":"),
  }
  return [
    style.handle(label, style.Look(color, "", dash), lw=width)
    for label, (color, width, dash) in looks.items()
  ]


def save_animation(
  path: Path,
  bones: Int[np.ndarray, "bones 2"],
  start: Float[np.ndarray, "joints 3"],
  truth: Float[np.ndarray, "joints steps 3"],
  predictions: Mapping[str, Float[np.ndarray, "joints steps 3"]],
) -> None:
  """Writes a GIF of one window that runs through the predicted frames.

  Args:
    path: The file, written atomically.
    bones: Pairs of joints.
    start: Input pose; y is up.
    truth: True poses.
    predictions: Predicted poses, by label.
  """
  figure, grid = style.panels(1, len(predictions), 2.6 * len(predictions) + 0.4, 3.9)
  side = _side(start, truth)
  seen = [side(start)]
  seen += [
    side(pose[:, t]) for pose in (truth, *predictions.values()) for t in range(len(truth[0]))
  ]
  low, high = np.min(np.concatenate(seen), 0) - 8, np.max(np.concatenate(seen), 0) + 8
  style.legend(figure, _handles(), ncols=5)

  def show(step):
    for axes, (label, predicted) in zip(grid[0], predictions.items(), strict=True):
      axes.clear()
      _draw(axes, bones, side(start), color=_START, lw=1)
      _draw(axes, bones, side(truth[:, step]), color=_TRUTH, lw=2.2)
      _draw(axes, bones, side(predicted[:, step]), color=_PREDICTION, lw=1.3)
      axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="way (cm)")
      axes.set_title(label.replace(", ", "\n"), fontsize=8)
      axes.tick_params(labelsize=7)
    grid[0, 0].set_ylabel("height (cm)")
    return []

  animation = FuncAnimation(figure, show, frames=truth.shape[1])
  with files.replaced(path) as temporary:
    animation.save(str(temporary), writer=PillowWriter(fps=3))


def _side(start: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the projection to (way along the ground, height), cm, for the direction of motion."""
  way = (truth[:, -1] - start).mean(0)[[0, 2]]
  way = way / max(float(np.linalg.norm(way)), 1e-9)
  origin = start.mean(0)[[0, 2]] @ way
  return lambda pose: _UNIT * np.stack([pose[:, [0, 2]] @ way - origin, pose[:, 1]], -1)


def _draw(axes: Axes, bones: np.ndarray, pose: np.ndarray, **style_of_lines: Any) -> None:
  for a, b in bones:
    left = a in LEFT or b in LEFT
    axes.plot(*pose[[a, b]].T, ls=(0, (1, 1)) if left else "-", **style_of_lines)
