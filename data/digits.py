"""Handwritten digits on a torus: scikit-learn's 8 x 8 digits, enlarged and cyclically placed.

Cyclic shifts of such images are exact: nothing leaves the canvas, nothing is interpolated.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data.errors import DataError, RequestError

Split = dict[str, np.ndarray]

CLASSES = 10
SIZES = {"train": 1000, "valid": 297, "test": 500}
BIASES = ("none", "x", "y")
PLACINGS = ("uniform", "centre")
_SIDE, _LARGEST, _COUNT = 8, 16.0, 1797
_UNIT = 5.0
"""Near the root mean square of a default canvas; the background stays at 0, as zero padding is."""


class Digits(NamedTuple):
  """Images as they come: `images` in [0, 16], [n, 8, 8], and `labels`."""

  images: Float[np.ndarray, "n 8 8"]
  labels: Int[np.ndarray, " n"]


def read() -> Digits:
  """Reads the digits that scikit-learn ships (Alpaydin & Kaynak, UCI, 1998; the test set there).

  Raises:
    DataError: scikit-learn is missing, or its digits are not the ones that are expected.
  """
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise DataError(
      "the digits come with scikit-learn, which is not installed: pip install -e '.[images]'."
    ) from error
  digits = load_digits()
  return checked(np.asarray(digits["images"]), np.asarray(digits["target"]))


def checked(images: np.ndarray, labels: np.ndarray) -> Digits:
  """Returns the digits if sizes and values are those of the known data set.

  Raises:
    DataError: says what is wrong.
  """
  expected = (_COUNT, _SIDE, _SIDE)
  wrong = None
  if images.shape != expected or labels.shape != expected[:1]:
    wrong = f"have shapes {list(images.shape)} and {list(labels.shape)} where {_COUNT} are known"
  elif not np.isfinite(images).all() or images.min() < 0 or images.max() > _LARGEST:
    wrong = f"hold values outside [0, {_LARGEST:g}]"
  elif not np.array_equal(np.unique(labels), np.arange(CLASSES)):
    wrong = "have labels other than 0 to 9"
  if wrong:
    raise DataError(f"scikit-learn's digits {wrong}; reinstall scikit-learn.")
  return Digits(images, labels)


def load(
  bias: str = "none",
  placing: str = "uniform",
  factor: int = 2,
  canvas: int = 24,
  data_seed: int = 0,
) -> dict[str, Split]:
  """Places every digit on a canvas, and splits.

  Digits, splits and places depend on the seed alone, so that data sets with different biases have
  the same images and differ in labels. With `bias` "x" the label of a digit d is

      d                   where its left edge is in the first two thirds of the canvas,
      (d + 5) modulo 10   in the last third,

  and with "y" the same of its upper edge. Places are independent of digits and uniform, so that a
  shift-invariant classifier that knows the digit is right in two cases of three at best, and its
  expected cross-entropy at least log 3 - 2/3 log 2 = 0.637. Shifts along the other axis remain a
  symmetry.

  Args:
    bias: "none", "x" or "y".
    placing: "uniform", or "centre" for every digit in the middle.
    factor: How many times the digits are enlarged, each pixel to a square of equal pixels.
    canvas: Width and height of the torus, in pixels.
    data_seed: Draws splits and places.

  Returns:
    For "train", "valid" and "test": `image`, [n, canvas, canvas, 1], float32, with a root mean
    square near 1; `label`, [n], int32; `place`, [n, 2], int32, row and column of the upper left
    corner.

  Raises:
    RequestError: the arguments do not exist, or do not go together.
    DataError: see `read`.
  """
  _check(bias, placing, factor, canvas)
  digits = read()
  random = np.random.default_rng(data_seed)
  order = random.permutation(_COUNT)
  uniform = random.integers(canvas, size=(_COUNT, 2))
  middle = np.full_like(uniform, (canvas - factor * _SIDE) // 2)
  places = uniform if placing == "uniform" else middle
  images, labels = digits.images[order], digits.labels[order]
  if bias != "none":
    far = 3 * places[:, "yx".index(bias)] >= 2 * canvas
    labels = np.where(far, (labels + CLASSES // 2) % CLASSES, labels)
  arrays = {
    "image": paste(images / _UNIT, places, factor, canvas),
    "label": labels.astype(np.int32),
    "place": places.astype(np.int32),
  }
  splits, start = {}, 0
  for name, size in SIZES.items():
    splits[name] = {key: array[start : start + size] for key, array in arrays.items()}
    start += size
  return splits


def paste(
  images: Float[np.ndarray, "n height width"],
  places: Int[np.ndarray, "n 2"],
  factor: int,
  canvas: int,
) -> Float[np.ndarray, "n canvas canvas 1"]:
  """Enlarges images and puts each on a torus, its upper left corner at a place (row, column)."""
  large = images.repeat(factor, axis=1).repeat(factor, axis=2)
  n, height, width = large.shape
  rows = (places[:, 0, None] + np.arange(height)) % canvas
  columns = (places[:, 1, None] + np.arange(width)) % canvas
  result = np.zeros((n, canvas, canvas, 1), np.float32)
  result[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :], 0] = large
  return result


def _check(bias: str, placing: str, factor: int, canvas: int) -> None:
  if bias not in BIASES or placing not in PLACINGS:
    raise RequestError(
      f"bias {bias!r}, placing {placing!r} asked for; there are {', '.join(BIASES)} and "
      f"{', '.join(PLACINGS)}."
    )
  if bias != "none" and placing != "uniform":
    raise RequestError(f"bias {bias!r} needs places that differ; take placing 'uniform'.")
  if factor < 1 or canvas < factor * _SIDE:
    raise RequestError(
      f"digits enlarged {factor} times do not fit on a canvas of {canvas} pixels; it needs at "
      f"least {max(factor, 1) * _SIDE}."
    )
