"""Point clouds of shapes, with their classes.

ModelNet40 (Wu et al., "3D ShapeNets", CVPR 2015; research use) is not downloaded: it is read from a
folder in one of its public layouts, or shapes are made here (`data.modelnet.procedural`).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data.errors import DataError, RequestError, first_line
from data.modelnet import mesh, procedural
from data.paths import expanded

Split = dict[str, np.ndarray]

SOURCES = ("auto", "off", "hdf5", "procedural")
NAMES = ("train", "valid", "test")
VALID_SHARE = 10
"""One in so many training shapes of ModelNet, which has no validation set, is for validation."""
POINTS_OF_HDF5 = 2048
MADE = {"train": 880, "valid": 220, "test": 440}
"""Shapes that are made where there are no data: equally many of each class."""

_REMEDY = "get it again"


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Point clouds, split.

  Attributes:
    train: `points` [n, points, 3], float32, uniform by area, their mean at 0, the furthest at
      distance 1; `label` [n], int32.
    valid: The same, for validation: a part of the published training set.
    test: The same, for test.
    classes: Names, by label.
    summary: Source, place, sizes, number of points, the axis that is up, whether the shapes are
      made up.
  """

  train: Split
  valid: Split
  test: Split
  classes: list[str]
  summary: dict[str, Any]


def load(
  source: str = "auto",
  data_dir: str | Path | None = None,
  *,
  points: int = 1024,
  train: int | None = None,
  held_out: int | None = None,
  data_seed: int = 0,
) -> Dataset:
  """Loads shapes.

  Args:
    source: "off": CLASS/train/*.off and CLASS/test/*.off in `data_dir`. "hdf5": ply_data_train*.h5
      and ply_data_test*.h5 there, with 2048 points a shape (the extra `modelnet`). "procedural":
      made here. "auto": what `data_dir` holds; without one, procedural.
    data_dir: The folder.
    points: Points of a shape; of an HDF5 file the first so many.
    train: Use the first so many training shapes, in an order that is drawn once; all by default.
    held_out: Use the first so many validation and test shapes; all by default.
    data_seed: Draws made shapes, and points of meshes; not the split.

  Raises:
    DataError: a file is missing or damaged.
    RequestError: the data cannot give what is asked for.
  """
  if source not in SOURCES:
    raise RequestError(f"source {source!r} does not exist; take {', '.join(SOURCES)}.")
  if points < 1:
    raise RequestError(f"{points} points asked for; there must be at least 1.")
  folder = None if data_dir is None else expanded(data_dir)
  if source == "auto":
    source = "procedural" if folder is None else _layout(folder)
  if (source == "procedural") != (folder is None):
    said = "takes no folder" if folder else "needs a folder: add --data_dir=FOLDER"
    raise RequestError(f"source {source!r} {said}.")
  sizes = {"train": train, "valid": held_out, "test": held_out}
  if folder is None:
    splits, classes = _made(points, sizes, data_seed)
  else:
    reader = _off if source == "off" else _hdf5
    splits, classes = reader(folder, points, sizes, data_seed)
  summary = {
    "source": source,
    "place": "made here" if folder is None else str(folder),
    "made_up": folder is None,
    "points": points,
    "vertical": "y" if source == "hdf5" else "z",
    "classes": classes,
    "sizes": {name: len(split["label"]) for name, split in splits.items()},
  }
  return Dataset(**splits, classes=classes, summary=summary)


def _layout(folder: Path) -> str:
  if not folder.is_dir():
    raise DataError(f"{folder}: no such folder; name one of ModelNet with --data_dir.")
  if any(folder.glob("ply_data_train*.h5")):
    return "hdf5"
  if any(folder.glob("*/train/*.off")):
    return "off"
  raise DataError(
    f"{folder}: holds neither CLASS/train/*.off nor ply_data_train*.h5; name the folder that does."
  )


def _made(points: int, sizes: dict[str, int | None], data_seed: int):
  classes = [*procedural.CLASSES]
  splits: dict[str, Split] = {}
  for part, name in enumerate(NAMES):
    count = MADE[name] if sizes[name] is None else sizes[name]
    if not 1 <= (count or 0) <= 100_000:
      raise RequestError(f"{count} shapes for {name} asked for; there are 1 to 100000.")
    clouds = []
    labels = np.arange(count) % len(classes)
    for i, label in enumerate(labels):
      random = np.random.default_rng([data_seed, part, i])
      clouds.append(mesh.sample(procedural.make(classes[label], random), points, random))
    splits[name] = {"points": np.stack(clouds), "label": labels.astype(np.int32)}
  return splits, classes


def _parts(count: int, tests: int, sizes: dict[str, int | None]) -> dict[str, np.ndarray]:
  """Returns which training shapes are for training and validation, and which test shapes are."""
  order = np.random.default_rng(0).permutation(count)
  held = count // VALID_SHARE
  parts = {
    "train": order[held:],
    "valid": order[:held],
    "test": np.random.default_rng(0).permutation(tests),
  }
  for name, part in parts.items():
    wanted = len(part) if sizes[name] is None else sizes[name]
    if not 1 <= (wanted or 0) <= len(part):
      raise RequestError(f"{wanted} shapes for {name} asked for; there are {len(part)}.")
    parts[name] = part[:wanted]
  return parts


