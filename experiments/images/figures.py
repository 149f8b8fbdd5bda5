"""Figures of the image experiment."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ace_jax.plots import style
from experiments.images import bias as images_bias
from experiments.images import shifts as images_shifts

_PLACINGS = {"centre": "trained on centred digits", "uniform": "trained on digits placed anywhere"}
_NETWORKS = {
  "pooled": "max-pooled",
  "zero_padded": "zero-padded, not subsampled",
  "circular": "circular, not subsampled",
}
_CONSTRAINTS = {"none": "no constraint"}


def flips(rows: Sequence[images_shifts.Summary]) -> Figure:
  """Draws the share of predictions that a shift flips, against the shift.

  Args:
    rows: Of every training; one panel for each placing of the training images, means over seeds.
  """
  placings = list(dict.fromkeys(row["placing"] for row in rows))
  networks = list(dict.fromkeys(row["network"] for row in rows))
  figure, grid = style.panels(1, len(placings), 5.6 * len(placings), 4.4, sharey=True)
  handles = []
  for i, network in enumerate(networks):
    look = style.look(network, i)
    line = {"color": look.color, "ls": look.dash, "marker": look.marker}
    handles.append(style.handle(_NETWORKS.get(network, network.replace("_", "-")), look))
    for axes, placing in zip(grid[0], placings, strict=True):
      runs = [r for r in rows if (r["network"], r["placing"]) == (network, placing)]
      share = 100 * np.mean([row["flips_along_x"] for row in runs], axis=0)
      axes.plot(np.arange(len(share)), share, ms=4, lw=1.2, **line)
  for axes, placing in zip(grid[0], placings, strict=True):
    axes.set(xlabel="cyclic shift along x (pixels)", title=_PLACINGS.get(placing, placing))
    axes.set_ylim(bottom=-3)
  grid[0, 0].set_ylabel("predictions that a shift flips (%)")
  seeds = len({row["seed"] for row in rows})
  style.legend(figure, handles, f"mean over {seeds} seeds" if seeds > 1 else "one seed", ncols=6)
  return figure


def accuracies(rows: Sequence[images_bias.Summary]) -> Figure:
  """Draws the test accuracy of both predictors by constraint, one panel for each bias.

  Args:
    rows: Of every training; bars are means, dots the seeds. A strict model is its own projection.
  """
  biases = list(dict.fromkeys(row["bias"] for row in rows))
  constraints = list(dict.fromkeys(row["constraint"] for row in rows))
  figure, grid = style.panels(1, len(biases), 4 * len(biases), 4.2, sharey=True)
  for axes, bias in zip(grid[0], biases, strict=True):
    for i, predictor in enumerate(("projection", "relaxed")):
      look = style.LOOKS[predictor]
      for j, constraint in enumerate(constraints):
        if constraint == "strict" and predictor == "relaxed":
          continue
        alike = [r for r in rows if (r["bias"], r["constraint"]) == (bias, constraint)]
        key = "projection_test_accuracy" if i == 0 else "relaxed_test_accuracy"
        values = [100 * row[key] for row in alike]
        x = j if constraint == "strict" else j + 0.4 * i - 0.2
        axes.bar(x, np.mean(values), 0.36, color=look.color, alpha=0.55)
        axes.plot([x] * len(values), values, look.marker, color="k", mfc="none", ms=4)
    if bias != "none":
      axes.axhline(200 / 3, color=style.GREY, ls="--", lw=1.2)
    axes.set_xticks(range(len(constraints)), [_CONSTRAINTS.get(c, c) for c in constraints])
    axes.set_title(
      "no bias of position" if bias == "none" else f"label depends on the {bias} position"
    )
    axes.set_ylim(0, 100)
    axes.grid(False, axis="x")
  grid[0, 0].set_ylabel("test accuracy (%)")
  handles = [style.handle(name, style.LOOKS[name], ls="") for name in ("projection", "relaxed")]
  if any(bias != "none" for bias in biases):
    limit = style.Look(style.GREY, "", "--")
    handles.append(style.handle("most that an invariant classifier can reach", limit))
  seeds = len({row["seed"] for row in rows})
  note = f"bars: means of {seeds} seeds; marks: the seeds" if seeds > 1 else "one seed"
  style.legend(figure, handles, note, ncols=3)
  return figure
