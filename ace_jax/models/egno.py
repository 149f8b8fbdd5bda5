"""EGNO, an equivariant graph neural operator: EGNN layers and Fourier convolutions over time.

Reference: Xu, Han, Lou, Kossaifi, Ramanathan, Azizzadenesheli, Leskovec, Ermon, Anandkumar,
"Equivariant Graph Neural Operator for Modeling 3D Dynamics", ICML 2024. Homotopic form with
streams: Manolache et al., NeurIPS 2025.
"""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax import graphs, homotopy, padding, relaxations, streams
from ace_jax.edges import Edges
from ace_jax.models.egnn import EGNNLayer, component_along
from ace_jax.relaxations import Relaxation

_CENTRINGS = ("none", "center_of_mass")


class TimeConvolution(nn.Module):
  """A convolution over time whose kernel keeps the lowest frequencies.

  .. math:: y = F^{-1}(R_k \\cdot F(x)_k), \\quad k < modes

  with F the real Fourier transform over T steps, by products with cosines and sines (T is
  small), and R_k a complex matrix over channels for each frequency.

  Attributes:
    modes: Number of frequencies kept; at most T // 2 + 1.
    scale: Real and imaginary parts start uniform in [0, scale); 1 / channels^2 by default.

  Reference: Xu et al., ICML 2024, Eq. (10).
  """

  modes: int
  scale: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "nodes time *axes channels"]
  ) -> Float[Array, "nodes time *axes channels"]:
    """Returns the convolution of x, along its second axis.

    Raises:
      ValueError: there are more modes than frequencies.
    """
    steps, channels = x.shape[1], x.shape[-1]
    if self.modes > steps // 2 + 1:
      raise ValueError(f"TimeConvolution: {self.modes} modes of {steps} steps do not exist.")
    scale = 1 / channels**2 if self.scale is None else self.scale
    init = nn.initializers.uniform(scale)
    weights = self.param("weights", init, (channels, channels, self.modes, 2))
    result = jnp.zeros(())
    for k in range(self.modes):
      angles = 2 * np.pi * k * np.arange(steps) / steps
      cos, sin = (_over_time(f(angles), x) for f in (np.cos, np.sin))
      real, imaginary = weights[:, :, k, 0], weights[:, :, k, 1]
      if k == 0 or 2 * k == steps:
        # The transform of a real signal is real here, and so is what the inverse reads.
        share = jnp.sum(cos * x, 1, keepdims=True) @ real
        result = result + cos * share / steps
        continue
      parts = jnp.concatenate([jnp.sum(c * x, 1, keepdims=True) for c in (cos, -sin)], -1)
      matrix = jnp.block([[real, imaginary], [-imaginary, real]])
      real_share, imaginary_share = jnp.split(parts @ matrix, 2, -1)
      result = result + (cos * real_share - sin * imaginary_share) * (2 / steps)
    return result


def _over_time(values: np.ndarray, x: Array) -> Array:
  return jnp.asarray(values, x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))


def time_embedding(steps: int, features: int) -> Float[np.ndarray, "steps features"]:
  """Returns [sin(t w_k), cos(t w_k)], w_k = 10000^(-k / (features / 2 - 1)), t = 0 .. steps - 1.

  Args:
    steps: Number of times.
    features: Number of sines and cosines together; even, and at least 4.
  """
  half = features // 2
  angles = np.arange(steps)[:, None] * np.exp(-np.arange(half) * math.log(10_000) / (half - 1))
  return np.concatenate([np.sin(angles), np.cos(angles)], -1)


