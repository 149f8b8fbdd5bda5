"""Published equivariant models with homotopic layers, one file a model."""

from ace_jax.models.segnn import SEGNN, NBodySEGNN

__all__ = ["SEGNN", "NBodySEGNN"]
