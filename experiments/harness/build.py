"""What settings become, once and at the top: constraint, branches, optimizers."""

import functools
import pkgutil
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import optax

import ace_jax
from ace_jax.constraints import on_error, rivals
from ace_jax.constraints.prescribed import Swing
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.relaxations import Relaxation
from ace_jax.symmetry.data import Symmetry
from ace_jax.training.parallel import DATA
from experiments.harness import branches
from experiments.harness.settings import Constraint, DualOptimizer, PrimalOptimizer, Settings

_NONE: Mapping[str, Any] = types.MappingProxyType({})


def constraint(
  settings: Constraint,
  symmetry: Symmetry | None,
  steps_an_epoch: int,
  riding: Mapping[str, Any] = _NONE,
) -> ace_jax.Constraint:
  """Builds the constraint of the settings, as its entry says.

  Args:
    settings: Name and constants.
    symmetry: The group and its action on the data; None where there is no known one.
    steps_an_epoch: Of the primal-dual method.
    riding: Constants that ride in the state, by name; they take the place of the settings'.
  """
  entry = settings.entry
  given = {**settings.constants, "augmented": settings.augmented, **riding}
  arguments = {c.argument or c.name: given[c.name] for c in entry.constants if c.name in given}
  if entry.multipliers:
    augmented = given["augmented"]
    arguments["augmented"] = 0.0 if augmented is None else augmented
  known = {"symmetry": symmetry, "axis_name": DATA, "steps_an_epoch": steps_an_epoch}
  taken = {name: known[name] for name in entry.takes}
  return pkgutil.resolve_name(entry.make)(**arguments, **taken)


def schedule(*, epochs: int, steps_an_epoch: int, **rest: Any) -> rivals.Schedule:
  """Builds a schedule that lasts so many epochs."""
  return rivals.Schedule(steps=epochs * steps_an_epoch, **rest)


def swing(*, steps_an_epoch: int, start: int, epochs: int | None = None, **numbers: Any) -> Swing:
  """Builds a swing; with `epochs`, its amplitude falls to 0 as a line by the end of them."""
  if epochs is not None:
    numbers["steps"] = float(epochs * steps_an_epoch - start)
  return Swing(start=start, **numbers)


def remul(**arguments: Any) -> ace_jax.Constraint:
  """Builds REMUL, its two losses weighed by a constant or by GradNorm."""
  return _weighted(rivals.Remul, rivals.loss_and_moved_loss, **arguments)


def gap_penalty(**arguments: Any) -> ace_jax.Constraint:
  """Builds the penalty of the equivariance error, weighed by a constant or by GradNorm."""
  return _weighted(rivals.GapPenalty, on_error.loss_and_gap, **arguments)


def _weighted(
  rule: Callable[..., ace_jax.Constraint],
  objectives: rivals.Objectives,
  *,
  symmetry: Symmetry | None,
  axis_name: str,
  weighting: str,
  **weight: Any,
) -> ace_jax.Constraint:
  if weighting == "gradnorm":
    return rivals.GradNorm(symmetry=symmetry, objectives=objectives, axis_name=axis_name)
  return rule(symmetry=symmetry, **weight)


def relaxation(settings: Settings) -> Relaxation:
  """Returns how layers relax: size, start and scale of their branches, as the settings say."""
  entry, options = branches.get(settings.branch.relaxation), {}
  deviation = settings.constraint.entry.branch_deviation
  if deviation is not None:
    options["kernel_init"] = nn.initializers.normal(deviation)
  if entry.size and settings.branch.size is not None:
    options |= entry.size.arguments(settings.branch.size)
  make = pkgutil.resolve_name(entry.make)
  make = functools.partial(make, **options) if options else make
  return Relaxation(make, settings.branch.relaxation_scale, DATA)


def optimizers(
  primal: PrimalOptimizer,
  dual: DualOptimizer,
  steps_an_epoch: int,
  epochs_done: int = 0,
  riding: Mapping[str, Any] = _NONE,
) -> tuple[Any, Any]:
  """Returns the primal and the dual optimizer of the settings, from some epoch of the run on.

  Args:
    primal: Settings of the first.
    dual: Settings of the second.
    steps_an_epoch: Of the primal-dual method.
    epochs_done: By which step sizes that fall have fallen.
    riding: As of `constraint`.
  """
  epochs, decay = primal.decay_epochs, None
  if epochs is not None:
    cosine = optax.cosine_decay_schedule(1.0, epochs * steps_an_epoch)
    decay = _later(cosine, epochs_done * steps_an_epoch) if epochs_done else cosine
  moves_primal = primal_adam(
    riding.get("lr", primal.lr),
    riding.get("gamma_lr", primal.gamma_lr),
    riding.get("slack_lr", primal.slack_lr),
    primal.clip_norm,
    decay=decay,
    gamma_optimizer=primal.gamma_optimizer,
    weight_decay=riding.get("weight_decay", primal.weight_decay),
    theta_optimizer=primal.optimizer,
  )
  options = {"eps": dual.dual_eps} if dual.dual_optimizer == "adam" else {}
  dual_lr = riding.get("dual_lr", dual.dual_lr)
  return moves_primal, dual_optimizer(dual.dual_optimizer, dual_lr, **options)


def _later(schedule: optax.Schedule, done: int) -> optax.Schedule:
  return lambda count: schedule(count + done)
