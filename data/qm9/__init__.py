"""QM9: small organic molecules, and twelve of their properties."""

from data.qm9.dataset import REFERENCES, SPLITS, Dataset, Split, load
from data.qm9.molecules import TARGETS, Molecules, Target

__all__ = [
  "REFERENCES",
  "SPLITS",
  "TARGETS",
  "Dataset",
  "Molecules",
  "Split",
  "Target",
  "load",
]
