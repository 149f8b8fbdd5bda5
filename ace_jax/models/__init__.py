"""Published equivariant models with homotopic layers, one file a model."""

from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.mpnn import MPNN
from ace_jax.models.radial_field import RadialField
from ace_jax.models.schnet import SchNet
from ace_jax.models.se3_transformer import SE3Transformer
from ace_jax.models.segnn import SEGNN
from ace_jax.models.tfn import TFN
from ace_jax.models.transformer import Transformer
from ace_jax.models.vector_neurons import VNDGCNN

__all__ = [
  "EGNN",
  "EGNO",
  "MPNN",
  "SEGNN",
  "TFN",
  "VNDGCNN",
  "RadialField",
  "SE3Transformer",
  "SchNet",
  "Transformer",
]
