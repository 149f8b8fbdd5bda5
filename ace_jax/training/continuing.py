"""Going on from a `Fit`, on the same samples or others."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Variables
from ace_jax.primal_dual import PrimalDual
from ace_jax.saving import FitSettings
from ace_jax.state import AceState
from ace_jax.task import Task
from ace_jax.training import parallel, resuming
from ace_jax.training.history import Record

_SAME_ERROR = 1e-4
"""Relative difference of two evaluations of a predictor by one metric, by different programs."""


class Earlier(Protocol):
  """What a `Fit` has that is gone on with."""

  @property
  def state(self) -> AceState:
    """Everything that decides its future."""
    ...

  @property
  def settings(self) -> FitSettings:
    """How it was trained."""
    ...

  @property
  def method(self) -> PrimalDual:
    """Task and optimizers."""
    ...

  @property
  def history(self) -> list[Record]:
    """One record an epoch."""
    ...


def earlier_of(
  state: Earlier | Sequence[Earlier] | None, seeds: Sequence[int], variables: Any, epochs: int
) -> list[Any]:
  """Returns the trained models that `fit` goes on from, one a seed; [] if there are none.

  Args:
    state: A `Fit`, or one for each seed.
    seeds: As given now.
    variables: Initial variables as given now.
    epochs: Length of the run, with what is done.

  Raises:
    ConfigurationError: they contradict each other, or nothing is left to do.
  """
  if state is None:
    return []
  runs: list[Any] = [state] if hasattr(state, "settings") else [*state]  # pyright: ignore[reportGeneralTypeIssues]
  if variables is not None:
    raise ConfigurationError("state and variables both say where to begin; give one of them.")
  for run in runs:
    if not hasattr(run, "settings") or not hasattr(run, "state"):
      raise ConfigurationError(
        f"state is a {type(run).__name__}; give a Fit (with seeds, their list)."
      )
  before = [run.settings.seed for run in runs]
  if before != [*seeds] and not (len(runs) == 1 and [*seeds] == [0]):
    raise ConfigurationError(
      f"state has the seeds {before}, not {[*seeds]}; give the same ones, in this order."
    )
  done = max(int(run.state.epoch) for run in runs)
  if done >= epochs:
    raise ConfigurationError(
      f"state has {done} epochs behind it, and epochs={epochs} counts them; give more."
    )
  return runs


def check_model(old: Variables, init: Callable[[], Variables]) -> None:
  """Refuses variables that are not those of a model.

  Args:
    old: Variables of a trained state.
    init: Returns the model's; only their shapes are asked for.

  Raises:
    ConfigurationError: names the first difference.
  """
  expected = homotopy.without_sown(dict(jax.eval_shape(lambda: homotopy.unbox(init()))))
  if not old.get(homotopy.GAMMA):
    expected, old = homotopy.prune(expected), homotopy.prune(old)
  trees = [{k: v for k, v in tree.items() if k != homotopy.GAMMA} for tree in (old, expected)]
  difference = _difference(*trees)
  if difference:
    raise ConfigurationError(
      f"state was trained with another model ({difference}); give the one that it had."
    )


def continued(
  earlier: Sequence[Earlier],
  settings: Sequence[FitSettings],
  fresh: AceState,
  patience: int | None,
) -> AceState:
  """Returns the states of trained models as a training goes on from them, stacked.

  Args:
    earlier: One a replica.
    settings: Of each replica, as given now.
    fresh: What the training would begin with without them, of their variables.
    patience: As given now.

  Raises:
    ConfigurationError: constraint or optimizers are others.
  """
  changes = resuming.compared("state", earlier[0].settings, settings[0], same_data=False)
  check_structure(earlier[0].state, parallel.select(fresh, 0))
  resuming.say("state", changes)
  return resuming.adopted(parallel.stack([run.state for run in earlier]), fresh, patience)


def selects_otherwise(earlier: Earlier, settings: FitSettings, task: Task) -> bool:
  """Whether errors of before cannot be compared with those to come: other samples or metric."""
  samples = [(run.data or {}).get("valid") for run in (earlier.settings, settings)]
  before = earlier.method.task
  metrics = [(t.metric or t.loss, t.mode) for t in (before, task)]
  return None in samples or samples[0] != samples[1] or metrics[0] != metrics[1]


def with_errors(state: AceState, errors: Sequence[dict[str, float]]) -> AceState:
  """Returns a state whose best predictors have these errors.

  Args:
    state: With a leading axis of replicas.
    errors: Of each replica's predictors, by name.
  """
  best = {
    name: old.replace(  # pyright: ignore[reportAttributeAccessIssue]
      error=jnp.array([each[name] for each in errors], old.error.dtype)
    )
    for name, old in state.best.items()
  }
  return state.replace(best=best)  # pyright: ignore[reportAttributeAccessIssue]


def has_errors(state: AceState, errors: Sequence[dict[str, float]]) -> bool:
  """Whether these are the errors of a state's best predictors, but for rounding.

  Args:
    state: With a leading axis of replicas.
    errors: Of each replica's predictors, by name, evaluated anew.
  """
  return all(
    np.allclose(best.error, [each[name] for each in errors], rtol=_SAME_ERROR, atol=0)
    for name, best in state.best.items()
  )


def check_structure(old: AceState, fresh: AceState) -> None:
  """Refuses a state that has not the structure of a fresh one.

  Args:
    old: To go on from.
    fresh: Made of the model, constraint and optimizers that are given now.

  Raises:
    ConfigurationError: names the part, and the first difference.
  """
  parts = {
    "model": ("primal", "model_state"),
    "constraint": ("multipliers", "constraint", "constraint_state"),
    "optimizer": ("primal_state",),
    "dual optimizer": ("dual_state",),
  }
  for part, fields in parts.items():
    for field in fields:
      difference = _difference(getattr(old, field), getattr(fresh, field))
      if difference:
        raise ConfigurationError(
          f"state was trained with another {part} ({difference}); give the one that it had."
        )


def _difference(old: Any, fresh: Any) -> str:
  """Returns the first difference of shapes, "" if there is none."""
  shapes = [
    {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in
     jax.tree_util.tree_flatten_with_path(tree)[0]}
    for tree in (old, fresh)
  ]  # fmt: skip
  for name in sorted({**shapes[0], **shapes[1]}):
    before, now = (those.get(name) for those in shapes)
    if before != now:
      said = ["nothing" if shape is None else f"shape {list(shape)}" for shape in (before, now)]
      return f"{name} has {said[0]}, not {said[1]}"
  return ""
