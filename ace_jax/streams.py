"""Relaxations that carry a stream from layer to layer, with batch and spectral normalisation.

They are the published relaxation of EGNO (Manolache et al., NeurIPS 2025), to be given to
`Homotopic`; running statistics live in the collection `batch_stats`.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ace_jax import padding, relaxations

_EPSILON = 1e-12
_MOMENTUM, _NORM_EPSILON = 0.9, 1e-5
_FIRST_ITERATIONS, _ITERATIONS = 15, 5


class SpectralDense(nn.Module):
  """A dense layer whose weight is divided by its largest singular value: x W / sigma + b.

  sigma = v^T W u with running vectors u, v (collection `batch_stats`), moved by five power
  iterations at every call in training and kept in evaluation; they are constants of the gradient.

  Attributes:
    features: Number of outputs.

  Reference: Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
  ICLR 2018, Algorithm 1.
  """

  features: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "... inputs"], train: bool = False
  ) -> Float[Array, "... features"]:
    bound = x.shape[-1] ** -0.5
    init = relaxations.symmetric_uniform(bound)
    kernel = self.param("kernel", init, (x.shape[-1], self.features))
    bias = self.param("bias", init, (self.features,))
    frozen = jax.lax.stop_gradient(kernel)
    left = self.variable("batch_stats", "left", lambda: self._start(frozen)[0])
    right = self.variable("batch_stats", "right", lambda: self._start(frozen)[1])
    u, v = left.value, right.value
    if train and not self.is_initializing():
      u, v = _iterate(frozen, v, _ITERATIONS)
      left.value, right.value = u, v
    return x @ (kernel / (v @ kernel @ u)) + bias

  def _start(self, kernel: Float[Array, "inputs features"]) -> tuple[Array, Array]:
    v = jax.random.normal(jax.random.key(0), (kernel.shape[0],), kernel.dtype)
    return _iterate(kernel, v, _FIRST_ITERATIONS)


def _iterate(kernel, v, iterations):
  u = jnp.zeros((kernel.shape[1],), kernel.dtype)
  for _ in range(iterations):
    u = _normalise(v @ kernel)
    v = _normalise(kernel @ u)
  return jax.lax.stop_gradient((u, v))


def _normalise(x: Array) -> Array:
  return x / jnp.maximum(jnp.linalg.norm(x), _EPSILON)


class FeatureStream(nn.Module):
  """s_i = W_i BN(s_{i-1}) + b_i with spectrally normalised W_i; the first layer embeds its input.

  Attributes:
    features: Width of the stream.
    first: Whether the input is not yet the stream, and is mapped to it by a dense layer.
    axis_name: Mapped axis over which batch statistics are averaged.
  """

  features: int
  first: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    stream: Float[Array, "... inputs"],
    train: bool = False,
    mask: Bool[Array, "... 1"] | None = None,
  ) -> Float[Array, "... features"]:
    if self.first:
      stream = relaxations.torch_dense(self.features, stream.shape[-1], name="start")(stream)
    stream = batch_norm("norm", train, self.axis_name, mask)(stream)
    return self.linear(stream, train)

  def linear(self, stream: Array, train: bool) -> Array:
    """Applies W_i and b_i, the submodule "linear"."""
    return SpectralDense(self.features, name="linear")(stream, train)


class PositionStream(nn.Module):
  """A perceptron on positions: W_2 BN(SiLU(W_1 BN(P x) + b_1)) + b_2, W_i spectrally normalised.

  Attributes:
    features: Number of outputs, 3.
    hidden: Width between the two maps.
    shared: P, a dense layer that all layers share.
    axis_name: Mapped axis over which batch statistics are averaged.
  """

  features: int
  hidden: int
  shared: nn.Module
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "... 3"],
    train: bool = False,
    mask: Bool[Array, "... 1"] | None = None,
  ) -> Float[Array, "... 3"]:
    x = batch_norm("norm_0", train, self.axis_name, mask)(self.shared(x))
    x = relaxations.silu(SpectralDense(self.hidden, name="linear_0")(x, train))
    x = batch_norm("norm_1", train, self.axis_name, mask)(x)
    return SpectralDense(self.features, name="linear_1")(x, train)


def batch_norm(
  name: str, train: bool, axis_name: str | None, mask: Bool[Array, "... 1"] | None = None
) -> Callable[[Array], Array]:
  """Batch normalisation over all axes but the last, momentum and epsilon as in PyTorch.

  The running variance is the biased one (PyTorch's is the unbiased one: a factor n / (n - 1)).

  Args:
    name: Name of the submodule.
    train: Whether the statistics are those of the batch, and the running ones move.
    axis_name: Mapped axis over which statistics are averaged.
    mask: Which rows count in the statistics; None is all.
  """
  if mask is not None:
    return partial(_MaskedBatchNorm(axis_name, name=name), train=train, mask=mask)
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=_MOMENTUM,
    epsilon=_NORM_EPSILON,
    axis_name=axis_name,
    use_fast_variance=False,
    name=name,
  )


class _MaskedBatchNorm(nn.Module):
  """`flax.linen.BatchNorm`, its variables too, over the rows that count.

  Flax's takes a mask, but averages the means of devices, which may have different numbers of rows.
  """

  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "... features"], train: bool, mask: Bool[Array, "... 1"]
  ) -> Float[Array, "... features"]:
    features, axes = x.shape[-1:], tuple(range(x.ndim - 1))
    running = {
      "mean": self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32),
      "var": self.variable("batch_stats", "var", jnp.ones, features, jnp.float32),
    }
    scale = self.param("scale", nn.initializers.ones, features)
    bias = self.param("bias", nn.initializers.zeros, features)
    mean, var = running["mean"].value, running["var"].value
    if train:
      over_rows = partial(padding.mean, axes=axes, where=mask, axis_name=self._axis())
      mean = over_rows(x)
      var = over_rows(jnp.square(x - mean))
      if not self.is_initializing():
        for name, moment in (("mean", mean), ("var", var)):
          value = running[name].value
          running[name].value = _MOMENTUM * value + (1 - _MOMENTUM) * moment
    return (x - mean) * (scale * jax.lax.rsqrt(var + _NORM_EPSILON)) + bias

  def _axis(self) -> str | None:
    return None if self.is_initializing() else self.axis_name
