"""Small convolutional networks on a torus, and what takes translation equivariance from them."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import relaxations
from ace_jax.relaxations import Relaxation

Maps = Float[Array, "batch height width channels"]

# Plain ReLUs die: whole networks ended at constant logits.
_activation = partial(nn.leaky_relu, negative_slope=0.1)


def keep(x: Maps) -> Maps:
  """Keeps every pixel."""
  return x


def subsample(x: Maps) -> Maps:
  """Keeps every second pixel; after a convolution, that is a convolution of stride 2."""
  return x[:, ::2, ::2]


def max_pool(x: Maps) -> Maps:
  """Keeps the largest of every 2 x 2 pixels."""
  return nn.max_pool(x, (2, 2), (2, 2))


def blur_pool(x: Maps) -> Maps:
  """Max-pooling with anti-aliasing: largest of 2 x 2 at every pixel, blur, then every second.

  The blur is binomial, [1, 2, 1] / 4 along both axes; windows are cyclic.

  Reference: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019.
  """
  for axis in (1, 2):
    x = jnp.maximum(x, jnp.roll(x, -1, axis))
  for axis in (1, 2):
    x = (jnp.roll(x, 1, axis) + 2 * x + jnp.roll(x, -1, axis)) / 4
  return subsample(x)


class Positional(nn.Module):
  """A branch that knows where it is: a 1 x 1 kernel and a bias that depend on the pixel.

  .. math:: f_{neq}(x)_p = a(p) \\odot (W x_p) + b(p)

  a and b are combinations of the products of cosines and sines along both axes, up to a number of
  periods around the torus, without the constant one: smooth, few parameters, and 0 on average
  over all positions, so that the branch has no share in what is equivariant.

  Attributes:
    features: Number of outputs.
    periods: Highest number of periods.
  """

  features: int
  periods: int = 2

  @nn.compact
  def __call__(self, x: Maps) -> Float[Array, "batch height width features"]:
    waves = torus_waves(x.shape[1], x.shape[2], self.periods).astype(x.dtype)
    shape = (waves.shape[-1], self.features)
    # Every wave has mean square 1 over the torus, so that a(p) starts with variance 1.
    scale = self.param("scale", nn.initializers.normal(1 / math.sqrt(shape[0])), shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    return (waves @ scale) * relaxations.Linear(self.features, name="kernel")(x) + waves @ bias


def torus_waves(height: int, width: int, periods: int) -> Float[Array, "height width waves"]:
  """Returns products of cosines and sines along both axes, orthonormal, without the constant.

  Args:
    height: Pixels.
    width: Pixels.
    periods: Highest number of periods, below half of either side.
  """

  def along(side):
    angles = 2 * jnp.pi * jnp.arange(side)[:, None] * jnp.arange(1, periods + 1) / side
    waves = math.sqrt(2) * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.concatenate([jnp.ones((side, 1)), waves], -1)

  products = along(height)[:, None, :, None] * along(width)[None, :, None, :]
  return products.reshape(height, width, -1)[..., 1:]


class ConvNet(nn.Module):
  """Convolutions, global average pooling, layer normalisation, and a perceptron to logits.

  .. math:: x_{i+1} = D(\\sigma(W_i * x_i + b_i + \\gamma_i f_{neq,i}(x_i)))

  with sigma a leaky ReLU. With circular padding and D = `keep`, it is invariant under cyclic shifts
  by whole pixels, but for its homotopic layers, `layers_i`. With dilations 2^i it is then the
  network with D = `subsample` and no dilation, evaluated at every pixel instead of one in 2^i ("a
  trous").

  Attributes:
    widths: Channels of each convolution; kernels are 3 x 3.
    dilations: Of each convolution.
    downsample: D, after each convolution: `keep`, `subsample`, `max_pool` or `blur_pool`.
    hidden: Width of the perceptron's hidden layer.
    padding: "CIRCULAR", or "SAME" for zeros around the image.
    classes: Number of logits.
    relaxation: Branches (`Positional` by default) and their scale.
  """

  widths: tuple[int, ...] = (8, 8, 12)
  dilations: tuple[int, ...] = (1, 2, 4)
  downsample: Callable[[Array], Array] = keep
  hidden: int = 32
  padding: str = "CIRCULAR"
  classes: int = 10
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(self, images: Maps) -> Float[Array, "batch classes"]:
    """Returns logits."""
    x = images
    for i, (width, dilation) in enumerate(zip(self.widths, self.dilations, strict=True)):
      y = nn.Conv(width, (3, 3), padding=self.padding, kernel_dilation=dilation, name=f"conv_{i}")(
        x
      )
      relaxed = self.relaxation.layer(Positional, name=f"layers_{i}")
      x = self.downsample(_activation(relaxed(y, x)))
    # Most of the canvas is empty, so that the means are small: normalised, they train faster.
    pooled = nn.LayerNorm(name="norm")(jnp.mean(x, axis=(1, 2)))
    hidden = _activation(nn.Dense(self.hidden, name="hidden")(pooled))
    return nn.Dense(self.classes, name="logits")(hidden)
