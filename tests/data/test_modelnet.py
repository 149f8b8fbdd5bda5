import itertools
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import modelnet
from data.errors import DataError, RequestError
from data.modelnet import mesh, procedural

TETRAHEDRON = """OFF
4 4 0
0 0 0
1 0 0
0 1 0
0 0 1
3 0 2 1
3 0 1 3
3 0 3 2
3 1 2 3
"""


def read(tmp_path, text):
  path = tmp_path / "a.off"
  path.write_bytes(text.encode("latin-1"))
  return mesh.read_off(path)


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("OFF\n4 4 0", "OFF4 4 0"),
    ("OFF\n", "OFF  # a comment\n\n# another\n"),
    ("\n", "\r\n"),
    ("4 4 0", "4 4"),
    ("3 0 2 1", "3 0 2 1 255 0 0"),
  ],
)
def test_headers_and_comments_of_all_kinds(tmp_path, old, new):
  shape = read(tmp_path, TETRAHEDRON.replace(old, new))
  assert shape.vertices.shape == (4, 3)
  assert shape.faces.tolist() == [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
  assert shape.areas().sum() == pytest.approx(1.5 + np.sqrt(3) / 2)


def test_a_polygon_is_a_fan_and_a_face_without_area_gets_no_points(tmp_path):
  text = "OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n9 9 9\n4 0 1 2 3\n3 4 4 4\n"
  shape = read(tmp_path, text)
  assert shape.faces.tolist() == [[0, 1, 2], [0, 2, 3], [4, 4, 4]]
  points = mesh.sample(shape, 500, np.random.default_rng(0))
  assert np.abs(points[:, 2] - points[0, 2]).max() < 1e-6


@pytest.mark.skipif("ACE_DATA_DIR" not in os.environ, reason="no ACE_DATA_DIR")
def test_real_files():
  for path in sorted((Path(os.environ["ACE_DATA_DIR"]) / "modelnet_sample").glob("*.off")):
    shape = mesh.read_off(path)
    assert len(shape.faces) > 500
    points = mesh.sample(shape, 300, np.random.default_rng(0))
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)


def test_points_are_uniform_by_area_and_in_the_unit_ball():
  # A square of four unit squares, of which one is cut into many triangles.
  strips = np.linspace(0, 1, 21)
  corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
  squares = [np.array(corners) + shift for shift in ([1, 0], [0, 1], [1, 1])]
  squares += [np.array([[a, 0], [b, 0], [b, 1], [a, 1]]) for a, b in itertools.pairwise(strips)]
  vertices = np.concatenate(squares)
  vertices = np.concatenate([vertices, np.zeros((len(vertices), 1))], 1)
  first = 4 * np.arange(len(squares))[:, None]
  faces = np.concatenate([first + np.array(corner) for corner in ([0, 1, 2], [0, 2, 3])])
  points = mesh.sample(mesh.Mesh(vertices, faces), 8000, np.random.default_rng(0))
  assert points.dtype == np.float32
  np.testing.assert_allclose(points.mean(0), 0, atol=1e-6)
  assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)
  quarters = Counter(map(tuple, (points[:, :2] > np.median(points[:, :2], 0)).tolist()))
  assert all(abs(count - 2000) < 150 for count in quarters.values())
  # Within a face, not only over faces: squared distances of a uniform square.
  assert np.mean(points[:, 0] ** 2) == pytest.approx(1 / 3 / 2, rel=0.1)


def test_scale_changes_nothing():
  sizes = [
    mesh.sample(
      mesh.Mesh(scale * procedural.make("box", np.random.default_rng(0)).vertices, FACES),
      100,
      np.random.default_rng(1),
    )
    for scale in (1.0, 1e-12, 1e12)
  ]
  for other in sizes[1:]:
    np.testing.assert_allclose(sizes[0], other, atol=1e-5)


FACES = procedural.make("box", np.random.default_rng(0)).faces


@pytest.mark.parametrize("name", procedural.CLASSES)
def test_made_shapes_are_closed_and_oriented(name):
  random = np.random.default_rng(3)
  shape = procedural.make(name, random)
  edges = Counter()
  for a, b, c in shape.faces.tolist():
    edges.update([(a, b), (b, c), (c, a)])
  # Every edge is in two faces, once in each direction; a cap's floor has its own corners.
  keys = {tuple(np.round(v, 9)): i for i, v in enumerate(shape.vertices.tolist())}
  joined = [keys[tuple(np.round(v, 9))] for v in shape.vertices.tolist()]
  merged = Counter()
  for (a, b), count in edges.items():
    merged[joined[a], joined[b]] += count
  assert all(merged[b, a] == count == 1 for (a, b), count in merged.items())
  a, b, c = (shape.vertices[shape.faces[:, i]] for i in range(3))
  volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
  assert volume > 0  # normals point outwards
  other = procedural.make(name, random)
  assert not np.allclose(shape.vertices, other.vertices)


