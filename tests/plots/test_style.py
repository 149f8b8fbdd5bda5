import numpy as np
import pytest
from matplotlib.colors import to_rgb

from ace_jax.plots import style

# Machado, Oliveira and Fernandes (2009), full severity, of linear RGB.
DEFICIENT = {
  "protan": [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  "deutan": [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
}


def linear(color):
  rgb = np.array(to_rgb(color))
  return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", DEFICIENT)
def test_colour_blind_readers_tell_the_first_six_colours_apart(kind):
  seen = [np.clip(np.array(DEFICIENT[kind]) @ linear(color), 0, 1) for color in style.PALETTE]
  gaps = [np.abs(np.sqrt(a) - np.sqrt(b)).max() for i, a in enumerate(seen) for b in seen[:i]]
  assert min(gaps) > 0.12


def test_names_differ_in_marker_or_dash_too():
  looks = list(style.LOOKS.values())
  assert len({(look.marker, str(look.dash)) for look in looks}) == len(looks)
  ways = [style.look("", index) for index in range(len(style.PALETTE))]
  for part in zip(*ways, strict=True):
    assert len(set(map(str, part))) == len(ways)


@pytest.mark.parametrize(
  ("low", "high"),
  [
    (1e-8, 1e-2),
    (7e-3, 2.4e-2),
    (0.522, 0.56),
    (24.0, 85.0),
    (3e-4, 1e-2),
    (1e-3, 0.99),
    (1e5, 3e5),
  ],
)
def test_ticks_of_logarithmic_axes_have_room(low, high, unreadable):
  figure, grid = style.panels(1, 2, 7, 3)
  for axes in grid[0]:
    axes.plot([low, high], [low, high])
    style.logarithmic(axes, "x", "y")
  assert unreadable(figure) == []
  for axes in grid[0]:
    ticks = axes.get_xticks()
    assert 2 <= len([t for t in ticks if low <= t <= high]) <= 8


def test_ticks_are_powers_or_short_decimals():
  assert style.power(1e-3) == "$10^{-3}$"
  assert style.power(2e-3) == r"$2\times10^{-3}$"
  assert style.power(0) == ""
  figure, grid = style.panels(1, 1, 4, 3)
  grid[0, 0].plot([1e-8, 1e-2], [0.05, 0.07])
  style.logarithmic(grid[0, 0], "x", "y")
  figure.draw_without_rendering()
  assert [label.get_text() for label in grid[0, 0].get_xticklabels()] == [
    f"$10^{{{n}}}$" for n in (-8, -6, -4, -2)
  ]
  assert "0.06" in [label.get_text() for label in grid[0, 0].get_yticklabels()]


@pytest.mark.parametrize("width", [3.5, 10.0])
def test_legends_are_no_wider_than_their_figure(width, unreadable):
  figure, grid = style.panels(1, 1, width, 4)
  grid[0, 0].set(xlabel="x", ylabel="y")
  handles = [style.handle(f"a rather long name, {i}", style.look("", i)) for i in range(6)]
  style.legend(figure, handles, "a note that says what lines join and what bars span " * 2, ncols=6)
  assert unreadable(figure) == []
