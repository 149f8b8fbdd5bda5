"""The constraints and rival training rules: one entry each, from which all else follows.

Flags and their help, defaults, checks, what `--grid` may name, labels of tables and the object that
trains (`experiments.harness.build`) are derived from the entries. Nothing here imports JAX.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.harness.constraint_entries import ENTRIES
from experiments.harness.constraint_entry import Constant, Constraint, Length
from experiments.harness.usage import UsageError

_registered = {entry.name: entry for entry in ENTRIES}


def register(entry: Constraint) -> None:
  """Adds a constraint of another module, before flags are defined or anything is read.

  Raises:
    ValueError: there is one of that name, or a constant whose flag would mean something else.
  """
  if entry.name in _registered:
    raise ValueError(f"constraint {entry.name!r} is registered already.")
  flags = constants()
  for constant in entry.constants:
    there = flags.get(constant.name, constant)
    if dataclasses.replace(there, default=None) != dataclasses.replace(constant, default=None):
      raise ValueError(f"constant {constant.name!r} of {entry.name!r} has another meaning already.")
  _registered[entry.name] = entry


def names() -> list[str]:
  """Returns the names of all constraints, in their order in tables."""
  return [*_registered]


def get(name: str) -> Constraint:
  """Returns a constraint's entry.

  Raises:
    UsageError: there is none of that name.
  """
  if name not in _registered:
    raise UsageError(f"--constraint={name} does not exist; take {'|'.join(_registered)}.")
  return _registered[name]


def where(**fields: Any) -> set[str]:
  """Returns the names of the constraints whose entries have these values."""
  return {
    entry.name
    for entry in _registered.values()
    if all(getattr(entry, name) == value for name, value in fields.items())
  }


def constants() -> dict[str, Constant]:
  """Returns all constants by name, each as its first constraint has it."""
  by_name: dict[str, Constant] = {}
  for entry in _registered.values():
    for constant in entry.constants:
      by_name.setdefault(constant.name, constant)
  return by_name


def users(constant: str) -> set[str]:
  """Returns the names of the constraints that take a constant."""
  return {
    entry.name
    for entry in _registered.values()
    if constant in [taken.name for taken in entry.constants]
  }


def meaningful() -> dict[str, set[str]]:
  """Returns, for every setting that not all constraints have, those with which it has a meaning."""
  dual = where(multipliers=True)
  branches = {*names()} - where(gamma="absent")
  return {
    **{name: users(name) for name in constants()},
    "slack_lr": where(slack=True),
    **dict.fromkeys(("dual_lr", "dual_optimizer", "dual_eps", "augmented"), dual),
    **{name: where(trains_gamma=True) for name in ("gamma_lr", "gamma_optimizer", "gamma")},
    "relaxation": branches,
    **{name: branches & where(branch=None) for name in ("relaxation_features", "rank")},
    "relaxation_scale": branches & where(branch=None, penalises_weights=False),
    **{
      name: where(gamma="learned") | where(gamma="prescribed")
      for name in ("finish_epochs", "finish_from")
    },
  }


_RIDING = ("lr", "gamma_lr", "slack_lr", "dual_lr")


def gridded() -> tuple[str, ...]:
  """Returns the settings that ride in the state as arrays, so that replicas may differ in them."""
  riding = [name for name, constant in constants().items() if constant.gridded]
  return (*_RIDING, *riding, "augmented", "weight_decay")


def complete(
  settings: Mapping[str, Any], given: Iterable[str], epochs: int, constrained: int
) -> dict[str, Any]:
  """Returns the settings with the constants of their constraint, and without those of others.

  Args:
    settings: Of a run; what was not given is None, or the preset's.
    given: Names of the flags that were given.
    epochs: Of the run.
    constrained: Those before a finish.

  Raises:
    UsageError: a length is above the epochs that train gamma.
  """
  entry, given = get(settings["constraint"]), {*given}
  lengths = {Length.RUN: epochs, Length.CONSTRAINED: constrained}
  completed = dict(settings)

  def resolve(value: Any) -> Any:
    return lengths[value] if isinstance(value, Length) else value

  for constant in entry.constants:
    replaced = constant.replaced_by and settings[constant.replaced_by[0]] == constant.replaced_by[1]
    if completed[constant.name] is None and not replaced:
      completed[constant.name] = resolve(constant.default)
    value = completed[constant.name]
    if constant.too_long and value and value > constrained:
      said = constant.too_long.format(epochs=constrained)
      raise UsageError(f"--{constant.name}={value} {said}")
  if settings["preset"] == "quick":
    completed |= {name: resolve(v) for name, v in entry.quick.items() if name not in given}
  left_out = [name for name, constant in constants().items() if not constant.nullable]
  return {k: v for k, v in completed.items() if v is not None or k not in left_out}


def labels(settings: Mapping[str, Any], rivals: bool) -> list[str]:
  """Returns what tables say of a run's constants.

  Args:
    settings: Of the run; older ones do not name what there was no choice of.
    rivals: Those that only tables of rivals show, in place of those that all show.
  """
  shown = ("rivals",) if rivals else ("every", "changed")
  texts = [
    constant.label(settings[name])
    for name, constant in constants().items()
    if constant.shown in shown
    and settings.get(name) is not None
    and (constant.shown != "changed" or settings[name] != constant.default)
  ]
  return [label for label in texts if label]
