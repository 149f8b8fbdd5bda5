"""The subgroup of rotations that a network keeps strictly, as --keep names it. Imports no JAX.

"axis:z" is the group of the rotations about z, with the mirrors through planes that contain z.
"""

from collections.abc import Mapping
from typing import Any

AXES = "xyz"
CHOICES = tuple(f"axis:{axis}" for axis in AXES)
HELP = (
  "The network is strictly equivariant under the rotations about this axis, and the mirrors "
  "through planes that contain it, alone (TFN, SE(3)-Transformer: under the rotations alone); by "
  "default under all rotations."
)


def axis(keep: str | None) -> str | None:
  """Returns "x", "y" or "z"; None where all rotations are kept."""
  return None if keep is None else keep.removeprefix("axis:")


def direction(keep: str | None) -> tuple[float, float, float] | None:
  """Returns the unit vector along the axis; None where all rotations are kept."""
  if keep is None:
    return None
  x, y, z = (float(name == axis(keep)) for name in AXES)
  return x, y, z


def labels(settings: Mapping[str, Any]) -> list[str]:
  """Returns what tables say of it.

  Args:
    settings: Of a run; older ones do not name what there was no choice of.
  """
  keep = settings.get("keep")
  return [] if keep is None else [f"keeps {keep}"]
