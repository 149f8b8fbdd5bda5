"""CMU motion capture: from one frame of a moving body predict the next quarter of a second.

Windows of 31 joints at 120 Hz: positions and velocities at frame s, targets at s + 26 .. s + 30.
Sources: a folder of Acclaim files, prepared arrays, the public download, or (with no data at
all) a synthetic walker. The data used in this project was obtained from mocap.cs.cmu.edu. The
database was created with funding from NSF EIA-0196217.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data import arrays as archive
from data import paths
from data.errors import DataError, RequestError
from data.mocap import acclaim, walker

Split = dict[str, np.ndarray]

AHEAD = 30
"""The last target is so many frames (of 1/120 s) after the input."""
SUBJECTS = {"run": 9, "walk": 35}
SIZES = {
  "run": {"train": 200, "valid": 240, "test": 240},
  "walk": {"train": 200, "valid": 600, "test": 600},
}
"""Windows asked for in the published protocol; a split gets `size // trials` of each trial."""
SOURCES = ("auto", "acclaim", "prepared", "download", "synthetic")

_REMEDY = "get the prepared arrays again, or give a folder of Acclaim files with --data_dir"
_UNUSABLE_WALKS = {"13", "30"}
_WALK_STARTS = 300
# Units a frame: 6.8 m/s. In a few frames of subject 35 a joint jumps (trials 01, 29, 33, ...), and
# one such window decides the mean error of a split of 600.
_FASTEST_WALK = 1.0


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Windows, split by trial.

  Attributes:
    train: `positions` and `velocities` [n, joints, 3] at the start (y is up; unit 5.644 cm, and
      the same a frame), `heights` [n, joints, 1], the y coordinate over the training set's
      largest, and `targets` [n, joints, T, 3]; float32.
    valid: The same, for validation.
    test: The same, for test.
    bones: Pairs (joint, parent), [bones, 2].
    joint_names: Names of the joints.
    summary: Source, split, sizes, trials, largest height, and errors of the linear prediction.
  """

  train: Split
  valid: Split
  test: Split
  bones: Int[np.ndarray, "bones 2"]
  joint_names: list[str]
  summary: dict[str, Any]


def load(
  subject: str,
  source: str = "auto",
  data_dir: str | Path | None = None,
  train: int | None = None,
  steps: int = 5,
) -> Dataset:
  """Loads windows of a subject.

  Args:
    subject: "run" (subject 9) or "walk" (subject 35).
    source: "acclaim": SS.asf and SS_TT.amc in `data_dir`. "prepared": `cmu_mocap/` below the
      folder ACE_DATA_DIR. "download": mocap.cs.cmu.edu. "synthetic": a walker made here.
      "auto": the first of these that is there, without a download unless it was made before.
    data_dir: Folder of Acclaim files; here and in ACE_DATA_DIR a leading ~ is the home folder.
    train: Use the first so many training windows; all by default.
    steps: T, the number of predicted frames, the last ones up to 30 frames ahead.

  Raises:
    DataError: a file is missing or damaged, or does not have the frames that a window needs.
  """
  if subject not in SUBJECTS:
    raise RequestError(f"subject {subject!r} does not exist; there are {', '.join(SUBJECTS)}.")
  if not 1 <= steps <= AHEAD:
    raise RequestError(f"{steps} predicted frames asked for; there can be 1 to {AHEAD}.")
  if source == "auto":
    source = _first_source(subject, data_dir)
  trials, bones, names, origin = _SOURCES[source](subject, data_dir)
  starts, split = _split(subject, source, trials)
  arrays = {name: _windows(trials, starts[name], steps, origin) for name in SIZES[subject]}
  if train is not None:
    available = len(arrays["train"]["positions"])
    if not 1 <= train <= available:
      raise RequestError(f"{train} training windows asked for; there are {available}.")
    arrays["train"] = {field: array[:train] for field, array in arrays["train"].items()}
  # The published feature divides by the largest height of the *batch*, which couples samples.
  largest = float(arrays["train"]["positions"][:, :, 1].max())
  if not largest > 1e-30:
    raise DataError(f"{origin}: the largest height, {largest:g}, is not positive; y must be up.")
  for part in arrays.values():
    part["heights"] = part["positions"][:, :, 1:2] / np.float32(largest)
  summary = {
    "subject": subject,
    "source": source,
    "place": str(origin),
    "split": split,
    "trials": {name: {t: len(s) for t, s in starts[name].items()} for name in starts},
    "sizes": {name: len(part["positions"]) for name, part in arrays.items()},
    "largest_height": largest,
    "linear_mse": {name: linear_error(part) for name, part in arrays.items()},
  }
  return Dataset(**arrays, bones=bones, joint_names=names, summary=summary)


def linear_error(split: Split) -> float:
  """Returns the mean squared error at the last frame of predicting x + 30 v."""
  error = split["positions"] + AHEAD * split["velocities"] - split["targets"][:, :, -1]
  return float(np.mean(np.square(error, dtype=np.float64)))


