"""Group actions, and how far functions, layers and data are from equivariance under them."""

import importlib
from typing import TYPE_CHECKING, Any

from ace_jax.symmetry import actions, bounds, entries, groups, verdicts
from ace_jax.symmetry.actions import act_on
from ace_jax.symmetry.data import Symmetry
from ace_jax.symmetry.errors import (
  ErrorStatistics,
  data_fit_loss,
  equivariance_error,
  equivariance_statistics,
  layer_irreps,
  layer_outputs,
  lie_derivatives,
)
from ace_jax.symmetry.groups import Group, Motion, random_rotations

if TYPE_CHECKING:
  from ace_jax.symmetry import measuring, misalignment, report

__all__ = [
  "ErrorStatistics",
  "Group",
  "Motion",
  "Symmetry",
  "act_on",
  "actions",
  "bounds",
  "data_fit_loss",
  "entries",
  "equivariance_error",
  "equivariance_statistics",
  "groups",
  "layer_irreps",
  "layer_outputs",
  "lie_derivatives",
  "measuring",
  "misalignment",
  "random_rotations",
  "report",
  "verdicts",
]


def __getattr__(name: str) -> Any:
  if name in ("measuring", "misalignment", "report"):  # of trainings, which need symmetries
    return importlib.import_module(f"ace_jax.symmetry.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
