"""Steerable features of O(3) and tensor products of them with attributes.

Features are tuples indexed by the degree l = 0, 1, ..: entry l has shape [..., 2 l + 1, channels]
and parity (-1)^l (the parity of the spherical harmonics; "0e", "1o", "2e", ..). Channels come
last, so that a linear map is one matrix product without a transpose, and components are those of
e3nn (l = 1 is x, y, z). The *flat* layout joins the degrees: [component, channel] of l = 0, then of
l = 1, ..; e3nn's flat layout is [channel, component] within each degree.

Attributes are flat harmonics [..., (lmax + 1)^2], one channel a degree.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax import graphs
from ace_jax.relaxations import symmetric_uniform

Features = tuple[Array, ...]
Multiplicities = tuple[int, ...]

# Second moments 1 under a standard normal input, as in e3nn's normalised activations.
SILU_SCALE = 1.6791767923989418
SIGMOID_SCALE = 1.8467055342154763


def multiplicities(irreps: str) -> Multiplicities:
  """Returns the number of channels of each degree: "8x0e+4x1o" gives (8, 4).

  Raises:
    ValueError: an irrep has another parity than the spherical harmonics of its degree.
  """
  import e3nn_jax as e3nn  # imports SciPy's signal processing and SymPy, which takes seconds

  parsed = e3nn.Irreps(irreps)
  if any(ir.p != (-1) ** ir.l for _, ir in parsed):
    raise ValueError(f"Irreps {irreps!r}: only 0e, 1o, 2e, 3o, .. are supported.")
  return tuple(
    sum(mul for mul, ir in parsed if ir.l == l) for l in range(max(ir.l for _, ir in parsed) + 1)
  )


def weight_balanced(hidden_features: int, lmax: int, lmax_attributes: int) -> Multiplicities:
  """Returns equal multiplicities n whose tensor product has the weights of a dense layer.

  n is the smallest number with paths * n^2 >= hidden_features^2, where paths counts the products
  (l1, l2) -> l3 of hidden features with attributes that O(3) allows.

  Reference: Brandstetter et al., "Geometric and Physical Quantities Improve E(3) Equivariant
  Message Passing", ICLR 2022, App. C.
  """
  degrees = range(lmax + 1)
  count = sum(len(paths(l3, lmax, lmax_attributes)) for l3 in degrees)
  n = math.isqrt(hidden_features**2 // count)
  while count * n**2 < hidden_features**2:
    n += 1
  return (n,) * (lmax + 1)


def paths(l3: int, lmax: int, lmax_attributes: int) -> list[tuple[int, int]]:
  """Returns the pairs (l1, l2), features times attributes, whose product has a part of degree l3.

  Parities (-1)^l ask for l1 + l2 + l3 even.
  """
  return [
    (l1, l2)
    for l1 in range(lmax + 1)
    for l2 in range(lmax_attributes + 1)
    if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
  ]


def norm(x: Float[Array, "... 3"]) -> Float[Array, "... 1"]:
  """Returns the length of vectors, with gradient 0 at 0."""
  square = jnp.sum(jnp.square(x), -1, keepdims=True)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def harmonics(x: Float[Array, "... 3"], lmax: int) -> Float[Array, "... harmonics"]:
  """Returns the spherical harmonics of the direction of x, 'integral' normalisation.

  The harmonics of degree l >= 1 of the zero vector are 0, with finite gradients.

  Args:
    x: Vectors.
    lmax: Largest degree.

  Returns:
    [..., (lmax + 1)^2], degrees joined.
  """
  import e3nn_jax as e3nn

  length = norm(x)
  unit = x / jnp.where(length > 0, length, 1)
  irreps = e3nn.Irreps.spherical_harmonics(lmax)
  return e3nn.spherical_harmonics(irreps, unit, False, normalization="integral").array


def flatten(x: Features) -> Float[Array, "... features"]:
  """Joins the degrees to one flat axis, [component, channel] within each."""
  return jnp.concatenate([part.reshape(*part.shape[:-2], -1) for part in x], -1)


def unflatten(x: Float[Array, "... features"], channels: Multiplicities) -> Features:
  """Inverse of `flatten`."""
  sizes = [(2 * l + 1) * n for l, n in enumerate(channels)]
  parts = jnp.split(x, np.cumsum(sizes)[:-1], -1)
  return tuple(
    part.reshape(*part.shape[:-1], 2 * l + 1, n)
    for l, (part, n) in enumerate(zip(parts, channels, strict=True))
  )


def layout(parts: Sequence[Array]) -> str:
  """Returns the irreps of joined parts [..., 2 l + 1, channels], as e3nn writes them."""
  return "+".join(f"{x.shape[-1]}x{(x.shape[-2] - 1) // 2}{_parity(x)}" for x in parts)


def _parity(x: Array) -> str:
  return "e" if x.shape[-2] % 4 == 1 else "o"


def concatenate(features: Sequence[Features]) -> Features:
  """Joins the channels of several features degree by degree (a missing degree is empty)."""
  degrees = range(max(len(x) for x in features))
  return tuple(jnp.concatenate([x[l] for x in features if l < len(x)], -1) for l in degrees)


class Weights(nn.Module):
  """Weights of a tensor product with attributes: one matrix a degree of the output, one bias.

  `kernel_l3` has the rows of all paths (l1, l2) -> l3 in the order of `paths`, channels of the
  input within each; a bias exists for scalars. All start uniform within +-1 / sqrt(rows), the
  bias with the rows of `kernel_0`, as in the published code: the published flat weight is these
  matrices' rows path by path, and its path weight over its `sqrt_k` correction is the factor
  sqrt(2 l3 + 1) that `tensor_product` applies.

  Attributes:
    inputs: Channels of each degree of the input.
    outputs: Channels of each degree of the output.
    lmax_attributes: Largest degree of the attributes.
  """

  inputs: Multiplicities
  outputs: Multiplicities
  lmax_attributes: int

  @nn.compact
  def __call__(self) -> tuple[Features, Array | None]:
    """Returns (kernels by degree of the output, bias)."""
    kernels, bias = [], None
    for l3, channels in enumerate(self.outputs):
      rows = sum(self.inputs[l1] for l1, _ in paths(l3, len(self.inputs) - 1, self.lmax_attributes))
      init = symmetric_uniform(1 / math.sqrt(max(rows, 1)))
      kernels.append(
        self.param(f"kernel_{l3}", init, (rows, channels)) if channels else jnp.zeros((rows, 0))
      )
      if l3 == 0 and channels:
        bias = self.param("bias", init, (channels,))
    return tuple(kernels), bias


class ChannelDropout(nn.Module):
  """Drops whole channels in training: all 2 l + 1 components of one at a node, or none.

  .. math:: y_{mc} = b_c x_{mc} / (1 - p), \\qquad b_c \\in \\{0, 1\\}, \\quad P(b_c = 0) = p

  for every node alone. With b given the map is equivariant.

  Attributes:
    rate: p.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Features, train: bool) -> Features:
    """Returns the features; x itself where not in training.

    Args:
      x: Features, entry l [..., 2 l + 1, channels].
      train: Whether to drop, by the random stream `dropout`.
    """
    drop = functools.partial(nn.Dropout, self.rate, broadcast_dims=(-2,), deterministic=not train)
    return tuple(drop(name=f"degree_{l}")(part) for l, part in enumerate(x))


