"""People in motion: the data set, its file formats, its download, and a made-up walker."""

from data.mocap.dataset import (
  Dataset,
  Split,
  linear_error,
  load,
  own_split,
  read_acclaim,
  topology_edges,
)

__all__ = [
  "Dataset",
  "Split",
  "linear_error",
  "load",
  "own_split",
  "read_acclaim",
  "topology_edges",
]
