"""The figure of how often verdicts are right."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ace_jax.plots import style

_WIDTH = 0.6
"""Of the generators of one strength, which stand side by side."""


def detection_curves(
  calls: Mapping[str, Mapping[str, Mapping[float, tuple[int, int]]]],
  broken: Mapping[str, Sequence[str]],
) -> Figure:
  """Draws how often each generator is called broken, against the strength of the breaking.

  Bars are exact binomial intervals (Clopper and Pearson) of 95 %.

  Args:
    calls: By kind of breaking, generator and strength: (runs that call it broken, runs).
    broken: The generators that each kind does break, at every strength above 0.
  """
  figure, grid = style.panels(1, len(calls), 4.4 * len(calls), 4.8, sharey=True)
  names = sorted({name for generators in calls.values() for name in generators})
  offsets = dict(zip(names, np.linspace(-_WIDTH / 2, _WIDTH / 2, len(names)), strict=True))
  for axes, (kind, generators) in zip(grid[0], calls.items(), strict=True):
    strengths = sorted(next(iter(generators.values())))
    for index, name in enumerate(names):
      if name not in generators:
        continue
      for position, strength in enumerate(strengths):
        count, runs = generators[name][strength]
        truth = bool(strength) and name in broken[kind]
        color = (style.BROKEN if truth else style.KEPT).color
        interval = stats.binomtest(count, runs).proportion_ci(0.95, method="exact")
        share = count / runs
        errors = np.array([[share - interval.low], [interval.high - share]])
        axes.errorbar(
          position + offsets[name], 100 * share, 100 * np.clip(errors, 0, None),
          fmt=style.MARKERS[index % len(style.MARKERS)], color=color,
          mfc=color if truth else "white", ms=5, lw=1, capsize=2,
        )  # fmt: skip
    labels = [f"{s:g}\n({next(iter(generators.values()))[s][1]} runs)" for s in strengths]
    axes.set_xticks(range(len(strengths)), labels)
    axes.set_xlim(-0.5, len(strengths) - 0.5)
    for edge in range(1, len(strengths)):
      axes.axvline(edge - 0.5, color="0.85", lw=0.8)
    axes.grid(False, axis="x")
    axes.set(xlabel="strength of the breaking", title=kind, ylim=(-4, 104))
  grid[0, 0].set_ylabel("runs that call it broken (%)")
  black = style.Look(style.BLACK, "", "")
  handles = [
    *(
      style.handle(name.replace("_", " "), black, marker=style.MARKERS[i % len(style.MARKERS)])
      for i, name in enumerate(names)
    ),
    style.handle("truth: broken", style.BROKEN, ls="", ms=8, marker="."),
    style.handle("truth: kept", style.KEPT, ls="", ms=8, marker=".", mfc="white"),
  ]
  note = "a run: a seed of a data set; bars: 95 % intervals (exact binomial)"
  style.legend(figure, handles, note, ncols=4)
  return figure
