"""The figure of `benchmarks.scaling`: time and memory over size, on logarithmic axes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ace_jax.plots import style

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
  figure, grid = style.panels(2, len(shown), 3.8 * len(shown) + 0.6, 7.6)
  for (title, lines), (time, memory) in zip(shown.items(), grid.T, strict=True):
    for index, (name, label) in enumerate(lines.items()):
      _draw_time(time, axes[name], label, style.look(name, index))
      _draw_memory(memory, axes[name], label, style.look(name, index))
    ticks = sorted({x for name in lines for x in _sizes(axes[name])})
    for part in (time, memory):
      style.logarithmic(part, "x", "y")
      part.set_xticks(ticks, [f"{x:g}" for x in ticks])
      part.minorticks_off()
      low, high = part.get_ylim()
      part.set_ylim(low, high * (high / low) ** (0.16 * (1 + len(lines))))  # room for the legend
      style.legend(part, loc="upper left")
    memory.set_xlabel(title)
  grid[0, 0].set_ylabel("time of a step (ms)")
  grid[1, 0].set_ylabel("memory (MiB)")
  return figure


def _draw_time(part: Axes, axis: dict[str, Any], label: str, look: style.Look) -> None:
  time, operations = (_values(axis, name) for name in ("step_ms", "gflop"))
  measured = f"time, slope {_slope(axis, 'step_ms')}"
  part.plot(
    _sizes(axis), time, f"{look.marker}-", color=look.color, ms=4, label=_joined(label, measured)
  )
  name = f"operations, slope {_slope(axis, 'gflop')}"
  part.plot(_sizes(axis), operations * time[0] / operations[0], "--", color=look.color, label=name)


def _draw_memory(part: Axes, axis: dict[str, Any], label: str, look: style.Look) -> None:
  planned = f"XLA's buffers, slope {_slope(axis, 'buffers')}"
  part.plot(
    _sizes(axis),
    _values(axis, "buffers") / _MIB,
    f"{look.marker}-",
    color=look.color,
    ms=4,
    label=_joined(label, planned),
  )
  if "rss" in axis["slopes"]:
    name = f"growth of the process, slope {_slope(axis, 'rss')}"
    part.plot(_sizes(axis), _values(axis, "rss") / _MIB, "x:", color=look.color, label=name)


def _joined(label: str, rest: str) -> str:
  return f"{label}: {rest}" if label else rest


def _slope(axis: dict[str, Any], name: str) -> str:
  slope = axis["slopes"].get(name)
  return "unknown" if slope is None else f"{slope['all']:.2f}"


def _sizes(axis: dict[str, Any]) -> list[float]:
  return [point["size"][axis["varied"]] for point in axis["points"]]


def _values(axis: dict[str, Any], name: str) -> np.ndarray:
  return np.array([point[name] for point in axis["points"]], float)