def _off(folder: Path, points: int, sizes: dict[str, int | None], data_seed: int):
  classes = sorted(path.name for path in folder.iterdir() if (path / "train").is_dir())
  files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
  for label, name in enumerate(classes):
    for part, listed in files.items():
      paths = sorted((folder / name / part).glob("*.off"))
      if not paths:
        raise DataError(f"{folder / name / part}: holds no .off file; {_REMEDY}.")
      listed += [(path, label) for path in paths]
  if not classes:
    raise DataError(f"{folder}: holds no CLASS/train; {_REMEDY}.")
  parts = _parts(len(files["train"]), len(files["test"]), sizes)
  splits = {}
  for name, part in parts.items():
    listed = files["test" if name == "test" else "train"]
    chosen = [listed[i] for i in part]
    clouds = []
    for i, (path, _) in zip(part, chosen, strict=True):
      random = np.random.default_rng([data_seed, int(name == "test"), int(i)])
      clouds.append(mesh.sample(mesh.read_off(path), points, random))
    labels = np.array([label for _, label in chosen], np.int32)
    splits[name] = {"points": np.stack(clouds), "label": labels}
  return splits, classes


def _hdf5(folder: Path, points: int, sizes: dict[str, int | None], data_seed: int):
  del data_seed  # the points are in the files
  if points > POINTS_OF_HDF5:
    raise RequestError(
      f"{points} points asked for; the HDF5 files have {POINTS_OF_HDF5} a shape: lower --points."
    )
  by_part = {part: read_hdf5(sorted(folder.glob(f"ply_data_{part}*.h5"))) for part in _HDF5_PARTS}
  for part, split in by_part.items():
    if not len(split["label"]):
      raise DataError(f"{folder}: holds no shape in ply_data_{part}*.h5; {_REMEDY}.")
  labels = np.concatenate([split["label"] for split in by_part.values()])
  classes = _names(folder, int(labels.max()) + 1)
  parts = _parts(len(by_part["train"]["label"]), len(by_part["test"]["label"]), sizes)
  splits = {}
  for name, part in parts.items():
    split = by_part["test" if name == "test" else "train"]
    clouds = split["points"][part, :points]
    clouds = np.stack([mesh.unit_ball(cloud.astype(np.float64)) for cloud in clouds])
    splits[name] = {"points": clouds.astype(np.float32), "label": split["label"][part]}
  return splits, classes


_HDF5_PARTS = ("train", "test")
_MOST_CLASSES = 1000


def read_hdf5(paths: list[Path]) -> Split:
  """Reads files with `data` [n, 2048, 3] and `label` [n, 1].

  Raises:
    DataError: h5py is not installed, or a file is damaged; names it.
  """
  try:
    import h5py
  except ImportError as error:
    raise DataError(
      "HDF5 files are read by h5py, which is not installed: pip install -e '.[modelnet]'."
    ) from error
  clouds: list[Float[np.ndarray, "n points 3"]] = [np.zeros((0, POINTS_OF_HDF5, 3), np.float32)]
  labels = [np.zeros(0, np.int32)]
  for path in paths:
    try:
      with h5py.File(path, "r") as file:
        arrays = {name: file[name] for name in ("data", "label")}
        shape, count = arrays["data"].shape, arrays["label"].size
        if shape[1:] != (POINTS_OF_HDF5, 3) or count != shape[0]:
          raise DataError(
            f"{path}: data have shape {list(shape)} with {count} labels; they must be [n, "
            f"{POINTS_OF_HDF5}, 3] and n; {_REMEDY}."
          )
        if arrays["data"].dtype.kind != "f" or arrays["label"].dtype.kind not in "iu":
          raise DataError(f"{path}: data and label are not floats and whole numbers; {_REMEDY}.")
        if arrays["data"].size * 4 > 8 * max(1, path.stat().st_size) * 32:
          raise DataError(f"{path}: claims more than it can hold; {_REMEDY}.")
        cloud = np.asarray(arrays["data"], np.float32)
        label = np.asarray(arrays["label"]).reshape(-1).astype(np.int64)
    except DataError:
      raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
      raise DataError(f"{path}: damaged or no HDF5 ({first_line(error)}); {_REMEDY}.") from error
    if not np.isfinite(cloud).all():
      raise DataError(f"{path}: data are not finite; {_REMEDY}.")
    if len(label) and not 0 <= label.min() <= label.max() < _MOST_CLASSES:
      raise DataError(f"{path}: labels are not 0 to {_MOST_CLASSES - 1}; {_REMEDY}.")
    clouds.append(cloud)
    labels.append(label.astype(np.int32))
  return {"points": np.concatenate(clouds), "label": np.concatenate(labels)}


def _names(folder: Path, count: int) -> list[str]:
  """Returns the names in shape_names.txt, one a line; numbers where there is no such file."""
  path = folder / "shape_names.txt"
  if not path.exists():
    return [str(label) for label in range(count)]
  try:
    names = path.read_text(encoding="utf-8").split()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"{path}: cannot be read; {_REMEDY}, or remove it.") from error
  if len(names) < count:
    raise DataError(f"{path}: has {len(names)} names for {count} classes; {_REMEDY}.")
  return names
