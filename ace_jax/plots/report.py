"""Figures of the misalignment report, and of equivariance errors."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ace_jax.plots.palette import BROKEN, KEPT
from ace_jax.symmetry.report import THRESHOLD, GeneratorReport, LayerReport


def misalignment(layers: Sequence[LayerReport], generators: Sequence[GeneratorReport]) -> Figure:
  """Draws the layers' costs, and for each generator what the fit loses on moved data.

  Args:
    layers: Ranked, of one seed.
    generators: Ranked, over all seeds; bars reach to `THRESHOLD` standard errors.
  """
  figure = Figure(figsize=(10, 0.35 * max(len(layers), 6) + 1.6), layout="constrained")
  left, middle, right = figure.subplots(1, 3)
  names = [report.name for report in layers]
  rows = np.arange(len(layers))[::-1]
  left.barh(rows, [report.admixture for report in layers], color=KEPT)
  left.set_yticks(rows, names, fontsize=8)
  left.set_xlabel(r"admixture $|\gamma|\, rms(f_{neq}) / rms(f_{eq})$", fontsize=8)
  middle.barh(rows, [report.sensitivity or 0.0 for report in layers], color=KEPT)
  middle.set_yticks(rows, [])
  middle.set_xlabel(r"sensitivity $|\lambda|\, rms(f_{eq}) / rms(f_{neq})$", fontsize=8)
  rows = np.arange(len(generators))[::-1]
  for row, report in zip(rows, generators, strict=True):
    color = BROKEN if report.broken else KEPT
    error = THRESHOLD * report.error
    right.errorbar(report.loss, row, xerr=error, fmt="o", color=color, capsize=3, ms=5)
  right.set_yticks(rows, [report.name for report in generators], fontsize=8)
  right.axvline(0, color="0.6", lw=0.8)
  right.set_xlabel("loss on moved data / own loss", fontsize=8)
  right.set_title(f"bars: {THRESHOLD:g} standard errors; orange: broken", fontsize=8, color="0.4")
  for axes in (left, middle, right):
    axes.grid(alpha=0.25, axis="x")
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=5)
  return figure


def equivariance(
  by_group: Mapping[str, Mapping[str, float]],
  by_layer: Mapping[str, Mapping[str, float]],
  gammas: Float[np.ndarray, " levels"],
  by_gamma: Mapping[str, Sequence[float]],
  bounds: Mapping[str, Sequence[float]],
) -> Figure:
  """Draws relative errors by group and by layer, errors against gamma, and bounds against gamma.

  Args:
    by_group: Errors of each predictor, by group.
    by_layer: Errors of each predictor, by layer.
    gammas: Values of every gamma.
    by_gamma: Quantities of the run's model at each of them.
    bounds: The largest error and its bounds, of another network, at each of them.
  """
  figure = Figure(figsize=(13, 3.6), layout="constrained")
  panels = figure.subplots(1, 4)
  for axes, errors, title in zip(
    panels, (by_group, by_layer), ("by group", "by layer"), strict=False
  ):
    places = np.arange(len(errors))
    predictors = list(next(iter(errors.values())))
    for i, name in enumerate(predictors):
      offset = 0.8 * (i + 0.5) / len(predictors) - 0.4
      values = [max(error[name], 1e-9) for error in errors.values()]
      axes.barh(places + offset, values, 0.8 / len(predictors), label=name, left=1e-9)
    axes.set(xscale="log", yticks=places, yticklabels=list(errors), title=title, xlim=(1e-9, 10))
    axes.set_xlabel("relative equivariance error", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=6)
  titles = ("all gammas equal", "channel mixings: bounds")
  for axes, curves, title in zip(panels[2:], (by_gamma, bounds), titles, strict=True):
    for name, values in curves.items():
      axes.loglog(gammas, values, ".-", label=name)
    axes.set(xlabel=r"$\gamma$", title=title)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
  panels[2].set_ylabel("relative", fontsize=9)
  panels[3].set_ylabel("norm", fontsize=9)
  return figure
