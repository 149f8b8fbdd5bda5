"""The experiments whose weights are kept: one entry each."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import mocap, nbody, qm9
from experiments.harness.problems import Problem
from experiments.harness.settings import Settings
from experiments.mocap import run as mocap_run
from experiments.mocap import settings as mocap_settings
from experiments.nbody import run as nbody_run
from experiments.nbody import settings as nbody_settings
from experiments.qm9 import run as qm9_run
from experiments.qm9 import settings as qm9_settings


@dataclasses.dataclass(frozen=True)
class Subject:
  """An experiment, as far as its weights need it.

  Attributes:
    settings: Class of its settings.
    load: Loads the data that settings name.
    problem: Puts together model and data.
    dataset: Class of its data.
    shared: Fields of the data, beside splits and summary, that the model is made of.
    about: What the data are, whose, and their licence.
  """

  settings: type[Settings]
  load: Callable[[Any], Any]
  problem: Callable[[Any, Any], Problem]
  dataset: Callable[..., Any]
  shared: tuple[str, ...]
  about: str


def _nbody(settings: nbody_settings.Settings) -> nbody.Dataset:
  """Loads N-body data; a file that is not where the run had it is looked for in ACE_DATA_DIR."""
  file, sizes = settings.data.data_file, settings.data.train_samples
  if file and not Path(file).exists():
    there = Path(os.environ.get("ACE_DATA_DIR", "")) / Path(file).name
    settings = settings.replace(data_file=str(there))
  return nbody_run.load(settings, max(sizes) if sizes else None)


SUBJECTS = {
  "nbody": Subject(
    nbody_settings.Settings,
    _nbody,
    nbody_run.make_problem,
    nbody.Dataset,
    (),
    "Charged particles, simulated for this project as `experiments.nbody` simulates them; no other "
    "party's data. MIT, as the code.",
  ),
  "mocap": Subject(
    mocap_settings.Settings,
    mocap_run.load,
    mocap_run.make_problem,
    mocap.Dataset,
    ("bones", "joint_names"),
    "The data used in this project was obtained from mocap.cs.cmu.edu. The database was created "
    "with funding from NSF EIA-0196217. Free for research and commercial use, with this credit.",
  ),
  "qm9": Subject(
    qm9_settings.Settings,
    qm9_run.load,
    qm9_run.make_problem,
    qm9.Dataset,
    (),
    "QM9 (Ramakrishnan, Dral, Rupp, von Lilienfeld, Scientific Data 2014), as the package qm9pack "
    "has it, whose licence is MIT.",
  ),
}
"""By experiment."""
