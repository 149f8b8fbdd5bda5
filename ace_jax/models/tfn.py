"""TFN, the tensor field network: convolutions with steerable filters, for rotations.

Reference: Thomas, Smidt, Kearnes, Yang, Li, Kohlhoff, Riley, "Tensor Field Networks", 2018
(arXiv:1802.08219).
"""

import math
from collections.abc import Sequence
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax import graphs, padding, relaxations
from ace_jax.edges import Edges
from ace_jax.homotopy import Irreps
from ace_jax.models import steerable
from ace_jax.models.steerable import Features
from ace_jax.relaxations import Relaxation

_DEGREES = (0, 1)

Filtered = dict[tuple[int, int], Array]
"""Filtered features of the senders by degree of input and output, `EdgeGeometry.filter`."""


class EdgeGeometry:
  """What every convolution of a network needs of the edges; computed once.

  Edges and the axes after them (the batch) are one axis here, "rows": every edge of every sample
  has filters of its own.

  Args:
    positions: [nodes, ..., 3].
    edge_features: Invariants of the edges, [edges, ..., scalars].
    edges: The connectivity.
  """

  def __init__(
    self,
    positions: Float[Array, "nodes *axes 3"],
    edge_features: Float[Array, "edges *axes scalars"],
    edges: Edges,
  ):
    difference = edges.at_receivers(positions) - edges.at_senders(positions)
    scalars = jnp.concatenate([steerable.norm(difference), edge_features], -1)
    self.edges = edges
    self.axes = scalars.shape[:-1]
    self.scalars = scalars.reshape(-1, scalars.shape[-1])
    harmonics = steerable.harmonics(difference, 2 * max(_DEGREES))
    self._harmonics = harmonics.reshape(-1, harmonics.shape[-1])

  def filter(self, x: Features) -> Filtered:
    """Applies the kernels of all degrees to the features of the senders.

    .. math:: f_{ij}^{l J l'} = K_J(r_{ij}) x_j^l

    Returns:
      {(l, l'): [rows, 2 l' + 1, filters, channels]}, an entry for every pair of degrees whose
      input has channels.
    """
    senders = [self.edges.at_senders(part) for part in x]
    senders = [part.reshape(len(self._harmonics), *part.shape[-2:]) for part in senders]
    return {
      (l_in, l_out): jnp.einsum("roji,ric->rojc", self.kernels(l_in, l_out), part)
      for l_in, part in enumerate(senders)
      for l_out in _DEGREES
      if part.shape[-1]
    }

  def kernels(self, l_in: int, l_out: int) -> Float[Array, "rows out filters in"]:
    """Returns the steerable kernels from degree l_in to l_out, one for each degree of filter.

    .. math:: K_J = \\sum_m C^{J m}_{l_{in} l_{out}} Y_{J m}(r / |r|), \\quad
      |l_{in} - l_{out}| \\le J \\le l_{in} + l_{out}
    """
    return jnp.stack(
      [
        jnp.einsum(
          "oij,rj->roi",
          jnp.asarray(_clebsch_gordan(l_in, l_out, j), self._harmonics.dtype),
          self._harmonics[:, j**2 : (j + 1) ** 2],
        )
        for j in range(abs(l_in - l_out), l_in + l_out + 1)
      ],
      axis=2,
    )


@cache
def _clebsch_gordan(l_in: int, l_out: int, j: int) -> np.ndarray:
  import e3nn_jax as e3nn

  with jax.ensure_compile_time_eval():
    tensor = np.asarray(e3nn.clebsch_gordan(l_in, j, l_out), np.float64)
  # Unit variance of the output for inputs of unit variance, and harmonics normalised to 'integral'.
  return tensor.transpose(2, 0, 1) * math.sqrt((2 * l_out + 1) * 4 * math.pi)


class Convolution(nn.Module):
  """A steerable convolution: messages from senders through filters of the edge vector.

  .. math:: m_{ij}^{l'} = \\sum_{l, J} R_{l l' J}(|r_{ij}|, e_{ij}) K_J(r_{ij}) x_j^l

  with R a perceptron that gives a matrix over channels for every edge and kernel.

  Attributes:
    channels: Channels of the output, by degree.
    hidden: Width of the radial perceptrons.

  Reference: Thomas et al., 2018, Sec. 4.1.2.
  """

  channels: tuple[int, ...]
  hidden: int = 32

  @nn.compact
  def __call__(self, filtered: Filtered, geometry: EdgeGeometry) -> Features:
    """Returns the message of every edge, entry l of shape [edges, ..., 2 l + 1, channels].

    Args:
      filtered: `geometry.filter` of the features.
      geometry: Of the edges.
    """
    outputs = []
    for l_out, width in enumerate(self.channels):
      size = 2 * l_out + 1
      total = jnp.zeros((len(geometry.scalars), size, width), geometry.scalars.dtype)
      for (l_in, degree), part in filtered.items():
        if degree != l_out or not width:
          continue
        inputs = part.shape[2] * part.shape[3]
        radial = relaxations.MLP(
          inputs * width, (self.hidden, self.hidden), nn.relu, name=f"radial_{l_in}_{l_out}"
        )(geometry.scalars)
        # All filters are contracted at once: few larger products instead of many small ones.
        part = part.reshape(-1, size, inputs)
        total = total + jnp.einsum("roc,rcd->rod", part, radial.reshape(-1, inputs, width))
      outputs.append(total.reshape(*geometry.axes, size, width))
    return tuple(outputs)


