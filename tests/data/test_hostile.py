"""Broken and hostile files: a part of what `python -m benchmarks.fuzz` does, and what it found."""

import hashlib
import importlib.util
import io
import os
import tarfile
import tracemalloc
import zipfile

import hypothesis
import numpy as np
import pytest

from benchmarks import fuzz_loaders, fuzz_trajectories, mutations
from benchmarks.acclaim_sample import MOTION, SKELETON
from data import arrays, mocap, nbody, sums
from data.errors import DataError
from data.mocap import acclaim, walker
from data.mocap import download as mocap_download

LOADERS = (
  *(
    "nbody_file",
    "nbody_folder",
    "nbody_cache",
    "mocap_trials",
    "mocap_split",
    "skeleton",
    "motion",
  ),
  *("mocap_archive", "records", "config", "result", "reference"),
  *("molecule", "molecules", "molecule_rows", "mesh"),
  *(("hdf5",) if importlib.util.find_spec("h5py") else ()),
)


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
  return fuzz_loaders.make(tmp_path_factory.mktemp("fuzz"), None)


@pytest.mark.parametrize("name", LOADERS)
def test_a_broken_file_is_refused_or_read_right(loaders, name):
  loader, loaded = loaders[name], []
  assert loaders.keys() == {*LOADERS}

  @hypothesis.seed(1)
  @hypothesis.settings(
    max_examples=50 if name == "mocap_trials" else 100,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(loader.cases)
  def load(content):
    loaded.append(loader.answers(content))

  load()
  assert 0 < sum(loaded) < len(loaded)


def npz(path, *, method=zipfile.ZIP_STORED, **members):
  with zipfile.ZipFile(path, "w", method) as file:
    for name, content in members.items():
      file.writestr(f"{name}.npy", content)
  return path


def header(shape, dtype="<f4"):
  text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", [(10**12,), (3 * 10**9,), (10**5, 10**4), (-1,), (2**62, 4)])
def test_a_header_that_claims_more_than_is_there_takes_no_memory(tmp_path, shape):
  path = npz(tmp_path / "a.npz", x=header(shape) + bytes(100))
  tracemalloc.start()
  with pytest.raises(DataError, match=r"holds no plain arrays \(shape"):
    arrays.read(path, None, "mend it")
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_a_directory_that_claims_more_than_the_file_can_hold(tmp_path):
  path = npz(tmp_path / "a.npz", x=header((25,)) + bytes(100))
  content = bytearray(path.read_bytes())
  at = content.index(b"PK\x01\x02")
  content[at + 24 : at + 28] = (10**9).to_bytes(4, "little")  # the size when unpacked
  path.write_bytes(content)
  with pytest.raises(DataError, match="claims 1000000000 bytes, more than it can hold"):
    arrays.read(path, None, "mend it")


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (header((2,), "|O") + b"x", "Python objects"),
    (header((10**12,), "|S0"), "shape"),
    (header((2,))[:-5] + bytes(8), "no plain arrays|damaged"),
    (b"\x93NUMPY\x01\x00\x88\x13" + b"(" * 5000, "no plain arrays|damaged"),
    (b"\x93NUMPY\x03\x00" + header((2,))[8:], "format"),
    (b"", "no plain arrays"),
  ],
)
def test_headers_that_are_none(tmp_path, content, says):
  with pytest.raises(DataError, match=says):
    arrays.read(npz(tmp_path / "a.npz", x=content), None, "mend it")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_flipped_bits_of_compressed_arrays(tmp_path, method):
  noise = np.random.default_rng(0).bytes(1000)
  path = npz(tmp_path / "a.npz", method=method, x=header((250,)) + noise)
  whole, harmless = path.read_bytes(), 0
  for at in range(40, 1000, 37):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    try:  # a flip may hit what says nothing, such as the size of LZMA's dictionary
      assert arrays.read(path, None, "mend it")["x"].tobytes() == noise
      harmless += 1
    except DataError:
      pass
  assert harmless < 3


def test_nothing_is_ever_unpickled(tmp_path):
  marker = tmp_path / "unpickled"
  objects = np.array([mutations.Trap(marker)], object)
  np.savez(tmp_path / "a.npz", x=objects)
  np.save(tmp_path / "b.npz", objects)  # adds .npy
  (tmp_path / "b.npz.npy").rename(tmp_path / "b.npz")
  with open(tmp_path / "c.npz", "wb") as file:
    mutations.pickle.dump(mutations.Trap(marker), file)
  for name in ("a", "b", "c"):
    with pytest.raises(DataError):
      arrays.read(tmp_path / f"{name}.npz", None, "mend it")
    with pytest.raises(DataError):
      nbody.load_file(tmp_path / f"{name}.npz")
  assert not marker.exists()
  np.load(tmp_path / "a.npz", allow_pickle=True)["x"]  # the trap works
  assert marker.exists()


