"""MPNN, a message passing network on plain features: not equivariant.

Reference: Gilmer, Schoenholz, Riley, Vinyals, Dahl, "Neural Message Passing for Quantum
Chemistry", ICML 2017.
"""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs, relaxations
from ace_jax.edges import Edges
from ace_jax.models.egnn import EdgeLinear


class MPNN(nn.Module):
  """Messages along the edges, averaged at the nodes, with residual updates.

  .. math::
    m_{ij} = \\phi_e(h_i, h_j, e_{ij}), \\qquad
    h_i' = h_i + \\phi_h(\\tfrac{1}{|N(i)|} \\textstyle\\sum_j m_{ij}, h_i)

  It knows nothing of the group, so it has no homotopic form: it is the unconstrained end of the
  comparison.

  Attributes:
    hidden: Width of features and messages.
    num_layers: Number of layers.
    outputs: Numbers predicted at every node.

  Reference: Gilmer et al., ICML 2017, Eqs. (1)-(2).
  """

  hidden: int = 64
  num_layers: int = 4
  outputs: int = 3

  @nn.compact
  def __call__(
    self,
    node_features: Float[Array, "*batch nodes features"],
    edge_features: Float[Array, "*batch edges scalars"],
    graph: graphs.Graph,
  ) -> Float[Array, "*batch nodes outputs"]:
    """Returns a prediction at every node.

    Args:
      node_features: [batch, nodes, features] with a Topology, [nodes, features] with a
        GraphsTuple.
      edge_features: So too, in the order of the graph's edges.
      graph: The connectivity.
    """
    perceptron = partial(relaxations.MLP, hidden=(self.hidden,), activation=relaxations.silu)
    h, e = (graphs.nodes_first(a, graph) for a in (node_features, edge_features))
    axes = h.shape[:-1]
    edges = Edges(graph, axes[0], math.prod(axes[1:]))
    h, e = graphs.flat(h), graphs.flat(e)
    h = relaxations.torch_dense(self.hidden, h.shape[-1], name="embedding")(h)
    for i in range(self.num_layers):
      message = relaxations.silu(EdgeLinear(self.hidden, name=f"message_{i}_0")(h, e, edges))
      message = relaxations.torch_dense(self.hidden, self.hidden, name=f"message_{i}_1")(message)
      joined = jnp.concatenate([edges.mean(message), h], -1)
      h = h + perceptron(self.hidden, name=f"update_{i}")(joined)
    outputs = perceptron(self.outputs, name="decoder")(h)
    return graphs.nodes_back(outputs.reshape(*axes, self.outputs), graph)
