"""The experiments whose finished runs are read back: one entry each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ace_jax.symmetry import actions, groups
from experiments.harness.problems import Problem
from experiments.harness.settings import Settings
from experiments.modelnet40 import run as modelnet_run
from experiments.modelnet40 import settings as modelnet_settings
from experiments.nbody import run as nbody_run
from experiments.nbody import settings as nbody_settings
from experiments.qm9 import run as qm9_run
from experiments.qm9 import settings as qm9_settings


@dataclasses.dataclass(frozen=True)
class Subject:
  """An experiment, as far as a report needs it.

  Attributes:
    name: What messages call it.
    key: A setting that its runs alone have.
    settings: Their class.
    problem: Loads the data of a run, and builds its model.
    group: From settings and test samples, the group that the strict model has.
    act_prediction: How its elements act on predictions.
  """

  name: str
  key: str
  settings: type[Settings]
  problem: Callable[[Any], Problem]
  group: Callable[[Settings, Any], groups.Group]
  act_prediction: actions.Representation


def nbody_problem(settings: nbody_settings.Settings) -> Problem:
  """Loads the data of an N-body run, and builds its model."""
  sizes = settings.data.train_samples
  return nbody_run.make_problem(settings, nbody_run.load(settings, max(sizes) if sizes else None))


def nbody_group(settings: Settings, batch: Any) -> groups.Group:
  """Returns the group of the strict N-body model: with uncentred positions, rotations alone."""
  return groups.so3() if settings.model.centring == "none" else groups.se3(radius(batch))


def radius(batch: Any) -> float:
  """Returns the root mean square distance of particles from their centre."""
  positions = batch["positions"]
  centred = positions - positions.mean(axis=1, keepdims=True)
  return float(np.sqrt(np.mean(np.sum(np.square(centred), -1))))


def rotations(settings: Settings, batch: Any) -> groups.Group:
  """Returns the rotations about the origin."""
  del settings, batch
  return groups.so3()


NBODY = Subject(
  "N-body",
  "system",
  nbody_settings.Settings,
  nbody_problem,
  nbody_group,
  actions.position,
)
SUBJECTS = (
  NBODY,
  Subject(
    "QM9",
    "atom_references",
    qm9_settings.Settings,
    lambda settings: qm9_run.make_problem(settings, qm9_run.load(settings)),
    rotations,
    actions.invariant,
  ),
  Subject(
    "ModelNet40",
    "rotations",
    modelnet_settings.Settings,
    lambda settings: modelnet_run.make_problem(settings, modelnet_run.load(settings)),
    rotations,
    actions.invariant,
  ),
)


def of(settings: Settings) -> Subject:
  """Returns the experiment that settings are of."""
  return next(subject for subject in SUBJECTS if isinstance(settings, subject.settings))
