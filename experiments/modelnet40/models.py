"""VN-DGCNN on shapes that are turned and lose points while it is trained."""

import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax.models.vector_neurons import VNDGCNN
from ace_jax.relaxations import Relaxation
from ace_jax.symmetry import actions, groups
from ace_jax.training.parallel import DATA
from data import modelnet
from experiments.harness import models
from experiments.modelnet40.settings import Settings

Points = Float[Array, "batch points 3"]


class ShapeModel(nn.Module):
  """Classifies shapes; in training it sees them turned and thinned, anew in every step.

  Attributes:
    network: Its parameters are used without a prefix.
    rotations: "none", "z" (about the vertical) or "so3".
    vertical: The axis that is up.
    dropout: Largest share of points that a shape loses.
  """

  network: VNDGCNN
  rotations: str
  vertical: str
  dropout: float = 0.0

  def setup(self):
    nn.share_scope(self, self.network)

  def __call__(self, points: Points, train: bool = False) -> Float[Array, "batch classes"]:
    """Returns logits.

    Args:
      points: Of every shape, its mean at 0.
      train: Whether shapes are turned and thinned, and the network is trained.
    """
    if train:
      key, drop_key = jax.random.split(self.make_rng("dropout"))
      points = turn(key, points, self.rotations, self.vertical)
      points = drop_points(drop_key, points, self.dropout)
    return self.network(points, train)


def turn(key: PRNGKeyArray, points: Points, rotations: str, vertical: str) -> Points:
  """Turns every shape about 0 by an element of its own.

  Args:
    key: Draws them.
    points: Of the shapes.
    rotations: "none", "z" (about the vertical) or "so3".
    vertical: The axis that is up.
  """
  if rotations == "none":
    return points
  group = groups.so2(vertical) if rotations == "z" else groups.so3()
  return jax.vmap(actions.vector)(group.sample(key, len(points)), points)


def drop_points(key: PRNGKeyArray, points: Points, most: float) -> Points:
  """Moves points of every shape to its first one, each with a probability drawn for the shape.

  The probability is uniform in [0, most]. The number of points stays, so that programs keep their
  shapes; the moved ones say nothing new.

  Args:
    key: Draws both.
    points: Of the shapes.
    most: Largest probability.

  Reference: Qi et al., "PointNet++", NeurIPS 2017, Sec. 3.3.
  """
  if not most:
    return points
  share_key, point_key = jax.random.split(key)
  share = most * jax.random.uniform(share_key, (len(points), 1))
  dropped = jax.random.uniform(point_key, points.shape[:2]) < share
  return jnp.where(dropped[..., None], points[:, :1], points)


def make_model(settings: Settings, data: modelnet.Dataset) -> ShapeModel:
  """Builds the model of the settings."""
  make = pkgutil.resolve_name(models.get("modelnet40", settings.model.model).make)
  network = make(settings, len(data.classes))
  dropout = settings.model.dropout or 0.0
  return ShapeModel(network, settings.data.rotations, data.summary["vertical"], dropout)


def vn_dgcnn(settings: Settings, classes: int) -> VNDGCNN:
  """Builds the VN-DGCNN of the settings; at a width of 64 it is the published one."""
  width = settings.model.hidden_features or 64
  return VNDGCNN(
    classes=classes,
    k=settings.model.neighbours,
    widths=tuple(max(1, factor * width // 3) for factor in (1, 1, 2, 4, 16)),
    hidden=(8 * width, 4 * width),
    relaxation=Relaxation(scale=settings.branch.relaxation_scale, axis_name=DATA),
  )
