"""One style for all figures: what looks how, panels, axes whose ticks can be read, legends.

Okabe and Ito's colours, which colour-blind readers can tell apart; a marker and a dash say the
same once more. What has a name in `LOOKS` looks alike in every figure.
"""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, Locator, MaxNLocator, NullFormatter

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#666666"

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
"""In the order in which curves without a name in `LOOKS` take them."""
MARKERS = ("o", "s", "D", "^", "v", "<", ">", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))


class Look(NamedTuple):
  """How one thing is drawn.

  Attributes:
    color: Of lines and markers.
    marker: Of points.
    dash: Of lines.
  """

  color: str
  marker: str
  dash: Any = "-"


KEPT, BROKEN = Look(BLUE, "o", ":"), Look(ORANGE, "s", "-")
UNKNOWN = Look(GREY, "X", "")
"""Symmetries that the data keep, and break."""

LOOKS = {
  "projection": Look(BLUE, "s", "--"),
  "relaxed": Look(ORANGE, "o", "-"),
  "strict": Look(BLACK, "D", ":"),
  "none": Look(GREEN, "*", "-."),
  "equality": Look(SKY, "v", "-."),
  "resilient": Look(PURPLE, "^", "-"),
  "inequality": Look(YELLOW, "v", "--"),
  "reference": Look(BLACK, "x", "--"),
  "linear": Look(GREY, "+", ":"),
}
"""The predictors, the constraints, a published result, and the linear prediction."""

_SMALL, _TEXT = 8, 9
_LETTER = 0.068
"""Width of a small letter, in inches."""
_RC: dict[Any, Any] = {
  "font.size": _TEXT,
  "axes.titlesize": 10,
  "axes.labelsize": _TEXT,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "xtick.labelsize": _SMALL,
  "ytick.labelsize": _SMALL,
}


def look(name: str, index: int = 0) -> Look:
  """Returns the look of a name, or of the index-th curve where the name has none."""
  dash = DASHES[index % len(DASHES)]
  fallback = Look(PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)], dash)
  return LOOKS.get(name, fallback)


def panels(
  rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
  """Makes a figure with a grid of panels.

  Args:
    rows: Of panels.
    columns: Of panels.
    width: Of the figure, in inches.
    height: Of the figure, in inches.
    options: Of `Figure.subplots`, such as `sharex`.

  Returns:
    The figure, and its axes [rows, columns].
  """
  with matplotlib.rc_context(_RC):
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
  for axes in grid.flat:
    # Ticks are made when they are drawn, outside of the context above.
    axes.tick_params(which="both", labelsize=_SMALL)
    axes.grid(True, color="0.9", lw=0.6)
    axes.set_axisbelow(True)
  return figure, grid


def handle(label: str, look: Look, **options: Any) -> Line2D:
  """Returns the entry of a legend for a look; options are those of `Line2D`."""
  style = {"color": look.color, "marker": look.marker, "ls": look.dash, "ms": 5, "lw": 1.4}
  return Line2D([], [], label=label, **{**style, **options})


def legend(
  target: Figure | Axes,
  handles: Sequence[Artist] | None = None,
  note: str = "",
  ncols: int = 1,
  loc: Any = "best",
) -> None:
  """Puts a legend into a panel, or below the panels of a figure, in columns that fit its width.

  Args:
    target: What gets the legend.
    handles: Its entries; those of the labelled artists by default.
    note: What a line joins and a bar spans, and over how many seeds: the legend's title.
    ncols: Columns at most.
    loc: Where in a panel.
  """
  if handles is None:
    panels = target.axes if isinstance(target, Figure) else [target]
    handles = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
  if isinstance(target, Figure):
    loc = "outside lower center"
    width = target.get_figwidth() - 0.2
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    ncols = max(1, min(ncols, int(width / (_LETTER * longest + 0.65))))
    note = "\n".join(textwrap.wrap(note, int(width / _LETTER)))
  box = target.legend(
    handles=list(handles), loc=loc, ncols=ncols, title=note or None,
    fontsize=_SMALL, title_fontsize=_SMALL, frameon=False, alignment="center",
  )  # fmt: skip
  box.get_title().set_color("0.3")
  box.get_title().set_multialignment("center")


def logarithmic(axes: Axes, *names: str, most: int | None = None) -> None:
  """Makes axes logarithmic, with few ticks that are powers of 10 or multiples of them.

  Args:
    axes: The panel.
    names: "x", "y".
    most: Ticks at most; 5 of x and 7 of y by default.
  """
  for name in names:
    axis = axes.xaxis if name == "x" else axes.yaxis
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(Powers(most or (5 if name == "x" else 7)))
    axis.set_major_formatter(_PowerFormatter())
    axis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
  """Writes a number as a power of 10, or a multiple of one, such as 2 x 10^-3."""
  if value <= 0 or not np.isfinite(value):
    return ""
  exponent = int(np.floor(np.log10(value) + 1e-9))
  factor = f"{value / 10.0**exponent:.3g}"
  return f"$10^{{{exponent}}}$" if factor == "1" else rf"${factor}\times10^{{{exponent}}}$"


class _PowerFormatter(Formatter):
  def __call__(self, x: float, pos: int | None = None) -> str:
    low, high = sorted(self.axis.get_view_interval())  # pyright: ignore[reportOptionalMemberAccess]
    # Within a power of 10 decimals are easier to read, and shorter.
    short = low >= 1e-3 and high < min(10 * low, 1e4)
    return f"{x:.4g}" if short else power(x)


class Powers(Locator):
  """The finest of several sets of ticks of a logarithmic axis whose labels have room."""

  _FACTORS = (range(1, 10), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3))
  _STEPS = (1, 2, 3, 5, 10, 20, 50, 100)

  def __init__(self, most: int):
    self._most = most

  def __call__(self) -> Any:
    return self.tick_values(*self.axis.get_view_interval())  # pyright: ignore[reportOptionalMemberAccess]

  def tick_values(self, vmin: float, vmax: float) -> Any:
    """Returns the ticks between two numbers above 0."""
    low, high = sorted((max(vmin, 1e-300), max(vmax, 1e-300)))
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    exponents = np.arange(first, last + 1, dtype=float)
    choices = [np.outer(10.0**exponents, factors).ravel() for factors in self._FACTORS]
    if high > 1e3 * low:  # multiples say nothing over many powers
      choices = []
    choices += [10.0 ** exponents[exponents % step == 0] for step in self._STEPS]
    room = 0.8 * np.log10(high / low) / self._most
    for ticks in choices:
      seen = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
      if len(seen) > 1 and np.min(np.diff(np.log10(seen))) >= room:
        return seen
    ticks = np.asarray(MaxNLocator(self._most - 1).tick_values(low, high))
    return ticks[(ticks >= low) & (ticks <= high)]
