import sys

import numpy as np
import pytest

from data import digits
from data.errors import DataError, RequestError


def test_splits_are_fixed_by_the_seed_and_hold_every_digit_once():
  data = digits.load(data_seed=3)
  again = digits.load(data_seed=3)
  other = digits.load(data_seed=4)
  assert {name: len(part["label"]) for name, part in data.items()} == digits.SIZES
  assert sum(digits.SIZES.values()) == 1797
  image = data["train"]["image"]
  assert image.shape == (1000, 24, 24, 1)
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image, again["train"]["image"])
  assert not np.array_equal(data["train"]["label"], other["train"]["label"])
  labels = np.concatenate([part["label"] for part in data.values()])
  np.testing.assert_array_equal(np.bincount(labels), np.bincount(digits.read().labels))


def test_places_are_cyclic_shifts_of_one_image():
  centred = digits.load(placing="centre")["test"]
  assert np.all(centred["place"] == 4)
  moved = digits.load()["test"]
  # Places of all rows and columns occur, those that wrap around included.
  assert {*range(24)} == {*moved["place"][:, 0]} == {*moved["place"][:, 1]}
  for i in range(50):
    expected = np.roll(centred["image"][i], moved["place"][i] - 4, (0, 1))
    np.testing.assert_array_equal(moved["image"][i], expected)
  np.testing.assert_array_equal(moved["label"], centred["label"])


def test_enlarged_pixels_are_squares():
  image = np.arange(4.0).reshape(1, 2, 2)
  pasted = digits.paste(image, np.array([[3, 0]]), factor=2, canvas=4)[0, :, :, 0]
  # Rows 3, 0 hold the upper half, rows 1, 2 the lower one.
  expected = [[0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3], [0, 0, 1, 1]]
  np.testing.assert_array_equal(pasted, expected)


@pytest.mark.parametrize(("bias", "axis"), [("y", 0), ("x", 1)])
def test_a_bias_changes_labels_by_the_place_alone(bias, axis):
  plain, biased = digits.load()["train"], digits.load(bias)["train"]
  np.testing.assert_array_equal(plain["image"], biased["image"])
  far = plain["place"][:, axis] >= 16
  assert 0.3 < far.mean() < 0.37
  np.testing.assert_array_equal(biased["label"] == plain["label"], ~far)
  np.testing.assert_array_equal(biased["label"][far], (plain["label"][far] + 5) % 10)
  # What is left of the other coordinate: nothing.
  assert abs(np.corrcoef(far, plain["place"][:, 1 - axis])[0, 1]) < 0.1


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ({"bias": "z"}, "there are none, x, y"),
    ({"placing": "corner"}, "uniform, centre"),
    ({"bias": "x", "placing": "centre"}, "needs places that differ"),
    ({"factor": 4}, "needs at least 32"),
    ({"factor": 0}, "needs at least 8"),
  ],
)
def test_requests_that_cannot_be_met(arguments, says):
  with pytest.raises(RequestError, match=says):
    digits.load(**arguments)


def test_digits_that_are_not_the_known_ones():
  images, labels = digits.read()
  broken = images.copy()
  broken[7, 0, 0] = np.nan
  with pytest.raises(DataError, match="outside"):
    digits.checked(broken, labels)
  with pytest.raises(DataError, match="shapes"):
    digits.checked(images[:-1], labels)
  with pytest.raises(DataError, match="labels other than"):
    digits.checked(images, labels + 1)


def test_without_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
  with pytest.raises(DataError, match=r"pip install -e '\.\[images\]'"):
    digits.read()