def tensor_product(
  x: Features,
  attributes: Float[Array, "... harmonics"],
  kernels: Features,
  bias: Float[Array, " scalars"] | None,
) -> Features:
  """Multiplies features with attributes and maps the products linearly, for any degrees.

  .. math:: y_{l_3} = \\sqrt{2 l_3 + 1} \\sum_{l_1 l_2} C_{l_1 l_2 l_3} (x_{l_1} \\otimes a_{l_2})
    W_{l_1 l_2 l_3}

  with Clebsch-Gordan tensors C of unit Frobenius norm.

  Args:
    x: Features, entry l [..., 2 l + 1, channels].
    attributes: Harmonics, [..., (lmax_attributes + 1)^2].
    kernels: Of `Weights`, entry l3 [rows, channels].
    bias: Added to the scalars.
  """
  lmax_attributes = math.isqrt(attributes.shape[-1]) - 1
  outputs = []
  for l3, kernel in enumerate(kernels):
    products = [
      jnp.einsum(
        "...iu,...j,ijk->...ku",
        x[l1],
        attributes[..., l2**2 : (l2 + 1) ** 2],
        _clebsch_gordan(l1, l2, l3).astype(attributes.dtype),
      )
      for l1, l2 in paths(l3, len(x) - 1, lmax_attributes)
    ]
    outputs.append(math.sqrt(2 * l3 + 1) * (jnp.concatenate(products, -1) @ kernel))
  if bias is not None:
    outputs[0] = outputs[0] + bias
  return tuple(outputs)


def _clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
  import e3nn_jax as e3nn

  tensor = np.asarray(e3nn.clebsch_gordan(l1, l2, l3), np.float64)
  return tensor / np.linalg.norm(tensor)


def gate(x: Features, hidden: Multiplicities) -> Features:
  """Applies the gated nonlinearity: SiLU to scalars, products with sigmoids to the rest.

  Args:
    x: Scalars [..., 1, hidden scalars + gates], then the features to be gated; a gate for every
      channel of them.
    hidden: Channels of each degree of the result.

  Reference: Weiler et al., "3D Steerable CNNs", NeurIPS 2018, Sec. 4.3; Brandstetter et al.,
  ICLR 2022, Sec. 3.
  """
  bounds = np.cumsum(hidden)[:-1]
  scalars, *gates = jnp.split(x[0], bounds, -1)
  gated = [part * (SIGMOID_SCALE * jax.nn.sigmoid(g)) for part, g in zip(x[1:], gates, strict=True)]
  return (SILU_SCALE * jax.nn.silu(scalars), *gated)


