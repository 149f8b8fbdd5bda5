"""Values of parameters for tests that need any: drawn by NumPy, so that XLA compiles nothing."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

_ONES = ("scale", "var", "mean_square")
"""Names of vectors, and of statistics, that are 1 at the start."""


def drawn(init):
  """Returns a function like `init`, `Module.init` say, whose values are drawn by NumPy.

  gamma, scales and variances are 1, means 0, matrices normal of deviation 0.5 / sqrt(inputs), other
  vectors small; what spectral normalisation keeps are the singular vectors. Each depends on
  its path and the key alone, as in Flax.
  """

  def draw(key, *args, **options):
    shapes = jax.eval_shape(lambda key: init(key, *args, **options), key)
    seed = int(jax.random.key_data(key)[-1])
    flat = traverse_util.flatten_dict(shapes)
    values = {path: _value(path, leaf.shape, seed) for path, leaf in flat.items()}
    for path in values:
      if path[-1] == "left":
        left, _, right = np.linalg.svd(values["params", *path[1:-1], "kernel"].T)
        values[path], values[*path[:-1], "right"] = left[:, 0], right[0]
    cast = {path: jnp.asarray(values[path], leaf.dtype) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(cast)

  return draw


def _value(path, shape, seed):
  rng = np.random.default_rng([seed, zlib.crc32("/".join(path).encode())])
  if path[0] == "gamma" or path[-1] in _ONES:
    return np.ones(shape)
  if path[0] == "batch_stats" and path[-1] == "mean":
    return np.zeros(shape)
  scale = 0.5 * np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.1
  return scale * rng.normal(size=shape)
