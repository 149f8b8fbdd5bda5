"""Settings of N-body runs, and the values of their presets; flags have precedence."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from experiments.harness import settings

PARTICLES = 5
"""In a trajectory, unless another number is given."""
SIMULATED = 3000
"""Training trajectories that are simulated, unless another number is given."""


@dataclasses.dataclass(frozen=True)
class Model(settings.Model):
  """The network.

  Attributes:
    lmax: Largest degree of the hidden features (segnn).
    lmax_attributes: Largest degree of the attributes (segnn).
    norm: "none" or "instance": normalisation of the layers (segnn).
    dropout: Rate at which whole channels are dropped in training (segnn).
    keep: The rotations that the network keeps, such as "axis:z"; None is all (segnn).
  """

  DOMAINS: ClassVar[Mapping[str, str]] = {"dropout": "share"}

  model: str = "segnn"
  lmax: int = 1
  lmax_attributes: int = 1
  norm: Literal["none", "instance"] = "none"
  dropout: float | None = settings.recorded_where_asked_for()
  keep: Literal["axis:x", "axis:y", "axis:z"] | None = settings.recorded_where_asked_for()


@dataclasses.dataclass(frozen=True)
class Data(settings.Data):
  """The trajectories.

  Attributes:
    system: "charged" or "gravity": what is simulated.
    particles: In a trajectory; None is PARTICLES.
    neighbours: From how many, the nearest, each particle receives; None is all others.
    data_file: Trajectories to learn instead of simulating.
    data_dir: Folder of a published data set to learn instead.
    symmetry_breaking: Such as "gravity:1"; breaks a known symmetry.
    breaking_from: "input" or "start": when it starts to act.
    force_clip: "component" or "norm": of forces at 100.
  """

  system: Literal["charged", "gravity"] = "charged"
  particles: int | None = None
  neighbours: int | None = None
  data_file: str | None = None
  data_dir: str | None = settings.recorded_where_asked_for()
  symmetry_breaking: str | None = None
  breaking_from: Literal["input", "start"] = "input"
  force_clip: Literal["component", "norm"] = "component"


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
  """Of an N-body run."""

  model: Model
  data: Data


def preset(name: str, **changes: Any) -> Settings:
  """Returns the settings of a preset, some of them changed, by their flat names."""
  return Settings.from_json({**PRESETS[name], "preset": name, **changes})


_MODEL = {"model": "segnn", "hidden_features": 64, "layers": 4, "centring": "none"}

PRESETS: Mapping[str, Mapping[str, Any]] = {
  # Published: Brandstetter et al., ICLR 2022 (model, data), Manolache et al., 2025 (the rest).
  "paper": {
    **_MODEL,
    "epochs": 2000,
    "batch_size": 100,
    "eval_every": 1,
    "checkpoint_every": 20,
    "lr": 9e-4,
    "dual_lr": 8e-4,
    "dual_optimizer": "adam",
    "dual_eps": 1e-8,
    "augmented": 0.0,
  },
  # Adam on both sides oscillates; a faster gamma and the augmented term make it settle within
  # a few thousand steps.
  "quick": {
    **_MODEL,
    "epochs": 120,
    "batch_size": 100,
    "eval_every": 5,
    "checkpoint_every": 10,
    "lr": 9e-4,
    "gamma_lr": 5e-3,
    "dual_lr": 1e-3,
    "dual_optimizer": "adam",
    "dual_eps": 1e-8,
    "augmented": 1.0,
  },
}
