"""Broken files of trajectories: N-body, motion capture."""

import os
import shutil
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import mutations
from benchmarks.acclaim_sample import MOTION, SKELETON
from benchmarks.fuzz_loader import expect, sound
from data import cache, mocap, nbody
from data.errors import DataError
from data.mocap import acclaim, walker
from data.mocap import download as mocap_download
from data.nbody import dataset

_FRAMES = 130


def _trajectories() -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  return {
    f"{split}_{field}": random.normal(size=(n, 5) if field == "charges" else (n, 5, 3))
    for split, n in (("train", 6), ("valid", 3), ("test", 2))
    for field in ("positions", "velocities", "charges", "targets")
  }


def _real_trajectories(real: Path | None) -> dict[str, np.ndarray]:
  path = real / "nbody_charged_7000.npz" if real else None
  if path is None or not path.exists():
    return _trajectories()
  with np.load(path, allow_pickle=False) as file:
    return {name: file[name][:6] for name in _trajectories()}


def _nbody_file(folder: Path, real: Path | None, trap: Path):
  path, arrays = folder / "data.npz", _real_trajectories(real)

  def load(content: bytes) -> None:
    path.write_bytes(content)
    data = nbody.load_file(path)
    sound([data.train, data.valid, data.test])

  return mutations.broken_archive(arrays, trap), load, (DataError,)


def _nbody_folder(folder: Path, real: Path | None, trap: Path):
  del real
  random = np.random.default_rng(0)
  shapes = {"loc": (41, 3, 5), "vel": (41, 3, 5), "charges": (5, 1)}
  names = [f"{kind}_{split}_a.npy" for split in ("train", "valid", "test") for kind in shapes]
  arrays = [random.normal(size=(2, *shapes[name.split("_")[0]])) for name in names]

  def load(content: bytes) -> None:
    for name, array in zip(names, arrays, strict=True):
      np.save(folder / name, array)
    (folder / names[content[0]]).write_bytes(content[1:])
    data = nbody.load_folder(folder)
    sound([data.train, data.valid, data.test])
    expect(data.train["positions"].shape[1:] == data.test["targets"].shape[1:], "other particles")

  return mutations.broken_member(arrays, trap), load, (DataError,)


def _nbody_cache(folder: Path, real: Path | None, trap: Path):
  path = folder / "cache.npz"
  arrays = {
    **_real_trajectories(real),
    "paths": np.zeros((2, 11, 5, 3)),
    "energy_drift": np.ones(2),
  }
  cache.write(path, arrays)
  with np.load(path, allow_pickle=False) as file:
    sealed = {name: file[name] for name in file.files}

  def load(content: bytes) -> None:
    path.write_bytes(content)
    cached = cache.read(path, dataset.CACHED)
    if cached is None:
      raise DataError("simulated again")
    same = all(np.array_equal(cached[name], arrays[name]) for name in arrays)
    expect(same and cached.keys() == arrays.keys(), "a damaged cache is taken for whole")

  return mutations.broken_archive(sealed, trap), load, (DataError,)


def _prepared(folder: Path, real: Path | None) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
  path = folder / "cmu_mocap"
  path.mkdir(exist_ok=True)
  names = ("subject09_run.npz", "run_split_published.npz")
  contents = {}
  if real and all((real / "cmu_mocap" / name).exists() for name in names):
    for name in names:
      with np.load(real / "cmu_mocap" / name, allow_pickle=False) as file:
        contents[name] = {key: file[key] for key in file.files}
  else:
    trials = {
      f"trial_{i:02d}": walker.walk("run", i, _FRAMES).astype(np.float32) for i in range(11)
    }
    about = {"edges": walker.BONES, "joint_names": np.array(walker.NAMES)}
    parts = {"train": (1, 2, 5, 6, 10), "valid": (0, 4, 9), "test": (3, 7, 8)}
    split = {f"{name}_{t:02d}": np.arange(80) for name, ts in parts.items() for t in ts}
    contents = {names[0]: {**trials, **about}, names[1]: split}
  for name in names:
    np.savez(path / name, **contents[name])
  return path, contents


