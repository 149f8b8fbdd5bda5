"""Settings of the N-body presets; flags that are given have precedence."""

from typing import Any

PARTICLES = 5
"""In a trajectory, unless another number is given."""

_MODEL = {"model": "segnn", "hidden_features": 64, "layers": 4, "centring": "none"}

PRESETS: dict[str, dict[str, Any]] = {
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
