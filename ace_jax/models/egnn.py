"""EGNN, an E(n) equivariant graph network on positions, velocities and invariant features.

Reference: Satorras, Hoogeboom, Welling, "E(n) Equivariant Graph Neural Networks", ICML 2021.
"""

import math
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs, padding, relaxations
from ace_jax.edges import Edges
from ace_jax.homotopy import Irreps
from ace_jax.relaxations import Relaxation

_LARGEST_MOVE = 100.0


class EdgeLinear(nn.Module):
  """The first linear map of a message perceptron, W [h_i, h_j, e_ij] + b.

  The maps of h_i and h_j are applied at the nodes and gathered afterwards: there are fewer nodes
  than edges. All weights start uniform within +-1 / sqrt(inputs of the joined map).

  Attributes:
    features: Number of outputs.
  """

  features: int

  @nn.compact
  def __call__(
    self,
    h: Float[Array, "nodes features"],
    e: Float[Array, "edges scalars"],
    edges: Edges,
  ) -> Float[Array, "edges out"]:
    """Returns the map's output at every edge; receivers are i, senders j."""
    inputs = 2 * h.shape[-1] + e.shape[-1]

    init = relaxations.symmetric_uniform(1 / math.sqrt(inputs))
    shape = (h.shape[-1], self.features)
    receiver = self.param("kernel_receiver", init, shape)
    sender = self.param("kernel_sender", init, shape)
    edge = self.param("kernel_edge", init, (e.shape[-1], self.features))
    bias = self.param("bias", init, (self.features,))
    at_nodes = edges.at_receivers(h @ receiver + bias) + edges.at_senders(h @ sender)
    return at_nodes + e @ edge


class EGNNLayer(nn.Module):
  """One layer: messages from invariants, positions moved along the edges and the velocity.

  .. math::
    m_{ij} &= \\phi_e(\\|x_i - x_j\\|^2, h_i, h_j, e_{ij}) \\\\
    x_i' &= x_i + [\\tfrac{1}{|N(i)|} \\textstyle\\sum_j (x_i - x_j)\\, \\phi_x(m_{ij})]_{\\pm 100}
      + v_i \\phi_v(h_i) \\\\
    h_i' &= \\phi_h(h_i, \\textstyle\\sum_j m_{ij})

  with i the receiver, j the sender, and phi perceptrons with one hidden layer and SiLU. With a
  fixed direction e, phi_e sees e . (x_i - x_j) too, and x_i' gains e phi_d(h_i).

  Attributes:
    hidden: Width of features and messages.
    direction: e, see `EGNN`.

  Reference: Satorras et al., ICML 2021, Eqs. (3)-(7), without the residual of h.
  """

  hidden: int
  direction: tuple[float, float, float] | None = None

  @nn.compact
  def __call__(
    self,
    positions: Float[Array, "nodes 3"],
    velocities: Float[Array, "nodes 3"],
    features: Float[Array, "nodes hidden"],
    edge_features: Float[Array, "edges scalars"],
    edges: Edges,
  ) -> tuple[Float[Array, "nodes 3"], Float[Array, "nodes hidden"]]:
    """Returns the new positions and features; every array has `edges.rows` rows a node (edge)."""
    perceptron = partial(relaxations.MLP, hidden=(self.hidden,), activation=relaxations.silu)
    difference = edges.at_receivers(positions) - edges.at_senders(positions)
    square = jnp.sum(jnp.square(difference), -1, keepdims=True)
    scalars = [square, edge_features]
    if self.direction is not None:
      scalars.append(component_along(self.direction, difference))
    scalars = jnp.concatenate(scalars, -1)
    message = relaxations.silu(EdgeLinear(self.hidden, name="message_0")(features, scalars, edges))
    dense = relaxations.torch_dense(self.hidden, self.hidden, name="message_1")
    message = relaxations.silu(dense(message))
    moves = edges.mean(difference * perceptron(1, name="position")(message))
    moves = jnp.clip(moves, -_LARGEST_MOVE, _LARGEST_MOVE)
    along = velocities * perceptron(1, name="velocity")(features)
    joined = jnp.concatenate([features, edges.sum(message)], -1)
    moved = positions + moves + along
    if self.direction is not None:
      unit = jnp.asarray(self.direction, positions.dtype)
      moved = moved + unit * perceptron(1, name="direction")(features)
    return moved, perceptron(self.hidden, name="feature")(joined)


def component_along(
  direction: tuple[float, float, float], x: Float[Array, "*axes 3"]
) -> Float[Array, "*axes 1"]:
  """Returns e . x for a fixed unit vector e."""
  return jnp.sum(x * jnp.asarray(direction, x.dtype), -1, keepdims=True)


class EGNN(nn.Module):
  """A stack of `EGNNLayer`, each with a homotopic pair: `layers_i/features`, `layers_i/positions`.

  Attributes:
    hidden: Width of features and messages.
    num_layers: Number of layers.
    relaxation: Branches (`relaxations.MLP` by default) and their scale; they see [h, x, v],
      positions centred at the mean of the graph's initial positions, so that translations stay
      exact for any gamma.
    direction: e, a fixed unit vector that the network knows: of the rotations and reflections it
      keeps those that leave e as it is, rotations about e and mirrors through planes that contain
      e. None keeps all.

  Reference: Satorras et al., ICML 2021; homotopic form: Manolache et al., NeurIPS 2025.
  """

  hidden: int = 64
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
  ) -> tuple[Float[Array, "*batch nodes 3"], Float[Array, "*batch nodes hidden"]]:
    """Returns predicted positions and invariant features.

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
    axes = x.shape[:-1]
    edges = Edges(graph, axes[0], math.prod(axes[1:]))
    x, v, h, e = (graphs.flat(a) for a in (x, v, h, e))
    centre = edges.graph_mean(x)
    if self.direction is not None:
      h = jnp.concatenate([h, component_along(self.direction, v)], -1)
    h = relaxations.torch_dense(self.hidden, h.shape[-1], name="embedding")(h)
    for i in range(self.num_layers):
      layer = _HomotopicLayer(self.hidden, self.relaxation, self.direction, name=f"layers_{i}")
      x, h = layer(x, v, h, e, edges, centre)
    x, h = (graphs.nodes_back(a.reshape(*axes, a.shape[-1]), graph) for a in (x, h))
    return x, h


class _HomotopicLayer(nn.Module):
  hidden: int
  relaxation: Relaxation
  direction: tuple[float, float, float] | None

  @nn.compact
  def __call__(self, positions, velocities, features, edge_features, edges, centre):
    seen = jnp.concatenate([features, positions - centre, velocities], -1)
    layer = EGNNLayer(self.hidden, self.direction, name="egnn")
    x, h = layer(positions, velocities, features, edge_features, edges)
    scalars = f"{self.hidden}x0e"
    sees = f"{scalars}+1x1o+1x1o"
    relax, where = self.relaxation.layer, padding.row_mask(edges)
    moved = relax(irreps=Irreps(sees, "1x1o"), name="positions")(x, seen, where=where)
    return moved, relax(irreps=Irreps(sees, scalars), name="features")(h, seen, where=where)
