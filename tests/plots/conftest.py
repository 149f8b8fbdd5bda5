"""What can be read of a figure: bounding boxes of the labels, as they are drawn."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg


@pytest.fixture
def unreadable():
  """Returns what cannot be read of a figure: tick labels that overlap, texts beyond its edge."""
  return lambda figure: [*_colliding(figure), *_outside(figure)]


def _colliding(figure):
  """Returns pairs of tick labels of one axis that overlap."""
  pairs = []
  for name, labels in _tick_labels(figure):
    boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
    for (a, box), (b, other) in itertools.combinations(boxes, 2):
      if box.overlaps(other):
        pairs.append((name, a, b))
  return pairs


def _outside(figure):
  """Returns the texts that reach beyond the figure: labels of axes and ticks, titles, legends."""
  texts = [label for _, labels in _tick_labels(figure) for label in labels]
  for axes in figure.axes:
    texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *_legend_texts(axes.get_legend())]
  for legend in figure.legends:
    texts += _legend_texts(legend)
  width, height = figure.bbox.size
  far = []
  for text in texts:
    if text.get_text() and text.get_visible():
      box = text.get_window_extent()
      if box.x0 < -2 or box.y0 < -2 or box.x1 > width + 2 or box.y1 > height + 2:
        far.append(text.get_text())
  return far


def _tick_labels(figure):
  FigureCanvasAgg(figure).draw()
  named = []
  for index, axes in enumerate(figure.axes):
    for axis in (axes.xaxis, axes.yaxis):
      low, high = sorted(axis.get_view_interval())
      labels = [
        tick.label1
        for tick in axis.get_major_ticks()
        if tick.label1.get_visible() and tick.label1.get_text() and low <= tick.get_loc() <= high
      ]
      named.append((f"panel {index}, {axis.axis_name}", labels))
  return named


def _legend_texts(legend):
  return [] if legend is None else [*legend.get_texts(), legend.get_title()]
