"""SchNet, continuous-filter convolutions on atoms, with a homotopic stream of positions.

Reference: Schuett, Kindermans, Sauceda, Chmiela, Tkatchenko, Mueller, "SchNet: A continuous-filter
convolutional neural network for modeling quantum interactions", NeurIPS 2017. Homotopic form:
Manolache et al., NeurIPS 2025.
"""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ace_jax import graphs, padding, relaxations, streams
from ace_jax.models import steerable
from ace_jax.relaxations import Relaxation

LARGEST_ATOMIC_NUMBER = 99
"""Atomic numbers are rows of the embedding; larger ones are the caller's to refuse."""

_CENTRINGS = ("none", "center_of_mass")


@jax.custom_jvp
def shifted_softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns log((1 + e^x) / 2), which is 0 at 0."""
  return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))) - math.log(2)


@shifted_softplus.defjvp
def _shifted_softplus_tangent(primals, tangents):
  # Of x alone, so that nothing but x is kept for it; JAX's own takes several passes.
  (x,), (tangent,) = primals, tangents
  return shifted_softplus(x), tangent * (0.5 + 0.5 * jnp.tanh(0.5 * x))


def gaussians(
  distances: Float[Array, "... 1"], count: int, cutoff: float
) -> Float[Array, "... count"]:
  """Returns exp(-(d - mu_k)^2 / (2 delta^2)), mu_k from 0 to the cutoff in steps of delta.

  Args:
    distances: d.
    count: Number of Gaussians, at least 2.
    cutoff: The last centre.
  """
  centres = jnp.asarray(np.linspace(0, cutoff, count), distances.dtype)
  delta = cutoff / (count - 1)
  return jnp.exp(-0.5 * jnp.square((distances - centres) / delta))


class PositionCarry(streams.FeatureStream):
  """s_i = W_i BN(s_{i-1}) + b_i, a `FeatureStream` of positions without spectral normalisation.

  Reference: Manolache et al., NeurIPS 2025 (the published relaxation of SchNet).
  """

  def linear(self, stream: Array, train: bool) -> Array:
    """Applies W_i and b_i; `train` changes nothing."""
    del train
    return relaxations.torch_dense(self.features, self.features, name="linear")(stream)


class Interaction(nn.Module):
  """The change of the features by one continuous-filter convolution.

  .. math::
    W_{ij} &= \\tfrac{1}{2} (1 + \\cos(\\pi d_{ij} / c)) \\, \\phi(e(d_{ij})) \\\\
    v_i &= U_3 \\sigma(U_2 \\textstyle\\sum_j (U_1 h_j) \\odot W_{ij} + b_2) + b_3

  with sigma the shifted softplus, e Gaussians, phi a perceptron with one hidden layer, c the
  cutoff.

  Attributes:
    filters: Width of the filters W.

  Reference: Schuett et al., NeurIPS 2017, Sec. 4.
  """

  filters: int

  @nn.compact
  def __call__(
    self,
    h: Float[Array, "*batch nodes hidden"],
    expanded: Float[Array, "*batch edges gaussians"],
    smooth: Float[Array, "*batch edges 1"],
    graph: graphs.Graph,
  ) -> Float[Array, "*batch nodes hidden"]:
    """Returns v.

    Args:
      h: Node features.
      expanded: Gaussians of the distances, as `graphs.one_direction` has them.
      smooth: The cosine cutoff at the distances.
      graph: The connectivity.
    """
    hidden = h.shape[-1]
    glorot = partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
    weights = glorot(self.filters, name="filter_0")(graphs.flat(expanded))
    weights = glorot(self.filters, name="filter_1")(shifted_softplus(weights))
    weights = weights.reshape(*expanded.shape[:-1], self.filters) * smooth
    weights = graphs.both_directions(weights, graph)
    senders = glorot(self.filters, use_bias=False, name="senders")(h)
    messages = graphs.gather_senders(senders, graph) * weights
    received = graphs.aggregate(messages, graph, h.shape[-2])
    received = glorot(hidden, name="received")(received)
    return glorot(hidden, name="output")(shifted_softplus(received))


class SchNet(nn.Module):
  """Predicts numbers for every molecule, as sums over atoms.

  .. math:: h_i \\leftarrow h_i + v_i + \\gamma s_i, \\qquad
    y = \\textstyle\\sum_i V_2 \\sigma(V_1 h_i)

  with v of `Interaction` and s the stream of positions (`PositionCarry`), one gamma an interaction,
  `interactions_i/stream`. At gamma = 0 it is invariant under rotations, reflections, translations.

  Attributes:
    hidden: Width of the features.
    filters: Width of the filters; as `hidden` by default.
    num_layers: Number of interactions.
    gaussians: Number of Gaussians.
    cutoff: Largest distance of the Gaussians and of the cosine, in the unit of the positions.
      Which pairs are edges is the graph's.
    outputs: Numbers predicted for a molecule.
    centring: What the stream sees: "none" is absolute positions, as published, which breaks
      translations too; "center_of_mass" is positions relative to their mean over the molecule, so
      that translations stay exact for any gamma.
    relaxation: The stream's layers (`PositionCarry` by default), whose constructor is called with
      `first` and `axis_name` too; their scale; the mapped axis over which statistics are averaged.
  """

  hidden: int = 64
  filters: int | None = None
  num_layers: int = 6
  gaussians: int = 50
  cutoff: float = 10.0
  outputs: int = 1
  centring: str = "none"
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(
    self,
    atomic_numbers: Int[Array, "*batch nodes"],
    positions: Float[Array, "*batch nodes 3"],
    graph: graphs.Graph,
    train: bool = False,
  ) -> Float[Array, "graphs outputs"]:
    """Returns the predictions, a row a molecule (of `PaddedGraphs`, the last ones are padding).

    Args:
      atomic_numbers: Of all atoms, [batch, nodes], or [nodes] with a GraphsTuple; up to
        `LARGEST_ATOMIC_NUMBER`.
      positions: In the same layout.
      graph: The pairs of atoms that interact. Masks of nodes and edges hold here.
      train: Whether batch statistics are those of this batch, and are updated.

    Raises:
      ValueError: an attribute has a value that does not exist.
    """
    if self.centring not in _CENTRINGS:
      raise ValueError(f"SchNet.centring is {self.centring!r}; it must be one of {_CENTRINGS}.")
    nodes = positions.shape[-2]
    difference = graphs.gather_senders(positions, graph) - graphs.gather_receivers(positions, graph)
    distances = graphs.one_direction(steerable.norm(difference), graph)
    expanded = gaussians(distances, self.gaussians, self.cutoff)
    smooth = 0.5 * (1 + jnp.cos(distances * (math.pi / self.cutoff)))
    rows, normal = LARGEST_ATOMIC_NUMBER + 1, nn.initializers.normal(1.0)
    embedding = self.param("embedding", normal, (rows, self.hidden))
    h = embedding[atomic_numbers]
    mask = padding.node_mask(graph, nodes)
    mask = None if mask is None else mask[..., None]
    stream = positions
    if self.centring == "center_of_mass":
      stream = positions - graphs.to_nodes(graphs.pool_mean(positions, graph), graph, nodes)
    for i in range(self.num_layers):
      layer = _Layer(
        self.filters or self.hidden, self.relaxation, first=i == 0, name=f"interactions_{i}"
      )
      h, stream = layer(h, stream, expanded, smooth, graph, train, mask)
    glorot = partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform())
    each = shifted_softplus(glorot(self.hidden // 2, name="readout_0")(h))
    return graphs.pool_sum(glorot(self.outputs, name="readout_1")(each), graph)


class _Layer(nn.Module):
  filters: int
  relaxation: Relaxation
  first: bool

  @nn.compact
  def __call__(self, h, stream, expanded, smooth, graph, train, mask):
    h = h + Interaction(self.filters, name="convolution")(h, expanded, smooth, graph)
    make = self.relaxation.branch or PositionCarry
    branch = partial(make, first=self.first, axis_name=self.relaxation.axis_name)
    homotopic = dataclasses.replace(self.relaxation, branch=branch).layer(name="stream")
    return homotopic.carry(h, stream, train=train, mask=mask, where=mask)
