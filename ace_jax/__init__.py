"""Learning (approximately) equivariant networks by constrained optimization.

Source: Manolache, Chamon, Niepert, "Learning (Approximately) Equivariant Networks via Constrained
Optimization", NeurIPS 2025, arXiv:2505.13631.
"""

from ace_jax.constraints.base import Constraint, Unconstrained
from ace_jax.constraints.on_gamma import (
  Equality,
  Inequality,
  OneSided,
  PublishedResilient,
  Resilient,
  Ridge,
)
from ace_jax.errors import AceError
from ace_jax.homotopy import Homotopic, project, prune, strict
from ace_jax.primal_dual import Gradients, PrimalDual, StepOutput
from ace_jax.state import AceState, Primal
from ace_jax.task import Task
from ace_jax.training.fitting import Fit, fit

__version__ = "0.1.0"

__all__ = [
  "AceError",
  "AceState",
  "Constraint",
  "Equality",
  "Fit",
  "Gradients",
  "Homotopic",
  "Inequality",
  "OneSided",
  "Primal",
  "PrimalDual",
  "PublishedResilient",
  "Resilient",
  "Ridge",
  "StepOutput",
  "Task",
  "Unconstrained",
  "fit",
  "project",
  "prune",
  "strict",
]