def test_the_made_set_is_said_to_be_made_and_is_always_the_same():
  data = modelnet.load(points=50, train=22, held_out=11)
  again = modelnet.load(points=50, train=33, held_out=11)
  assert data.summary["made_up"]
  assert data.summary["source"] == "procedural"
  assert len(data.classes) == 11
  assert data.train["points"].shape == (22, 50, 3)
  np.testing.assert_array_equal(np.bincount(data.train["label"]), 2)
  np.testing.assert_array_equal(data.train["points"], again.train["points"][:22])
  other = modelnet.load(points=50, train=22, held_out=11, data_seed=1)
  assert not np.array_equal(data.test["points"], other.test["points"])
  assert not np.array_equal(data.test["points"], data.valid["points"])


@pytest.fixture
def folder(tmp_path):
  for name in ("chair", "bed"):
    for part, count in (("train", 10), ("test", 2)):
      (tmp_path / name / part).mkdir(parents=True)
      for i in range(count):
        height = f"0 0 {i + 2}"
        text = TETRAHEDRON.replace("0 0 1\n", f"{height}\n")
        (tmp_path / name / part / f"{name}_{i:04d}.off").write_text(text)
  return tmp_path


def test_a_folder_of_meshes(folder):
  data = modelnet.load(data_dir=folder, points=20)
  assert data.classes == ["bed", "chair"]
  assert data.summary["sizes"] == {"train": 18, "valid": 2, "test": 4}
  assert sorted(data.test["label"].tolist()) == [0, 0, 1, 1]
  assert not data.summary["made_up"]
  fewer = modelnet.load(data_dir=folder, points=20, train=5)
  np.testing.assert_array_equal(fewer.train["points"], data.train["points"][:5])


def test_hdf5_files(tmp_path):
  h5py = pytest.importorskip("h5py")
  clouds = np.random.default_rng(0).normal(size=(20, 2048, 3)).astype(np.float32)
  for part, count in (("train0", 20), ("test0", 5)):
    with h5py.File(tmp_path / f"ply_data_{part}.h5", "w") as file:
      file["data"], file["label"] = clouds[:count], np.arange(count)[:, None] % 3
  (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
  data = modelnet.load(data_dir=tmp_path, points=100)
  assert data.classes == ["airplane", "bathtub", "bed"]
  assert data.summary["sizes"] == {"train": 18, "valid": 2, "test": 5}
  assert np.linalg.norm(data.test["points"], axis=-1).max() == pytest.approx(1)
  with h5py.File(tmp_path / "ply_data_train0.h5", "a") as file:
    file["data"][3, 4] = np.nan
  with pytest.raises(DataError, match="not finite"):
    modelnet.load(data_dir=tmp_path)
  (tmp_path / "ply_data_train0.h5").write_bytes(b"no HDF5")
  with pytest.raises(DataError, match="damaged or no HDF5"):
    modelnet.load(data_dir=tmp_path)


def test_without_h5py(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "h5py", None)
  (tmp_path / "ply_data_train0.h5").write_bytes(b"")
  with pytest.raises(DataError, match=r"pip install -e '\.\[modelnet\]'"):
    modelnet.load(data_dir=tmp_path)


@pytest.mark.parametrize(
  ("old", "new", "says"),
  [
    (TETRAHEDRON, "", "is empty"),
    (TETRAHEDRON, "OFF", "line 1: the file ends before its counts"),
    ("OFF", "PLY", "line 1: does not begin with OFF"),
    ("4 4 0", "4 four 0", "line 2: not the numbers"),
    ("4 4 0", "999999999 4 0", "line 2: 999999999 vertices"),
    ("4 4 0", "4 0 0", "line 2: 4 vertices and 0 faces"),
    ("4 4 0", "9 4 0", "line 10: the file ends"),
    ("0 1 0", "0 1", "line 5: a vertex is not three numbers"),
    ("0 1 0", "0 nan 0", "line 5: a vertex is not three numbers within"),
    ("0 1 0", "0 x 0", "line 5: a vertex"),
    ("0 1 0", "0 1e300 0", "line 5: a vertex"),
    ("3 0 2 1", "3 0 2 4", "line 7: a face names a vertex that is none of 0 to 3"),
    ("3 0 2 1", "3 0 2 -1", "line 7: a face names"),
    ("3 0 2 1", "2 0 2", "line 7: a face is not"),
    ("3 0 2 1", "9 0 2 1", "line 7: a face is not"),
    ("1 0 0\n0 1 0\n0 0 1", "0 0 0\n0 0 0\n0 0 0", "no area"),
  ],
)
def test_broken_meshes(tmp_path, old, new, says):
  with pytest.raises(DataError, match=re.escape(says)) as caught:
    read(tmp_path, TETRAHEDRON.replace(old, new, 1))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ({"source": "stl"}, "source 'stl' does not exist"),
    ({"source": "off"}, "needs a folder"),
    ({"source": "procedural", "data_dir": "."}, "takes no folder"),
    ({"points": 0}, "0 points"),
    ({"train": 0}, "0 shapes for train"),
  ],
)
def test_requests_that_cannot_be_met(arguments, says):
  with pytest.raises(RequestError, match=re.escape(says)):
    modelnet.load(**arguments)


def test_folders_that_hold_nothing(tmp_path, folder):
  with pytest.raises(DataError, match="no such folder"):
    modelnet.load(data_dir=tmp_path / "none")
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError, match="holds neither"):
    modelnet.load(data_dir=tmp_path / "empty")
  with pytest.raises(RequestError, match="19 shapes for train asked for; there are 18"):
    modelnet.load(data_dir=folder, points=5, train=19)
