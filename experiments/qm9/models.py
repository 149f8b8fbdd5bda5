"""The molecule models: edges and published inputs around each network, one call for both."""

import pkgutil

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ace_jax import graphs, padding
from ace_jax.models import steerable
from ace_jax.models.schnet import SchNet
from ace_jax.models.segnn import SEGNN
from ace_jax.relaxations import Relaxation
from ace_jax.training.parallel import DATA
from data.qm9 import dataset as qm9
from data.qm9.molecules import ELEMENTS
from experiments.harness import build, models
from experiments.qm9.settings import Settings


class MoleculeModel(nn.Module):
  """Predicts a property of molecules that are padded to one number of atoms.

  .. math:: y = a + b f(x)

  with f the network and a, b the mean and the deviation of the target (or 0 and 1).

  Attributes:
    network: Its parameters are used without a prefix.
    neighbours: From how many others an atom receives, at most; None is all within the radius.
    radius: Largest distance of those.
    shift: a.
    scale: b.
  """

  network: SchNet | SEGNN
  neighbours: int | None
  radius: float
  shift: float = 0.0
  scale: float = 1.0

  def setup(self):
    nn.share_scope(self, self.network)

  def __call__(
    self,
    numbers: Int[Array, "batch atoms"],
    positions: Float[Array, "batch atoms 3"],
    train: bool = False,
  ) -> Float[Array, " batch"]:
    """Returns the property of every molecule.

    Args:
      numbers: Atomic numbers; 0 is no atom.
      positions: Of the atoms; of those that do not exist, any finite numbers.
      train: Whether batch statistics are updated, and channels are dropped.
    """
    graph = padding.nearest(positions, numbers > 0, self.radius, self.neighbours)
    if isinstance(self.network, SchNet):
      prediction = self.network(numbers, positions, graph, train)
    else:
      inputs = segnn_inputs(numbers, positions, graph, self.network.lmax_attributes)
      prediction = self.network(*inputs, graph, train)
    return self.shift + self.scale * prediction[:, 0]


def segnn_inputs(
  numbers: Int[Array, "*batch nodes"],
  positions: Float[Array, "*batch nodes 3"],
  graph: graphs.Graph,
  lmax_attributes: int,
) -> tuple[steerable.Features, Array, Array, Array]:
  """Returns the inputs of `SEGNN` for molecules, as published.

  Node input: the element, of five. Edge attributes: harmonics of x_sender - x_receiver. Node
  attributes: the mean of the incoming edge attributes, the first component set to 1. Messages also
  see the distance. Nothing here depends on the origin.

  Args:
    numbers: Atomic numbers.
    positions: Of the atoms.
    graph: Which pairs interact.
    lmax_attributes: Largest degree of the harmonics.

  Reference: Brandstetter et al., ICLR 2022, Sec. 4.3 and App. C.
  """
  relative = graphs.gather_senders(positions, graph) - graphs.gather_receivers(positions, graph)
  edge_attributes = steerable.harmonics(relative, lmax_attributes)
  nodes = positions.shape[-2]
  node_attributes = graphs.aggregate(edge_attributes, graph, nodes, mean=True).at[..., 0].set(1)
  elements = jnp.asarray([*ELEMENTS.values()])
  element = (numbers[..., None] == elements).astype(positions.dtype)
  return (element[..., None, :],), node_attributes, edge_attributes, steerable.norm(relative)


def make_model(settings: Settings, data: qm9.Dataset) -> MoleculeModel:
  """Builds the model of the settings."""
  network = pkgutil.resolve_name(models.get("qm9", settings.model.model).make)(settings)
  radius = settings.model.radius
  most = qm9.largest_degree([data.train, data.valid, data.test], radius)
  shift, scale = 0.0, 1.0
  if settings.model.target_scale == "mad":
    shift, scale = data.summary["mean"], data.summary["mean_absolute_deviation"]
  # All pairs cost less than the nearest where these are most of them.
  neighbours = None if 2 * most >= data.summary["atoms"] else max(1, most)
  # Equal targets have no deviation.
  return MoleculeModel(network, neighbours, radius, shift, scale or 1.0)


def schnet(settings: Settings) -> SchNet:
  """Builds the SchNet of the settings; filters are as wide as features, as published."""
  return SchNet(
    hidden=settings.model.hidden_features,
    num_layers=settings.model.layers,
    cutoff=settings.model.radius,
    centring=settings.model.centring,
    relaxation=Relaxation(scale=settings.branch.relaxation_scale, axis_name=DATA),
  )


def segnn(settings: Settings) -> SEGNN:
  """Builds the SEGNN of the settings."""
  return SEGNN(
    "1x0e",
    hidden_features=settings.model.hidden_features,
    lmax_hidden=settings.model.lmax,
    lmax_attributes=settings.model.lmax_attributes,
    num_layers=settings.model.layers,
    norm=settings.model.norm,
    task="graph",
    relaxation=build.relaxation(settings),
    dropout=settings.model.dropout or 0.0,
  )
