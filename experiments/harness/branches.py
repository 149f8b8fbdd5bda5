"""The relaxation branches f_neq: one entry each, from which flags and constructors follow.

Nothing here imports JAX: what makes a branch is named as "module:name".
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
  """A whole number that a branch's cost grows with, and the flag that gives it.

  Attributes:
    name: Of the flag and of the setting.
    help: Of the flag.
    arguments: What a constructor takes for it, by name.
  """

  name: str
  help: str
  arguments: Callable[[int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Branch:
  """A relaxation branch.

  Attributes:
    name: As --relaxation takes it.
    make: "module:name" of its class.
    size: None for a branch of one size.
    normalised: Whether its weights are divided by their norm.
  """

  name: str
  make: str
  size: Size | None = None
  normalised: bool = False


_WIDTH = Size(
  "relaxation_features",
  "Width of both hidden layers of the branch (mlp, spectral_mlp); by default 2 n and n, where it "
  "has n outputs.",
  lambda width: {"hidden": (width, width)},
)
_RANK = Size("rank", "Rank of the branch (low_rank); 4 by default.", lambda rank: {"rank": rank})

DEFAULT = "mlp"
_registered = {
  entry.name: entry
  for entry in (
    Branch("mlp", "ace_jax.relaxations:MLP", _WIDTH),
    Branch("linear", "ace_jax.relaxations:Linear"),
    Branch("spectral_mlp", "ace_jax.relaxations:SpectralMLP", _WIDTH, normalised=True),
    Branch("low_rank", "ace_jax.relaxations:LowRank", _RANK),
  )
}


def register(entry: Branch) -> None:
  """Adds a branch of another module, before flags are defined.

  Raises:
    ValueError: there is one of that name.
  """
  if entry.name in _registered:
    raise ValueError(f"branch {entry.name!r} is registered already.")
  _registered[entry.name] = entry


def names() -> list[str]:
  """Returns the names of all branches."""
  return [*_registered]


def get(name: str) -> Branch:
  """Returns a branch's entry."""
  return _registered[name]


def sizes() -> dict[str, Size]:
  """Returns all sizes by name."""
  return {entry.size.name: entry.size for entry in _registered.values() if entry.size}


def users(size: str) -> tuple[str, ...]:
  """Returns the names of the branches that have a size."""
  return tuple(
    entry.name for entry in _registered.values() if entry.size and entry.size.name == size
  )
