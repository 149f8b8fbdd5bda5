"""Learning (approximately) equivariant networks by constrained optimization.

What is named here is public: the names below, and those of the namespaces `constraints`,
`equinox`, `export`, `landscape`, `models`, `nnx`, `optimizers`, `plots`, `relaxations`, `symmetry`
and `training`. Those of `equinox`, `models`, `nnx` and `plots`, most of which need further
packages, are imported when they are first asked for.

Source: Manolache, Chamon, Niepert, "Learning (Approximately) Equivariant Networks via Constrained
Optimization", NeurIPS 2025, arXiv:2505.13631.
"""

import importlib
from typing import TYPE_CHECKING, Any

# First: it refuses a mixture with another project.
import ace_jax.installation  # noqa: F401
from ace_jax import (
  constraints,
  export,
  landscape,
  optimizers,
  relaxations,
  symmetry,
  training,
)
from ace_jax.checking import Check, check
from ace_jax.constraints.base import Constraint, Unconstrained
from ace_jax.constraints.on_gamma import (
  Equality,
  Inequality,
  OneSided,
  PublishedResilient,
  Resilient,
  Ridge,
  magnitude,
)
from ace_jax.errors import AceError
from ace_jax.homotopy import Homotopic, by_name, project, prune, strict
from ace_jax.model import Model
from ace_jax.pretrained import load_pretrained
from ace_jax.primal_dual import Gradients, PrimalDual, StepOutput
from ace_jax.relaxing import relax
from ace_jax.saving import Saved, load
from ace_jax.state import AceState, Primal
from ace_jax.task import Task, from_model, take
from ace_jax.training.fitting import Fit, fit

if TYPE_CHECKING:
  from ace_jax import equinox, models, nnx, plots

__version__ = "0.2.0"

__all__ = [
  "AceError",
  "AceState",
  "Check",
  "Constraint",
  "Equality",
  "Fit",
  "Gradients",
  "Homotopic",
  "Inequality",
  "Model",
  "OneSided",
  "Primal",
  "PrimalDual",
  "PublishedResilient",
  "Resilient",
  "Ridge",
  "Saved",
  "StepOutput",
  "Task",
  "Unconstrained",
  "by_name",
  "check",
  "constraints",
  "equinox",
  "export",
  "fit",
  "from_model",
  "landscape",
  "load",
  "load_pretrained",
  "magnitude",
  "models",
  "nnx",
  "optimizers",
  "plots",
  "project",
  "prune",
  "relax",
  "relaxations",
  "strict",
  "symmetry",
  "take",
  "training",
]


def __getattr__(name: str) -> Any:
  if name in ("equinox", "models", "nnx", "plots"):
    return importlib.import_module(f"ace_jax.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
