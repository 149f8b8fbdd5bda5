"""Reading QM9: the package qm9pack, the public .xyz files, and .npz files in two known layouts."""

import csv
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data import arrays as archive
from data import content
from data.errors import DataError, first_line
from data.qm9.molecules import ELEMENTS, LARGEST, TARGETS, Molecules, checked

PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
COLUMNS = (
  *("Dipole_debye", "Polarizability_bohr3", "HOMO_au", "LUMO_au", "HOMO_LUMO_gap_au", "R2_bohr2"),
  *("ZPVE_au", "InternalEnergy_0K_au", "InternalEnergy_298K_au", "Enthalphy_298K_au"),
  *("GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K"),
)
"""Of the files of qm9pack, in the order of `TARGETS`."""
_REMEDY = "get it again"
_LARGEST_FILE = 2**16  # bytes of an .xyz file; the largest of QM9 has 3,400

Progress = Callable[[int], None]


def package_files() -> list[Path]:
  """Returns the files of the package qm9pack.

  Raises:
    DataError: it is not installed; names the extra.
  """
  spec = importlib.util.find_spec("qm9pack")
  if spec is None or not spec.submodule_search_locations:
    raise DataError(
      "QM9 comes with the package qm9pack, which is not installed: pip install -e '.[qm9]', or "
      "name a folder of .xyz or .npz files with --data_dir."
    )
  folder = Path(next(iter(spec.submodule_search_locations))) / "data"
  return [folder / name for name in PARTS]


def read_csv(paths: list[Path], progress: Progress = lambda done: None) -> Molecules:
  """Reads the files of qm9pack, one molecule a row.

  Args:
    paths: The files, in order.
    progress: Called with the number of molecules that were read, now and then.

  Raises:
    DataError: a file is missing or damaged; names file and row.
  """
  rows = _Rows()
  for path in paths:
    try:
      with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
          rows.add(*_csv_row(path, number, row))
          if number % 5000 == 0:
            progress(len(rows.index))
    except OSError as error:
      raise DataError(f"{path}: cannot be read ({error.strerror}); reinstall qm9pack.") from error
    except (csv.Error, UnicodeDecodeError) as error:
      raise DataError(f"{path}: damaged ({error}); reinstall qm9pack.") from error
  return checked(paths[0].parent, rows.arrays(), "reinstall qm9pack")


def _csv_row(
  path: Path, number: int, row: dict[str, Any]
) -> tuple[list[int], list[list[float]], list[float], int]:
  try:
    # Lists are written as Python does, but numbers may end with their point, as in JSON they may
    # not.
    elements = row["Elements"].strip("[]").replace("'", "").split(",")
    rows = row["XYZ_Ang"].removeprefix("[[").removesuffix("]]").split("],[")
    positions = [[_number(word) for word in text.split(",")] for text in rows]
    targets = [_number(row[column]) for column in COLUMNS]
    index = row["Index"]
    if not (index.isascii() and index.isdecimal() and len(index) < 8):
      raise ValueError(f"{index[:20]!r} is no index")
    return _atoms(elements, positions), positions, targets, int(index)
  except (KeyError, ValueError, TypeError, AttributeError) as error:
    reason = first_line(error)
    raise DataError(f"{path}, row {number}: no molecule ({reason}); reinstall qm9pack.") from error


def _atoms(elements: Any, positions: Any) -> list[int]:
  if not 1 <= len(elements) == len(positions) <= LARGEST:
    raise ValueError(f"{len(elements)} elements, {len(positions)} positions")
  for position in positions:
    if len(position) != 3:
      raise ValueError("a position is not three numbers")
  unknown = [element for element in elements if element not in ELEMENTS]
  if unknown:
    raise ValueError(f"element {str(unknown[0])[:8]!r} is none of {', '.join(ELEMENTS)}")
  return [ELEMENTS[element] for element in elements]


class _Rows:
  def __init__(self):
    self.index: list[int] = []
    self.numbers: list[list[int]] = []
    self.positions: list[np.ndarray] = []
    self.targets: list[list[float]] = []

  def add(self, numbers, positions, targets, index) -> None:
    self.index.append(index)
    self.numbers.append(numbers)
    self.positions.append(np.array(positions, np.float64).reshape(-1, 3))
    self.targets.append(targets)

  def arrays(self) -> dict[str, np.ndarray]:
    joined = [number for numbers in self.numbers for number in numbers]
    return {
      "index": np.array(self.index, np.int64),
      "counts": np.array([len(numbers) for numbers in self.numbers], np.int64),
      "numbers": np.array(joined, np.int64),
      "positions": np.concatenate([*self.positions, np.zeros((0, 3))]),
      "targets": np.array(self.targets, np.float64).reshape(-1, len(TARGETS)),
    }


