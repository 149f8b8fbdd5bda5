"""The motion capture models: published inputs around each network, one call for all."""

import pkgutil

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax import graphs
from ace_jax.models.egnn import EGNN
from ace_jax.models.egno import EGNO
from ace_jax.models.mpnn import MPNN
from ace_jax.models.radial_field import RadialField
from ace_jax.models.se3_transformer import SE3Transformer
from ace_jax.models.tfn import TFN
from ace_jax.relaxations import Relaxation
from ace_jax.training.parallel import DATA
from data import mocap
from experiments.harness import build, kept, models
from experiments.mocap.settings import Settings


def topology(data: mocap.Dataset) -> tuple[graphs.Topology, tuple[float, ...]]:
  """Returns the skeleton's edges, and the type of each: 1 for bones, 2 for two hops."""
  joints = len(data.joint_names)
  senders, receivers, types = mocap.topology_edges(data.bones, joints)
  return graphs.Topology(joints, senders, receivers), tuple(types[:, 0].tolist())


class SkeletonModel(nn.Module):
  """Makes the published inputs from positions, velocities and heights, and calls a network.

  Node features: the norm of the velocity, and the height. Edge features: the type of the edge,
  and the squared distance at the start. The MPNN sees positions and velocities as plain features,
  and predicts the displacement.

  Attributes:
    network: One of the models; its parameters are used without a prefix.
    kind: Its name.
    graph: The skeleton's edges.
    edge_types: Type of each edge.
    height: Whether the height is a node feature.
  """

  network: nn.Module
  kind: str
  graph: graphs.Topology
  edge_types: tuple[float, ...]
  height: bool = True

  def setup(self):
    nn.share_scope(self, self.network)

  def __call__(
    self,
    positions: Float[Array, "batch joints 3"],
    velocities: Float[Array, "batch joints 3"],
    heights: Float[Array, "batch joints 1"],
    train: bool = False,
  ) -> Float[Array, "batch joints steps 3"]:
    """Returns predicted positions at every future frame."""
    speed = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(velocities), -1, keepdims=True), 1e-12))
    nodes = jnp.concatenate([speed, heights], -1) if self.height else speed
    difference = graphs.gather_senders(positions, self.graph)
    difference = difference - graphs.gather_receivers(positions, self.graph)
    square = jnp.sum(jnp.square(difference), -1, keepdims=True)
    types = jnp.asarray(self.edge_types, positions.dtype)[:, None]
    edges = jnp.concatenate([jnp.broadcast_to(types, square.shape), square], -1)
    inputs: dict[str, tuple[Array, ...]] = {
      "radial_field": (positions, velocities, edges),
      "mpnn": (jnp.concatenate([positions, velocities], -1), edges),
    }
    arguments = inputs.get(self.kind, (positions, velocities, nodes, edges))
    if self.kind == "egno":
      return self.network(*arguments, self.graph, train=train)[0]
    output = self.network(*arguments, self.graph)
    output = output[0] if self.kind == "egnn" else output
    return (positions + output if self.kind == "mpnn" else output)[:, :, None]


def make_model(settings: Settings, data: mocap.Dataset) -> SkeletonModel:
  """Builds the model of the settings."""
  kind = settings.model.model
  network = pkgutil.resolve_name(models.get("mocap", kind).make)(settings)
  graph, types = topology(data)
  return SkeletonModel(network, kind, graph, types, settings.model.height)


def egno(settings: Settings) -> EGNO:
  """Builds the EGNO of the settings."""
  frames = models.get("mocap", "egno").predicts
  sizes = (settings.model.hidden_features, settings.model.layers, frames, settings.model.modes)
  return EGNO(
    *sizes,
    centring=settings.model.centring,
    relaxation=Relaxation(scale=settings.branch.relaxation_scale, axis_name=DATA),
    direction=kept.direction(settings.model.keep),
  )


def egnn(settings: Settings) -> EGNN:
  """Builds the EGNN of the settings."""
  return EGNN(
    settings.model.hidden_features,
    settings.model.layers,
    build.relaxation(settings),
    kept.direction(settings.model.keep),
  )


def radial_field(settings: Settings) -> RadialField:
  """Builds the radial field of the settings."""
  return RadialField(
    settings.model.hidden_features, settings.model.layers, build.relaxation(settings)
  )


def tfn(settings: Settings) -> TFN:
  """Builds the TFN of the settings."""
  return TFN(
    settings.model.hidden_features,
    settings.model.layers,
    build.relaxation(settings),
    kept.direction(settings.model.keep),
  )


def se3_transformer(settings: Settings) -> SE3Transformer:
  """Builds the SE(3)-Transformer of the settings."""
  return SE3Transformer(
    settings.model.hidden_features,
    settings.model.layers,
    relaxation=build.relaxation(settings),
    direction=kept.direction(settings.model.keep),
  )


def mpnn(settings: Settings) -> MPNN:
  """Builds the MPNN of the settings."""
  return MPNN(settings.model.hidden_features, settings.model.layers)
