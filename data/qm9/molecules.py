"""What is known of each molecule of QM9, and what it must be.

133,885 molecules of up to nine atoms of C, N, O and F, with hydrogen; geometries and properties by
density functional theory, B3LYP/6-31G(2df,p). Ramakrishnan, Dral, Rupp, von Lilienfeld, "Quantum
chemistry structures and properties of 134 kilo molecules", Scientific Data 1, 140022, 2014.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data.errors import DataError

ELECTRON_VOLTS = 27.211386245988
"""In a hartree (CODATA 2018)."""
LARGEST = 29
"""Atoms in a molecule of QM9, at most."""
ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}

_FURTHEST = 1000.0  # Angstrom from the origin
_LARGEST_TARGET = 1e9  # in any unit; those of QM9 are below 1e5
_CLOSEST = 0.1  # Angstrom between atoms; a bond has at least 0.7


@dataclasses.dataclass(frozen=True)
class Target:
  """A property.

  Attributes:
    name: As --target takes it.
    unit: In the literature and here.
    hartree: Whether the data set has it in hartree, and the literature in eV.
    meaning: In words.
  """

  name: str
  unit: str
  meaning: str
  hartree: bool = False


TARGETS = {
  target.name: target
  for target in (
    Target("mu", "D", "dipole moment"),
    Target("alpha", "Bohr^3", "isotropic polarizability"),
    Target("homo", "eV", "energy of the highest occupied orbital", hartree=True),
    Target("lumo", "eV", "energy of the lowest unoccupied orbital", hartree=True),
    Target("gap", "eV", "lumo less homo", hartree=True),
    Target("r2", "Bohr^2", "electronic spatial extent"),
    Target("zpve", "eV", "zero point vibrational energy", hartree=True),
    Target("U0", "eV", "internal energy at 0 K", hartree=True),
    Target("U", "eV", "internal energy at 298.15 K", hartree=True),
    Target("H", "eV", "enthalpy at 298.15 K", hartree=True),
    Target("G", "eV", "free energy at 298.15 K", hartree=True),
    Target("Cv", "cal/(mol K)", "heat capacity at 298.15 K"),
  )
}
"""All twelve, in the order of the literature."""


@dataclasses.dataclass(frozen=True)
class Molecules:
  """Molecules, their atoms one after the other.

  Attributes:
    index: In the database gdb9, from 1.
    counts: Number of atoms of each.
    numbers: Atomic numbers.
    positions: Angstrom.
    targets: In the order and the units of `TARGETS`.
  """

  index: Int[np.ndarray, " molecules"]
  counts: Int[np.ndarray, " molecules"]
  numbers: Int[np.ndarray, " atoms"]
  positions: Float[np.ndarray, "atoms 3"]
  targets: Float[np.ndarray, "molecules 12"]

  def __len__(self) -> int:
    return len(self.index)

  def take(self, which: Int[np.ndarray, " chosen"]) -> "Molecules":
    """Returns some of them, in the order asked for."""
    starts = np.cumsum(self.counts) - self.counts
    counts = self.counts[which]
    offsets = np.repeat(starts[which] - (np.cumsum(counts) - counts), counts)
    atoms = offsets + np.arange(counts.sum())
    return Molecules(
      self.index[which], counts, self.numbers[atoms], self.positions[atoms], self.targets[which]
    )

  def padded(
    self, atoms: int
  ) -> tuple[Int[np.ndarray, "molecules atoms"], Float[np.ndarray, "molecules atoms 3"]]:
    """Returns atomic numbers, 0 where a molecule has no more atoms, and positions."""
    real = np.arange(atoms) < self.counts[:, None]
    numbers = np.zeros(real.shape, np.int32)
    positions = np.zeros((*real.shape, 3), np.float32)
    numbers[real], positions[real] = self.numbers, self.positions
    return numbers, positions


FIELDS = tuple(field.name for field in dataclasses.fields(Molecules))


def checked(source_path: Path | str, arrays: dict[str, np.ndarray], remedy: str) -> Molecules:
  """Returns molecules of arrays that were read, energies in the unit in which they stand there.

  Args:
    source_path: Where the arrays come from, for error messages.
    arrays: By the names of `FIELDS`; energies all in hartree, or all in eV.
    remedy: What to do about bad ones.

  Returns:
    The molecules, in the units of `TARGETS`.

  Raises:
    DataError: names the first molecule that is none, and why.
  """

  def refuse(which: int, what: str) -> DataError:
    return DataError(f"{source_path}: molecule {arrays['index'][which]} {what}; {remedy}.")

  index, counts, targets = (arrays[name] for name in ("index", "counts", "targets"))
  numbers, positions = arrays["numbers"], arrays["positions"]
  if not len(index):
    raise DataError(f"{source_path}: there are no molecules; {remedy}.")
  for name in ("index", "counts", "numbers"):
    if arrays[name].dtype.kind not in "iu":
      raise DataError(f"{source_path}: {name} are not whole numbers; {remedy}.")
  wrong = np.flatnonzero((counts < 1) | (counts > LARGEST))
  if wrong.size:
    raise refuse(wrong[0], f"has {counts[wrong[0]]} atoms; those of QM9 have 1 to {LARGEST}")
  values, repeats = np.unique(index, return_counts=True)
  if (repeats > 1).any():
    raise DataError(f"{source_path}: molecule {values[repeats > 1][0]} is there twice; {remedy}.")
  of_atom = np.repeat(np.arange(len(index)), counts)
  wrong = np.flatnonzero(~np.isin(numbers, [*ELEMENTS.values()]))
  if wrong.size:
    raise refuse(
      of_atom[wrong[0]], f"has an atom of number {numbers[wrong[0]]}, not of H, C, N, O or F"
    )
  wrong = np.flatnonzero(~(np.abs(positions) <= _FURTHEST).all(1))
  if wrong.size:
    raise refuse(of_atom[wrong[0]], f"has an atom that is not within {_FURTHEST:g} Angstrom")
  wrong = np.argwhere(~(np.abs(targets) <= _LARGEST_TARGET))
  if wrong.size:
    row, column = wrong[0]
    raise refuse(row, f"has no {[*TARGETS][column]} within {_LARGEST_TARGET:g}")
  molecules = Molecules(
    index.astype(np.int64),
    counts.astype(np.int64),
    numbers.astype(np.uint8),
    positions.astype(np.float32),
    targets.astype(np.float64),
  )
  close = _coinciding(molecules)
  if close is not None:
    raise refuse(close, f"has two atoms within {_CLOSEST:g} Angstrom")
  return dataclasses.replace(molecules, targets=_in_units(source_path, molecules, remedy))


def _coinciding(molecules: Molecules) -> int | None:
  """Returns the first molecule with two atoms in one place."""
  for begin in range(0, len(molecules), 10_000):
    part = molecules.take(np.arange(begin, min(begin + 10_000, len(molecules))))
    numbers, positions = part.padded(int(part.counts.max()))
    a, b = np.triu_indices(numbers.shape[1], 1)
    both = (numbers[:, a] > 0) & (numbers[:, b] > 0)
    square = np.square(positions[:, a] - positions[:, b]).sum(-1)
    wrong = np.flatnonzero((both & (square < _CLOSEST**2)).any(1))
    if wrong.size:
      return begin + int(wrong[0])
  return None


# Of all molecules of QM9 the energy is between -40 and -715 hartree, so between -1,090 and -19,500
# eV: from it the unit can be told.
_LOWEST_HARTREE = -1000.0


def _in_units(source_path: Path | str, molecules: Molecules, remedy: str) -> np.ndarray:
  names = [*TARGETS]
  energy = molecules.targets[:, names.index("U0")]
  in_hartree = energy > _LOWEST_HARTREE
  if in_hartree.all() != in_hartree.any():
    index = molecules.index[np.argmax(in_hartree != in_hartree[0])]
    raise DataError(
      f"{source_path}: U0 of molecule {index} is in another unit than that of molecule "
      f"{molecules.index[0]}, hartree and eV; {remedy}."
    )
  if not in_hartree[0]:
    return molecules.targets
  factors = [ELECTRON_VOLTS if target.hartree else 1.0 for target in TARGETS.values()]
  return molecules.targets * np.array(factors)
