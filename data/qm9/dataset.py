"""QM9 as a data set: one property, in splits that are always the same.

Molecules whose geometry does not fit their formula are left out, as usual: 3,054 of 133,885, listed
in uncharacterised.txt (from the readme of the data set, CC0). The package qm9pack, 1.0.3, has the
other 130,831 alone, under their own indices.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from data import cache
from data.errors import DataError, RequestError
from data.paths import expanded
from data.qm9 import readers
from data.qm9.molecules import ELECTRON_VOLTS, ELEMENTS, FIELDS, TARGETS, Molecules

Split = dict[str, np.ndarray]

SPLITS = ("published", "literature")
REFERENCES = ("none", "isolated")
NAMES = ("train", "valid", "test")

_VERSION = 1  # of the cache

# Of H, C, N, O and F: energies in hartree, heat capacities; atomref.txt of the data set.
_ISOLATED = {
  "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
  "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
  "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
  "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
  "Cv": (2.981, 2.981, 2.981, 2.981, 2.981),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Molecules with one property, split.

  Attributes:
    train: `numbers` [n, atoms], atomic numbers, 0 where a molecule has no more atoms; `positions`
      [n, atoms, 3], Angstrom; `target` [n], in the property's unit, less the references of its
      atoms; `index` [n], of the database, from 1. `atoms` is the same in all splits.
    valid: The same, for validation.
    test: The same, for test.
    summary: Source, split, sizes, property, unit, references, mean and deviation of the training
      targets, and the errors of predicting their mean.
  """

  train: Split
  valid: Split
  test: Split
  summary: dict[str, Any]


def load(
  target: str,
  *,
  data_dir: str | Path | None = None,
  split: str = "published",
  references: str = "none",
  train: int | None = None,
  held_out: int | None = None,
  kept: Path | None = None,
  progress: Callable[[int], None] = lambda done: None,
) -> Dataset:
  """Loads QM9.

  Args:
    target: One of `TARGETS`.
    data_dir: Folder of .xyz or .npz files; the package qm9pack by default.
    split: "published": 80 / 10 / 10 %, in an order that is drawn once. "literature": 100,000
      molecules for training, a tenth for test, the rest (17,748) for validation, in the order of
      Anderson et al., "Cormorant", 2019.
    references: "isolated": the energies (U0, U, H, G) and the heat capacity are those of the
      molecule less those of its atoms alone. "none": as they are.
    train: Use the first so many training molecules; all by default.
    held_out: Use the first so many validation and test molecules; all by default.
    kept: Folder of the cache of what was read from the package; the user's by default.
    progress: Called with the number of molecules that were read.

  Raises:
    DataError: a file is missing or damaged.
    RequestError: the data cannot give what is asked for.
  """
  if target not in TARGETS:
    raise RequestError(f"target {target!r} does not exist; take {', '.join(TARGETS)}.")
  if references not in REFERENCES:
    raise RequestError(f"references {references!r} do not exist; take {', '.join(REFERENCES)}.")
  if references != "none" and target not in _ISOLATED:
    raise RequestError(
      f"{target} has no references of atoms; take references 'none', or one of "
      f"{', '.join(_ISOLATED)}."
    )
  molecules, source, source_path = read(data_dir, kept, progress)
  characterised = ~np.isin(molecules.index, uncharacterised())
  molecules = molecules.take(np.flatnonzero(characterised))
  order = np.argsort(molecules.index, kind="stable")  # splits do not depend on the order of files
  molecules = molecules.take(order)
  parts = split_indices(split, len(molecules))
  asked = {"train": train, "valid": held_out, "test": held_out}
  for name, count in asked.items():
    if count is not None and not 1 <= count <= len(parts[name]):
      raise RequestError(
        f"{count} molecules for {name} asked for; there are {len(parts[name])} of {len(molecules)}."
      )
    parts[name] = parts[name][:count]
  chosen = {name: molecules.take(part) for name, part in parts.items()}
  atoms = max(int(part.counts.max()) for part in chosen.values())
  splits = {name: _split(part, atoms, target, references) for name, part in chosen.items()}
  targets = splits["train"]["target"].astype(np.float64)
  middle = float(targets.mean())
  summary = {
    "source": source,
    "place": str(source_path),
    "split": split,
    "sizes": {name: len(part) for name, part in chosen.items()},
    "left_out": int((~characterised).sum()),
    "target": target,
    "unit": TARGETS[target].unit,
    "atom_references": references,
    "atoms": atoms,
    "mean": middle,
    "mean_absolute_deviation": float(np.abs(targets - middle).mean()),
    "linear_mse": {
      name: float(np.abs(part["target"] - middle).mean()) for name, part in splits.items()
    },
  }
  return Dataset(**splits, summary=summary)


