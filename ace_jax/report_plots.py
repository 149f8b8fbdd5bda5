"""The figure of the misalignment report."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ace_jax.symmetry.report import THRESHOLD, GeneratorReport, LayerReport

_KEPT, _BROKEN = "#0072B2", "#D55E00"


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
  left.barh(rows, [report.admixture for report in layers], color=_KEPT)
  left.set_yticks(rows, names, fontsize=8)
  left.set_xlabel(r"admixture $|\gamma|\, rms(f_{neq}) / rms(f_{eq})$", fontsize=8)
  middle.barh(rows, [report.sensitivity or 0.0 for report in layers], color=_KEPT)
  middle.set_yticks(rows, [])
  middle.set_xlabel(r"sensitivity $|\lambda|\, rms(f_{eq}) / rms(f_{neq})$", fontsize=8)
  rows = np.arange(len(generators))[::-1]
  for row, report in zip(rows, generators, strict=True):
    color = _BROKEN if report.broken else _KEPT
    error = THRESHOLD * report.error
    right.errorbar(report.loss, row, xerr=error, fmt="o", color=color, capsize=3, ms=5)
  right.set_yticks(rows, [report.name for report in generators], fontsize=8)
  right.axvline(0, color="0.6", lw=0.8)
  right.set_xlabel("loss on moved data / own loss", fontsize=8)
  right.set_title(f"bars: {THRESHOLD:g} standard errors; orange: broken", fontsize=8, color="0.4")
  for axes in (left, middle, right):
    axes.grid(alpha=0.25, axis="x")
    axes.tick_params(axis="x", labelsize=8)
  return figure