def _first_source(subject: str, data_dir: str | Path | None) -> str:
  if data_dir is not None:
    return "acclaim"
  folder = _prepared_folder()
  if folder is not None:
    prepared = {"run": "subject09_run.npz", "walk": "subject35_acclaim.tar.xz"}[subject]
    if (folder / prepared).exists():
      return "prepared"
  from data.mocap import download as mocap_download

  return "download" if mocap_download.complete(SUBJECTS[subject]) else "synthetic"


def _prepared_folder() -> Path | None:
  folder = os.environ.get("ACE_DATA_DIR")
  return paths.expanded(folder) / "cmu_mocap" if folder else None


def _from_acclaim(subject: str, data_dir: str | Path | None):
  if data_dir is None:
    raise RequestError("Acclaim files need a folder: add --data_dir=FOLDER.")
  return read_acclaim(data_dir, SUBJECTS[subject])


def read_acclaim(folder: str | Path, number: int):
  """Reads SS.asf and every SS_TT.amc of a folder, in upper or lower case.

  Returns:
    ({trial: positions [frames, joints, 3]}, bones, joint names, folder).

  Raises:
    DataError: there are none, or one is damaged.
  """
  folder = paths.expanded(folder)
  skeletons = _matching(folder, rf"{number:02d}\.asf")
  skeleton = acclaim.read_skeleton(skeletons.get("", folder / f"{number:02d}.asf"))
  motions = _matching(folder, rf"{number:02d}_([^_]+).*\.amc")
  if not motions:
    raise DataError(f"{folder}: no motion {number:02d}_*.amc; get them from mocap.cs.cmu.edu.")
  trials = {}
  for trial, path in motions.items():
    _, channels = acclaim.read_motion(path, skeleton)
    trials[trial] = acclaim.joint_positions(skeleton, channels)
  return trials, skeleton.bones, skeleton.names, folder


def _matching(folder: Path, pattern: str) -> dict[str, Path]:
  """Returns the files whose names match, in upper or lower case, by the pattern's group, if any.

  Raises:
    DataError: two files are of one group.
  """
  by_group: dict[str, Path] = {}
  for path in sorted(folder.glob("*")):
    match = re.fullmatch(pattern, path.name, re.IGNORECASE)
    if match:
      group = "".join(match.groups())
      if group in by_group:
        raise DataError(
          f"{folder}: {by_group[group].name} and {path.name} are of one trial; leave one."
        )
      by_group[group] = path
  return by_group


def _from_prepared(subject: str, data_dir: str | Path | None):
  del data_dir
  folder = _prepared_folder()
  if folder is None:
    raise RequestError("prepared arrays need a folder: set ACE_DATA_DIR.")
  if subject == "walk":
    from data.mocap import download as mocap_download

    return read_acclaim(mocap_download.unpack(folder / "subject35_acclaim.tar.xz"), 35)
  path = folder / "subject09_run.npz"
  arrays = archive.read(path, None, _REMEDY)
  for name in ("edges", "joint_names"):
    if name not in arrays:
      raise DataError(f"{path}: array {name!r} is missing; {_REMEDY}.")
  bones, names = arrays.pop("edges"), arrays.pop("joint_names")
  if names.ndim != 1 or names.dtype.kind != "U" or not names.size:
    raise DataError(f"{path}: joint_names are no list of names; {_REMEDY}.")
  if bones.dtype.kind not in "iu" or bones.ndim != 2 or bones.shape[1] != 2 or not bones.size:
    raise DataError(f"{path}: edges are no pairs of joints; {_REMEDY}.")
  if not 0 <= bones.min() <= bones.max() < len(names):
    raise DataError(f"{path}: edges name joints beyond the {len(names)} that there are; {_REMEDY}.")
  trials = {}
  for name, positions in arrays.items():
    archive.check_finite(path, name, positions)
    if positions.ndim != 3 or positions.shape[1:] != (len(names), 3):
      raise DataError(
        f"{path}: {name} has shape {list(positions.shape)}; it must be [frames, {len(names)}, 3]."
      )
    # Differences of whole numbers, or of half precision, would not be velocities.
    wide = np.result_type(positions.dtype, np.float32)
    trials[name.removeprefix("trial_")] = positions.astype(wide)
  return trials, bones.astype(np.int64), names.tolist(), path


def _from_download(subject: str, data_dir: str | Path | None):
  del data_dir
  from data.mocap import download as mocap_download

  return read_acclaim(mocap_download.fetch(SUBJECTS[subject]), SUBJECTS[subject])


def _synthetic(subject: str, data_dir: str | Path | None):
  del data_dir
  trials = {f"{i:02d}": walker.walk(subject, seed=i) for i in range(11)}
  return trials, walker.BONES, list(walker.NAMES), "made here"


_SOURCES = {
  "acclaim": _from_acclaim,
  "prepared": _from_prepared,
  "download": _from_download,
  "synthetic": _synthetic,
}


