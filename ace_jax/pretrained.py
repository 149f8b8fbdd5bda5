"""The weights of a plain model in the homotopic one."""

from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError


def load_pretrained(variables: homotopy.Variables, plain: homotopy.Variables) -> dict[str, Any]:
  """Returns a homotopic model's variables with the weights of the plain equivariant model.

  Branches and gamma stay as they are. Parameters are matched by their paths, which those of the
  plain model must all have: `Homotopic` adds to them, and renames none. Boxes of metadata are gone.

  Args:
    variables: What `model.init` returned.
    plain: Variables of the model without `Homotopic`, or of its projection: {"params": ...} and
      whatever else it has (`batch_stats`).

  Raises:
    ConfigurationError: a leaf is in one of them alone, or has another shape.
  """
  variables, plain = homotopy.unbox(variables), homotopy.unbox(plain)
  wanted, given = _flat(homotopy.prune(variables)), _flat(homotopy.prune(plain))
  for path in sorted({*wanted, *given}):
    name = "/".join(map(str, path))
    if path not in given:
      raise ConfigurationError(f"the plain model has no {name}; give all of its variables.")
    if path not in wanted:
      raise ConfigurationError(
        f"the homotopic model has no {name}, which the plain one has; call its layers alike."
      )
    shapes = [list(jnp.shape(leaves[path])) for leaves in (given, wanted)]
    if shapes[0] != shapes[1]:
      raise ConfigurationError(
        f"{name} has shape {shapes[0]} in the plain model and {shapes[1]} in the homotopic one; "
        "give them the same sizes."
      )
  weights = {path: jnp.asarray(leaf, wanted[path].dtype) for path, leaf in given.items()}
  return traverse_util.unflatten_dict({**_flat(variables), **weights})


def _flat(variables: homotopy.Variables) -> dict[tuple[str, ...], Any]:
  return traverse_util.flatten_dict(dict(variables))
