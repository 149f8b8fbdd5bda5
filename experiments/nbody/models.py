"""Charged particles for networks that know nothing of the group: raw coordinates as features."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs
from ace_jax.models import steerable
from ace_jax.models.mpnn import MPNN
from ace_jax.models.segnn import SEGNN
from ace_jax.models.transformer import Transformer
from experiments.harness import build, kept
from experiments.nbody.settings import Settings

_CENTRINGS = ("none", "center_of_mass")


class NBodyPlain(nn.Module):
  """Predicts future positions of charged particles: positions + network(raw features).

  Node features: position, velocity, charge. Edge features: the difference of the positions
  (sender less receiver), and the product of the charges.

  Attributes:
    network: Its parameters are used without a prefix.
    centring: "none", or "center_of_mass": the mean position (equal masses) is the origin of the
      positions that the network sees.
  """

  network: MPNN | Transformer
  centring: str = "none"

  def setup(self):
    nn.share_scope(self, self.network)

  def __call__(
    self,
    positions: Float[Array, "batch nodes 3"],
    velocities: Float[Array, "batch nodes 3"],
    charges: Float[Array, "batch nodes"],
    graph: graphs.Topology | graphs.Neighbours | None = None,
  ) -> Float[Array, "batch nodes 3"]:
    """Returns the predicted positions; without a graph, all particles of a sample interact."""
    graph = graphs.fully_connected(positions.shape[-2]) if graph is None else graph
    centred = self.centring == "center_of_mass"
    seen = positions - positions.mean(-2, keepdims=True) if centred else positions
    nodes = jnp.concatenate([seen, velocities, charges[..., None]], -1)
    relative = graphs.gather_senders(seen, graph) - graphs.gather_receivers(seen, graph)
    pairs = graphs.gather_senders(charges, graph) * graphs.gather_receivers(charges, graph)
    edges = jnp.concatenate([relative, pairs[..., None]], -1)
    return positions + self.network(nodes, edges, graph)


def nbody_inputs(
  positions: Float[Array, "*batch nodes 3"],
  velocities: Float[Array, "*batch nodes 3"],
  charges: Float[Array, "*batch nodes"],
  graph: graphs.Graph,
  lmax_attributes: int = 1,
  direction: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
  """Returns the inputs of `SEGNN` for charged particles, as published.

  Node input: position and velocity as vectors, the speed as a scalar. Edge attributes: harmonics
  of x_sender - x_receiver. Node attributes: the mean of the incoming edge attributes plus the
  harmonics of the velocity, with the first component set to 1. Messages also see the distance and
  the product of the charges.

  Args:
    positions: Particle positions, [batch, nodes, 3] or [nodes, 3].
    velocities: Particle velocities, in the same shape.
    charges: Particle charges, [batch, nodes] or [nodes].
    graph: A Topology or Neighbours for batched arrays, a GraphsTuple for [nodes, ..] arrays.
    lmax_attributes: Largest degree of the harmonics.
    direction: A fixed unit vector that every node takes as an input beside the two, if any.

  Returns:
    Keyword arguments of `SEGNN.__call__`.

  Reference: Brandstetter et al., ICLR 2022, Sec. 4.1 and App. C.
  """
  relative = graphs.gather_senders(positions, graph) - graphs.gather_receivers(positions, graph)
  pairs = graphs.gather_senders(charges, graph) * graphs.gather_receivers(charges, graph)
  edge_attributes = steerable.harmonics(relative, lmax_attributes)
  node_attributes = graphs.aggregate(edge_attributes, graph, positions.shape[-2], mean=True)
  node_attributes = node_attributes + steerable.harmonics(velocities, lmax_attributes)
  vectors = [positions, velocities]
  if direction is not None:
    vectors.append(jnp.broadcast_to(jnp.asarray(direction, positions.dtype), positions.shape))
  return {
    "inputs": (steerable.norm(velocities)[..., None], jnp.stack(vectors, -1)),
    "node_attributes": node_attributes.at[..., 0].set(1),
    "edge_attributes": edge_attributes,
    "message_scalars": jnp.concatenate([steerable.norm(relative), pairs[..., None]], -1),
    "graph": graph,
  }


class NBodySEGNN(nn.Module):
  """Predicts future positions of charged particles: positions + SEGNN(state).

  With uncentred positions (as published) the model is equivariant under rotations and reflections
  about the origin only; with the centre of mass as origin also under translations.

  Attributes:
    network: The network. Its parameters, gammas and attributes' degrees are used as they are,
      without a prefix.
    centring: "none" (as published), or "center_of_mass": the mean position of each graph (equal
      masses) is the origin of the positions that the network sees.
    direction: e, a fixed unit vector that the network takes as an input: of the rotations and
      reflections it keeps those that leave e as it is, rotations about e and mirrors through planes
      that contain e. None keeps all.
  """

  network: SEGNN = dataclasses.field(default_factory=SEGNN)
  centring: str = "none"
  direction: tuple[float, float, float] | None = None

  def setup(self):
    nn.share_scope(self, self.network)

  def __call__(
    self,
    positions: Float[Array, "*batch nodes 3"],
    velocities: Float[Array, "*batch nodes 3"],
    charges: Float[Array, "*batch nodes"],
    graph: graphs.Graph | None = None,
    train: bool = False,
  ) -> Float[Array, "*batch nodes 3"]:
    """Returns the predicted positions.

    Args:
      positions: Particle positions, [batch, nodes, 3], or [nodes, 3] with a GraphsTuple.
      velocities: Particle velocities, in the same shape.
      charges: Particle charges, [batch, nodes] or [nodes].
      graph: The connectivity; by default all particles of a sample interact.
      train: Whether channels are dropped, see `SEGNN`.

    Raises:
      ValueError: `centring` has a value that does not exist.
    """
    if self.centring not in _CENTRINGS:
      raise ValueError(
        f"NBodySEGNN.centring is {self.centring!r}; it must be one of {', '.join(_CENTRINGS)}."
      )
    nodes = positions.shape[-2]
    graph = graphs.fully_connected(nodes) if graph is None else graph
    seen = positions
    if self.centring == "center_of_mass":
      seen = positions - graphs.to_nodes(graphs.pool_mean(positions, graph), graph, nodes)
    lmax = self.network.lmax_attributes
    inputs = nbody_inputs(seen, velocities, charges, graph, lmax, self.direction)
    return positions + self.network(**inputs, train=train)


def segnn(settings: Settings) -> NBodySEGNN:
  """Builds the SEGNN of the settings."""
  network = SEGNN(
    hidden_features=settings.model.hidden_features,
    num_layers=settings.model.layers,
    lmax_hidden=settings.model.lmax,
    lmax_attributes=settings.model.lmax_attributes,
    norm=settings.model.norm,
    relaxation=build.relaxation(settings),
    dropout=settings.model.dropout or 0.0,
  )
  direction = kept.direction(settings.model.keep)
  return NBodySEGNN(network, centring=settings.model.centring, direction=direction)


def mpnn(settings: Settings) -> NBodyPlain:
  """Builds the MPNN of the settings."""
  return NBodyPlain(
    MPNN(settings.model.hidden_features, settings.model.layers), settings.model.centring
  )


def transformer(settings: Settings) -> NBodyPlain:
  """Builds the transformer of the settings."""
  network = Transformer(settings.model.hidden_features, settings.model.layers)
  return NBodyPlain(network, settings.model.centring)
