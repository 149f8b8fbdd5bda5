"""Charged particles for networks that know nothing of the group: raw coordinates as features."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs
from ace_jax.models.mpnn import MPNN
from ace_jax.models.transformer import Transformer


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
