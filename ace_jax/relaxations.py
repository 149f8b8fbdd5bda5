"""Non-equivariant branches f_neq on flat features, to be given to `Homotopic`.

Each module maps [..., in] to [..., features] and knows nothing of the group. The shapes that the
branch needs beyond `features` default to those of its input, so that the class itself is a valid
constructor: `Homotopic(MLP)(y_eq, x)`. A `Relaxation` says how all layers of a model relax.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax.homotopy import Homotopic

__all__ = ["MLP", "Linear", "LowRank", "Relaxation", "SpectralMLP"]


@jax.custom_jvp
def normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns Phi(x) = (1 + erf(x / sqrt(2))) / 2; under `jax.shard_map` too it has derivatives."""
  return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


normal_cdf.defjvps(lambda t, _, x: t * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns x Phi(x), to an absolute error of 2e-7 in float32."""
  return x * normal_cdf(x)


# From 0.12 on JAX's has no derivative under shard_map: that of erfc is a polynomial there
# whose coefficients do not vary over the mesh as its argument does, which is refused. Before, it
# is kept, so that runs repeat to the last bit.
_WRITTEN_OUT = jax.__version_info__ >= (0, 12)
gelu: Callable[[Array], Array] = (
  exact_gelu if _WRITTEN_OUT else partial(jax.nn.gelu, approximate=False)
)
"""The exact GELU, x Phi(x) (Flax's default is the tanh approximation)."""


@jax.custom_jvp
def silu(x: Array) -> Array:
  """x sigma(x), with a derivative that is computed from x again."""
  return x * jax.nn.sigmoid(x)


@silu.defjvp
def _silu_tangent(primals, tangents):
  # Another expression of sigma, so that XLA does not keep the first one for it: a pass over
  # memory less.
  (x,), (tangent,) = primals, tangents
  sigma = 0.5 + 0.5 * jnp.tanh(0.5 * x)
  return silu(x), tangent * (sigma * (1 + x * (1 - sigma)))


# PyTorch's default initialisation of a linear layer: both weight and bias uniform within
# +-1 / sqrt(inputs). The published relaxations start from it.
_torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_dense(features: int, inputs: int, *, name: str | None = None) -> nn.Dense:
  """A dense layer whose weights and biases start uniform within +-1 / sqrt(inputs).

  Args:
    features: Number of outputs.
    inputs: Number of inputs (the bias initialiser needs it).
    name: Name of the submodule.
  """

  bias_init = symmetric_uniform(1 / math.sqrt(inputs))
  return nn.Dense(features, kernel_init=_torch_kernel, bias_init=bias_init, name=name)


def symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """Returns an initialiser that draws uniform numbers from [-bound, bound)."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Linear(nn.Module):
  """f_neq(x) = x W, without bias.

  Attributes:
    features: Number of outputs.
    kernel_init: Initialiser of W.

  Reference: Pertigkiozoglou et al., "Improving Equivariant Model Training via Constraint
  Relaxation", NeurIPS 2024.
  """

  features: int
  kernel_init: nn.initializers.Initializer = _torch_kernel

  @nn.compact
  def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... features"]:
    return nn.Dense(self.features, use_bias=False, kernel_init=self.kernel_init, name="linear")(x)


class MLP(nn.Module):
  """A perceptron, f_neq(x) = W_n act(... act(W_1 x + b_1) ...) + b_n.

  Attributes:
    features: Number of outputs.
    hidden: Widths of the hidden layers; by default (2 features, features).
    activation: Between layers; exact GELU by default.
  """

  features: int
  hidden: tuple[int, ...] | None = None
  activation: Callable[[Array], Array] = gelu

  @nn.compact
  def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... features"]:
    hidden = (2 * self.features, self.features) if self.hidden is None else self.hidden
    # With more than two axes XLA's CPU compiler would compute the activation's derivative in
    # transposed order for the weight gradient, with index arithmetic for every element.
    axes, x = x.shape[:-1], x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    for i, width in enumerate(hidden):
      x = self.activation(torch_dense(width, x.shape[-1], name=f"linear_{i}")(x))
    x = torch_dense(self.features, x.shape[-1], name=f"linear_{len(hidden)}")(x)
    return x.reshape(*axes, self.features)


class SpectralMLP(nn.Module):
  """A perceptron whose weights are divided by their largest singular value.

  With a 1-Lipschitz activation and exact singular values, bound^n is a Lipschitz constant of the
  branch with n linear layers; a few power iterations fall slightly short of the singular value,
  so that it is an estimate, not a certificate. They start from a fixed vector: no state, so
  evaluation and training see the same function.

  Attributes:
    features: Number of outputs.
    hidden: Widths of the hidden layers; by default (2 features, features).
    bound: Spectral norm of every weight.
    iterations: Power iterations for each weight.
    activation: Between layers; SiLU is 1.1-Lipschitz, ReLU and tanh are 1-Lipschitz.

  Reference: Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
  ICLR 2018, Eq. (8).
  """

  features: int
  hidden: tuple[int, ...] | None = None
  bound: float = 1.0
  iterations: int = 8
  activation: Callable[[Array], Array] = jnp.tanh

  @nn.compact
  def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... features"]:
    hidden = (2 * self.features, self.features) if self.hidden is None else self.hidden
    widths = (*hidden, self.features)
    for i, width in enumerate(widths):
      kernel = self.param(f"kernel_{i}", _torch_kernel, (x.shape[-1], width))
      bias = self.param(f"bias_{i}", nn.initializers.zeros, (width,))
      x = x @ (kernel * (self.bound / spectral_norm(kernel, self.iterations))) + bias
      if i + 1 < len(widths):
        x = self.activation(x)
    return x


class LowRank(nn.Module):
  """f_neq(x) = x A B with A [in, rank] and B [rank, features]: few parameters, no bias.

  Attributes:
    features: Number of outputs.
    rank: Inner dimension.
  """

  features: int
  rank: int = 4

  @nn.compact
  def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... features"]:
    down = nn.Dense(self.rank, use_bias=False, kernel_init=_torch_kernel, name="down")
    up = nn.Dense(self.features, use_bias=False, kernel_init=_torch_kernel, name="up")
    return up(down(x))


@dataclasses.dataclass(frozen=True)
class Relaxation:
  """How the homotopic layers of a model relax; hashable.

  Attributes:
    branch: Constructor of f_neq, see `Homotopic`; None is the model's default.
    scale: "free" or "fixed", see `Homotopic`.
    axis_name: Mapped axis over which statistics of the branches are averaged, if any: the root mean
      square of a "fixed" scale, and batch normalisations.
  """

  branch: Callable[..., nn.Module] | None = None
  scale: str = "free"
  axis_name: str | None = None

  def layer(self, default: Callable[..., nn.Module] = MLP, **fields: Any) -> Homotopic:
    """Returns a homotopic layer.

    Args:
      default: Constructor of f_neq where `branch` is None.
      **fields: Further fields of `Homotopic`, such as its name.
    """
    branch = default if self.branch is None else self.branch
    return Homotopic(branch, self.scale, self.axis_name, **fields)


def spectral_norm(kernel: Float[Array, "inputs outputs"], iterations: int) -> Float[Array, ""]:
  """Estimates the largest singular value of a matrix by power iteration.

  The estimate is never above the true value: v = W^T W v / norm(...), sigma = norm(W v). The
  iterates are constants of the gradient (Miyato et al., 2018, Sec. 2.1), which is u^T dW v.

  Args:
    kernel: The matrix W.
    iterations: Number of iterations, at least 1.
  """
  frozen = jax.lax.stop_gradient(kernel)
  # A fixed pseudo-random start is orthogonal to the top singular vector with probability 0.
  v = jax.random.normal(jax.random.key(0), (kernel.shape[1],), kernel.dtype)

  def iterate(v, _):
    v = frozen.T @ (frozen @ v)
    return v / (jnp.linalg.norm(v) + 1e-12), None

  # The first one outside: from there on v varies over a mesh as the kernel does.
  v, _ = iterate(v / jnp.linalg.norm(v), None)
  v, _ = jax.lax.scan(iterate, v, length=iterations - 1)
  u = frozen @ v
  return (u / (jnp.linalg.norm(u) + 1e-12)) @ kernel @ v
