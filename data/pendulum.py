"""The vector field of a damped pendulum, sampled at random states."""

import numpy as np

from data.errors import RequestError

Split = dict[str, np.ndarray]

SIZES = {"train": 1000, "valid": 500, "test": 1000}
LARGEST_MOMENTUM = 2.5


def field(state: np.ndarray, damping: float) -> np.ndarray:
  """Returns (dq/dt, dp/dt) = (p, -sin q - c p), for unit mass, length and gravity.

  Without damping it obeys time reversal, F(q, -p) = -(1, -1) F(q, p); damping breaks it.

  Args:
    state: (q, p), [..., 2].
    damping: c.
  """
  q, p = state[..., 0], state[..., 1]
  return np.stack([p, -np.sin(q) - damping * p], -1)


def load(damping: float, data_seed: int = 0) -> dict[str, Split]:
  """Samples states uniform in |q| <= pi, |p| <= 2.5, the same ones for every damping.

  Args:
    damping: c, at least 0.
    data_seed: Draws the states.

  Returns:
    For "train", "valid" and "test" the arrays `state` and `field`, [n, 2], float32.

  Raises:
    RequestError: the damping is negative or not finite.
  """
  if not 0 <= damping < float("inf"):
    raise RequestError(f"damping {damping} asked for; it must be finite and not negative.")
  random = np.random.default_rng(data_seed)
  splits = {}
  for name, size in SIZES.items():
    state = random.uniform(-1, 1, (size, 2)) * [np.pi, LARGEST_MOMENTUM]
    arrays = {"state": state, "field": field(state, damping)}
    splits[name] = {key: array.astype(np.float32) for key, array in arrays.items()}
  return splits
