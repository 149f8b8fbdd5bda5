"""The points of a search, by Optuna."""

import json
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
  BaseDistribution,
  CategoricalDistribution,
  FloatDistribution,
  IntDistribution,
)
from optuna.trial import TrialState

from ace_jax.errors import ConfigurationError, first_line
from experiments.sweep.plan import Sweep, Value

_SWEEP = "sweep"


def space(sweep: Sweep) -> dict[str, BaseDistribution]:
  """Returns the distribution of each parameter."""
  distributions: dict[str, BaseDistribution] = {
    name: CategoricalDistribution(values) for name, values in sweep.grid
  }
  for name, interval in sweep.ranges:
    kind: Any = IntDistribution if isinstance(interval.low, int) else FloatDistribution
    distributions[name] = kind(interval.low, interval.high, log=interval.log)
  return distributions


def open_study(storage: str | None, name: str, sweep: Sweep) -> optuna.Study:
  """Opens the study of a sweep, or makes it.

  Args:
    storage: URL of its database; None keeps it in memory.
    name: Of the study.
    sweep: Whose it is.

  Raises:
    ConfigurationError: the database cannot be opened, or the study is of another sweep.
  """
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  try:
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
  except Exception as error:  # of SQLAlchemy, of a driver, of Optuna
    raise ConfigurationError(
      f"--storage cannot be opened ({first_line(error)}); give another."
    ) from error
  there, here = study.user_attrs.get(_SWEEP), sweep.identity()
  if there is None:
    study.set_user_attr(_SWEEP, here)
  elif json.loads(json.dumps(there)) != here:
    raise ConfigurationError(
      f"the study {name!r} in --storage is of another sweep; take another --workdir, whose name "
      "is the study's."
    )
  return study


def ask(study: optuna.Study, sweep: Sweep) -> optuna.Trial:
  """Returns a new point; of a random search it depends on the seed and its number alone."""
  # A sampler would start again from its seed after an interruption, and draw the same points.
  entropy = np.random.SeedSequence([sweep.search_seed, len(study.trials)])
  seed = int(entropy.generate_state(1)[0])
  study.sampler = {
    "random": lambda: optuna.samplers.RandomSampler(seed),
    "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
  }[sweep.search or "random"]()
  return study.ask(space(sweep))


def tell(study: optuna.Study, number: int, value: float | None) -> None:
  """Records the objective of a point; None for one that failed."""
  if value is None:
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
  else:
    study.tell(number, value, skip_if_finished=True)


def known(study: optuna.Study, sweep: Sweep) -> list[tuple[int, dict[str, Value]]]:
  """Returns (number, point) of every trial; one interrupted before it had a point fails."""
  points = []
  for trial in study.get_trials(deepcopy=False):
    point: dict[str, Any] = trial.params
    if {*point} == {*space(sweep)}:
      points.append((trial.number, point))
    elif not trial.state.is_finished():
      tell(study, trial.number, None)
  return points
