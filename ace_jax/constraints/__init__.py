"""Constrained problems and rival training rules, each a pytree of its constants.

`base` says what a rule consists of, `on_gamma` and `on_error` are the constraints on layers and on
a network's equivariance error, `rivals` and `on_weights` the training rules to compare with.
"""

from ace_jax.constraints.base import Constraint, Terms, Unconstrained
from ace_jax.constraints.on_error import Functional, ResilientFunctional
from ace_jax.constraints.on_gamma import (
  Equality,
  Inequality,
  OneSided,
  PublishedResilient,
  Resilient,
  Ridge,
  magnitude,
)
from ace_jax.constraints.on_weights import ProjectionRegulariser, ResidualPathway
from ace_jax.constraints.prescribed import RandomHomotopy, Swing
from ace_jax.constraints.rivals import Augment, GapPenalty, GradNorm, Remul, Schedule

__all__ = [
  "Augment",
  "Constraint",
  "Equality",
  "Functional",
  "GapPenalty",
  "GradNorm",
  "Inequality",
  "OneSided",
  "ProjectionRegulariser",
  "PublishedResilient",
  "RandomHomotopy",
  "Remul",
  "ResidualPathway",
  "Resilient",
  "ResilientFunctional",
  "Ridge",
  "Schedule",
  "Swing",
  "Terms",
  "Unconstrained",
  "magnitude",
]
