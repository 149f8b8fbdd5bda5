"""What an experiment is: flags, settings, a model's entry, and `run`."""

import dataclasses

from absl import flags

from experiments.harness import app, command, models, settings
from experiments.harness import flags as common

flags.adopt_module_key_flags(common)
FLAGS = flags.FLAGS
flags.DEFINE_float("stiffness", 2.0, "Of the spring.")

models.register(models.Model("spring", "odd", "experiments.spring.run:odd"))
PRESET = {
  **{"model": "odd", "hidden_features": 4, "layers": 1, "centring": "none"},
  **{"epochs": 3, "batch_size": 10, "eval_every": 1, "checkpoint_every": 3},
  **{"lr": 1e-2, "gamma_lr": 1e-2, "dual_lr": 1e-3, "dual_optimizer": "adam", "augmented": 1.0},
}


@dataclasses.dataclass(frozen=True)
class Data(settings.Data):
  """The spring.

  Attributes:
    stiffness: Force over minus the displacement.
  """

  stiffness: float = 2.0


@dataclasses.dataclass(frozen=True)
class Settings(settings.Settings):
  """Of a run."""

  data: Data


def main() -> None:
  """Runs what the flags ask for."""
  chosen = common.settings(Settings, PRESET, ("stiffness",), models.names("spring"))
  command.run("spring", chosen, f"spring_{chosen.constraint.name}", None)


if __name__ == "__main__":
  app.launch(main)
