"""Vector neurons, and VN-DGCNN: a rotation-invariant classifier of point clouds.

Features are [..., 3, channels]: every channel is a vector that turns with the points. All is linear
over channels, and non-linear along learned directions. Flat features, which branches see, are
[component, channel], as everywhere in this library.

Reference: Deng, Litany, Duan, Poulenard, Tagliasacchi, Guibas, "Vector Neurons: A General Framework
for SO(3)-Equivariant Networks", ICCV 2021. DGCNN: Wang et al., "Dynamic Graph CNN for Learning on
Point Clouds", ACM TOG 2019. Homotopic form: Manolache et al., NeurIPS 2025.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ace_jax import relaxations, streams
from ace_jax.homotopy import Irreps
from ace_jax.models.steerable import channel_map
from ace_jax.relaxations import Relaxation

_EPSILON = 1e-6
_SLOPE = 0.2

Vectors = Float[Array, "*points 3 channels"]
Neighbours = Int[Array, "batch points k"]


def nearest(x: Float[Array, "batch points 3 channels"], k: int) -> Neighbours:
  """Returns the k nearest points of each in feature space, itself among them, nearest first."""
  flat = x.reshape(*x.shape[:2], -1)
  square = jnp.sum(jnp.square(flat), -1)
  products = jnp.einsum("bic,bjc->bij", flat, flat, precision=jax.lax.Precision.HIGHEST)
  return jax.lax.top_k(2 * products - square[:, None] - square[..., None], k)[1]


def gather(x: Float[Array, "batch points *rest"], neighbours: Neighbours) -> Array:
  """Returns the features of the neighbours, [batch, points, k, ...]."""
  return jax.vmap(lambda features, index: features[index])(x, neighbours)


def graph_feature(
  x: Float[Array, "batch points 3 channels"], neighbours: Neighbours
) -> Float[Array, "batch points k 3 channels_twice"]:
  """Returns [x_j - x_i, x_i] for the neighbours j of every point i."""
  centre = jnp.broadcast_to(x[:, :, None], (*neighbours.shape, *x.shape[2:]))
  return jnp.concatenate([gather(x, neighbours) - centre, centre], -1)


class LinearOnGraph(nn.Module):
  """A linear map of the last axis of features, or of the edge features [x_j - x_i, x_i].

  The latter is W_1 x_j + (W_2 - W_1) x_i: both maps act on points, of which there are k times fewer
  than edges. Of features [x_i, m], with m the same at all points of a cloud, it is W_1 x_i + W_2 m.

  Attributes:
    features: Number of outputs.
    use_bias: Whether a bias is added.
    components: What the last axis holds: channels (1), or [component, channel]. In each component
      channels of m follow those of x.
  """

  features: int
  use_bias: bool = False
  components: int = 1

  @nn.compact
  def __call__(
    self, x: Array, neighbours: Neighbours | None = None, common: Array | None = None
  ) -> Array:
    inputs = x.shape[-1] * (1 if neighbours is None else 2)
    inputs += 0 if common is None else common.shape[-1]
    init = relaxations.symmetric_uniform(inputs**-0.5)
    kernel = self.param("kernel", init, (inputs, self.features))
    bias = self.param("bias", init, (self.features,)) if self.use_bias else 0
    if common is not None:
      by_component = kernel.reshape(self.components, -1, self.features)
      parts = jnp.split(by_component, [x.shape[-1] // self.components], 1)
      of_x, of_common = (part.reshape(-1, self.features) for part in parts)
      return channel_map(x, of_x) + (channel_map(common, of_common) + bias)
    if neighbours is None:
      return channel_map(x, kernel) + bias
    of_difference, of_centre = jnp.split(kernel, 2)
    at_centre = channel_map(x, of_centre - of_difference) + bias
    return gather(channel_map(x, of_difference), neighbours) + at_centre[:, :, None]


class FlatLinear(nn.Module):
  """The published branch: a linear map with bias on flat features, which mixes components.

  On edges its input is [x_j - x_i, x_i], joined along the channels or not: the rows of the weight
  are those of the difference, then those of the centre, [component, channel] within each.

  Attributes:
    features: Number of outputs.
  """

  features: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "*points inputs"],
    neighbours: Neighbours | None = None,
    parts: tuple[Array, Array] | None = None,
  ) -> Array:
    """Returns the map.

    Args:
      x: Flat features.
      neighbours: Of every point, where the map is of edges.
      parts: What x is joined from, where a part of it is the same at all points: the other part,
        and that part, with 1 point.
    """
    linear = LinearOnGraph(self.features, use_bias=True, components=3, name="linear")
    return linear(x, neighbours) if parts is None else linear(parts[0], None, parts[1])


class VNLinearLeakyReLU(nn.Module):
  """Linear maps to features p and directions d, and a leaky ReLU of p along d.

  .. math::
    p &= BN(W x + \\gamma_1 f_1(x)), \\qquad d = U x + \\gamma_2 f_2(x) \\\\
    y &= p - (1 - a) \\, [\\langle p, d \\rangle < 0] \\, \\frac{\\langle p, d \\rangle}{|d|^2 +
      \\epsilon} d

  with slope a = 0.2, and BN a batch normalisation of norms. The gammas are `features` and
  `directions`.

  Attributes:
    features: Channels of y.
    shared: Whether all channels have one direction.
    relaxation: f_1 and f_2 (`FlatLinear` by default, whose arguments they take); their scale; the
      mapped axis over which all statistics are averaged.

  Reference: Deng et al., ICCV 2021, Eqs. (4)-(6).
  """

  features: int
  shared: bool = False
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(
    self,
    x: Vectors,
    neighbours: Neighbours | None = None,
    train: bool = False,
    common: Float[Array, "batch 1 3 more"] | None = None,
  ) -> Vectors:
    """Returns y, at the points, or at the edges to the neighbours, from [x_j - x_i, x_i].

    Args:
      x: Features, [batch, points, 3, channels] (or, without neighbours, any axes before).
      neighbours: Of every point.
      train: Whether batch statistics are those of this batch, and are updated.
      common: Further features, the same at all points of a cloud; not with neighbours.
    """

    def mapped(features, name):
      y = LinearOnGraph(features, name=f"map_{name}")(x, neighbours, common)
      return self._homotopic(y, x, neighbours, common, name)

    p = mapped(self.features, "features")
    p = VNBatchNorm(self.relaxation.axis_name, name="norm")(p, train)
    d = mapped(1 if self.shared else self.features, "directions")
    product = jnp.sum(p * d, -2, keepdims=True)
    along = product / (jnp.sum(jnp.square(d), -2, keepdims=True) + _EPSILON)
    return p - (1 - _SLOPE) * jnp.where(product < 0, along, 0) * d

  def _homotopic(self, y, x, neighbours, common, name):
    parts = None
    if common is not None:
      parts = tuple(part.reshape(*part.shape[:-2], -1) for part in (x, common))
      x = joined(x, common)
    channels = x.shape[-1] * (1 if neighbours is None else 2)
    irreps = Irreps(f"{channels}x1o", f"{y.shape[-1]}x1o") if neighbours is None else None
    layer = self.relaxation.layer(FlatLinear, irreps=irreps, name=name)
    flat = y.reshape(*y.shape[:-2], -1)
    flat_x = x.reshape(*x.shape[:-2], -1)
    return layer(flat, flat_x, neighbours, parts).reshape(y.shape)


def joined(
  x: Float[Array, "batch points 3 channels"], common: Float[Array, "batch 1 3 more"]
) -> Float[Array, "batch points 3 together"]:
  """Returns [x_i, m] at every point, with m the same at all points of a cloud."""
  return jnp.concatenate([x, jnp.broadcast_to(common, (*x.shape[:-1], common.shape[-1]))], -1)


class VNBatchNorm(nn.Module):
  """Scales vectors by the batch normalisation of their norms: x BN(norm(x)) / norm(x).

  Attributes:
    axis_name: Mapped axis over which batch statistics are averaged.

  Reference: Deng et al., ICCV 2021, Sec. 3.4.
  """

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Vectors, train: bool = False) -> Vectors:
    square = jnp.sum(jnp.square(x), -2, keepdims=True)
    positive = square > 0
    norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0) + _EPSILON
    return x * (streams.batch_norm("norm", train, self.axis_name)(norms) / norms)


class VNMaxPool(nn.Module):
  """Takes for every channel the vector that lies furthest along a learned direction.

  .. math:: y_c = x_{c, n_c}, \\qquad n_c = \\arg\\max_n \\langle x_{c,n}, (W x)_{c,n} \\rangle

  Reference: Deng et al., ICCV 2021, Sec. 3.3.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "*points k 3 channels"]) -> Vectors:
    direction = LinearOnGraph(x.shape[-1], name="map_directions")(x)
    best = jnp.argmax(jnp.sum(x * direction, -2), -2)
    return jnp.take_along_axis(x, best[..., None, None, :], -3)[..., 0, :, :]


