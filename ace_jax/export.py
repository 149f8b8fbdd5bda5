"""A trained model for other programs: plain parameters, and a function without Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ace_jax import archives, homotopy
from ace_jax.errors import ConfigurationError, first_line

__all__ = [
  "export_function",
  "load_function",
  "load_parameters",
  "save_parameters",
  "save_variables",
]


def save_parameters(path: str | Path, variables: homotopy.Variables) -> None:
  """Writes the variables of a projection, pruned, as a compressed .npz, atomically.

  One array a leaf, under its path, "params/layers_0/linear/kernel"; bfloat16 is kept as float32
  (`ace_jax.archives.write`).

  Args:
    path: The file; a leading ~ is the home folder.
    variables: Of a projection or a strict model; the branches, which compute nothing, are left out.

  Raises:
    ConfigurationError: the variables are those of a relaxed predictor, which needs gamma and
      branches.
  """
  if variables.get(homotopy.GAMMA):
    raise ConfigurationError(
      "save_parameters keeps no gamma and no branches: give `found.projection` or "
      "`ace_jax.project(variables)`, or keep all of them with save_variables."
    )
  save_variables(path, homotopy.prune(variables))


def save_variables(path: str | Path, variables: homotopy.Variables) -> None:
  """Writes all variables, those of branches and gamma too, in the form of `save_parameters`."""
  archives.write(path, archives.flatten(homotopy.unbox(variables)), {})


def load_parameters(path: str | Path) -> dict[str, Any]:
  """Reads what `save_parameters` or `save_variables` wrote, as variables for `model.apply`."""
  return archives.unflatten(archives.read(path)[0])


def export_function(
  apply: Callable[..., Any], variables: homotopy.Variables, *inputs: Any
) -> bytes:
  """Compiles a model with its variables into a function that needs neither.

  Its first axis is free: the function takes batches of any size. It runs on CPUs, and on GPUs and
  TPUs too.

  Args:
    apply: `model.apply`, or any `apply(variables, *inputs)`.
    variables: Of either predictor: without the collection `gamma` it is the projection.
    *inputs: Examples: arrays with a common leading axis, or dictionaries, lists and tuples of them.

  Returns:
    What `load_function` takes.

  Raises:
    ConfigurationError: an input is no array with the common leading axis; or inputs or results are
      in containers of another kind, such as a NamedTuple, which a file without Python cannot hold.
  """
  sizes: dict[int | None, str] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(inputs)[0]:
    shape = np.shape(leaf)
    what = f"inputs{jax.tree_util.keystr(path)} of shape {shape}"
    sizes.setdefault(shape[0] if shape else None, what)
  if len(sizes) > 1 or None in sizes:
    raise ConfigurationError(
      f"export_function: {' and '.join([*sizes.values()][:2])} have no common axis of samples; "
      "let `apply` hold what is no sample, such as lambda variables, x: apply(variables, x, 3)."
    )
  (batch,) = jax_export.symbolic_shape("batch")
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((batch, *jnp.shape(x)[1:]), jnp.result_type(x)), inputs
  )
  function = jax.jit(lambda *arrays: apply(variables, *arrays))
  platforms = ["cpu", "cuda", "rocm", "tpu"]
  exported = jax_export.export(function, platforms=platforms)(*shapes)
  try:
    return bytes(exported.serialize())
  except ValueError as error:
    raise ConfigurationError(
      f"export_function cannot write this function ({first_line(error)}); let it take and return "
      "arrays, in tuples, lists and dictionaries."
    ) from error


def load_function(data: bytes) -> Callable[..., Any]:
  """Returns the function that `export_function` wrote."""
  return jax_export.deserialize(bytearray(data)).call