def _split(subject: str, source: str, trials: dict[str, np.ndarray]):
  """Returns ({split: {trial: start frames}}, what the split is)."""
  folder = _prepared_folder()
  if subject == "run" and source == "prepared" and folder is not None:
    return _published_split(folder / "run_split_published.npz", subject), "published"
  return own_split(subject, trials), "ours"


def _published_split(path: Path, subject: str) -> dict[str, dict[str, np.ndarray]]:
  arrays = archive.read(path, None, _REMEDY)
  split = {}
  for name, size in SIZES[subject].items():
    published = {
      key.removeprefix(f"{name}_"): starts
      for key, starts in arrays.items()
      if key.startswith(f"{name}_")
    }
    if not published:
      raise DataError(f"{path}: no array {name}_TRIAL; {_REMEDY}.")
    for trial, starts in published.items():
      if starts.dtype.kind not in "iu" or starts.ndim != 1:
        raise DataError(f"{path}: start frames {name}_{trial} are no whole numbers; {_REMEDY}.")
      if any(trial in other for other in split.values()):
        raise DataError(f"{path}: trial {trial} is in two parts of the split; {_REMEDY}.")
    split[name] = {trial: starts[: size // len(published)] for trial, starts in published.items()}
  return split


def own_split(subject: str, trials: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """Splits trials 5 : 3 : 3 (in an order drawn once), and draws start frames in each.

  The protocol is the published one (by trial, the same number of windows in total, starts drawn
  without replacement), the trials and starts are not: those of Walk are not known. Of a walk, no
  window starts where a joint is faster than `_FASTEST_WALK`.

  Raises:
    DataError: fewer than three trials are long enough.
  """
  skipped = _UNUSABLE_WALKS if subject == "walk" else set()
  usable = [t for t in sorted(trials) if t not in skipped and len(trials[t]) > AHEAD + 1]
  if len(usable) < 3:
    raise DataError(f"{len(usable)} trials of at least {AHEAD + 2} frames; a split needs three.")
  random = np.random.default_rng(0)
  order = random.permutation(usable).tolist()
  held_out = max(1, round(len(order) * 3 / 11))
  parts = {
    "valid": order[:held_out],
    "test": order[held_out : 2 * held_out],
    "train": order[2 * held_out :],
  }
  split = {}
  for name, size in SIZES[subject].items():
    split[name] = {}
    for trial in sorted(parts[name]):
      last = min(len(trials[trial]) - AHEAD, _WALK_STARTS)
      starts = np.arange(last)
      if subject == "walk":
        steps = np.diff(trials[trial][: last + 1], axis=0)
        starts = starts[np.linalg.norm(steps, axis=-1).max(axis=1) <= _FASTEST_WALK]
      split[name][trial] = random.permutation(starts)[: size // len(parts[name])]
  return split


def _windows(
  trials: dict[str, np.ndarray], starts: dict[str, np.ndarray], steps: int, origin: Any
) -> Split:
  parts = []
  for trial, begin in starts.items():
    if trial not in trials:
      raise DataError(f"{origin}: trial {trial} is missing; the split needs it.")
    x, begin = trials[trial], np.asarray(begin).astype(np.int64)
    if len(begin) and not 0 <= begin.min() <= begin.max() < len(x) - AHEAD:
      raise DataError(
        f"{origin}: the split needs frame {begin.max() + AHEAD} of trial {trial}, which has "
        f"{len(x)} frames; {_REMEDY}."
      )
    ahead = np.arange(AHEAD - steps + 1, AHEAD + 1)
    parts.append(
      {
        "positions": x[begin],
        "velocities": _differences(x, begin),
        "targets": x[begin[:, None] + ahead].swapaxes(1, 2),
      }
    )
  with np.errstate(over="ignore"):
    joined = {
      field: np.concatenate([part[field] for part in parts]).astype(np.float32)
      for field in parts[0]
    }
  if not len(joined["positions"]):
    raise DataError(f"{origin}: the split has no windows; {_REMEDY}.")
  if not all(np.isfinite(array).all() for array in joined.values()):
    raise DataError(f"{origin}: velocities are not finite float32; {_REMEDY}.")
  return joined


def _differences(x: np.ndarray, begin: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):  # refused later
    return x[begin + 1] - x[begin]


def topology_edges(
  bones: Int[np.ndarray, "bones 2"], joints: int
) -> tuple[tuple[int, ...], tuple[int, ...], Float[np.ndarray, "edges 1"]]:
  """Returns the directed edges of a skeleton: bones (type 1) and two-hop pairs (type 2).

  Returns:
    (senders, receivers, types), sorted by (receiver, sender).
  """
  adjacency = np.zeros((joints, joints), bool)
  adjacency[bones[:, 0], bones[:, 1]] = adjacency[bones[:, 1], bones[:, 0]] = True
  two_hops = (adjacency.astype(int) @ adjacency > 0) & ~adjacency & ~np.eye(joints, dtype=bool)
  receivers, senders = np.nonzero(adjacency | two_hops)
  types = np.where(adjacency[receivers, senders], 1.0, 2.0)[:, None]
  return tuple(senders.tolist()), tuple(receivers.tolist()), types.astype(np.float32)