def test_numbers_beyond_float32_are_not_finite(tmp_path):
  with pytest.raises(DataError, match=r"x\[1\] is not finite"):
    arrays.check_finite(tmp_path / "a.npz", "x", np.array([1.0, 1e300]))
  with pytest.raises(DataError, match="x is not finite; remove x, which is one number"):
    arrays.check_finite(tmp_path / "a.npz", "x", np.array(np.inf))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
  """Writes walkers as prepared arrays, with changes, and loads them."""
  trials = {f"trial_{i:02d}": walker.walk("run", i, 300).astype(np.float32) for i in range(11)}
  parts = {"train": (1, 2, 5, 6, 10), "valid": (0, 4, 9), "test": (3, 7, 8)}
  whole = {
    **{"edges": walker.BONES, "joint_names": np.array(walker.NAMES)},
    **trials,
    **{f"{name}_{t:02d}": np.arange(200, 260) for name, ts in parts.items() for t in ts},
  }
  monkeypatch.setenv("ACE_DATA_DIR", str(tmp_path))
  (tmp_path / "cmu_mocap").mkdir()

  def load(**changes):
    content = {k: v for k, v in {**whole, **changes}.items() if v is not None}
    split = {k: v for k, v in content.items() if k.split("_")[0] in parts}
    rest = {k: v for k, v in content.items() if k not in split}
    np.savez(tmp_path / "cmu_mocap" / "run_split_published.npz", **split)
    np.savez(tmp_path / "cmu_mocap" / "subject09_run.npz", **rest)
    return mocap.load("run", "prepared")

  return load, whole


def test_start_frames_of_a_byte_each_do_not_wrap_around(prepared):
  load, whole = prepared
  data = load(train_01=np.array([255], np.uint8))
  trial = whole["trial_01"]
  np.testing.assert_array_equal(data.train["velocities"][0], trial[256] - trial[255])


def test_positions_in_whole_numbers_have_velocities_with_a_sign(prepared):
  load, whole = prepared
  positions = np.clip(np.round(20 * whole["trial_01"]) % 256, 0, 255).astype(np.uint8)
  data = load(trial_01=positions)
  expected = positions[201].astype(float) - positions[200]
  np.testing.assert_array_equal(data.train["velocities"][0], expected)
  assert expected.min() < 0


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"joint_names": np.array("root")}, "no list of names"),
    ({"joint_names": np.arange(31)}, "no list of names"),
    ({"edges": np.zeros((30, 3), int)}, "no pairs of joints"),
    ({"edges": np.array([[31, 0]])}, "beyond the 31"),
    ({"edges": np.array([[1.0, 0.0]])}, "no pairs of joints"),
    ({"train_01": np.array(3)}, "no whole numbers"),
    ({"test_01": np.arange(3)}, "trial 01 is in two parts"),
    ({f"test_{t:02d}": np.arange(0) for t in (3, 7, 8)}, "no windows"),
    (
      {"trial_01": np.where(np.arange(300) % 2, 3e38, -3e38)[:, None, None] * np.ones((31, 3))},
      "not finite",
    ),
    ({f"trial_{t:02d}": np.zeros((300, 31, 3)) for t in range(11)}, "not positive"),
  ],
)
def test_prepared_arrays_that_fit_nothing(prepared, changes, says):
  load, _ = prepared
  with pytest.raises(DataError, match=says):
    load(**changes)


@pytest.mark.parametrize(
  ("file", "old", "new", "says"),
  [
    ("amc", "\n7\n", f"\n{'7' * 5000}\n", "is not a frame number"),
    ("amc", "upper 90 0\n", "upper 1_0 0\n", "finite numbers"),
    ("amc", "upper 90 0\n", f"upper {'9' * 5000}x 0\n", "finite numbers"),
    ("asf", "length 2\n", "length 1e39\n", "upper is not at a finite place"),
    ("asf", "length 2\n", "length 1e308\n", "not at a finite place"),
  ],
)
def test_numbers_that_acclaim_files_cannot_mean(tmp_path, file, old, new, says):
  texts = {"asf": SKELETON, "amc": MOTION}
  assert old in texts[file]
  texts[file] = texts[file].replace(old, new, 1)
  for kind, text in texts.items():
    (tmp_path / f"a.{kind}").write_text(text)
  with pytest.raises(DataError, match=says) as caught:
    fuzz_trajectories.expect_positions(tmp_path / "a.asf", tmp_path / "a.amc")
  assert len(str(caught.value)) < 1000


