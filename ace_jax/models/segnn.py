"""SEGNN, a steerable E(3) equivariant graph network, with homotopic update maps.

Reference: Brandstetter, Hesselink, van der Pol, Bekkers, Welling, "Geometric and Physical
Quantities Improve E(3) Equivariant Message Passing", ICLR 2022.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs, padding, relaxations
from ace_jax.homotopy import Irreps
from ace_jax.models import steerable
from ace_jax.models.steerable import Features, Multiplicities
from ace_jax.relaxations import Relaxation

_NORMS = ("none", "instance")
_TASKS = ("node", "graph")
_FORMULATIONS = ("auto", "fast", "general")


class SEGNN(nn.Module):
  """Steerable messages and gated updates, conditioned on node and edge attributes.

  Shapes are written for the sparse layout, [nodes, ...] and [edges, ...] with a
  `jraph.GraphsTuple`; otherwise all arrays have a leading batch axis. The gammas are named
  `layers_i/update_1` and `layers_i/update_2`.

  Attributes:
    output_irreps: What is predicted, at every node or for every graph ("1x1o").
    hidden_features: Width of the dense network that has as many weights (`weight_balanced`).
    lmax_hidden: Largest degree of the hidden features.
    lmax_attributes: Largest degree of the attributes.
    num_layers: Number of message passing layers.
    norm: "none" or "instance" (after each layer, over the nodes of each graph).
    task: "node", or "graph": mean over the nodes, then a perceptron; needs scalar outputs.
    relaxation: Branches (`relaxations.MLP` by default), on flat features [component, channel],
      and their scale.
    hidden_irreps: The hidden irreps themselves ("32x0e+32x1o"), instead of the two above.
    formulation: "fast" (degrees 0 and 1 alone, written out), "general" (any degree, from
      Clebsch-Gordan tensors), or "auto". The parameters are the same.
    dropout: Rate at which channels of the updates are dropped in training.

  Reference: Brandstetter et al., ICLR 2022, Sec. 3 and App. C. Homotopic update maps: Manolache
  et al., NeurIPS 2025.
  """

  output_irreps: str = "1x1o"
  hidden_features: int = 64
  lmax_hidden: int = 1
  lmax_attributes: int = 1
  num_layers: int = 4
  norm: str = "none"
  task: str = "node"
  relaxation: Relaxation = Relaxation()
  hidden_irreps: str | None = None
  formulation: str = "auto"
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    inputs: Features,
    node_attributes: Float[Array, "*batch nodes harmonics"],
    edge_attributes: Float[Array, "*batch edges harmonics"],
    message_scalars: Float[Array, "*batch edges scalars"],
    graph: graphs.Graph,
    train: bool = False,
  ) -> Float[Array, "..."]:
    """Returns the prediction, flat.

    Args:
      inputs: Node features, entry l of shape [nodes, 2 l + 1, channels].
      node_attributes: Harmonics at the nodes, [nodes, (lmax_attributes + 1)^2].
      edge_attributes: Harmonics on the edges.
      message_scalars: Further invariants of the edges, such as distances.
      graph: The connectivity.
      train: Whether channels are dropped, by the random stream `dropout`.

    Returns:
      [nodes, output] for the task "node", [graphs, output] for "graph".

    Raises:
      ValueError: an attribute has a value that does not exist, or they contradict each other.
    """
    hidden, fast = self._hidden(), self._is_fast()
    outputs = steerable.multiplicities(self.output_irreps)
    if self.task == "graph" and any(outputs[1:]):
      raise ValueError(f"SEGNN: task 'graph' needs scalar outputs, not {self.output_irreps!r}.")

    def product(x: Features, channels: Multiplicities, name: str) -> Features:
      return _product(x, node_attributes, channels, fast, name)

    x = product(inputs, hidden, "embedding_layer")
    for i in range(self.num_layers):
      x = SEGNNLayer(
        hidden=hidden,
        relaxation=self.relaxation,
        fast=fast,
        dropout=self.dropout,
        name=f"layers_{i}",
      )(x, node_attributes, edge_attributes, message_scalars, graph, train)
      if self.norm == "instance":
        x = InstanceNorm(name=f"norm_{i}")(x, graph)
    x = steerable.gate(product(x, steerable.gated(hidden), "pre_pool1"), hidden)
    if self.task == "node":
      return steerable.flatten(product(x, outputs, "pre_pool2"))
    pooled_channels = outputs[0] * sum(hidden)
    pooled = product(x, (pooled_channels,), "pre_pool2")[0][..., 0, :]
    pooled = graphs.pool_mean(pooled, graph)
    pooled = relaxations.torch_dense(pooled_channels, pooled_channels, name="post_pool1")(pooled)
    pooled = steerable.SILU_SCALE * nn.silu(pooled)
    return relaxations.torch_dense(outputs[0], pooled_channels, name="post_pool2")(pooled)

  def _hidden(self) -> Multiplicities:
    if self.hidden_irreps is not None:
      return steerable.multiplicities(self.hidden_irreps)
    return steerable.weight_balanced(self.hidden_features, self.lmax_hidden, self.lmax_attributes)

  def _is_fast(self) -> bool:
    for name, value, allowed in (
      ("norm", self.norm, _NORMS),
      ("task", self.task, _TASKS),
      ("formulation", self.formulation, _FORMULATIONS),
    ):
      if value not in allowed:
        raise ValueError(f"SEGNN.{name} is {value!r}; it must be one of {', '.join(allowed)}.")
    possible = len(self._hidden()) == 2 and self.lmax_attributes == 1
    if self.formulation == "fast" and not possible:
      raise ValueError("SEGNN.formulation 'fast' exists for lmax_hidden = lmax_attributes = 1.")
    return possible and self.formulation != "general"


class SEGNNLayer(nn.Module):
  """One layer of message passing with a homotopic pair of update maps.

  .. math::
    m_{ij} &= \\sigma(M_2(\\sigma(M_1([x_i, x_j, e_{ij}], a_{ij})), a_{ij})) \\\\
    z_i &= [x_i, \\textstyle\\sum_j m_{ij}] \\\\
    u_i &= D(\\sigma(U_1(z_i, a_i)) + \\gamma_1 f_1(z_i)) \\\\
    x_i' &= x_i + U_2(u_i, a_i) + \\gamma_2 f_2(u_i)

  with i the receiver, j the sender, sigma the gate, M, U tensor products with attributes a, and D
  the dropout of whole channels (`steerable.ChannelDropout`).

  Attributes:
    hidden: Channels of each degree.
    relaxation: f_1 and f_2 (`relaxations.MLP` by default), on flat features, and their scale.
    fast: Whether to use the products written out for degrees 0 and 1.
    dropout: Rate of D.

  Reference: Brandstetter et al., ICLR 2022, Eqs. (7)-(8); Manolache et al., NeurIPS 2025.
  """

  hidden: Multiplicities
  relaxation: Relaxation = Relaxation()
  fast: bool = True
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    x: Features,
    node_attributes: Float[Array, "*batch nodes harmonics"],
    edge_attributes: Float[Array, "*batch edges harmonics"],
    message_scalars: Float[Array, "*batch edges scalars"],
    graph: graphs.Graph,
    train: bool = False,
  ) -> Features:
    """Returns the node features after the layer; arguments as those of `SEGNN`."""
    wide = steerable.gated(self.hidden)
    mask = padding.node_mask(graph, x[0].shape[-3])
    where = None if mask is None else mask[..., None]
    message = self._first_message(x, edge_attributes, message_scalars, graph, wide)
    message = steerable.gate(message, self.hidden)
    message = _product(message, edge_attributes, wide, self.fast, "message_layer_2")
    message = steerable.gate(message, self.hidden)
    num_nodes = x[0].shape[-3]
    received = tuple(graphs.aggregate(part, graph, num_nodes) for part in message)
    joined = steerable.concatenate([x, received])
    update = _product(joined, node_attributes, wide, self.fast, "update_layer_1")
    update = steerable.gate(update, self.hidden)
    update = self._homotopic("update_1", where)(update, (*x, *received))
    if self.dropout:
      update = steerable.ChannelDropout(self.dropout)(update, train)
    change = _product(update, node_attributes, self.hidden, self.fast, "update_layer_2")
    change = self._homotopic("update_2", where)(change, update)
    return tuple(a + b for a, b in zip(x, change, strict=True))

  def _first_message(self, x, attributes, message_scalars, graph, wide) -> Features:
    extra = (message_scalars.shape[-1],)
    channels = tuple(part.shape[-1] for part in x)
    inputs = (2 * channels[0] + extra[0], *(2 * n for n in channels[1:]))
    weights = steerable.Weights(inputs, wide, _lmax(attributes), name="message_layer_1")
    if self.fast:
      return steerable.message_product_l1(x, message_scalars, attributes, *weights(), graph)
    receivers = tuple(graphs.gather_receivers(part, graph) for part in x)
    senders = tuple(graphs.gather_senders(part, graph) for part in x)
    joined = steerable.concatenate([receivers, senders, (message_scalars[..., None, :],)])
    return steerable.tensor_product(joined, attributes, *weights())

  def _homotopic(
    self, name: str, where: Array | None
  ) -> Callable[[Features, tuple[Array, ...]], Features]:
    def call(y: Features, parts: tuple[Array, ...]) -> Features:
      channels = tuple(part.shape[-1] for part in y)
      irreps = Irreps(steerable.layout(parts), steerable.layout(y))
      layer = self.relaxation.layer(irreps=irreps, name=name)
      relaxed = layer(steerable.flatten(y), steerable.flatten(parts), where=where)
      return steerable.unflatten(relaxed, channels)

    return call


class InstanceNorm(nn.Module):
  """Normalises each channel over the nodes of its graph, keeping equivariance.

  Scalars lose their mean; each degree is divided by the root of the graph's mean of
  norm(x)^2 / (2 l + 1), then scaled by a weight a channel; scalars get a bias.

  Attributes:
    epsilon: Added to the mean square.

  Reference: Brandstetter et al., ICLR 2022, App. C (instance normalisation).
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Features, graph: graphs.Graph) -> Features:
    """Returns the normalised features, in the shapes of x."""
    outputs = []
    for l, part in enumerate(x):
      nodes, channels = part.shape[-3], part.shape[-1]
      if l == 0:
        part = part - graphs.to_nodes(graphs.pool_mean(part, graph), graph, nodes)
      square = jnp.mean(jnp.square(part), -2, keepdims=True)
      square = graphs.to_nodes(graphs.pool_mean(square, graph), graph, nodes)
      weight = self.param(f"scale_{l}", nn.initializers.ones, (channels,))
      part = part * (weight / jnp.sqrt(square + self.epsilon))
      if l == 0:
        part = part + self.param("bias", nn.initializers.zeros, (channels,))
      outputs.append(part)
    return tuple(outputs)


def _product(
  x: Features, attributes: Array, outputs: Multiplicities, fast: bool, name: str
) -> Features:
  """Creates the weights `name` in the module that is being called, and multiplies."""
  channels = tuple(part.shape[-1] for part in x)
  kernels, bias = steerable.Weights(channels, outputs, _lmax(attributes), name=name)()
  if fast and len(x) == 2 and len(outputs) == 2:
    return steerable.tensor_product_l1(x, attributes, kernels, bias)
  return steerable.tensor_product(x, attributes, kernels, bias)


def _lmax(attributes: Array) -> int:
  return round(attributes.shape[-1] ** 0.5) - 1
