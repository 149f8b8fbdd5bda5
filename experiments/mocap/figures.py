"""Stick figures of predicted and true poses, as a figure and as an animation."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

_TRUTH, _START, _PREDICTION = "0.25", "0.8", "#D55E00"


def stick_figures(
  bones: Int[np.ndarray, "bones 2"],
  start: Float[np.ndarray, "windows joints 3"],
  truth: Float[np.ndarray, "windows joints steps 3"],
  predictions: Mapping[str, Float[np.ndarray, "windows joints steps 3"]],
  step: int = -1,
) -> Figure:
  """Draws one row for each window and one column for each prediction, seen from the side.

  Args:
    bones: Pairs of joints.
    start: Input poses; y is up.
    truth: True poses.
    predictions: Predicted poses, by label.
    step: Which of the predicted frames.
  """
  figure = Figure(figsize=(2.6 * len(predictions), 2.8 * len(start) + 0.5), layout="constrained")
  grid = figure.subplots(len(start), len(predictions), squeeze=False, sharex="row", sharey="row")
  for i in range(len(start)):
    side = _side(start[i], truth[i])
    for j, (label, predicted) in enumerate(predictions.items()):
      axes = grid[i, j]
      _draw(axes, bones, side(start[i]), color=_START, lw=1)
      _draw(axes, bones, side(truth[i, :, step]), color=_TRUTH, lw=2.2)
      _draw(axes, bones, side(predicted[i, :, step]), color=_PREDICTION, lw=1.2)
      axes.set_aspect("equal")
      axes.tick_params(labelsize=7)
      error = np.mean(np.square(predicted[i, :, step] - truth[i, :, step]))
      head = f"{label}\n" if i == 0 else ""
      axes.set_title(f"{head}MSE {100 * error:.1f} x 10$^{{-2}}$", fontsize=8)
  proxies = [
    grid[0, 0].plot([], [], color=color, label=label)[0]
    for color, label in ((_START, "input"), (_TRUTH, "truth"), (_PREDICTION, "prediction"))
  ]
  figure.legend(handles=proxies, loc="outside lower center", ncols=3, fontsize=8)
  return figure


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
  figure = Figure(figsize=(2.6 * len(predictions), 3.2), layout="constrained")
  panels = figure.subplots(1, len(predictions), squeeze=False)[0]
  side = _side(start, truth)
  seen = np.concatenate([side(start), *(side(truth[:, t]) for t in range(truth.shape[1]))])
  low, high = seen.min(0) - 2, seen.max(0) + 2

  def show(step):
    for axes, (label, predicted) in zip(panels, predictions.items(), strict=True):
      axes.clear()
      _draw(axes, bones, side(start), color=_START, lw=1)
      _draw(axes, bones, side(truth[:, step]), color=_TRUTH, lw=2.2)
      _draw(axes, bones, side(predicted[:, step]), color=_PREDICTION, lw=1.2)
      axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", title=label)
      axes.title.set_fontsize(8)
      axes.tick_params(labelsize=7)
    return []

  animation = FuncAnimation(figure, show, frames=truth.shape[1])
  temporary = path.with_name(f".{os.getpid()}.{path.name}")
  try:
    animation.save(str(temporary), writer=PillowWriter(fps=3))
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _side(start: np.ndarray, truth: np.ndarray):
  """Returns the projection to (way along the ground, height) for the direction of motion."""
  way = (truth[:, -1] - start).mean(0)[[0, 2]]
  way = way / max(float(np.linalg.norm(way)), 1e-9)
  return lambda pose: np.stack([pose[:, [0, 2]] @ way, pose[:, 1]], -1)


def _draw(axes: Any, bones: np.ndarray, pose: np.ndarray, **style: Any) -> None:
  for a, b in bones:
    axes.plot(*pose[[a, b]].T, solid_capstyle="round", **style)
