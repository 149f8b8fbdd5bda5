"""What the flags of `experiments.images` ask for. Imports no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Flags:
  """What is trained.

  Attributes:
    networks: Of the first part.
    placing: Where they see digits in training.
    constraint: Of the second part.
    bias: Along which axis labels depend on the position.
    seeds: Of every training.
    data_seed: Moves splits and positions of the digits.
    epochs: Passes over the training images.
    rho: Price of slack of the resilient constraint.
  """

  networks: tuple[str, ...]
  placing: tuple[str, ...]
  constraint: tuple[str, ...]
  bias: tuple[str, ...]
  seeds: tuple[int, ...]
  data_seed: int
  epochs: int
  rho: float
