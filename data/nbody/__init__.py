"""Particles that attract and repel each other: the data set, and its physics."""

from data.nbody.dataset import (
  SHOWN,
  Dataset,
  Split,
  first,
  linear_error,
  load,
  simulate,
  with_neighbours,
)
from data.nbody.files import load_file, load_folder

__all__ = [
  "SHOWN",
  "Dataset",
  "Split",
  "first",
  "linear_error",
  "load",
  "load_file",
  "load_folder",
  "simulate",
  "with_neighbours",
]
