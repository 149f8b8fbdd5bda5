"""The Reynolds operator: the projection of linear maps between irreps onto the equivariant ones."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
  kernel: Float[Array, "inputs outputs"], inputs: str, outputs: str
) -> Float[Array, "inputs outputs"]:
  """Returns the equivariant part of x -> x W, the mean of W over the group.

  .. math:: P W = \\int \\rho_{in}(g)^T W \\rho_{out}(g) \\, dg

  in closed form: by Schur's lemma nothing is left between different irreps, and between equal ones
  of dimension d, with components a, b and channels m, n,

  .. math:: (P W)_{am, bn} = \\frac{\\delta_{ab}}{d} \\sum_c W_{cm, cn}

  P is an orthogonal projection. The group is O(3), whose irreps of one degree and different
  parities differ; where all parities are (-1)^l, as in this library's models, SO(3) has the same.

  Args:
    kernel: W, rows and columns [component, channel] within each irrep.
    inputs: Irreps of the rows, such as "16x0e+16x1o".
    outputs: Irreps of the columns.
  """
  import e3nn_jax as e3nn  # imports SciPy's signal processing and SymPy, which takes seconds

  rows, columns = e3nn.Irreps(inputs), e3nn.Irreps(outputs)
  blocks = []
  for (_, row), across in zip(rows, rows.slices(), strict=True):
    line = []
    for (_, column), along in zip(columns, columns.slices(), strict=True):
      part = kernel[across, along]
      line.append(_mean(part, row.dim) if row == column else jnp.zeros_like(part))
    blocks.append(jnp.concatenate(line, 1))
  return jnp.concatenate(blocks, 0)


def _mean(part: Float[Array, "inputs outputs"], dimension: int) -> Float[Array, "inputs outputs"]:
  """Returns the projection of a block between channels of one irrep."""
  split = part.reshape(dimension, part.shape[0] // dimension, dimension, -1)
  channels = jnp.einsum("aman->mn", split) / dimension
  identity = jnp.eye(dimension, dtype=part.dtype)
  return jnp.einsum("ab,mn->ambn", identity, channels).reshape(part.shape)