def read(
  data_dir: str | Path | None,
  kept: Path | None = None,
  progress: Callable[[int], None] = lambda done: None,
) -> tuple[Molecules, str, Path]:
  """Reads all molecules, from a folder or from the package (whose content is cached).

  Arguments as of `load`.

  Returns:
    (molecules, what they were read from, where that is).
  """
  if data_dir is not None:
    source_path = expanded(data_dir)
    return readers.read_folder(source_path, progress), "files", source_path
  paths = readers.package_files()
  source_path = paths[0].parent
  folder = platformdirs.user_cache_path("ace_jax") / "qm9" if kept is None else kept
  path = folder / f"qm9pack_{_state(paths)}.npz"
  arrays = cache.read(path, FIELDS)
  if arrays is not None:
    return Molecules(**arrays), "qm9pack", source_path
  molecules = readers.read_csv(paths, progress)
  cache.write(path, {name: getattr(molecules, name) for name in FIELDS})
  return molecules, "qm9pack", source_path


def _state(paths: list[Path]) -> str:
  """Returns what changes with the files, and with what is made of them."""
  try:
    sizes = [path.stat().st_size for path in paths]
  except OSError as error:
    raise DataError(
      f"{error.filename}: cannot be read ({error.strerror}); reinstall qm9pack."
    ) from error
  return hashlib.sha256(f"{_VERSION} {sizes}".encode()).hexdigest()[:16]


def uncharacterised() -> np.ndarray:
  """Returns the indices of the molecules that are left out."""
  return np.loadtxt(Path(__file__).parent / "uncharacterised.txt", dtype=np.int64)


def split_indices(name: str, count: int) -> dict[str, np.ndarray]:
  """Returns which of so many molecules are for training, validation and test.

  Raises:
    RequestError: there is no such split, or there are too few molecules for it.
  """
  if name == "published":
    order = np.random.default_rng(0).permutation(count)
    train, held_out = count * 8 // 10, count // 10
    bounds = [train, train + held_out, train + 2 * held_out]
  elif name == "literature":
    # The legacy generator, so that the order is that of the published code.
    order = np.random.RandomState(0).permutation(count)
    train, held_out = 100_000, count // 10
    bounds = [train, count - held_out, count]
  else:
    raise RequestError(f"split {name!r} does not exist; take {' or '.join(SPLITS)}.")
  parts = dict(zip(NAMES, np.split(order, bounds)[:3], strict=True))
  if bounds[0] >= bounds[1] or not all(map(len, parts.values())):
    raise RequestError(f"{count} molecules are too few for the split {name!r}.")
  return parts


def reference(numbers: np.ndarray, target: str) -> np.ndarray:
  """Returns the sum of the property over the atoms alone, [n], in its unit.

  Args:
    numbers: Atomic numbers, [n, atoms]; 0 is no atom.
    target: One of those that have references.
  """
  factor = ELECTRON_VOLTS if TARGETS[target].hartree else 1.0
  by_number = np.zeros(10)
  by_number[[*ELEMENTS.values()]] = factor * np.array(_ISOLATED[target])
  return by_number[numbers].sum(-1)


def _split(molecules: Molecules, atoms: int, target: str, references: str) -> Split:
  numbers, positions = molecules.padded(atoms)
  values = molecules.targets[:, [*TARGETS].index(target)]
  if references == "isolated":
    values = values - reference(numbers, target)
  return {
    "numbers": numbers,
    "positions": positions,
    "target": values.astype(np.float32),
    "index": molecules.index.astype(np.int32),
  }


def largest_degree(splits: list[Split], radius: float) -> int:
  """Returns how many others lie within a radius of an atom, at most, over all molecules."""
  most = 0
  for split in splits:
    for begin in range(0, len(split["numbers"]), 2000):
      numbers, positions = (split[k][begin : begin + 2000] for k in ("numbers", "positions"))
      square = np.square(positions[:, :, None] - positions[:, None]).sum(-1)
      near = (square <= radius**2) & (numbers[:, None] > 0) & (numbers[:, :, None] > 0)
      most = max(most, int(near.sum(-1).max()) - 1)
  return most