def _mocap(folder: Path, real: Path | None, trap: Path, name: str):
  path, contents = _prepared(folder, real)

  def load(content: bytes) -> None:
    (path / name).write_bytes(content)
    with mock.patch.dict(os.environ, {"ACE_DATA_DIR": str(folder)}):
      data = mocap.load("run", "prepared")
    sound([data.train, data.valid, data.test])
    joints = data.train["positions"].shape[1]
    expect(len(data.joint_names) == joints, "names and joints differ")
    mocap.topology_edges(data.bones, joints)

  return mutations.broken_archive(contents[name], trap), load, (DataError,)


def _mocap_trials(folder: Path, real: Path | None, trap: Path):
  return _mocap(folder, real, trap, "subject09_run.npz")


def _mocap_split(folder: Path, real: Path | None, trap: Path):
  return _mocap(folder, real, trap, "run_split_published.npz")


def _acclaim(real: Path | None) -> tuple[str, str]:
  archive = real / "cmu_mocap" / "subject35_acclaim.tar.xz" if real else None
  if archive is None or not archive.exists():
    return SKELETON, MOTION
  with tarfile.open(archive) as file:
    members = {Path(member.name).name: member for member in file}
    texts = []
    for name in ("35.asf", "35_01.amc"):
      content = file.extractfile(members[name])
      assert content is not None
      texts.append(content.read().decode("ascii"))
  frames = texts[1].splitlines()
  return texts[0], "\n".join(frames[: 3 + 4 * 30])  # four frames


def expect_positions(skeleton: Path, motion: Path) -> None:
  """Reads a motion and its skeleton, and raises Finding unless they give sound positions."""
  parsed = acclaim.read_skeleton(skeleton)
  numbers, channels = acclaim.read_motion(motion, parsed)
  positions = acclaim.joint_positions(parsed, channels)
  expect(positions.shape == (len(numbers), len(parsed.joints), 3), "positions of another shape")
  expect(np.isfinite(positions.astype(np.float32)).all(), "positions are not finite")
  expect((np.diff(numbers) == 1).all(), "frames do not follow one another")


def _skeleton(folder: Path, real: Path | None, trap: Path):
  del trap
  skeleton, motion = _acclaim(real)
  (folder / "a.amc").write_text(motion)

  def load(content: bytes) -> None:
    (folder / "a.asf").write_bytes(content)
    expect_positions(folder / "a.asf", folder / "a.amc")

  return mutations.broken_acclaim(skeleton), load, (DataError,)


def _motion(folder: Path, real: Path | None, trap: Path):
  del trap
  skeleton, motion = _acclaim(real)
  (folder / "a.asf").write_text(skeleton)

  def load(content: bytes) -> None:
    (folder / "a.amc").write_bytes(content)
    expect_positions(folder / "a.asf", folder / "a.amc")

  return mutations.broken_acclaim(motion), load, (DataError,)


def _mocap_archive(folder: Path, real: Path | None, trap: Path):
  skeleton, motion = _acclaim(real)
  files = {"35.asf": skeleton.encode(), "35_01.amc": motion.encode()}
  home, outside = folder / "home", trap.parent

  def load(content: bytes) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (folder / "a.tar").write_bytes(content)
    with mock.patch.object(mocap_download.platformdirs, "user_cache_path", lambda _: home):
      unpacked = mocap_download.unpack(folder / "a.tar")
      expect(mocap_download.unpack(folder / "a.tar") == unpacked, "unpacked elsewhere again")
    expect(unpacked.resolve().is_relative_to(home.resolve()), "unpacked outside of the cache")
    links = [p for p in home.rglob("*") if not p.resolve().is_relative_to(home.resolve())]
    expect(not links, "a link leads out of the cache")

  def checked(content: bytes) -> None:
    try:
      load(content)
    finally:
      for escaped in (*folder.rglob("escaped"), *folder.parent.glob("escaped")):
        if not escaped.is_relative_to(home / "mocap"):
          escaped.replace(outside / "escaped")

  return mutations.broken_tar(files), checked, (DataError,)


MAKERS = {
  "nbody_file": _nbody_file,
  "nbody_folder": _nbody_folder,
  "nbody_cache": _nbody_cache,
  "mocap_trials": _mocap_trials,
  "mocap_split": _mocap_split,
  "skeleton": _skeleton,
  "motion": _motion,
  "mocap_archive": _mocap_archive,
}
