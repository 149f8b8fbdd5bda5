"""Particles that attract and repel each other: the data set, and its physics."""

from data.nbody.dataset import (
  SHOWN,
  Dataset,
  Split,
  first,
  linear_error,
  load,
  load_file,
  simulate,
  with_neighbours,
)

__all__ = [
  "SHOWN",
  "Dataset",
  "Split",
  "first",
  "linear_error",
  "load",
  "load_file",
  "simulate",
  "with_neighbours",
]
