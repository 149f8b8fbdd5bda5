"""What reads files, how each is given broken ones, and what it may answer.

Every loader either raises its own error, or returns something that holds together; anything else
is a finding.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from ace_jax import signals
from ace_jax.errors import ConfigurationError, RecordsError
from ace_jax.training import history
from benchmarks import mutations
from benchmarks.acclaim_sample import MOTION, SKELETON
from data import cache, mocap, modelnet, nbody
from data.errors import DataError
from data.mocap import acclaim, walker
from data.mocap import download as mocap_download
from data.nbody import dataset
from data.qm9 import molecules, readers
from experiments.harness import result_files, workdirs
from experiments.table import __main__ as table
from experiments.table import mocap as mocap_table
from experiments.table import rivals as rivals_table

LONGEST = 10
"""Seconds after which a case counts as hung."""
_FRAMES = 130


class Finding(AssertionError):
  """A loader answered what it may not."""


@dataclasses.dataclass(frozen=True)
class Loader:
  """A loader under attack.

  Attributes:
    cases: Broken files.
    load: Gives one to the loader, and checks what comes back; raises Finding.
    errors: What the loader may raise.
    outside: Folder that must stay empty: files appear there if something escapes or is unpickled.
  """

  cases: st.SearchStrategy[bytes]
  load: Callable[[bytes], None]
  errors: tuple[type[Exception], ...]
  outside: Path

  def answers(self, content: bytes) -> bool:
    """Whether a case is loaded (else refused); raises Finding."""
    try:
      with _limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        self.load(content)
        loaded = True
    except self.errors as error:
      loaded = False
      if "\n" in str(error) or not str(error):
        raise Finding(f"an error of no or several lines: {error!r}") from error
    except Finding:
      raise
    except Exception as error:
      raise Finding(f"{type(error).__name__}: {error}"[:300]) from error
    escaped = [*self.outside.iterdir()]
    if escaped:
      for path in escaped:
        path.unlink()
      raise Finding(f"something wrote {escaped[0].name}")
    return loaded


class _Hang(BaseException):
  pass


@contextlib.contextmanager
def _limited() -> Iterator[None]:
  def stop(*_: Any) -> None:
    raise _Hang

  with signals.handling(stop, signal.SIGALRM):
    signal.alarm(LONGEST)
    try:
      yield
    except _Hang as hang:
      raise Finding(f"hung for {LONGEST} s") from hang
    finally:
      signal.alarm(0)


def _expect(holds: Any, what: str) -> None:
  if not holds:
    raise Finding(what)


def _sound(splits: list[dict[str, np.ndarray]]) -> None:
  for split in splits:
    for name, array in split.items():
      _expect(array.dtype == np.float32, f"{name} is {array.dtype}")
      _expect(array.size and np.isfinite(array).all(), f"{name} is empty or not finite")
    _expect(len({len(array) for array in split.values()}) == 1, "fields of different lengths")


def make(place: Path, real: Path | None) -> dict[str, Loader]:
  """Makes every loader.

  Args:
    place: A folder for files.
    real: Folder of real data (ACE_DATA_DIR), from which files are made where it has them.
  """
  outside = place / "outside"
  outside.mkdir(parents=True, exist_ok=True)
  trap = outside / "unpickled"
  makers = {
    **{"nbody_file": _nbody_file, "nbody_folder": _nbody_folder, "nbody_cache": _nbody_cache},
    "mocap_trials": _mocap_trials,
    **{"mocap_split": _mocap_split, "skeleton": _skeleton, "motion": _motion},
    **{"mocap_archive": _mocap_archive, "records": _records, "config": _config},
    **{"result": _result, "reference": _reference},
    **{"molecule": _molecule, "molecules": _molecules, "molecule_rows": _molecule_rows},
    **{"mesh": _mesh},
  }
  loaders = {}
  for name, maker in makers.items():
    folder = place / name
    folder.mkdir(exist_ok=True)
    loaders[name] = Loader(*maker(folder, real, trap), outside=outside)
  return loaders


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
    _sound([data.train, data.valid, data.test])

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
    _sound([data.train, data.valid, data.test])
    _expect(data.train["positions"].shape[1:] == data.test["targets"].shape[1:], "other particles")

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
    found = cache.read(path, dataset.CACHED)
    if found is None:
      raise DataError("simulated again")
    same = all(np.array_equal(found[name], arrays[name]) for name in arrays)
    _expect(same and found.keys() == arrays.keys(), "a damaged cache is taken for whole")

  return mutations.broken_archive(sealed, trap), load, (DataError,)


def _prepared(folder: Path, real: Path | None) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
  place = folder / "cmu_mocap"
  place.mkdir(exist_ok=True)
  names = ("subject09_run.npz", "run_split_published.npz")
  found = {}
  if real and all((real / "cmu_mocap" / name).exists() for name in names):
    for name in names:
      with np.load(real / "cmu_mocap" / name, allow_pickle=False) as file:
        found[name] = {key: file[key] for key in file.files}
  else:
    trials = {
      f"trial_{i:02d}": walker.walk("run", i, _FRAMES).astype(np.float32) for i in range(11)
    }
    about = {"edges": walker.BONES, "joint_names": np.array(walker.NAMES)}
    parts = {"train": (1, 2, 5, 6, 10), "valid": (0, 4, 9), "test": (3, 7, 8)}
    split = {f"{name}_{t:02d}": np.arange(80) for name, ts in parts.items() for t in ts}
    found = {names[0]: {**trials, **about}, names[1]: split}
  for name in names:
    np.savez(place / name, **found[name])
  return place, found


def _mocap(folder: Path, real: Path | None, trap: Path, name: str):
  place, found = _prepared(folder, real)

  def load(content: bytes) -> None:
    (place / name).write_bytes(content)
    with mock.patch.dict(os.environ, {"ACE_DATA_DIR": str(folder)}):
      data = mocap.load("run", "prepared")
    _sound([data.train, data.valid, data.test])
    joints = data.train["positions"].shape[1]
    _expect(len(data.joint_names) == joints, "names and joints differ")
    mocap.topology_edges(data.bones, joints)

  return mutations.broken_archive(found[name], trap), load, (DataError,)


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


def _positions(skeleton: Path, motion: Path) -> None:
  found = acclaim.read_skeleton(skeleton)
  numbers, channels = acclaim.read_motion(motion, found)
  positions = acclaim.joint_positions(found, channels)
  _expect(positions.shape == (len(numbers), len(found.joints), 3), "positions of another shape")
  _expect(np.isfinite(positions.astype(np.float32)).all(), "positions are not finite")
  _expect((np.diff(numbers) == 1).all(), "frames do not follow one another")


def _skeleton(folder: Path, real: Path | None, trap: Path):
  del trap
  skeleton, motion = _acclaim(real)
  (folder / "a.amc").write_text(motion)

  def load(content: bytes) -> None:
    (folder / "a.asf").write_bytes(content)
    _positions(folder / "a.asf", folder / "a.amc")

  return mutations.broken_acclaim(skeleton), load, (DataError,)


def _motion(folder: Path, real: Path | None, trap: Path):
  del trap
  skeleton, motion = _acclaim(real)
  (folder / "a.asf").write_text(skeleton)

  def load(content: bytes) -> None:
    (folder / "a.amc").write_bytes(content)
    _positions(folder / "a.asf", folder / "a.amc")

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
      place = mocap_download.unpack(folder / "a.tar")
      _expect(mocap_download.unpack(folder / "a.tar") == place, "unpacked elsewhere again")
    _expect(place.resolve().is_relative_to(home.resolve()), "unpacked outside of the cache")
    links = [p for p in home.rglob("*") if not p.resolve().is_relative_to(home.resolve())]
    _expect(not links, "a link leads out of the cache")

  def checked(content: bytes) -> None:
    try:
      load(content)
    finally:
      for escaped in (*folder.rglob("escaped"), *folder.parent.glob("escaped")):
        if not escaped.is_relative_to(home / "mocap"):
          escaped.replace(outside / "escaped")

  return mutations.broken_tar(files), checked, (DataError,)


def _records(folder: Path, real: Path | None, trap: Path):
  del real, trap
  path = folder / "metrics.jsonl"
  whole = [{"epoch": i, "loss": 1.0 / i, "valid/projection": 0.5} for i in range(1, 6)]
  text = "".join(json.dumps(record) + "\n" for record in whole)

  def load(content: bytes) -> None:
    path.write_bytes(content)
    found = history.read(path)
    _expect([r["epoch"] for r in found] == [*range(1, len(found) + 1)], "epochs are missing")
    numbers = [v for record in found for v in record.values()]
    _expect(all(isinstance(v, int | float) for v in numbers), "a value is no number")
    _expect(history.truncate(path, 2) == found[:2] == history.read(path), "not as truncated")

  return st.one_of(mutations.broken_text(text), _lines(whole)), load, (RecordsError,)


@st.composite
def _lines(draw: st.DrawFn, records: list[Any]) -> bytes:
  lines = [json.dumps(record).encode() for record in records]
  at = draw(st.integers(0, len(lines) - 1))
  lines[at] = draw(mutations.broken_json(records[at]))
  return b"\n".join(lines) + b"\n"


def _config(folder: Path, real: Path | None, trap: Path):
  del real, trap
  settings = {"constraint": "equality", "lr": 1e-3, "train_samples": [10], "epochs": 3}

  def load(content: bytes) -> None:
    (folder / workdirs.CONFIG).write_bytes(content)
    _expect(isinstance(workdirs.read_settings(folder), dict), "settings are no dictionary")
    there = workdirs.read_settings(folder)
    with (
      mock.patch.object(workdirs, "write_config"),
      workdirs.opened(folder, settings, resume=True),
    ):
      same = {**there, "epochs": 3} == settings
      _expect(same, "the folder of another configuration is opened")

  whole = {"settings": settings, "environment": {"jax": "0"}}
  return mutations.broken_json(whole), load, (ConfigurationError,)


def _training_result() -> dict[str, Any]:
  error = {"valid_mse": 0.1, "test_mse": 0.2, "best_epoch": 2, "final_equivariance_error": 1e-7}
  return {
    **{"experiment": "nbody", "model": "segnn", "constraint": "equality", "seeds": [1]},
    **{"epochs": 3, "train_samples": 10, "predictors": {"projection": error, "relaxed": error}},
    "settings": {
      **{"constraint": "equality", "preset": "paper", "model": "egno", "dual_lr": 2e-4},
      **{"augmented": 0.0, "seed": 1, "rho": 1.0},
      **{"hidden_features": 8, "layers": 1, "batch_size": 4},
    },
    "seconds": 3.0,
    "data": {"subject": "run", "source": "prepared", "split": "published"},
    "curve": [{"epoch": 1, "valid/projection": 0.1}],
    "differs_from_published": {},
  }


def _result(folder: Path, real: Path | None, trap: Path):
  from experiments.reference import (
    __main__ as reference,  # it has a flag that must be given where it is imported first
  )

  del real, trap
  path = folder / workdirs.RESULT

  def load(content: bytes) -> None:
    path.write_bytes(content)
    result = result_files.read_result(path)
    table.nbody_rows([result, result])
    mocap_table.rows([result, result])
    rivals_table.rows([result, result])
    if result["experiment"] in ("nbody", "mocap"):
      reference.comparable(result)

  whole = _training_result()
  cases = [mutations.broken_json({**whole, "experiment": name}) for name in ("nbody", "mocap")]
  return st.one_of(cases), load, (DataError,)


def _reference(folder: Path, real: Path | None, trap: Path):
  from experiments.reference import __main__ as reference

  del trap
  path = folder / "curve.csv"
  text = "run,epoch,valid_mse_projection,test_mse_projection,valid_mse_relaxed,test_mse_relaxed\n"
  text += "strict,0,0.1,0.2,,\nequality,0,0.1,0.2,0.3,0.4\n"
  if real and (real / "nbody_reference_curve.csv").exists():
    text = "\n".join((real / "nbody_reference_curve.csv").read_text().splitlines()[:20])

  def load(content: bytes) -> None:
    path.write_bytes(content)
    curves = reference.read_reference(path)
    numbers = [value for curve in curves.values() for value in curve.values()]
    _expect(np.isfinite(numbers).all(), "an error is not finite")

  return mutations.broken_text(text.replace(",", ", ")).map(_packed), load, (DataError,)


_MOLECULE = """3
gdb 3 799.58812 437.9 282.9 1.8511 6.31 -0.2928 0.0687 0.3615 19.0002 0.021375 -76.404702 -76.401 \
-76.400922 -76.422349 6.002
O -0.0343604951 0.9775395708 0.0076015923 -0.589706
H 0.0647664923 0.0205721989 1.5346341*^-3 0.294853
H 0.8717903737 1.3007924048 0.0006931336 0.294853
1671.4222 3803.6305 3907.698
"""


def _expect_molecules(found: molecules.Molecules) -> None:
  _expect(len(found) and found.counts.sum() == len(found.numbers), "atoms and counts differ")
  _expect(len(found.positions) == len(found.numbers), "atoms and positions differ")
  _expect(np.isfinite(found.positions).all(), "positions are not finite")
  _expect(found.targets.shape == (len(found), 12), "not twelve properties")
  _expect(np.isfinite(found.targets.astype(np.float32)).all(), "properties are not finite")
  _expect({*found.numbers.tolist()} <= {1, 6, 7, 8, 9}, "an element that does not exist")


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

  return mutations.broken_text(text).map(_packed), load, (DataError,)


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
    _expect(mesh.faces.max() < len(mesh.vertices), "a face without its vertex")
    points = modelnet.sample(mesh, 20, np.random.default_rng(0))
    _expect(points.shape == (20, 3) and np.isfinite(points).all(), "points are not finite")
    _expect(np.linalg.norm(points, axis=1).max() < 1.001, "points outside of the unit ball")

  return mutations.broken_text(text), load, (DataError,)


def _packed(content: bytes) -> bytes:
  return content.replace(b", ", b",")
