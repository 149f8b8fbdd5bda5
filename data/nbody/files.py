"""Trajectories from files: an .npz of this project's layout, or .npy files of published simulators.

The latter are those of the simulators of EGNN (Satorras et al., ICML 2021) and SEGNN (Brandstetter
et al., ICLR 2022), for each SPLIT (train, valid, test) and a NAME of the data set, which may be
empty:

    loc_SPLIT_NAME.npy      positions   [trajectories, frames, 3, particles]
    vel_SPLIT_NAME.npy      velocities  [trajectories, frames, 3, particles]
    charges_SPLIT_NAME.npy  charges     [trajectories, particles, 1] or [trajectories, particles]

with a frame every 0.1 time units; masses are in `mass_` in place of `charges_`. Other files beside
them, such as `edges_`, say nothing that these do not, and are not read. The third axis is always
that of coordinates, also where there are three particles.
"""

import re
from pathlib import Path

import numpy as np

from data import arrays as archive
from data import paths
from data.errors import DataError
from data.nbody.dataset import (
  FIELDS,
  FIRST_INDEX,
  INPUT_FRAME,
  SHOWN,
  TARGET_FRAME,
  Dataset,
  Split,
  as_splits,
  first,
  linear_error,
)

_REMEDY_ARCHIVE = "give an .npz laid out as the docstring of data.nbody.load_file says"
_REMEDY_FOLDER = "give files laid out as the docstring of data.nbody.files says"
_NAME = re.compile(r"(?:loc|vel|charges|mass|edges|force)_(?:train|valid|val|test)(.*)\.npy")
_SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
"""What files call each split."""


def load_file(path: str | Path, train: int | None = None) -> Dataset:
  """Reads a data set from an .npz with arrays SPLIT_FIELD, or one that an .npy file belongs to.

  Args:
    path: Has `train_`, `valid_` and `test_` times `positions`, `velocities`, `targets`
      [n, particles, 3] and `charges` [n, particles] or [n, particles, 1]. Or one of the .npy files
      of a published data set (`load_folder`). A leading ~ is the home folder.
    train: Use the first so many training trajectories; all by default.

  Raises:
    DataError: the file is missing, damaged or incomplete, or has fewer trajectories.
  """
  path = paths.expanded(path)
  if path.suffix == ".npy":
    match = _NAME.fullmatch(path.name)
    if not match:
      raise DataError(f"{path}: not called as loc_train_NAME.npy; {_REMEDY_FOLDER}.")
    return _load_published(path.parent, match[1], train)
  names = [f"{split}_{field}" for split in FIRST_INDEX for field in FIELDS]
  arrays = archive.read(path, names, _REMEDY_ARCHIVE)
  for split in FIRST_INDEX:
    charges = arrays[f"{split}_charges"]
    if charges.ndim == 3 and charges.shape[2] == 1:
      arrays[f"{split}_charges"] = charges[:, :, 0]
  for name in names:
    _check_array(path, name, arrays)
  return _dataset(path, as_splits(arrays), None, train)


def load_folder(folder: str | Path, train: int | None = None) -> Dataset:
  """Reads the published data set of a folder: .npy files as the docstring of this module says.

  Inputs are those of frame 30, targets of frame 40, as in the experiments of these papers.

  Args:
    folder: Has the files of one data set; a leading ~ is the home folder.
    train: Use the first so many training trajectories; all by default.

  Raises:
    DataError: it has files of none or of several data sets; a file is missing, damaged, or does
      not fit the others; or there are fewer trajectories.
  """
  folder = paths.expanded(folder)
  data_sets = {path.name: match[1] for path in folder.glob("*.npy") if (match := _file(path))}
  if not data_sets:
    raise DataError(f"{folder}: no file loc_train*.npy; {_REMEDY_FOLDER}.")
  if len({*data_sets.values()}) > 1:
    listed = ", ".join(sorted(name for name in data_sets if name.startswith("loc_"))[:4])
    raise DataError(
      f"{folder}: files of several data sets ({listed}); name one, "
      "--data_file=FOLDER/loc_train_NAME.npy."
    )
  return _load_published(folder, next(iter(data_sets.values())), train)


def _file(path: Path) -> re.Match[str] | None:
  match = _NAME.fullmatch(path.name)
  return match if match and path.name.startswith(("loc_", "vel_")) else None


