"""The SE(3)-Transformer: attention whose values are steerable convolutions.

Reference: Fuchs, Worrall, Fischer, Welling, "SE(3)-Transformers: 3D Roto-Translation Equivariant
Attention Networks", NeurIPS 2020.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs, padding
from ace_jax.edges import Edges
from ace_jax.models.steerable import Features
from ace_jax.models.tfn import (
  Convolution,
  EdgeGeometry,
  HomotopicFeatures,
  NormActivation,
  SelfInteraction,
  input_vectors,
)
from ace_jax.relaxations import Relaxation


class Attention(nn.Module):
  """Attention over the edges into each node, added to what the node has of itself.

  .. math::
    \\alpha_{ij} = softmax_j(q_i \\cdot k_{ij} / \\sqrt{d}), \\qquad
    y_i = W_s x_i + W_o \\textstyle\\sum_j \\alpha_{ij} v_{ij}

  with queries q linear in x_i, and keys and values convolutions of x_j; the inner product runs
  over all degrees and channels of a head, so that it is invariant.

  Attributes:
    channels: Channels of the output, by degree; divisible by the heads.
    heads: Number of heads.

  Reference: Fuchs et al., NeurIPS 2020, Eqs. (10)-(11).
  """

  channels: tuple[int, ...]
  heads: int = 4

  @nn.compact
  def __call__(self, x: Features, geometry: EdgeGeometry) -> Features:
    """Returns the new features, entry l of shape [nodes, ..., 2 l + 1, channels].

    Raises:
      ValueError: the channels do not divide by the heads.
    """
    if any(width % self.heads for width in self.channels):
      raise ValueError(f"Attention: channels {self.channels} do not divide by {self.heads} heads.")
    edges = geometry.edges
    queries = self._split(SelfInteraction(self.channels, name="query")(x))
    filtered = geometry.filter(x)
    keys = self._split(Convolution(self.channels, name="key")(filtered, geometry))
    values = self._split(Convolution(self.channels, name="value")(filtered, geometry))
    size = sum(q.shape[-3] * q.shape[-1] for q in queries)
    logits = sum(
      jnp.sum(edges.at_receivers(q) * k, axis=(-3, -1)) for q, k in zip(queries, keys, strict=True)
    ) / jnp.sqrt(size)
    weights = _softmax(jnp.asarray(logits), edges)[..., None, :, None]
    attended = tuple(
      edges.sum(weights * v).reshape(*q.shape[:-2], -1)
      for q, v in zip(queries, values, strict=True)
    )
    out = SelfInteraction(self.channels, name="output")(attended)
    kept = SelfInteraction(self.channels, name="self")(x)
    return tuple(a + b for a, b in zip(out, kept, strict=True))

  def _split(self, x: Features) -> Features:
    return tuple(part.reshape(*part.shape[:-1], self.heads, -1) for part in x)


def _softmax(logits: Float[Array, "edges ..."], edges: Edges) -> Array:
  # Any shift that is the same for all edges into a node cancels; this one keeps exp finite.
  largest = edges.max(logits)
  exponentials = jnp.exp(logits - edges.at_receivers(largest))
  return exponentials / edges.at_receivers(edges.sum(exponentials))


class SE3Transformer(nn.Module):
  """A stack of attention layers; each has a gamma, `layers_i/features`.

  Equivariant under rotations and translations, not under reflections.

  Attributes:
    channels: Channels of each hidden degree (0 and 1).
    num_layers: Number of attention layers; a convolution makes the output.
    heads: Number of heads.
    relaxation: Branches (`relaxations.MLP` by default), on flat features, and their scale.
    direction: See `TFN`.

  Reference: Fuchs et al., NeurIPS 2020; homotopic form: Manolache et al., NeurIPS 2025.
  """

  channels: int = 16
  num_layers: int = 4
  heads: int = 4
  relaxation: Relaxation = Relaxation()
  direction: tuple[float, float, float] | None = None

  @nn.compact
  def __call__(
    self,
    positions: Float[Array, "*batch nodes 3"],
    velocities: Float[Array, "*batch nodes 3"],
    node_features: Float[Array, "*batch nodes scalars"],
    edge_features: Float[Array, "*batch edges scalars"],
    graph: graphs.Graph,
  ) -> Float[Array, "*batch nodes 3"]:
    """Returns predicted positions, x + v + the network's vectors; arguments as of `TFN`."""
    first = partial(graphs.nodes_first, graph=graph)
    x, v, h, e = (first(a) for a in (positions, velocities, node_features, edge_features))
    geometry = EdgeGeometry(x, e, Edges(graph, x.shape[0]))
    features: Features = (h[..., None, :], input_vectors(v, self.direction))
    for i in range(self.num_layers):
      layer = _Layer(
        channels=(self.channels, self.channels),
        heads=self.heads,
        relaxation=self.relaxation,
        name=f"layers_{i}",
      )
      features = layer(features, geometry)
    filtered = geometry.filter(features)
    messages = Convolution((0, 1), name="output_convolution")(filtered, geometry)[1]
    kept = SelfInteraction((0, 1), name="output_self")(features)[1]
    vectors = (geometry.edges.mean(messages) + kept)[..., 0]
    return graphs.nodes_back(x + v + vectors, graph)


class _Layer(nn.Module):
  channels: tuple[int, ...]
  heads: int
  relaxation: Relaxation

  @nn.compact
  def __call__(self, x, geometry):
    y = Attention(self.channels, self.heads, name="attention")(x, geometry)
    y = NormActivation(name="activation")(y)
    homotopic = HomotopicFeatures(self.relaxation, name="features")
    return homotopic(y, x, padding.row_mask(geometry.edges))
