"""What settings become, once and at the top: constraint, branches, optimizers."""

import functools
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import optax

import ace_jax
from ace_jax.constraints import on_error, rivals
from ace_jax.constraints.prescribed import Swing
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.symmetry.data import Symmetry
from ace_jax.training.parallel import DATA
from experiments.harness import branches, constraints


def constraint(
  settings: Mapping[str, Any], symmetry: Symmetry | None, steps_an_epoch: int
) -> ace_jax.Formulation:
  """Builds the constraint of the settings, as its entry says.

  Args:
    settings: Of the run; constants that ride in the state may be tracers.
    symmetry: The group and its action on the data; None where there is no known one.
    steps_an_epoch: Of the primal-dual method.
  """
  entry = constraints.get(settings["constraint"])
  given = {c.argument or c.name: settings.get(c.name) for c in entry.constants}
  arguments = {name: value for name, value in given.items() if value is not None}
  if entry.multipliers:
    augmented = settings["augmented"]
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


def remul(**arguments: Any) -> ace_jax.Formulation:
  """Builds REMUL, its two losses weighed by a constant or by GradNorm."""
  return _weighted(rivals.Remul, rivals.loss_and_moved_loss, **arguments)


def gap_penalty(**arguments: Any) -> ace_jax.Formulation:
  """Builds the penalty of the equivariance error, weighed by a constant or by GradNorm."""
  return _weighted(rivals.GapPenalty, on_error.loss_and_gap, **arguments)


def _weighted(
  rule: Callable[..., ace_jax.Formulation],
  objectives: rivals.Objectives,
  *,
  symmetry: Symmetry | None,
  axis_name: str,
  weighting: str,
  **weight: Any,
) -> ace_jax.Formulation:
  if weighting == "gradnorm":
    return rivals.GradNorm(symmetry=symmetry, objectives=objectives, axis_name=axis_name)
  return rule(symmetry=symmetry, **weight)


def relaxation(settings: Mapping[str, Any]) -> Callable[..., nn.Module]:
  """Returns the constructor of the branches, of the size and start that the settings ask for."""
  entry, options = branches.get(settings["relaxation"]), {}
  deviation = constraints.get(settings["constraint"]).branch_deviation
  if deviation is not None:
    options["kernel_init"] = nn.initializers.normal(deviation)
  # Runs from before there were sizes do not name them.
  size = entry.size and settings.get(entry.size.name)
  if entry.size and size is not None:
    options |= entry.size.arguments(size)
  make = pkgutil.resolve_name(entry.make)
  return functools.partial(make, **options) if options else make


def optimizers(
  settings: Mapping[str, Any], steps_an_epoch: int, epochs_done: int = 0
) -> tuple[Any, Any]:
  """Returns the primal and the dual optimizer of the settings, from some epoch of the run on."""
  epochs, decay = settings.get("decay_epochs"), None
  if epochs is not None:
    cosine = optax.cosine_decay_schedule(1.0, epochs * steps_an_epoch)
    decay = _later(cosine, epochs_done * steps_an_epoch) if epochs_done else cosine
  rates = (settings[name] for name in ("lr", "gamma_lr", "slack_lr", "clip_norm"))
  primal = primal_adam(
    *rates,
    decay=decay,
    gamma_optimizer=settings.get("gamma_optimizer", "adam"),
    weight_decay=settings.get("weight_decay"),
  )
  options = {"eps": settings["dual_eps"]} if settings["dual_optimizer"] == "adam" else {}
  return primal, dual_optimizer(settings["dual_optimizer"], settings["dual_lr"], **options)


def _later(schedule: optax.Schedule, done: int) -> optax.Schedule:
  return lambda count: schedule(count + done)
