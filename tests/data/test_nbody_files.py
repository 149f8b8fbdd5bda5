"""N-body data in the public layouts: .npy triples of positions, velocities and charges."""

import numpy as np
import pytest

from data import nbody
from data.errors import DataError

SIZES = {"train": 6, "valid": 3, "test": 5}


@pytest.fixture
def arrays():
  random = np.random.default_rng(0)
  content = {}
  for split, count in SIZES.items():
    content[f"loc_{split}"] = random.normal(size=(count, 49, 3, 5))
    content[f"vel_{split}"] = random.normal(size=(count, 49, 3, 5))
    content[f"charges_{split}"] = random.choice([-1.0, 1.0], size=(count, 5, 1))
  return content


def write(folder, arrays, name="_charged5_initvel1small"):
  for key, array in arrays.items():
    np.save(folder / f"{key}{name}.npy", array)


@pytest.mark.parametrize("name", ["_charged5_initvel1small", ""])
def test_inputs_are_those_of_frame_30_and_targets_those_of_frame_40(tmp_path, arrays, name):
  write(tmp_path, arrays, name)
  np.save(tmp_path / f"edges_train{name}.npy", np.ones((6, 5, 5)))
  data = nbody.load_folder(tmp_path)
  assert data.summary["source"] == "file"
  assert data.summary["sizes"] == SIZES and data.summary["particles"] == 5
  for split in SIZES:
    arrays_of_split = getattr(data, split)
    for field, key, frame in (
      ("positions", "loc", 30),
      ("velocities", "vel", 30),
      ("targets", "loc", 40),
    ):
      expected = arrays[f"{key}_{split}"][:, frame].transpose(0, 2, 1).astype(np.float32)
      np.testing.assert_array_equal(arrays_of_split[field], expected)
    expected = arrays[f"charges_{split}"][:, :, 0]
    np.testing.assert_array_equal(arrays_of_split["charges"], expected)
    assert {array.dtype for array in arrays_of_split.values()} == {np.dtype(np.float32)}
  assert data.paths is not None and data.paths.shape == (4, 11, 5, 3)
  expected = arrays["loc_test"][:4, 33].transpose(0, 2, 1).astype(np.float32)
  np.testing.assert_array_equal(data.paths[:, 3], expected)
  file = nbody.load_file(tmp_path / f"vel_valid{name}.npy", train=2)
  np.testing.assert_array_equal(file.train["targets"], data.train["targets"][:2])
  assert file.summary["sizes"] == {**SIZES, "train": 2}


def test_other_names_of_splits_and_charges(tmp_path, arrays, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  content = {
    key.replace("valid", "val").replace("charges", "mass"): value for key, value in arrays.items()
  }
  write(tmp_path, {k: v[..., 0] if k.startswith("mass") else v for k, v in content.items()})
  data = nbody.load_folder("~")
  np.testing.assert_array_equal(data.valid["charges"], arrays["charges_valid"][:, :, 0])
  expected = arrays["loc_valid"][:, 40].transpose(0, 2, 1).astype(np.float32)
  np.testing.assert_array_equal(data.valid["targets"], expected)


def test_the_third_axis_is_that_of_coordinates_where_there_are_three_particles(tmp_path, arrays):
  few = {key: a[:, :3] if "charges" in key else a[..., :3] for key, a in arrays.items()}
  write(tmp_path, few)
  data = nbody.load_folder(tmp_path)
  expected = few["loc_train"][:, 30].transpose(0, 2, 1).astype(np.float32)
  np.testing.assert_array_equal(data.train["positions"], expected)


def test_charges_of_an_archive_may_have_a_last_axis_of_one(tmp_path):
  random = np.random.default_rng(0)
  content = {
    f"{split}_{field}": random.normal(size=(count, 5, 1 if field == "charges" else 3))
    for split, count in SIZES.items()
    for field in ("positions", "velocities", "charges", "targets")
  }
  np.savez(tmp_path / "a.npz", **content)
  charges = nbody.load_file(tmp_path / "a.npz").test["charges"]
  np.testing.assert_array_equal(charges, content["test_charges"][:, :, 0].astype(np.float32))


def _set(key, change):
  def damage(arrays, folder):
    write(folder, {**arrays, key: change(arrays[key])}, "_a")

  return damage


def _without(key):
  def damage(arrays, folder):
    write(folder, {k: v for k, v in arrays.items() if k != key}, "_a")

  return damage


def _not_finite(array):
  array = array.copy()
  array[1, 35, 2, 4] = np.nan
  return array


def _two_sets(arrays, folder):
  write(folder, arrays, "_a")
  write(folder, arrays, "_b")


def _twice(arrays, folder):
  write(folder, arrays, "_a")
  np.save(folder / "loc_val_a.npy", arrays["loc_valid"])


def _text(arrays, folder):
  write(folder, arrays, "_a")
  (folder / "vel_test_a.npy").write_text("not an array")


@pytest.mark.parametrize(
  ("damage", "says"),
  [
    (_without("vel_test"), r"vel_test_a\.npy: no such file"),
    (_without("charges_train"), r"charges_train_a\.npy: no such file"),
    (
      _set("loc_train", lambda a: a.swapaxes(2, 3)),
      r"loc_train_a\.npy: has shape \[6, 49, 5, 3\].*swap the last two axes",
    ),
    (_set("loc_test", lambda a: a[:, :40]), "has 40 frames; frame 40, counted from 0"),
    (_set("vel_valid", lambda a: a[1:]), r"vel_valid_a\.npy: has shape \[2, 49, 3, 5\]"),
    (_set("charges_test", lambda a: a[:, 1:]), r"charges_test_a\.npy: .* must be \[5, 5, 1\]"),
    (_set("loc_valid", _not_finite), r"positions\[1, 5, 2, 4\] is not finite; remove entry 1"),
    (_two_sets, "files of several data sets .*name one, --data_file=FOLDER/loc_train_NAME"),
    (_twice, r"loc_valid_a\.npy and loc_val_a\.npy are the same part of it"),
    (_text, r"vel_test_a\.npy: "),
    (lambda arrays, folder: None, r"no file loc_train\*\.npy"),
  ],
)
def test_damaged_folders(tmp_path, arrays, damage, says):
  damage(arrays, tmp_path)
  with pytest.raises(DataError, match=says) as error:
    nbody.load_folder(tmp_path)
  assert "\n" not in str(error.value)


def test_splits_of_different_numbers_of_particles(tmp_path, arrays):
  few = {key: a[:, :4] if "charges" in key else a[..., :4] for key, a in arrays.items()}
  write(tmp_path, {key: (few if "test" in key else arrays)[key] for key in arrays})
  with pytest.raises(DataError, match=r"the test files of charged5_.* have 4 particles where"):
    nbody.load_folder(tmp_path)


def test_a_file_that_belongs_to_no_set(tmp_path, arrays):
  write(tmp_path, arrays)
  np.save(tmp_path / "positions.npy", arrays["loc_train"])
  with pytest.raises(DataError, match=r"positions\.npy: not called as loc_train_NAME\.npy"):
    nbody.load_file(tmp_path / "positions.npy")