class EGNO(nn.Module):
  """Predicts positions at T future times from positions and velocities at one.

  Each layer convolves features over time, convolves the pairs (x - mean, v) over time, applies
  an `EGNNLayer` at every time, and adds two relaxation streams (`ace_jax.streams`), with gammas
  `layers_i/features` and `layers_i/positions`.

  Attributes:
    hidden: Width of features and messages.
    num_layers: Number of layers.
    steps: T, the number of predicted times.
    modes: Frequencies that the time convolutions keep.
    time_features: Width of the time embedding.
    centring: What the stream of positions sees: "none" is absolute positions, as published,
      which breaks translations too; "center_of_mass" is positions relative to the mean of the
      initial ones, so that translations stay exact for any gamma.
    relaxation: The scale of the streams, and the mapped axis over which their batch statistics are
      averaged. It has no branch: the streams are.
    direction: e, a fixed unit vector that the network knows: of the rotations and reflections it
      keeps those that leave e as it is, rotations about e and mirrors through planes that contain
      e. None keeps all.

  Reference: Xu et al., ICML 2024, Sec. 4; Manolache et al., NeurIPS 2025.
  """

  hidden: int = 128
  num_layers: int = 6
  steps: int = 5
  modes: int = 2
  time_features: int = 32
  centring: str = "none"
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
    train: bool = False,
  ) -> tuple[Array, Array, Array]:
    """Returns positions, velocities and features at every future time.

    Args:
      positions: At the start, [batch, nodes, 3] with a Topology, [nodes, 3] with a GraphsTuple;
        so for all others.
      velocities: At the start.
      node_features: Invariants of the nodes.
      edge_features: Invariants of the edges, in the order of the graph's edges.
      graph: The connectivity.
      train: Whether batch statistics are those of this batch, and are updated.

    Returns:
      Positions [batch, nodes, T, 3] (or [nodes, T, 3]), velocities of the same shape, and
      features [batch, nodes, T, hidden].

    Raises:
      ValueError: an attribute has a value that does not exist, or the graph is `Neighbours` of
        several samples.
    """
    if self.centring not in _CENTRINGS:
      raise ValueError(f"EGNO.centring is {self.centring!r}; it must be one of {_CENTRINGS}.")
    if self.relaxation.branch is not None:
      raise ValueError("EGNO.relaxation has a branch; leave it out, EGNO's branches are streams.")
    first = partial(graphs.nodes_first, graph=graph)
    x, v, h = (self._repeat(first(a)) for a in (positions, velocities, node_features))
    if self.direction is not None:
      h = jnp.concatenate([h, component_along(self.direction, v)], -1)
    axes = x.shape[:-1]
    edges = Edges(graph, axes[0], math.prod(axes[1:]))
    e = first(edge_features)
    e = jnp.broadcast_to(e[:, None], (e.shape[0], *axes[1:], e.shape[-1]))
    embedded = time_embedding(self.steps, self.time_features)
    embedded = jnp.asarray(embedded, h.dtype).reshape(1, self.steps, *[1] * (h.ndim - 3), -1)
    shape = (*h.shape[:-1], self.time_features)
    inputs = jnp.concatenate([h, jnp.broadcast_to(embedded, shape)], -1)
    x, v, inputs, e = (graphs.flat(a) for a in (x, v, inputs, e))
    h = relaxations.torch_dense(self.hidden, inputs.shape[-1], name="embedding")(inputs)
    # Shared by all layers; named so that `prune` knows it for a part of the relaxation.
    shared = relaxations.torch_dense(3, 3, name=homotopy.RELAXATION)
    centre, stream = edges.graph_mean(x), inputs
    for i in range(self.num_layers):
      layer = _Layer(
        axes=axes,
        hidden=self.hidden,
        modes=self.modes,
        first=i == 0,
        centring=self.centring,
        relaxation=self.relaxation,
        direction=self.direction,
        name=f"layers_{i}",
      )
      x, v, h, stream = layer(x, v, h, stream, e, edges, centre, shared, train)
    x, v, h = (a.reshape(*axes, a.shape[-1]) for a in (x, v, h))
    x, v, h = (jnp.moveaxis(a, 2, 0) if a.ndim == 4 else a for a in (x, v, h))
    return x, v, h

  def _repeat(self, x: Array) -> Array:
    return jnp.broadcast_to(x[:, None], (x.shape[0], self.steps, *x.shape[1:]))


class _Layer(nn.Module):
  axes: tuple[int, ...]
  hidden: int
  modes: int
  first: bool
  centring: str
  relaxation: Relaxation
  direction: tuple[float, float, float] | None

  @nn.compact
  def __call__(self, x, v, h, stream, edge_features, edges, centre, shared, train):
    convolution = TimeConvolution(self.modes, name="time_features")
    h = h + nn.leaky_relu(graphs.flat(convolution(h.reshape(*self.axes, -1))), 0.01)
    pair = jnp.stack([x - centre, v], -1)
    convolution = TimeConvolution(self.modes, _PAIR_SCALE, name="time_positions")
    pair = pair + convolution(pair.reshape(*self.axes, 3, 2)).reshape(pair.shape)
    moved, v = jnp.moveaxis(pair, -1, 0)
    x = centre + moved
    seen = x - centre if self.centring == "center_of_mass" else x
    x, h = EGNNLayer(self.hidden, self.direction, name="egnn")(x, v, h, edge_features, edges)
    relax, axis_name = self.relaxation.layer, self.relaxation.axis_name
    features = partial(streams.FeatureStream, first=self.first, axis_name=axis_name)
    positions = partial(
      streams.PositionStream, hidden=self.hidden, shared=shared, axis_name=axis_name
    )
    mask = padding.row_mask(edges)
    keywords = {"train": train, "mask": mask, "where": mask}
    h, stream = relax(features, name="features").carry(h, stream, **keywords)
    x = relax(positions, name="positions")(x, seen, **keywords)
    return x, v, h, stream


_PAIR_SCALE = 0.1
"""Initial scale of the weights over (x, v); the published one, read off its initial weights."""