class SelfInteraction(nn.Module):
  """A linear map over the channels of each degree, x^l W_l.

  Attributes:
    channels: Channels of the output, by degree.
  """

  channels: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Features) -> Features:
    outputs = []
    for l, (part, width) in enumerate(zip(x, self.channels, strict=True)):
      if width:
        # Two-dimensional, as in `steerable.channel_map`.
        flat = part.reshape(-1, part.shape[-1])
        flat = nn.Dense(width, use_bias=False, name=f"degree_{l}")(flat)
        outputs.append(flat.reshape(*part.shape[:-1], width))
      else:
        outputs.append(part[..., :0])
    return tuple(outputs)


class NormActivation(nn.Module):
  """Scales each vector by its norm: x / norm(x) ReLU(a norm(x) + b), a and b by channel.

  Reference: Thomas et al., 2018, Sec. 4.3; Fuchs et al., NeurIPS 2020, App. D.
  """

  @nn.compact
  def __call__(self, x: Features) -> Features:
    outputs = []
    for l, part in enumerate(x):
      width = part.shape[-1]
      scale = self.param(f"scale_{l}", nn.initializers.ones, (width,))
      bias = self.param(f"bias_{l}", nn.initializers.zeros, (width,))
      square = jnp.sum(jnp.square(part), -2, keepdims=True)
      length = jnp.sqrt(square + 1e-12)
      outputs.append(part / length * nn.relu(length * scale + bias))
    return tuple(outputs)


class HomotopicFeatures(nn.Module):
  """`Homotopic` for features by degree: the branch sees and returns them flat.

  Attributes:
    relaxation: The branch (`relaxations.MLP` by default) and its scale.
  """

  relaxation: Relaxation

  @nn.compact
  def __call__(self, y: Features, seen: Sequence[Array], where: Array | None = None) -> Features:
    irreps = Irreps(steerable.layout(seen), steerable.layout(y))
    layer = self.relaxation.layer(irreps=irreps)
    nn.share_scope(self, layer)
    relaxed = layer(steerable.flatten(y), steerable.flatten(tuple(seen)), where=where)
    return steerable.unflatten(relaxed, tuple(part.shape[-1] for part in y))


class TFN(nn.Module):
  """A stack of convolutions with self-interactions; each layer has a gamma, `layers_i/features`.

  Equivariant under rotations and translations; not under reflections, since filters of all
  degrees are used, as published.

  Attributes:
    channels: Channels of each hidden degree.
    num_layers: Number of hidden layers; one more convolution makes the output.
    relaxation: Branches (`relaxations.MLP` by default), on flat features, and their scale.
    direction: e, a fixed unit vector that is an input at every node: of the rotations the network
      keeps those about e. None keeps all.

  Reference: Thomas et al., 2018; homotopic form: Manolache et al., NeurIPS 2025.
  """

  channels: int = 16
  num_layers: int = 4
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
    """Returns predicted positions, x + v + the network's vectors.

    Args:
      positions: Initial positions, [batch, nodes, 3] with a Topology, [nodes, 3] with a
        GraphsTuple; so for all others.
      velocities: Initial velocities.
      node_features: Invariants of the nodes.
      edge_features: Invariants of the edges, in the order of the graph's edges.
      graph: The connectivity.
    """
    first = partial(graphs.nodes_first, graph=graph)
    x, v, h, e = (first(a) for a in (positions, velocities, node_features, edge_features))
    geometry = EdgeGeometry(x, e, Edges(graph, x.shape[0]))
    features: Features = (h[..., None, :], input_vectors(v, self.direction))
    hidden = (self.channels,) * len(_DEGREES)
    for i in range(self.num_layers):
      features = _Layer(hidden, self.relaxation, name=f"layers_{i}")(features, geometry)
    vectors = _convolve(features, geometry, (0, 1), "output")[1][..., 0]
    return graphs.nodes_back(x + v + vectors, graph)


def input_vectors(
  velocities: Float[Array, "*axes 3"], direction: tuple[float, float, float] | None
) -> Float[Array, "*axes 3 channels"]:
  """Returns the velocities, and a fixed direction where there is one, as channels of degree 1."""
  vectors = velocities[..., :, None]
  if direction is None:
    return vectors
  unit = jnp.broadcast_to(jnp.asarray(direction, vectors.dtype)[:, None], vectors.shape)
  return jnp.concatenate([vectors, unit], -1)


def _convolve(x: Features, geometry: EdgeGeometry, channels: tuple[int, ...], name: str):
  messages = Convolution(channels, name=f"{name}_convolution")(geometry.filter(x), geometry)
  kept = SelfInteraction(channels, name=f"{name}_self")(x)
  return tuple(geometry.edges.mean(m) + part for m, part in zip(messages, kept, strict=True))


class _Layer(nn.Module):
  channels: tuple[int, ...]
  relaxation: Relaxation

  @nn.compact
  def __call__(self, x, geometry):
    y = NormActivation(name="activation")(_convolve(x, geometry, self.channels, "hidden"))
    homotopic = HomotopicFeatures(self.relaxation, name="features")
    return homotopic(y, x, padding.row_mask(geometry.edges))