def read_folder(folder: Path, progress: Progress = lambda done: None) -> Molecules:
  """Reads a folder of the public .xyz files, or of .npz files; an .npz alone too.

  Args:
    folder: With dsgdb9nsd_000001.xyz, ..., or with .npz files in one of the layouts of `read_npz`.
    progress: Called with the number of molecules that were read, now and then.

  Raises:
    DataError: there are none, or one is damaged.
  """
  if folder.is_file() and folder.suffix == ".npz":
    return read_npz([folder])
  if not folder.is_dir():
    raise DataError(f"{folder}: no such folder; name one of .xyz or .npz files with --data_dir.")
  archives, texts = sorted(folder.glob("*.npz")), sorted(folder.glob("*.xyz"))
  if archives:
    return read_npz(archives)
  if not texts:
    raise DataError(
      f"{folder}: holds no .xyz and no .npz file; unpack dsgdb9nsd.xyz.tar.bz2 there, or install "
      "qm9pack: pip install -e '.[qm9]'."
    )
  rows = _Rows()
  for number, path in enumerate(texts, start=1):
    rows.add(*read_xyz(path))
    if number % 5000 == 0:
      progress(number)
  return checked(folder, rows.arrays(), _REMEDY)


def read_xyz(path: Path) -> tuple[list[int], list[list[float]], list[float], int]:
  """Reads one public .xyz file.

  The number of atoms; "gdb", the index, three rotational constants and the twelve properties; a
  line for each atom, element, position and charge; what follows is not read. An exponent may be
  written "*^".

  Returns:
    (atomic numbers, positions, properties, index).

  Raises:
    DataError: names file and line.
  """

  def refuse(line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}; {_REMEDY}.")

  lines = _lines(path)
  word = lines[0].strip() if lines else ""
  count = int(word) if word.isascii() and word.isdecimal() and len(word) < 6 else 0
  if not 1 <= count <= LARGEST:
    raise refuse(1, f"{word[:20]!r} is no number of atoms, 1 to {LARGEST}")
  if len(lines) < count + 2:
    raise refuse(len(lines) + 1, f"the file ends before its {count} atoms do")
  words = lines[1].split()
  if len(words) != 5 + len(TARGETS) or words[0] != "gdb":
    raise refuse(2, f"not 'gdb', an index and {3 + len(TARGETS)} numbers")
  if not (words[1].isascii() and words[1].isdecimal() and len(words[1]) < 8):
    raise refuse(2, f"{words[1][:20]!r} is no index")
  numbers, positions = [], []
  try:
    targets = [_number(word) for word in words[5:]]
  except ValueError as error:
    raise refuse(2, str(error)) from error
  for line, text in enumerate(lines[2 : count + 2], start=3):
    element, *rest = text.split() or [""]
    if element not in ELEMENTS or len(rest) not in (3, 4):
      raise refuse(line, f"not an element ({', '.join(ELEMENTS)}) and three coordinates")
    numbers.append(ELEMENTS[element])
    try:
      positions.append([_number(word) for word in rest[:3]])
    except ValueError as error:
      raise refuse(line, str(error)) from error
  return numbers, positions, targets, int(words[1])


def _lines(path: Path) -> list[str]:
  try:
    return content.read(path, _LARGEST_FILE, _REMEDY).decode("ascii").splitlines()
  except UnicodeDecodeError as error:
    raise DataError(f"{path}: byte {error.start} is no ASCII; {_REMEDY}.") from error


def _number(word: str) -> float:
  text = word.replace("*^", "e")
  plain = not set(text.lower()) - set("0123456789+-.e")  # float() takes 1_0, inf and nan too
  try:
    value = float(text) if plain and len(text) < 40 else float("nan")
  except ValueError:
    value = float("nan")
  if not np.isfinite(value):
    raise ValueError(f"{word[:20]!r} is no finite number")
  return value


