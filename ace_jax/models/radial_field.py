"""The radial field network: positions moved along the edges by functions of their lengths.

Reference: Koehler, Klein, Noe, "Equivariant Flows: Sampling Configurations for Multi-Body Systems
with Symmetric Energies", 2019 (arXiv:1910.00753).
"""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs, padding, relaxations
from ace_jax.edges import Edges
from ace_jax.homotopy import Irreps
from ace_jax.models.steerable import norm
from ace_jax.relaxations import Relaxation


class RadialField(nn.Module):
  """Positions moved along edges and velocities, each layer with a gamma `layers_i/positions`.

  .. math::
    x_i' = x_i + \\tfrac{1}{|N(i)|} \\textstyle\\sum_j (x_i - x_j)
      \\tanh \\phi(\\|x_i - x_j\\|, e_{ij}) + v_i \\, \\psi(\\|v_i\\|)

  Attributes:
    hidden: Width of the perceptrons.
    num_layers: Number of layers.
    relaxation: Branches (`relaxations.MLP` by default) and their scale; they see [x, v], x
      relative to the mean of the graph's initial positions.

  Reference: Koehler et al., 2019, Eq. (13); velocities as in Satorras et al., ICML 2021.
  """

  hidden: int = 64
  num_layers: int = 4
  relaxation: Relaxation = Relaxation()

  @nn.compact
  def __call__(
    self,
    positions: Float[Array, "*batch nodes 3"],
    velocities: Float[Array, "*batch nodes 3"],
    edge_features: Float[Array, "*batch edges scalars"],
    graph: graphs.Graph,
  ) -> Float[Array, "*batch nodes 3"]:
    """Returns predicted positions.

    Args:
      positions: Initial positions, [batch, nodes, 3] with a Topology, [nodes, 3] with a
        GraphsTuple; so for all others.
      velocities: Initial velocities.
      edge_features: Invariants of the edges, in the order of the graph's edges.
      graph: The connectivity.
    """
    x, v, e = (graphs.nodes_first(a, graph) for a in (positions, velocities, edge_features))
    axes = x.shape[:-1]
    edges = Edges(graph, axes[0], math.prod(axes[1:]))
    x, v, e = (graphs.flat(a) for a in (x, v, e))
    centre = edges.graph_mean(x)
    for i in range(self.num_layers):
      x = _Layer(self.hidden, self.relaxation, name=f"layers_{i}")(x, v, e, edges, centre)
    return graphs.nodes_back(x.reshape(*axes, 3), graph)


class _Layer(nn.Module):
  hidden: int
  relaxation: Relaxation

  @nn.compact
  def __call__(self, x, v, edge_features, edges, centre):
    perceptron = partial(relaxations.MLP, hidden=(self.hidden,), activation=relaxations.silu)
    difference = edges.at_receivers(x) - edges.at_senders(x)
    scalars = jnp.concatenate([norm(difference), edge_features], -1)
    dense = relaxations.torch_dense(self.hidden, scalars.shape[-1], name="radial_0")
    # Starts near 0, so that the first steps move positions little.
    small = nn.initializers.variance_scaling(1e-6, "fan_avg", "uniform")
    radial = nn.Dense(1, use_bias=False, kernel_init=small, name="radial_1")
    weight = jnp.tanh(radial(relaxations.silu(dense(scalars))))
    moved = x + edges.mean(difference * weight) + v * perceptron(1, name="velocity")(norm(v))
    homotopic = self.relaxation.layer(irreps=Irreps("1x1o+1x1o", "1x1o"), name="positions")
    seen = jnp.concatenate([x - centre, v], -1)
    return homotopic(moved, seen, where=padding.row_mask(edges))
