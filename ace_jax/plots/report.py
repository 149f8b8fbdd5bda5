"""Figures of the misalignment report, and of equivariance errors."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ace_jax.plots import style
from ace_jax.symmetry.report import SMALLEST_EFFECT, THRESHOLD, GeneratorReport, LayerReport
from ace_jax.symmetry.verdicts import Verdict

_ROUNDING = 1e-6
"""Relative errors of float32 arithmetic in a network are below this."""
_SMALLEST = 1e-9
_ADMIXTURE = r"admixture $|\gamma|$ rms($f_{neq}$) / rms($f_{eq}$)"
_SENSITIVITY = r"sensitivity $|\lambda|$ rms($f_{eq}$) / rms($f_{neq}$)"


def misalignment(layers: Sequence[LayerReport], generators: Sequence[GeneratorReport]) -> Figure:
  """Draws the layers' costs, and for each generator how much the loss grows on moved data.

  Args:
    layers: Ranked, of one seed.
    generators: Ranked, over all seeds; bars reach to `THRESHOLD` standard errors. The axis is
      linear up to `SMALLEST_EFFECT` and logarithmic beyond. Of a prediction with several entries
      a panel more shows the model's own error in each.
  """
  height = 0.35 * max(len(layers), len(generators), 4) + 1.7
  named = bool(generators[0].entries)
  ratios = (1, 1, 1.3, *([1] * named))
  figure, grid = style.panels(1, len(ratios), 12 + 5 * named, height, width_ratios=ratios)
  left, middle, right = grid[0][:3]
  rows = np.arange(len(layers))[::-1]
  costs = {
    left: ([report.admixture for report in layers], _ADMIXTURE),
    middle: ([report.sensitivity or 0.0 for report in layers], _SENSITIVITY),
  }
  for axes, (values, label) in costs.items():
    # The power of 10 stands in the label, where it cannot hide behind it.
    exponent = int(np.floor(np.log10(max(max(values, default=0), 1e-30))))
    if values and max(values) and exponent < -1:
      values, label = [value / 10.0**exponent for value in values], f"{label} ({_times(exponent)})"
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.barh(rows, values, 0.7, color=style.GREY)
    axes.set_xlim(left=0)
    if not any(values):
      axes.set_xticks([0])
      said = "all 0" if values else "no layer relaxes"
      axes.annotate(said, (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=8)
    axes.set_yticks(rows, [report.name for report in layers] if axes is left else [])
    axes.set_xlabel(label, fontsize=8)
    axes.grid(False, axis="y")
  left.set_title("layers: share of $f_{neq}$", loc="left")
  middle.set_title("layers: what symmetry costs", loc="left")
  _growths(right, generators)
  if named:
    _entries(grid[0][3], generators)
  seeds = generators[0].seeds
  handles = [
    style.handle("broken", style.BROKEN, ls=""),
    style.handle("not seen to be broken", style.KEPT, ls="", mfc="white"),
    style.handle("cannot tell", style.UNKNOWN, ls="", mfc="white"),
    style.handle(f"smallest effect, {SMALLEST_EFFECT:.0%}", style.LOOKS["linear"], marker=""),
  ]
  count = f"{seeds} seed{'s' if seeds > 1 else ''}"
  note = (
    f"generators: {count}, numbers with their standard error, bars of {THRESHOLD:g} of them; "
    "layers: one seed"
  )
  style.legend(figure, handles, note, ncols=4)
  return figure


def _times(exponent: int) -> str:
  return rf"$\times10^{{{exponent}}}$"


_LOOKS = {
  Verdict.BROKEN: style.BROKEN,
  Verdict.KEPT: style.KEPT,
  Verdict.CANNOT_TELL: style.UNKNOWN,
}


def _growths(axes: Axes, generators: Sequence[GeneratorReport]) -> None:
  rows = np.arange(len(generators))[::-1]
  for row, report in zip(rows, generators, strict=True):
    look = _LOOKS[report.judgement.verdict]
    face = look.color if report.broken else "white"
    error = THRESHOLD * report.error
    axes.errorbar(
      report.loss, row, xerr=error, fmt=look.marker, color=look.color, mfc=face, capsize=3, ms=6
    )
    said = f"{report.loss:+.3f} ± {report.error:.3f}"
    axes.annotate(
      said, (1, row), xycoords=("axes fraction", "data"), fontsize=8, va="center",
      xytext=(6, 0), textcoords="offset points", color=look.color,
    )  # fmt: skip
  axes.set_yticks(rows, [report.name for report in generators])
  axes.set_ylim(-0.6, len(generators) - 0.4)
  axes.axvline(0, color="0.6", lw=0.8)
  look = style.LOOKS["linear"]
  axes.axvline(SMALLEST_EFFECT, color=look.color, lw=1.2, ls=look.dash)
  axes.set_xscale("symlog", linthresh=SMALLEST_EFFECT, linscale=0.6)
  ends = [(report.loss, THRESHOLD * report.error) for report in generators]
  low = min(-SMALLEST_EFFECT, *(2 * (loss - error) for loss, error in ends))
  high = max(5 * SMALLEST_EFFECT, *(2 * (loss + error) for loss, error in ends))
  axes.set_xlim(low, high)
  powers = [10.0**n for n in range(-1, 9)]
  step = 1 + sum(p <= max(high, -low) for p in powers) // 5
  shown = [p for p in powers[::step] if p <= high]
  below = [-p for p in powers[::step] if p <= -low]
  labels = [f"$-${style.power(-p)}" for p in below] + ["0"] + [style.power(p) for p in shown]
  axes.set_xticks([*below, 0, *shown], labels)
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel("growth of the loss on moved data, (moved - own) / own")
  axes.set_title("generators", loc="left")


def _entries(axes: Axes, generators: Sequence[GeneratorReport]) -> None:
  rows = np.arange(len(generators))[::-1]
  for index, entry in enumerate(generators[0].entries):
    look = style.look("", index)
    values = [max(report.entries[entry], _SMALLEST) for report in generators]
    axes.plot(values, rows, look.marker, color=look.color, label=entry, ms=5)
  axes.set_yticks(rows, [""] * len(rows))
  axes.set_ylim(-0.6, len(generators) - 0.4)
  axes.axvspan(_SMALLEST / 10, _ROUNDING, color="0.94", lw=0)
  axes.set(xlim=(_SMALLEST / 2, 10), xlabel="relative error along it (grey: rounding)")
  style.logarithmic(axes, "x")
  axes.set_title("the model, by entry", loc="left")
  style.legend(axes, loc="best")


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
  figure, grid = style.panels(2, 2, 10.5, 7)
  titles = ("errors by group", "errors of every layer's features, SO(3)")
  for axes, errors, title in zip(grid[0], (by_group, by_layer), titles, strict=True):
    rows = np.arange(len(errors))
    axes.axvspan(1e-9, _ROUNDING, color="0.94", lw=0)
    for name in next(iter(errors.values())):
      look = style.look(name)
      values = [max(error[name], 1e-9) for error in errors.values()]
      hollow = "white" if name == "projection" else look.color
      size = 8 if name == "projection" else 5  # both are seen where they agree
      axes.plot(values, rows, look.marker, color=look.color, mfc=hollow, ms=size, label=name)
    axes.set_yticks(rows, list(errors))
    axes.set(xlim=(1e-8, 1), xlabel="relative equivariance error", title=title)
    style.logarithmic(axes, "x")
    axes.invert_yaxis()
  style.legend(grid[0, 0], loc="center", note="grey: rounding (float32)")
  titles = (r"this run's model, every $\gamma$ at one value", "a small network of channel mixings")
  names = {
    "equivariance error": "equivariance error",
    "distance from projection": "distance from the projection",
    "largest error": "largest error found",
    "certificate": "proven bound (certificate)",
    "estimate": "bound with sampled constants (estimate)",
  }
  for axes, curves, title in zip(grid[1], (by_gamma, bounds), titles, strict=True):
    for index, (name, values) in enumerate(curves.items()):
      look = style.look("", index + 2)
      line = {"color": look.color, "marker": look.marker, "ls": look.dash, "ms": 4, "lw": 1.4}
      axes.plot(gammas, values, label=names.get(name, name), **line)
    axes.set(xlabel=r"value of every $\gamma$", title=title)
    style.logarithmic(axes, "x", "y")
    style.legend(axes, loc="upper left")
  grid[1, 0].set_ylabel("relative to the prediction's norm")
  grid[1, 1].set_ylabel("norm of the error, and its bounds")
  return figure