def test_skeletons_that_do_not_move_or_move_too_long(tmp_path, monkeypatch):
  lines = SKELETON.splitlines(True)
  still = "".join(line for line in lines if "dof" not in line and "TX" not in line)
  (tmp_path / "a.asf").write_text(still)
  (tmp_path / "a.amc").write_text(":DEGREES\n1\n2\n")
  with pytest.raises(DataError, match="no joint has channels"):
    fuzz_trajectories.expect_positions(tmp_path / "a.asf", tmp_path / "a.amc")
  (tmp_path / "a.asf").write_text(SKELETON)
  (tmp_path / "a.amc").write_text(MOTION)
  monkeypatch.setattr(acclaim, "_LARGEST_MOTION", 5)
  with pytest.raises(DataError, match="2 frames of 3 joints are more than 5"):
    fuzz_trajectories.expect_positions(tmp_path / "a.asf", tmp_path / "a.amc")


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(mocap_download.platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
  return tmp_path / "cache"


def tar(path, *members):
  with tarfile.open(path, "w") as file:
    for name, content, kind, link in members:
      info = tarfile.TarInfo(name)
      info.size, info.type, info.linkname = len(content), kind, link
      file.addfile(info, io.BytesIO(content))
  return path


@pytest.mark.parametrize(
  "member",
  [
    ("../../../escaped.asf", b"x", tarfile.REGTYPE, ""),
    ("link", b"", tarfile.SYMTYPE, "../../.."),
    ("35.asf", b"", tarfile.SYMTYPE, "35.asf"),  # a link to itself
    ("hard", b"", tarfile.LNKTYPE, "../../../secret"),
    ("device", b"", tarfile.CHRTYPE, ""),
  ],
)
def test_archives_do_not_write_outside_of_their_folder(tmp_path, cache, member):
  (tmp_path / "secret").write_text("")
  path = tar(tmp_path / "a.tar", ("35.asf", b"x", tarfile.REGTYPE, ""), member)
  with pytest.raises(DataError, match=r"damaged|is a link or device"):
    mocap_download.unpack(path)
  assert not [*tmp_path.rglob("escaped.asf")]
  assert [*(cache / "mocap").iterdir()] == []


def test_a_giant_in_an_archive_is_refused_by_its_header(tmp_path, cache):
  giant = tarfile.TarInfo("giant.asf")
  giant.size = 2**40
  (tmp_path / "a.tar").write_bytes(giant.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
  with pytest.raises(DataError, match="unpacks to more than 512 MiB"):
    mocap_download.unpack(tmp_path / "a.tar")


def test_an_unpacked_file_that_was_damaged_is_unpacked_again(tmp_path, cache):
  path = tar(tmp_path / "a.tar", ("35.asf", b"whole", tarfile.REGTYPE, ""))
  unpacked = mocap_download.unpack(path)
  assert mocap_download.unpack(path) == unpacked
  (unpacked / "35.asf").write_bytes(b"wh0le")
  with pytest.warns(UserWarning, match=r"35\.asf is damaged"):
    assert mocap_download.unpack(path) == unpacked
  assert (unpacked / "35.asf").read_bytes() == b"whole"
  (tmp_path / "b").mkdir()  # of the same name and size
  other = tar(tmp_path / "b" / "a.tar", ("35.asf", b"other", tarfile.REGTYPE, ""))
  assert (mocap_download.unpack(other) / "35.asf").read_bytes() == b"other"


def test_downloads_come_from_the_listed_site_and_keep_their_checksums(cache, monkeypatch):
  pooch = pytest.importorskip("pooch")
  asked = {}

  def retrieve(url, known_hash, fname, path, progressbar):
    del progressbar
    asked[fname] = known_hash
    assert url == f"http://mocap.cs.cmu.edu/subjects/09/{fname}"
    path.mkdir(parents=True, exist_ok=True)
    (path / fname).write_text(fname)

  monkeypatch.setattr(pooch, "retrieve", retrieve)
  folder = mocap_download.fetch(9)
  assert set(asked) == {*mocap_download.files(9)}
  assert set(asked.values()) == {None}  # nobody has published them: the first download counts
  mocap_download.fetch(9)
  assert asked == {
    name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in mocap_download.files(9)
  }
  (folder / "09.asf").write_text("x")
  assert sums.damaged(folder) == "09.asf"
  os.remove(folder / sums.NAME)
  assert sums.damaged(folder) == sums.NAME
