"""A network equivariant under time reversal (q, p) -> (q, -p), for fields on phase space."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax.relaxations import Relaxation


class TimeReversalField(nn.Module):
  """A vector field F with F(R z) = -R F(z), R = diag(1, -1), but for its homotopic layers.

  Features come in an even and an odd half, e and o, which time reversal maps to e and -o:

  .. math::
    e' = \\tanh(W_1 [e, (W_2 o)^2] + b_1), \\qquad o' = W_3 o \\cdot \\tanh(W_4 e + b_4)

  with one gamma a layer, `layers_i`, on [e', o']. dq/dt is odd, dp/dt is even.

  Attributes:
    hidden: Width of either half.
    num_layers: Number of layers.
    relaxation: Branches (`relaxations.MLP` by default) and their scale.
  """

  hidden: int = 32
  num_layers: int = 2
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(self, state: Float[Array, "batch 2"]) -> Float[Array, "batch 2"]:
    """Returns (dq/dt, dp/dt) at states (q, p)."""
    q, p = state[:, :1], state[:, 1:]
    even, odd = jnp.concatenate([jnp.cos(q), jnp.sin(q)], -1), p
    linear = partial(nn.Dense, self.hidden, use_bias=False)
    for i in range(self.num_layers):
      seen = jnp.concatenate([even, odd], -1)
      squares = jnp.square(linear(name=f"square_{i}")(odd))
      inputs = jnp.concatenate([even, squares], -1)
      new_even = jnp.tanh(nn.Dense(self.hidden, name=f"even_{i}")(inputs))
      gate = jnp.tanh(nn.Dense(self.hidden, name=f"gate_{i}")(even))
      new_odd = linear(name=f"odd_{i}")(odd) * gate
      both = jnp.concatenate([new_even, new_odd], -1)
      even, odd = jnp.split(self.relaxation.layer(name=f"layers_{i}")(both, seen), 2, -1)
    position = nn.Dense(1, use_bias=False, name="position")(odd)
    momentum = nn.Dense(1, name="momentum")(even)
    return jnp.concatenate([position, momentum], -1)
