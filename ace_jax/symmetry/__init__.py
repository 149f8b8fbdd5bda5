"""Group actions, and how far a function is from equivariant under them."""

from ace_jax.symmetry.errors import equivariance_error
from ace_jax.symmetry.groups import random_rotations

__all__ = ["equivariance_error", "random_rotations"]
