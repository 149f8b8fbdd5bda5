"""Shapes: ModelNet in its public layouts, and a procedural set where there is none."""

from data.modelnet.dataset import SOURCES, Dataset, Split, load
from data.modelnet.mesh import Mesh, read_off, sample

__all__ = ["SOURCES", "Dataset", "Mesh", "Split", "load", "read_off", "sample"]
