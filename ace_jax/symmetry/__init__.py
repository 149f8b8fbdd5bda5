"""Group actions, and how far functions, layers and data are from equivariance under them."""

from ace_jax.symmetry.actions import act_on
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

__all__ = [
  "ErrorStatistics",
  "Group",
  "Motion",
  "act_on",
  "data_fit_loss",
  "equivariance_error",
  "equivariance_statistics",
  "layer_irreps",
  "layer_outputs",
  "lie_derivatives",
  "random_rotations",
]
