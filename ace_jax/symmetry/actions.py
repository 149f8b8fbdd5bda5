"""How group elements act on arrays, and on pytrees of arrays.

A representation is any function `(element, array) -> array`; those of the common quantities are
here. `act_on` puts them together to an action on a pytree. An action of one's own takes a few
lines: a swap of left and right in an image is

    mirror = lambda element, image: jnp.where(element < 0, image[..., ::-1], image)
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax.errors import ConfigurationError, first_line
from ace_jax.symmetry.groups import Motion

Representation = Callable[[Any, Array], Array]


def invariant(element: Any, x: Array) -> Array:
  """x' = x."""
  del element
  return x


def vector(element: Motion, x: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
  """x' = R x: velocities, forces, displacements.

  Raises:
    ConfigurationError: the last axis is not 3.
  """
  _check_last("vector", x, 3)
  return x @ jnp.swapaxes(element.matrix, -1, -2).astype(x.dtype)


def position(element: Motion, x: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
  """x' = R x + b.

  Raises:
    ConfigurationError: the last axis is not 3.
  """
  return vector(element, x) + element.shift.astype(x.dtype)


def boosted(factor: float = 1.0) -> Representation:
  """Returns the action x' = x + factor u of a boost by the velocity u (`groups.boosts`).

  Args:
    factor: 1 for velocities; for positions the time since the boost, 0 where it begins.
  """

  def representation(element, x):
    _check_last("boosted", x, 3)
    return x + factor * element.astype(x.dtype)

  return representation


def scaled(power: float = 1.0) -> Representation:
  """Returns the action x' = s^power x of a scaling by s > 0 (`groups.scalings`)."""
  return lambda element, x: element.astype(x.dtype) ** power * x


def odd(element: Float[Array, ""], x: Array) -> Array:
  """x' = g x for g = +-1: what changes sign under time reversal, such as momenta."""
  return element.astype(x.dtype) * x


def permuted(axis: int) -> Representation:
  """Returns the action of a permutation on an axis, such as that of the nodes."""

  def representation(element, x):
    if x.shape[axis] != element.shape[-1]:
      raise ConfigurationError(
        f"a permutation of {element.shape[-1]} cannot act on axis {axis} of shape {x.shape}."
      )
    return jnp.take(x, element, axis)

  return representation


def shifted(axes: tuple[int, int]) -> Representation:
  """Returns the action of a cyclic shift on the two axes (height, width) of images."""
  return lambda element, x: jnp.roll(x, element, axes)


def translated(axes: tuple[int, int], stride: int = 1) -> Representation:
  """Returns the action of a translation on two cyclic axes (height, width), by any real length.

  The array stands for its trigonometric interpolation, which is moved and sampled again; what has
  the highest frequency of an even number of samples keeps its real part. Shifts by whole samples
  are exact. Of a network's maps that keep one pixel in `stride`, it says where they would be if
  they had lost nothing.

  Args:
    axes: Of the array.
    stride: Pixels, in which an element counts, from one sample to the next.

  Reference: Simoncelli et al., "Shiftable multiscale transforms", IEEE Trans. Inf. Theory, 1992.
  """

  def representation(element, x):
    for shift, axis in zip(element, axes, strict=True):
      frequencies = jnp.fft.fftfreq(x.shape[axis], dtype=x.dtype)
      phases = jnp.exp(-2j * jnp.pi * frequencies * (shift / stride))
      phases = jnp.moveaxis(phases.reshape(-1, *[1] * (x.ndim - 1)), 0, axis)
      x = jnp.fft.ifft(jnp.fft.fft(x, axis=axis) * phases, axis=axis).real
    return x

  return representation


def irreps(layout: str, component_major: bool = False) -> Representation:
  """Returns the action of rotations and reflections on e3nn irreps.

  Args:
    layout: Such as "16x0e + 8x1o".
    component_major: Whether a block is [component, channel], as in this library's models, and
      not [channel, component], as in e3nn.

  Raises:
    ConfigurationError: (of the result) the last axis does not fit the irreps.
  """
  import e3nn_jax as e3nn  # imports SciPy's signal processing and SymPy, which takes seconds

  blocks = e3nn.Irreps(layout)

  def representation(element, x):
    _check_last(f"irreps {layout}", x, blocks.dim)
    parts = []
    for (mul, ir), cut in zip(blocks, blocks.slices(), strict=True):
      matrix = wigner(ir.l, ir.p, element.matrix).astype(x.dtype)
      part = x[..., cut]
      if component_major:
        part = part.reshape(*x.shape[:-1], ir.dim, mul)
        part = jnp.einsum("ij,...ju->...iu", matrix, part)
      else:
        part = part.reshape(*x.shape[:-1], mul, ir.dim)
        part = jnp.einsum("ij,...uj->...ui", matrix, part)
      parts.append(part.reshape(*x.shape[:-1], mul * ir.dim))
    return jnp.concatenate(parts, -1)

  return representation


def wigner(degree: int, parity: int, matrix: Float[Array, "3 3"]) -> Float[Array, "dim dim"]:
  """Returns the matrix of an orthogonal map in an irrep, e3nn's basis.

  .. math:: D^l = Q_l^T (D^{l-1} \\otimes R) Q_l, \\qquad D^1 = R

  with Q_l the Clebsch-Gordan isometry: a polynomial in R, so that it can be differentiated at the
  identity, where Euler angles cannot.

  Args:
    degree: l.
    parity: 1 (even) or -1 (odd).
    matrix: R.
  """
  result = jnp.ones((1, 1), matrix.dtype)
  for l in range(1, degree + 1):
    if l == 1:
      result = matrix
      continue
    isometry = jnp.asarray(_isometry(l), matrix.dtype)
    result = jnp.einsum("ab,cd,ace,bdf->ef", result, matrix, isometry, isometry)
  # The recursion gives improper maps the parity (-1)^l.
  sign = jnp.where(jnp.linalg.det(matrix) < 0, parity * (-1) ** degree, 1)
  return sign.astype(matrix.dtype) * result


@functools.cache
def _isometry(degree: int) -> np.ndarray:
  import e3nn_jax as e3nn

  with jax.ensure_compile_time_eval():
    tensor = np.asarray(e3nn.clebsch_gordan(degree - 1, 1, degree), np.float64)
  return tensor * math.sqrt(2 * degree + 1)


def act_on(representations: Any) -> Callable[[Any, Any], Any]:
  """Returns an action on pytrees, `act(element, tree) -> tree`.

  Example: `act_on({"positions": position, "velocities": vector, "charges": invariant})`.

  Every entry is named, invariant ones too: nothing is taken for invariant by default.

  Args:
    representations: A prefix of the trees: one representation for every subtree.

  Raises:
    ConfigurationError: (of the result) the tree has other parts than those named.
  """

  def act(element, tree):
    try:
      return jax.tree.map(
        lambda representation, part: jax.tree.map(functools.partial(representation, element), part),
        representations,
        tree,
      )
    except ConfigurationError:
      raise
    except (ValueError, TypeError) as error:
      said = _unnamed(representations, tree) or first_line(error)
      raise ConfigurationError(
        f"the group action does not fit the data it should act on: {said}"
      ) from error

  return act


def _unnamed(representations: Any, tree: Any) -> str:
  """Says which entries of dictionaries have no representation, or are not there; "" if all are."""
  if isinstance(representations, tuple | list) and isinstance(tree, tuple | list):
    return next(filter(None, map(_unnamed, representations, tree)), "")
  if not (isinstance(representations, Mapping) and isinstance(tree, Mapping)):
    return ""
  missing = [name for name in tree if name not in representations]
  absent = [name for name in representations if name not in tree]
  if missing:
    return f"it says nothing of {', '.join(map(str, missing))} (actions.invariant if unmoved)."
  if absent:
    return f"there is no entry {', '.join(map(str, absent))}."
  return next(filter(None, (_unnamed(representations[name], tree[name]) for name in tree)), "")


def _check_last(what: str, x: Array, size: int) -> None:
  if x.ndim == 0 or x.shape[-1] != size:
    raise ConfigurationError(
      f"the representation {what} acts on a last axis of {size}, but the features have shape "
      f"{list(x.shape)}; take the representation that they have."
    )
