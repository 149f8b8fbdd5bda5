"""A trained model for other programs: plain parameters, and a function without Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax import export as jax_export

from ace_jax import files, homotopy

__all__ = [
  "export_function",
  "load_function",
  "load_parameters",
  "save_parameters",
  "save_variables",
]


def save_parameters(path: str | Path, variables: homotopy.Variables) -> None:
  """Writes the variables of the pruned model as a compressed .npz, one array a leaf, atomically.

  Args:
    path: The file; a leading ~ is the home folder. Keys are paths, "params/layers_0/linear/kernel".
    variables: Of a relaxed or a strict model; branches and gamma are left out.
  """
  save_variables(path, homotopy.prune(variables))


def save_variables(path: str | Path, variables: homotopy.Variables) -> None:
  """Writes all variables, those of branches and gamma too, in the form of `save_parameters`."""
  leaves = traverse_util.flatten_dict(variables, sep="/")
  flat: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
  files.write_binary(path, lambda file: np.savez_compressed(file, **flat))


def load_parameters(path: str | Path) -> dict[str, Any]:
  """Reads what `save_parameters` or `save_variables` wrote, as variables for `model.apply`."""
  with np.load(files.expanded(path), allow_pickle=False) as file:
    return traverse_util.unflatten_dict({key: file[key] for key in file.files}, sep="/")


def export_function(
  apply: Callable[..., Any], variables: homotopy.Variables, *inputs: Any
) -> bytes:
  """Compiles a model with its variables into a function that needs neither.

  Its first axis is free: the function takes batches of any size. It runs on CPUs, and on GPUs and
  TPUs too.

  Args:
    apply: `model.apply`, or any `apply(variables, *inputs)`.
    variables: Of either predictor: without the collection `gamma` it is the projection.
    *inputs: Example arrays, with a common leading axis.

  Returns:
    What `load_function` takes.
  """
  (batch,) = jax_export.symbolic_shape("batch")
  shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in inputs]
  function = jax.jit(lambda *arrays: apply(variables, *arrays))
  platforms = ["cpu", "cuda", "rocm", "tpu"]
  return bytes(jax_export.export(function, platforms=platforms)(*shapes).serialize())


def load_function(data: bytes) -> Callable[..., Any]:
  """Returns the function that `export_function` wrote."""
  return jax_export.deserialize(bytearray(data)).call
