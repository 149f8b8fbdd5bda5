import os
from pathlib import Path

import numpy as np
import pytest

from data import mocap
from data.errors import DataError
from data.mocap import download as mocap_download
from data.mocap import walker


@pytest.fixture
def prepared(tmp_path, monkeypatch):
  """A folder laid out like the prepared arrays, with walkers in place of people."""
  folder = tmp_path / "cmu_mocap"
  folder.mkdir()
  trials = {f"trial_{i:02d}": walker.walk("run", i, 130).astype(np.float32) for i in range(11)}
  np.savez(
    folder / "subject09_run.npz",
    edges=walker.BONES,
    joint_names=np.array(walker.NAMES),
    **trials,
  )
  starts = {"train": (1, 2, 5, 6, 10), "valid": (0, 4, 9), "test": (3, 7, 8)}
  split = {f"{name}_{t:02d}": np.arange(80) for name, ts in starts.items() for t in ts}
  np.savez(folder / "run_split_published.npz", **split)
  monkeypatch.setenv("ACE_DATA_DIR", str(tmp_path))
  return folder


def rewrite(path, **changes):
  arrays = {**np.load(path), **changes}
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def test_windows_of_the_published_split(prepared):
  data = mocap.load("run")
  assert data.summary["source"] == "prepared"
  assert data.summary["split"] == "published"
  assert data.summary["sizes"] == {"train": 200, "valid": 240, "test": 240}
  trial = np.load(prepared / "subject09_run.npz")[
    "trial_02"
  ]  # the second of train, 40 windows each
  window = {field: array[40 + 7] for field, array in data.train.items()}
  np.testing.assert_array_equal(window["positions"], trial[7])
  np.testing.assert_array_equal(window["velocities"], trial[8] - trial[7])
  np.testing.assert_array_equal(window["targets"], trial[33:38].swapaxes(0, 1))
  assert data.train["heights"].max() == 1
  assert mocap.load("run", steps=1).train["targets"].shape == (200, 31, 1, 3)


def test_real_data_have_the_published_sizes():
  folder = Path(os.environ.get("ACE_DATA_DIR", "")) / "cmu_mocap"
  if not folder.is_dir():
    pytest.skip("ACE_DATA_DIR has no cmu_mocap")
  data = mocap.load("run")
  assert data.summary["split"] == "published"
  assert data.summary["sizes"] == {"train": 200, "valid": 240, "test": 240}


@pytest.mark.parametrize(
  ("file", "changes", "says"),
  [
    ("subject09_run.npz", {"joint_names": None}, "'joint_names' is missing"),
    ("subject09_run.npz", {"trial_03": None}, "trial 03 is missing"),
    ("subject09_run.npz", {"trial_03": np.zeros((130, 30, 3))}, "trial_03 has shape"),
    ("subject09_run.npz", {"trial_03": np.full((130, 31, 3), np.nan)}, "is not finite"),
    ("subject09_run.npz", {"trial_03": np.zeros((60, 31, 3))}, "needs frame 109 of trial 03"),
    ("run_split_published.npz", {"test_03": np.arange(80.0)}, "no whole numbers"),
    ("run_split_published.npz", {"test_03": np.arange(-3, 77)}, "needs frame"),
  ],
)
def test_damaged_arrays(prepared, file, changes, says):
  rewrite(prepared / file, **changes)
  with pytest.raises(DataError, match=says):
    mocap.load("run")


def test_truncated_archives(prepared):
  path = prepared / "subject09_run.npz"
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(DataError, match="damaged or not an"):
    mocap.load("run")
  bad = prepared / "subject35_acclaim.tar.xz"
  bad.write_bytes(b"nothing")
  with pytest.raises(DataError, match="damaged"):
    mocap_download.unpack(bad)


def test_without_data_a_synthetic_walker_walks(monkeypatch):
  monkeypatch.delenv("ACE_DATA_DIR", raising=False)
  monkeypatch.setattr(mocap_download, "complete", lambda number: False)
  for subject in ("run", "walk"):
    data = mocap.load(subject)
    assert data.summary["source"] == "synthetic"
    assert data.train["positions"].shape[1:] == (31, 3)
  again = mocap.load("walk")
  np.testing.assert_array_equal(again.test["targets"], data.test["targets"])
  trials = data.summary["trials"]
  names = [set(trials[name]) for name in ("train", "valid", "test")]
  assert sum(map(len, names)) == len(set.union(*names)) == 11


def test_no_window_of_a_walk_starts_where_a_joint_jumps():
  trials = {f"{i:02d}": np.zeros((360, 31, 3)) for i in range(11)}
  clean = mocap.own_split("walk", trials)
  jumping = {name: positions.copy() for name, positions in trials.items()}
  jumping["04"][100:200:2, 5, 1] = 1.5
  split = mocap.own_split("walk", jumping)
  starts = next(part["04"] for part in split.values() if "04" in part)
  assert not np.any((starts >= 99) & (starts < 199))
  assert len(starts) == len(next(part["04"] for part in clean.values() if "04" in part))
  running = mocap.own_split("run", jumping)
  assert any(
    np.any((part["04"] >= 99) & (part["04"] < 199)) for part in running.values() if "04" in part
  )


def test_bones_of_the_walker_keep_their_lengths():
  positions = walker.walk("run", 3)
  bones = positions[:, walker.BONES[:, 0]] - positions[:, walker.BONES[:, 1]]
  lengths = np.linalg.norm(bones, axis=-1)
  np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-9)


def test_edges_of_the_skeleton():
  bones = np.array([[1, 0], [2, 1], [3, 1]])
  senders, receivers, types = mocap.topology_edges(bones, 4)
  edges = {(s, r): t for s, r, t in zip(senders, receivers, types[:, 0], strict=True)}
  adjacent, two_apart = [(0, 1), (1, 2), (1, 3)], [(0, 2), (0, 3), (2, 3)]
  expected = dict.fromkeys(adjacent, 1.0) | dict.fromkeys(two_apart, 2.0)
  assert edges == expected | {(b, a): t for (a, b), t in expected.items()}
  assert len(mocap.topology_edges(walker.BONES, 31)[0]) == 130


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ({"subject": "jump"}, "does not exist"),
    ({"subject": "run", "steps": 31}, "1 to 30"),
    ({"subject": "run", "train": 201, "source": "synthetic"}, "there are 200"),
    ({"subject": "run", "source": "acclaim"}, "add --data_dir"),
    ({"subject": "run", "data_dir": "/nowhere"}, "cannot be read"),
  ],
)
def test_what_the_data_cannot_give(arguments, says):
  with pytest.raises(DataError, match=says):
    mocap.load(**arguments)
