"""Linear branches and the representations that they map between, for rules that penalise them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import traverse_util
from jaxtyping import Array, Float

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError


class LinearBranch(NamedTuple):
  """The branch x -> x W of a layer.

  Attributes:
    kernel: W.
    irreps: Representations of x and of x W, [component, channel] within each irrep.
    x: What the branch sees.
  """

  kernel: Float[Array, "inputs outputs"]
  irreps: homotopy.Irreps
  x: Float[Array, "... inputs"]


def of_layers(theta: Any, gamma: Any, layers: Mapping[tuple[str, ...], Any]) -> list[LinearBranch]:
  """Returns the branch of every homotopic layer, in the order of `homotopy.names`.

  Args:
    theta: Weights.
    gamma: The collection `gamma`, which names the layers.
    layers: What the layers sowed, by path.

  Raises:
    ConfigurationError: a layer's branch is not linear, or its representations are not known.
  """
  weights: Any = traverse_util.flatten_dict(theta)
  branches = []
  for name in homotopy.names(gamma):
    path = tuple(name.split("/"))
    kernel = weights.get((*path, homotopy.RELAXATION, "linear", "kernel"))
    if kernel is None:
      raise ConfigurationError(
        f"layer {name}: the penalty needs a branch that is linear without bias; take "
        "relaxations.Linear."
      )
    sown = layers.get((*path, homotopy.IRREPS))
    if sown is None:
      raise ConfigurationError(
        f"layer {name}: the penalty needs the representations of its input and output; name them "
        "by Homotopic(irreps=...)."
      )
    branches.append(LinearBranch(kernel, sown[-1], layers[(*path, "input")][-1]))
  return branches
