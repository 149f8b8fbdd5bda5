"""Figures of the image experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ace_jax.plots import PALETTE

_MARKERS = "osD^v<"


def flips(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws the share of predictions that a shift flips, against the shift.

  Args:
    rows: With network, placing, seed and flips_along_x; one panel for each placing of the
      training images, means over seeds.
  """
  placings = list(dict.fromkeys(row["placing"] for row in rows))
  networks = list(dict.fromkeys(row["network"] for row in rows))
  figure = Figure(figsize=(6.4 * len(placings), 4), layout="constrained")
  for axes, placing in zip(
    figure.subplots(1, len(placings), squeeze=False, sharey=True)[0], placings, strict=True
  ):
    for i, network in enumerate(networks):
      own = [r for r in rows if (r["network"], r["placing"]) == (network, placing)]
      share = 100 * np.mean([row["flips_along_x"] for row in own], axis=0)
      style = {"color": PALETTE[i % 6], "marker": _MARKERS[i % 6], "ms": 4, "lw": 1.2}
      axes.plot(np.arange(len(share)), share, label=network, **style)
    axes.set(xlabel="cyclic shift along x (pixels)", ylabel="predictions that flip, %")
    seeds = len({row["seed"] for row in rows})
    axes.set_title(
      f"trained on digits placed: {placing}; {seeds} seed{'s' if seeds > 1 else ''}", fontsize=9
    )
    axes.grid(alpha=0.25)
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center", fontsize=8)
  return figure


def accuracies(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws the test accuracy of both predictors by constraint, one panel for each bias.

  Args:
    rows: With bias, constraint, seed, projection_test_accuracy and relaxed_test_accuracy; bars are
      means, dots the seeds.
  """
  biases = list(dict.fromkeys(row["bias"] for row in rows))
  constraints = list(dict.fromkeys(row["constraint"] for row in rows))
  figure = Figure(figsize=(4.6 * len(biases), 3.8), layout="constrained")
  for axes, bias in zip(
    figure.subplots(1, len(biases), squeeze=False, sharey=True)[0], biases, strict=True
  ):
    for i, predictor in enumerate(("projection", "relaxed")):
      for j, constraint in enumerate(constraints):
        own = [r for r in rows if (r["bias"], r["constraint"]) == (bias, constraint)]
        values = [100 * row[f"{predictor}_test_accuracy"] for row in own]
        x, label = j + 0.4 * i - 0.2, predictor if j == 0 else None
        axes.bar(x, np.mean(values), 0.38, color=PALETTE[i], alpha=0.75, label=label)
        axes.plot([x] * len(values), values, "k.", ms=4)
    if bias != "none":
      axes.axhline(200 / 3, color="0.3", ls="--", lw=1, label="no invariant classifier is above")
    axes.set_xticks(range(len(constraints)), constraints)
    axes.set(title=f"position bias: {bias}", ylabel="test accuracy, %", ylim=(0, 100))
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=8, loc="lower left")
  return figure
