"""Figures from records alone; functions return a matplotlib Figure, `save` writes it.

Raises:
  MissingPackageError: (when imported) there is no Matplotlib.
"""

import importlib.util

from ace_jax.errors import MissingPackageError

if importlib.util.find_spec("matplotlib") is None:
  raise MissingPackageError("figures need Matplotlib: pip install 'ace-equivariance[plots]'.")

from ace_jax.plots.curves import (
  against_reference,
  equivariance_error,
  gamma_and_multipliers,
  layers,
  mean_and_deviation,
  sample_efficiency,
  save,
  series,
  trajectories,
  validation_curve,
)
from ace_jax.plots.landscape import along_training, contours, save_animation, sharpness, surface
from ace_jax.plots.report import equivariance, misalignment
from ace_jax.plots.streams import by_stream, table
from ace_jax.plots.style import LOOKS, PALETTE

__all__ = [
  "LOOKS",
  "PALETTE",
  "against_reference",
  "along_training",
  "by_stream",
  "contours",
  "equivariance",
  "equivariance_error",
  "gamma_and_multipliers",
  "layers",
  "mean_and_deviation",
  "misalignment",
  "sample_efficiency",
  "save",
  "save_animation",
  "series",
  "sharpness",
  "surface",
  "table",
  "trajectories",
  "validation_curve",
]
