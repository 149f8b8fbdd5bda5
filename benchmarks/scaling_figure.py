"""The figure of `benchmarks.scaling`: time and memory over size, on logarithmic axes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ace_jax.plots import PALETTE

_PANELS = {
  "particles": {
    "particles": "all pairs, batch 100",
    "particles_batch25": "all pairs, batch 25",
    "nearest16": "16 nearest, batch 100",
  },
  "batch": {"batch": ""},
  "width": {"width": ""},
  "layers": {"layers": ""},
  "replicas": {"replicas": ""},
  "training samples": {"samples": ""},
}
"""The axes of the benchmark in each panel, with their labels."""

_MIB = 1024**2


def growth(axes: dict[str, Any]) -> Figure:
  """Draws a column for what varies: above milliseconds a step, below memory.

  Dashed lines are the operations of a step, at the rate of the first point: time that grows with
  its arithmetic runs along them. Labels give the slopes of the lines through all points.

  Args:
    axes: By name `varied`, `points` and `slopes`, as in scaling.json.
  """
  shown = {
    title: {name: label for name, label in lines.items() if name in axes}
    for title, lines in _PANELS.items()
  }
  shown = {title: lines for title, lines in shown.items() if lines}
  size = (3.4 * len(shown) + 0.6, 6.4)
  figure = Figure(figsize=size, layout="constrained")
  grid = figure.subplots(2, len(shown), squeeze=False)
  for (title, lines), (time, memory) in zip(shown.items(), grid.T, strict=True):
    for (name, label), color in zip(lines.items(), PALETTE, strict=False):
      _draw_time(time, axes[name], label, color)
      _draw_memory(memory, axes[name], label, color)
    ticks = sorted({x for name in lines for x in _sizes(axes[name])})
    for part in (time, memory):
      part.set_xscale("log")
      part.set_yscale("log")
      part.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize="small")
      part.minorticks_off()
      part.grid(alpha=0.3)
      part.legend(fontsize="x-small")
    memory.set_xlabel(title)
  grid[0, 0].set_ylabel("ms a step")
  grid[1, 0].set_ylabel("MiB")
  return figure


def _draw_time(part: Axes, axis: dict[str, Any], label: str, color: str) -> None:
  time, operations = (_values(axis, name) for name in ("step_ms", "gflop"))
  measured = f"time, slope {_slope(axis, 'step_ms')}"
  part.plot(_sizes(axis), time, "o-", color=color, label=_joined(label, measured))
  name = f"operations, slope {_slope(axis, 'gflop')}"
  part.plot(_sizes(axis), operations * time[0] / operations[0], "--", color=color, label=name)


def _draw_memory(part: Axes, axis: dict[str, Any], label: str, color: str) -> None:
  planned = f"XLA's buffers, slope {_slope(axis, 'buffers')}"
  part.plot(
    _sizes(axis), _values(axis, "buffers") / _MIB, "s-", color=color, label=_joined(label, planned)
  )
  if "rss" in axis["slopes"]:
    name = f"growth of the process, slope {_slope(axis, 'rss')}"
    part.plot(_sizes(axis), _values(axis, "rss") / _MIB, "x:", color=color, label=name)


def _joined(label: str, rest: str) -> str:
  return f"{label}: {rest}" if label else rest


def _slope(axis: dict[str, Any], name: str) -> str:
  found = axis["slopes"].get(name)
  return "unknown" if found is None else f"{found['all']:.2f}"


def _sizes(axis: dict[str, Any]) -> list[float]:
  return [point["size"][axis["varied"]] for point in axis["points"]]


def _values(axis: dict[str, Any], name: str) -> np.ndarray:
  return np.array([point[name] for point in axis["points"]], float)