def _load_published(folder: Path, name: str, train: int | None) -> Dataset:
  splits, way = {}, np.zeros(0)
  for split in FIRST_INDEX:
    splits[split], way = _read_split(folder, split, name)
    particles = splits[split]["positions"].shape[1]
    expected = splits["train"]["positions"].shape[1]
    if particles != expected:
      raise DataError(
        f"{folder}: the {split} files{_of(name)} have {particles} particles where those of train "
        f"have {expected}; all splits need the same number."
      )
  return _dataset(folder / f"loc_train{name}.npy", splits, way[:SHOWN], train)  # way of test


def _read_split(folder: Path, split: str, name: str) -> tuple[Split, np.ndarray]:
  """Returns a split, and its positions from input to target, [n, 11, particles, 3]."""
  files = {kind: _find(folder, kinds, split, name) for kind, kinds in _KINDS.items()}
  arrays = {kind: archive.read_one(path, _REMEDY_FOLDER) for kind, path in files.items()}
  positions, velocities, charges = (arrays[kind] for kind in _KINDS)
  shape = positions.shape
  if len(shape) != 4 or shape[2] != 3 or 0 in shape or shape[3] < 2:
    swapped = len(shape) == 4 and shape[3] == 3
    raise DataError(
      f"{files['positions']}: has shape {list(shape)}; it must be "
      "[trajectories, frames, 3, particles], with two particles or more"
      f"{': swap the last two axes' if swapped else ''}."
    )
  if shape[1] <= TARGET_FRAME:
    raise DataError(
      f"{files['positions']}: has {shape[1]} frames; frame {TARGET_FRAME}, counted from 0, is the "
      "target: take files with a frame every 0.1 time units."
    )
  if velocities.shape != shape:
    raise DataError(
      f"{files['velocities']}: has shape {list(velocities.shape)} where "
      f"{files['positions'].name} has {list(shape)}; take files that belong together."
    )
  if charges.shape not in ((shape[0], shape[3]), (shape[0], shape[3], 1)):
    raise DataError(
      f"{files['charges']}: has shape {list(charges.shape)}; with {files['positions'].name} it "
      f"must be {[shape[0], shape[3], 1]}: take files that belong together."
    )
  used = {
    "positions": positions[:, INPUT_FRAME : TARGET_FRAME + 1],
    "velocities": velocities[:, INPUT_FRAME],
    "charges": charges.reshape(shape[0], shape[3]),
  }
  for kind, array in used.items():
    archive.check_finite(files[kind], kind, array)
  way = used["positions"].astype(np.float32).swapaxes(2, 3)
  fields = {
    "positions": way[:, 0],
    "velocities": used["velocities"].astype(np.float32).swapaxes(1, 2),
    "charges": used["charges"].astype(np.float32),
    "targets": way[:, -1],
  }
  return {field: np.ascontiguousarray(array) for field, array in fields.items()}, way


_KINDS = {"positions": ("loc",), "velocities": ("vel",), "charges": ("charges", "mass")}
"""What files call each of a triple."""


def _find(folder: Path, kinds: tuple[str, ...], split: str, name: str) -> Path:
  """Returns the file of a split; where there is none, what its first name would be."""
  candidates = [
    folder / f"{kind}_{called}{name}.npy" for kind in kinds for called in _SPLITS[split]
  ]
  there = [path for path in candidates if path.is_file()]
  if len(there) > 1:
    raise DataError(
      f"{folder}: {there[0].name} and {there[1].name} are the same part of it; leave one."
    )
  return there[0] if there else candidates[0]


def _of(name: str) -> str:
  return f" of {name.strip('_')}" if name else ""


def _dataset(
  path: Path, splits: dict[str, Split], way: np.ndarray | None, train: int | None
) -> Dataset:
  summary = {
    "source": "file",
    "file": str(path),
    "sizes": {name: len(split["positions"]) for name, split in splits.items()},
    "particles": splits["train"]["positions"].shape[1],
    "linear_mse": {name: linear_error(split) for name, split in splits.items()},
  }
  data = Dataset(**splits, summary=summary, paths=way)
  return data if train is None else first(data, train)


def _check_array(path: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
  array = arrays[name]
  split, field = name.split("_")
  shape = (*arrays[f"{split}_positions"].shape[:2], *(() if field == "charges" else (3,)))
  if len(shape) - (field != "charges") != 2 or array.shape != shape or 0 in shape:
    wanted = "[n, particles]" if field == "charges" else "[n, particles, 3]"
    raise DataError(
      f"{path}: {name} has shape {list(array.shape)}; it must be {wanted}, not empty, like "
      f"{split}_positions."
    )
  if shape[1] != arrays["train_positions"].shape[1]:
    raise DataError(
      f"{path}: {name} has {shape[1]} particles where train_positions has "
      f"{arrays['train_positions'].shape[1]}; all splits need the same number."
    )
  archive.check_finite(path, name, array)