def gated(hidden: Multiplicities) -> Multiplicities:
  """Returns the channels that `gate` needs to produce `hidden`."""
  return (sum(hidden), *hidden[1:])


def tensor_product_l1(
  x: Features,
  attributes: Float[Array, "... 4"],
  kernels: Features,
  bias: Float[Array, " scalars"] | None,
) -> Features:
  """`tensor_product` for degrees 0 and 1 alone, written out.

  .. math:: y_0 = [a_0 s, (a_1 \\cdot v) / \\sqrt 3] W_0 + b, \\quad
    y_1 = a_1 \\otimes (s W_{1,s}) + a_0 v W_{1,v}

  Arguments and result are those of `tensor_product`.
  """
  s, v = x[0][..., 0, :], x[1]
  a0, a1 = attributes[..., :1], attributes[..., 1:]
  scalar_kernel, vector_kernel = kernels
  n, width = s.shape[-1], scalar_kernel.shape[-1]
  # Scaling s W instead of s keeps the products free of copies of their operands.
  from_s = channel_map(s, jnp.concatenate([scalar_kernel[:n], vector_kernel[:n]], -1))
  s_to_0, s_to_1 = jnp.split(from_s, [width], -1)
  y1 = a1[..., None] * s_to_1[..., None, :] + a0[..., None] * channel_map(v, vector_kernel[n:])
  if not width:
    return jnp.zeros((*y1.shape[:-2], 1, 0), y1.dtype), y1
  y0 = a0 * s_to_0 + channel_map(_dot(a1, v), scalar_kernel[n:])
  return (y0 if bias is None else y0 + bias)[..., None, :], y1


def channel_map(
  x: Float[Array, "*axes channels"], kernel: Float[Array, "channels out"]
) -> Float[Array, "*axes out"]:
  """Returns x W over the last axis.

  As a product of two-dimensional arrays, so that its gradient for W is one too: with more axes,
  XLA's CPU compiler copies x to a transposed array first, element by element.
  """
  rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
  return (rows @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _dot(a1: Float[Array, "... 3"], v: Float[Array, "... 3 channels"]) -> Array:
  a1 = a1 / math.sqrt(3)
  return a1[..., 0:1] * v[..., 0, :] + a1[..., 1:2] * v[..., 1, :] + a1[..., 2:] * v[..., 2, :]


def message_product_l1(
  x: Features,
  message_scalars: Float[Array, "... edges scalars"],
  attributes: Float[Array, "... edges 4"],
  kernels: Features,
  bias: Float[Array, " scalars"] | None,
  graph: graphs.Graph,
) -> Features:
  """`tensor_product_l1` of [x_receiver, x_sender, message_scalars] on edges.

  The linear maps act on the nodes, of which there are fewer than edges, and their results are
  gathered; only the products with the edge attributes are computed on edges.

  Args:
    x: Node features.
    message_scalars: Invariants of the edges.
    attributes: Edge attributes.
    kernels: Of `Weights` for the joined channels.
    bias: Added to the scalars.
    graph: The connectivity.
  """
  s, v = x[0][..., 0, :], x[1]
  a0, a1 = attributes[..., :1], attributes[..., 1:]
  n0, n1, extra = s.shape[-1], v.shape[-1], message_scalars.shape[-1]
  sections = np.cumsum([n0, n0, extra, n1])
  rows = [jnp.split(kernel, sections) for kernel in kernels]
  # Of each input one product: what it sends to (y_0, y_1) as receiver, then as sender. They are
  # taken apart on nodes, since on edges the derivative of a slice is a pass over a larger array.
  widths = np.cumsum([kernel.shape[1] for kernel in (*kernels, kernels[0])])
  from_s, from_v = (
    jnp.split(
      channel_map(part, jnp.concatenate([rows[l][k] for k in ks for l in (0, 1)], -1)), widths, -1
    )
    for part, ks in ((s, (0, 1)), (v, (3, 4)))
  )

  def on_edges(parts, l):
    return graphs.gather_receivers(parts[l], graph) + graphs.gather_senders(parts[2 + l], graph)

  s_to_0, s_to_1 = (on_edges(from_s, l) + channel_map(message_scalars, rows[l][2]) for l in (0, 1))
  v_to_0, v_to_1 = (on_edges(from_v, l) for l in (0, 1))
  y0 = a0 * s_to_0 + _dot(a1, v_to_0)
  y0 = y0 if bias is None else y0 + bias
  y1 = a1[..., None] * s_to_1[..., None, :] + a0[..., None] * v_to_1
  return y0[..., None, :], y1