class VNStdFeature(nn.Module):
  """Makes features invariant: their products with three learned vectors that turn with them.

  .. math:: z = x^T W \\, v_2(v_1(x))

  Attributes:
    relaxation: See `VNLinearLeakyReLU`.

  Reference: Deng et al., ICCV 2021, Sec. 3.5.
  """

  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "*points 3 channels"],
    train: bool = False,
    common: Float[Array, "batch 1 3 more"] | None = None,
  ) -> tuple[Float[Array, "*points together 3"], Float[Array, "*points 3 3"]]:
    """Returns (z, the frame W v_2(v_1(x)), [component, vector]).

    Args:
      x: Features.
      train: See `VNLinearLeakyReLU`.
      common: Further features, the same at all points of a cloud: z is that of `joined`.
    """
    block = partial(VNLinearLeakyReLU, relaxation=self.relaxation)
    channels = x.shape[-1] + (0 if common is None else common.shape[-1])
    y = block(channels // 2, name="vn1")(x, train=train, common=common)
    y = block(channels // 4, name="vn2")(y, train=train)
    frame = LinearOnGraph(3, name="vn_lin")(y)
    x = x if common is None else joined(x, common)
    return jnp.einsum("...cm,...ck->...mk", x, frame), frame


class VNDGCNN(nn.Module):
  """Classifies point clouds; invariant under rotations but for its 14 homotopic layers.

  Four edge convolutions over the k nearest points in feature space, one map of all their outputs,
  invariant features, the largest and the mean over points, a perceptron to logits.

  Attributes:
    classes: Number of logits.
    k: Neighbours of a point, itself among them.
    widths: Vector channels of the edge convolutions, then of the map of their outputs.
    hidden: Widths of the perceptron.
    pooling: "max" (`VNMaxPool`) or "mean", over the neighbours.
    dropout: Rate in the perceptron.
    relaxation: See `VNLinearLeakyReLU`.

  Reference: Deng et al., ICCV 2021, Sec. 4; Manolache et al., NeurIPS 2025.
  """

  classes: int = 40
  k: int = 20
  widths: tuple[int, ...] = (21, 21, 42, 85, 341)
  hidden: tuple[int, ...] = (512, 256)
  pooling: str = "mean"
  dropout: float = 0.5
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(
    self, points: Float[Array, "batch points 3"], train: bool = False
  ) -> Float[Array, "batch classes"]:
    """Returns logits.

    Args:
      points: At least as many as k.
      train: Whether batch statistics are those of this batch, and dropout acts.

    Raises:
      ValueError: there are fewer points than k, or the pooling does not exist.
    """
    if self.pooling not in ("max", "mean"):
      raise ValueError(f"VNDGCNN.pooling is {self.pooling!r}; it must be 'max' or 'mean'.")
    if points.shape[1] < self.k:
      raise ValueError(f"VNDGCNN: {points.shape[1]} points have no {self.k} neighbours; lower k.")
    x, parts = points[..., None], []
    for i, width in enumerate(self.widths[:-1]):
      block = VNLinearLeakyReLU(width, relaxation=self.relaxation, name=f"conv_{i}")
      edges = block(x, nearest(jax.lax.stop_gradient(x), self.k), train)
      pool = VNMaxPool(name=f"pool_{i}") if self.pooling == "max" else partial(jnp.mean, axis=2)
      x = pool(edges)
      parts.append(x)
    block = VNLinearLeakyReLU(self.widths[-1], True, self.relaxation, name="joined")
    x = block(jnp.concatenate(parts, -1), train=train)
    standardise = VNStdFeature(self.relaxation, name="std_feature")
    invariant, _ = standardise(x, train, x.mean(1, keepdims=True))
    flat = invariant.reshape(*invariant.shape[:2], -1)
    h = jnp.concatenate([flat.max(1), flat.mean(1)], -1)
    for i, width in enumerate(self.hidden):
      h = relaxations.torch_dense(width, h.shape[-1], name=f"hidden_{i}")(h)
      h = streams.batch_norm(f"norm_{i}", train, self.relaxation.axis_name)(h)
      h = nn.leaky_relu(h, _SLOPE)
      h = nn.Dropout(self.dropout, deterministic=not train)(h)
    return relaxations.torch_dense(self.classes, h.shape[-1], name="logits")(h)
