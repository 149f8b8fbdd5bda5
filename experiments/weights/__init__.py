"""Trained models that are kept in results/weights, each with a card.

from experiments import weights

kept = weights.load("nbody_f_eq")
kept.model.apply(kept.variables["projection"], *inputs)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from experiments.weights.store import Weights

__all__ = ["load"]


def load(name: str) -> "Weights":
  """Reads a model that is kept, and verifies its file; nothing is unpickled.

  Args:
    name: Of its card, without the suffix.

  Returns:
    The model, the variables of each predictor, and the card.

  Raises:
    DataError: there is no such card, or it is damaged.
    CheckpointError: the file is missing, damaged, or not the one of the card.
  """
  from experiments.weights import store  # JAX is slow to import

  return store.load(name)
