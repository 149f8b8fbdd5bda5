"""The figure of how often verdicts are right."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import stats

from ace_jax.plots import style

_WIDTH = 0.6
"""Of what stands side by side at one strength: generators, lengths of training."""
_OUTCOMES = {
  "right": (style.GREEN, ""),
  "cannot tell": ("0.85", "////"),
  "wrong": (style.BLACK, ""),
}
"""Colour and hatching, from the bottom of a bar."""


def detection_curves(
  calls: Mapping[str, Mapping[str, Mapping[float, tuple[int, int]]]],
  broken: Mapping[str, Sequence[str]],
  outcomes: Mapping[str, Mapping[float, Mapping[int, Mapping[str, int]]]],
) -> Figure:
  """Draws verdicts on runs by length of training, and below how often generators are called broken.

  Above, a bar is all runs of one strength after so many epochs. Below, bars are exact binomial
  intervals (Clopper and Pearson) of 95 %, after the longest training.

  Args:
    calls: By kind of breaking, generator and strength: (runs that call it broken, runs).
    broken: The generators that each kind does break, at every strength above 0.
    outcomes: By kind, strength and epochs: how many runs are "right", "wrong", "cannot tell".
  """
  figure, grid = style.panels(2, len(calls), 4.4 * len(calls), 7.6, sharey="row")
  names = sorted({name for generators in calls.values() for name in generators})
  for (above, below), kind in zip(grid.T, calls, strict=True):
    strengths = sorted(outcomes[kind])
    runs = [sum(next(iter(outcomes[kind][s].values())).values()) for s in strengths]
    _outcomes(above, [outcomes[kind][strength] for strength in strengths])
    _called(below, calls[kind], strengths, names, broken[kind])
    labels = [f"{s:g}\n({n} runs)" for s, n in zip(strengths, runs, strict=True)]
    below.set_xticks(range(len(strengths)), labels)
    below.set(xlabel="strength of the breaking", ylim=(-4, 104))
    for position, strength in enumerate(strengths):
      above.text(position, 103, f"{strength:g}", ha="center", fontsize=8)
    above.set(xlabel="epochs of training, at each strength", title=kind, ylim=(0, 112))
    for axes in (above, below):
      axes.set_xlim(-0.5, len(strengths) - 0.5)
      axes.grid(False, axis="x")
      for edge in range(1, len(strengths)):
        axes.axvline(edge - 0.5, color="0.85", lw=0.8)
  longest = max(epochs for row in next(iter(outcomes.values())).values() for epochs in row)
  grid[0, 0].set_ylabel("runs whose verdict is ... (%)")
  grid[0, 0].set_yticks(range(0, 101, 20))
  grid[1, 0].set_ylabel(f"runs that call it broken after {longest} epochs (%)")
  note = "above: numbers over bars are strengths; below: bars are 95 % intervals (exact binomial)"
  style.legend(figure, _handles(names), f"a run: a seed of a data set; {note}", ncols=4)
  return figure


def _offsets(count: int) -> np.ndarray:
  """Returns where so many things stand side by side, about 0."""
  return np.linspace(-_WIDTH / 2, _WIDTH / 2, count) if count > 1 else np.zeros(1)


def _outcomes(axes: Axes, rows: Sequence[Mapping[int, Mapping[str, int]]]) -> None:
  lengths = sorted(rows[0])
  width = _WIDTH / (len(lengths) - 1) if len(lengths) > 1 else _WIDTH / 2
  ticks = []
  for position, row in enumerate(rows):
    for offset, epochs in zip(_offsets(len(lengths)), lengths, strict=True):
      at, bottom, runs = position + offset, 0.0, sum(row[epochs].values())
      ticks.append((at, str(epochs)))
      for name, (color, hatch) in _OUTCOMES.items():
        share = 100 * row[epochs][name] / runs
        axes.bar(at, share, 0.8 * width, bottom, color=color, hatch=hatch, ec="white", lw=0.5)
        bottom += share
  axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks])


def _called(
  axes: Axes,
  generators: Mapping[str, Mapping[float, tuple[int, int]]],
  strengths: Sequence[float],
  names: Sequence[str],
  broken: Sequence[str],
) -> None:
  for index, (name, offset) in enumerate(zip(names, _offsets(len(names)), strict=True)):
    if name not in generators:
      continue
    for position, strength in enumerate(strengths):
      count, runs = generators[name][strength]
      truth = bool(strength) and name in broken
      color = (style.BROKEN if truth else style.KEPT).color
      interval = stats.binomtest(count, runs).proportion_ci(0.95, method="exact")
      share = count / runs
      errors = np.array([[share - interval.low], [interval.high - share]])
      axes.errorbar(
        position + offset, 100 * share, 100 * np.clip(errors, 0, None),
        fmt=style.MARKERS[index % len(style.MARKERS)], color=color,
        mfc=color if truth else "white", ms=5, lw=1, capsize=2,
      )  # fmt: skip


def _handles(names: Sequence[str]) -> list[Patch | style.Line2D]:
  black = style.Look(style.BLACK, "", "")
  markers = [style.MARKERS[i % len(style.MARKERS)] for i in range(len(names))]
  return [
    *(
      Patch(facecolor=color, hatch=hatch, ec="white", label=f"verdict: {name}")
      for name, (color, hatch) in _OUTCOMES.items()
    ),
    *(
      style.handle(name.replace("_", " "), black, marker=marker)
      for name, marker in zip(names, markers, strict=True)
    ),
    style.handle("truth: broken", style.BROKEN, ls="", ms=8, marker="."),
    style.handle("truth: kept", style.KEPT, ls="", ms=8, marker=".", mfc="white"),
  ]