def read_npz(paths: list[Path]) -> Molecules:
  """Reads .npz files, all of one layout.

  ==================  ==================================================  ========
  layout              arrays, beside the twelve properties [n]            energies
  ==================  ==================================================  ========
  padded              num_atoms, charges [n, A], positions [n, A, 3],     hartree
                      index (from 1; else the rows are counted)
  joined              N, Z [atoms], R [atoms, 3], id (from 1)             eV
  ==================  ==================================================  ========

  The first is that of Cormorant (Anderson et al., 2019), train.npz, valid.npz, test.npz; the second
  that of DimeNet (Gasteiger et al., 2020). The unit is told by the size of the energies, not by the
  layout.

  Raises:
    DataError: an array is missing or does not fit; names the file.
  """
  parts, before = [], 0
  for path in paths:
    arrays = archive.read(path, None, _REMEDY)
    part = _joined(path, arrays) if "R" in arrays else _from_padded(path, arrays, before)
    before += len(part["index"])
    parts.append(part)
  joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  source_path = paths[0] if len(paths) == 1 else paths[0].parent
  return checked(source_path, joined, _REMEDY)


def _named(path: Path, arrays: dict[str, np.ndarray], names: Iterator[str] | list[str]) -> None:
  for name in names:
    if name not in arrays:
      raise DataError(f"{path}: array {name!r} is missing; {_REMEDY}.")
    if arrays[name].dtype.kind not in "fiu":
      raise DataError(f"{path}: {name} holds {arrays[name].dtype}, not numbers; {_REMEDY}.")


def _shaped(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  if array.shape != shape:
    raise DataError(
      f"{path}: {name} has shape {list(array.shape)} where it must be {list(shape)}; {_REMEDY}."
    )
  return array


def _whole(path: Path, name: str, array: np.ndarray) -> np.ndarray:
  if array.dtype.kind == "f":
    with np.errstate(invalid="ignore"):
      if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise DataError(f"{path}: {name} are not whole numbers; {_REMEDY}.")
      if (np.abs(array) > 2**31).any():
        raise DataError(f"{path}: {name} are too large; {_REMEDY}.")
  elif array.size and max(abs(int(array.min())), abs(int(array.max()))) > 2**31:
    raise DataError(f"{path}: {name} are too large; {_REMEDY}.")
  return array.astype(np.int64)


def _from_one(index: np.ndarray) -> np.ndarray:
  """Returns indices that count from 1, as in the database; an index 0 says that they do not."""
  return index + 1 if index.size and index.min() == 0 else index


def _properties(path: Path, arrays: dict[str, np.ndarray], molecules: int) -> np.ndarray:
  _named(path, arrays, [*TARGETS])
  columns = []
  for name in TARGETS:
    array = arrays[name]
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    columns.append(_shaped(path, name, column, (molecules,)).astype(np.float64))
  return np.stack(columns, -1)


def _from_padded(path: Path, arrays: dict[str, np.ndarray], before: int) -> dict[str, np.ndarray]:
  _named(path, arrays, ["num_atoms", "charges", "positions"])
  counts = _whole(path, "num_atoms", arrays["num_atoms"])
  charges = _whole(path, "charges", arrays["charges"])
  if counts.ndim != 1 or charges.ndim != 2 or charges.shape[0] != len(counts):
    raise DataError(f"{path}: num_atoms and charges are not [n] and [n, atoms]; {_REMEDY}.")
  positions = _shaped(path, "positions", arrays["positions"], (*charges.shape, 3))
  if len(counts) and not 1 <= counts.min() <= counts.max() <= charges.shape[1]:
    raise DataError(f"{path}: num_atoms are not 1 to {charges.shape[1]}; {_REMEDY}.")
  index = before + 1 + np.arange(len(counts))
  if "index" in arrays:
    _named(path, arrays, ["index"])
    index = _from_one(_shaped(path, "index", _whole(path, "index", arrays["index"]), counts.shape))
  real = np.arange(charges.shape[1]) < counts[:, None]
  return {
    "index": index,
    "counts": counts,
    "numbers": charges[real],
    "positions": positions[real].astype(np.float64),
    "targets": _properties(path, arrays, len(counts)),
  }


def _joined(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  _named(path, arrays, ["N", "Z", "R", "id"])
  counts, numbers = (_whole(path, name, arrays[name]) for name in "NZ")
  if counts.ndim != 1 or numbers.ndim != 1 or counts.min(initial=1) < 1:
    raise DataError(f"{path}: N and Z are not numbers of atoms, and atomic numbers; {_REMEDY}.")
  if counts.sum() != len(numbers):
    raise DataError(f"{path}: N sums to {counts.sum()} atoms, Z has {len(numbers)}; {_REMEDY}.")
  return {
    "index": _from_one(_shaped(path, "id", _whole(path, "id", arrays["id"]), counts.shape)),
    "counts": counts,
    "numbers": numbers,
    "positions": _shaped(path, "R", arrays["R"], (len(numbers), 3)).astype(np.float64),
    "targets": _properties(path, arrays, len(counts)),
  }
