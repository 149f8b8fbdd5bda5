"""Broken files of molecules and shapes."""

import importlib.util
import io
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from benchmarks import mutations
from benchmarks.fuzz_loader import expect, packed
from data import modelnet
from data.errors import DataError
from data.modelnet.dataset import read_hdf5
from data.qm9 import molecules, readers

_MOLECULE = """3
gdb 3 799.58812 437.9 282.9 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375 -76.404702 -76.401 \
-76.400922 -76.422349 6.002
O -0.0343604951 0.9775395708 0.0076015923 -0.589706
H 0.0647664923 0.0205721989 1.5346341*^-3 0.294853
H 0.8717903737 1.3007924048 0.0006931336 0.294853
1671.4222 3803.6305 3907.698
"""


def _expect_molecules(loaded: molecules.Molecules) -> None:
  expect(len(loaded) and loaded.counts.sum() == len(loaded.numbers), "atoms and counts differ")
  expect(len(loaded.positions) == len(loaded.numbers), "atoms and positions differ")
  expect(np.isfinite(loaded.positions).all(), "positions are not finite")
  expect(loaded.targets.shape == (len(loaded), 12), "not twelve properties")
  expect(np.isfinite(loaded.targets.astype(np.float32)).all(), "properties are not finite")
  expect({*loaded.numbers.tolist()} <= {1, 6, 7, 8, 9}, "an element that does not exist")


def _molecule(folder: Path, real: Path | None, trap: Path):
  del real, trap

  def load(content: bytes) -> None:
    (folder / "a.xyz").write_bytes(content)
    _expect_molecules(readers.read_folder(folder))

  return mutations.broken_text(_MOLECULE), load, (DataError,)


def _molecules(folder: Path, real: Path | None, trap: Path):
  del real
  random = np.random.default_rng(0)
  counts = np.array([2, 3, 1])
  exists = np.arange(3) < counts[:, None]
  arrays = {
    "num_atoms": counts,
    "charges": np.where(exists, random.choice([1, 6, 7, 8, 9], (3, 3)), 0),
    "positions": exists[..., None] * (np.arange(9).reshape(3, 3, 1) + random.random((3, 3, 3))),
    "index": np.array([4, 7, 9]),
    **{name: random.normal(size=3) for name in molecules.TARGETS},
  }
  path = folder / "a.npz"

  def load(content: bytes) -> None:
    path.write_bytes(content)
    _expect_molecules(readers.read_npz([path]))

  return mutations.broken_archive(arrays, trap), load, (DataError,)


def _molecule_rows(folder: Path, real: Path | None, trap: Path):
  del real, trap
  columns = ("Index", "Elements", "XYZ_Ang", *readers.COLUMNS)
  rows = [
    (4, "\"['C','H']\"", '"[[0.1,0.2,0.],[1.,1.5,-2.0]]"', *[0.5] * len(readers.COLUMNS)),
    (7, "\"['O']\"", '"[[0.,0.,0.]]"', *[-1.25] * len(readers.COLUMNS)),
  ]
  text = "\n".join(", ".join(map(str, row)) for row in (columns, *rows))

  def load(content: bytes) -> None:
    (folder / "a.csv").write_bytes(content)
    _expect_molecules(readers.read_csv([folder / "a.csv"]))

  return mutations.broken_text(text).map(packed), load, (DataError,)


def _mesh(folder: Path, real: Path | None, trap: Path):
  del trap
  path = folder / "a.off"
  text = "OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n4 1 2 3 0\n"
  sample = real / "modelnet_sample" / "bathtub_0002.off" if real else None
  if sample and sample.exists():
    text = sample.read_text()

  def load(content: bytes) -> None:
    path.write_bytes(content)
    mesh = modelnet.read_off(path)
    expect(mesh.faces.max() < len(mesh.vertices), "a face without its vertex")
    points = modelnet.sample(mesh, 20, np.random.default_rng(0))
    expect(points.shape == (20, 3) and np.isfinite(points).all(), "points are not finite")
    expect(np.linalg.norm(points, axis=1).max() < 1.001, "points outside of the unit ball")

  return mutations.broken_text(text), load, (DataError,)


def _hdf5(folder: Path, real: Path | None, trap: Path):
  import h5py

  del real, trap
  path, random = folder / "ply_data_train0.h5", np.random.default_rng(0)
  whole = io.BytesIO()
  with h5py.File(whole, "w") as file:
    file["data"] = random.normal(size=(2, 2048, 3)).astype(np.float32)
    file["label"] = np.array([[3], [1]], np.uint8)
  content = whole.getvalue()

  def load(content: bytes) -> None:
    path.write_bytes(content)
    split = read_hdf5([path])
    clouds, labels = split["points"], split["label"]
    expect(clouds.shape[1:] == (2048, 3), "clouds of another shape")
    expect(len(clouds) == len(labels), "shapes and labels differ")
    expect(np.isfinite(clouds).all(), "points are not finite")
    expect(labels.dtype == np.int32 and (labels >= 0).all(), "labels are no classes")

  # Most bytes are points; those before them say what they are.
  head = mutations.broken_bytes(content[:_HEAD]).map(lambda broken: broken + content[_HEAD:])
  return st.one_of(head, mutations.broken_bytes(content)), load, (DataError,)


_HEAD = 2048
MAKERS = {
  "molecule": _molecule,
  "molecules": _molecules,
  "molecule_rows": _molecule_rows,
  "mesh": _mesh,
  **({"hdf5": _hdf5} if importlib.util.find_spec("h5py") else {}),
}
