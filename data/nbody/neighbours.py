"""The nearest particles of every particle, sample by sample: edges that are computed once."""

import numpy as np
from jaxtyping import Float, Int

from data.errors import RequestError

_DISTANCES = 5_000_000
"""Distances that are held at once."""


def nearest(
  positions: Float[np.ndarray, "samples particles 3"], count: int
) -> Int[np.ndarray, "samples particles count"]:
  """Returns for every particle the indices of its nearest others, in ascending order.

  Of particles at the same distance (in float64) the one of lower index is taken, so that data with
  coincident particles have one answer.

  Args:
    positions: Of the particles of each sample.
    count: K, how many others; 1 to particles - 1.

  Raises:
    RequestError: there are not so many others.
  """
  samples, particles = positions.shape[:2]
  if not 1 <= count < particles:
    raise RequestError(
      f"{count} neighbours asked for, but a particle of {particles} has 1 to {particles - 1} "
      "others: change --neighbours."
    )
  indices = np.empty((samples, particles, count), np.int32)
  step = max(1, _DISTANCES // particles**2)
  for start in range(0, samples, step):
    chunk = positions[start : start + step].astype(np.float64)
    square = np.sum(np.square(chunk[:, :, None] - chunk[:, None]), axis=-1)
    square[:, np.arange(particles), np.arange(particles)] = np.inf
    order = np.argsort(square, axis=-1, kind="stable")[..., :count]
    indices[start : start + step] = np.sort(order, axis=-1)
  return indices
