"""Trees of arrays as .npz files that any program can read: one array a leaf, nothing pickled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ace_jax import files
from ace_jax.errors import ConfigurationError

_DTYPES = "__dtypes__"  # JSON {array: type}, of types that NumPy's format does not know
_READABLE = {"f": np.float32, "i": np.int8, "u": np.uint8}
"""What arrays of such types are kept as, by kind of number; every value stays what it is."""


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns {"params/layers_0/kernel": array} of nested dictionaries of arrays.

  Raises:
    ConfigurationError: a key is no string or has a "/", or a leaf is no array of numbers.
  """
  leaves = {}
  flat: dict[Any, Any] = traverse_util.flatten_dict(dict(tree))
  for keys, leaf in flat.items():
    if any(not isinstance(key, str) or "/" in key for key in keys):
      raise ConfigurationError(f"variables have a key that is no name without '/': {keys}.")
    name = "/".join(keys)
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    if is_key or np.asarray(leaf).dtype == object:
      raise ConfigurationError(
        f"{name} is a {type(leaf).__name__}, not an array of numbers; take it out before saving."
      )
    leaves[name] = np.asarray(leaf)
  return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Inverse of `flatten`."""
  return traverse_util.unflatten_dict(leaves, sep="/")


def write(path: str | Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
  """Writes a compressed .npz, atomically.

  NumPy's format has no bfloat16, float8 or 4-bit integers: they are kept as float32 and 8-bit
  integers, and `read` gives them back as they were.

  Args:
    path: The file; a leading ~ is the home folder.
    arrays: By name.
    texts: Kept beside them, by name.

  Raises:
    OSError: it cannot be written.
  """
  members: dict[str, Any] = {name: np.array(text) for name, text in texts.items()}
  dtypes = {}
  for name, leaf in arrays.items():
    array = np.asarray(leaf)
    if array.dtype.kind == "V":
      dtypes[name] = array.dtype.name
      array = array.astype(_READABLE[_kind(array.dtype)])
    members[name] = array
  if dtypes:
    members[_DTYPES] = np.array(json.dumps(dtypes))
  files.write_binary(path, lambda file: np.savez_compressed(file, **members))


def read(
  path: str | Path, texts: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads what `write` wrote: the arrays, and the texts of these names.

  Raises:
    OSError: it cannot be read.
    KeyError: a text is missing.
    ValueError: it is no .npz, damaged, or holds Python objects.
    zipfile.BadZipFile: it is damaged.
  """
  with np.load(files.expanded(path), allow_pickle=False) as file:
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise ValueError("one array, not an .npz")
    members = {name: file[name] for name in file.files}
  strings = {name: str(members.pop(name)) for name in texts}
  dtypes = json.loads(str(members.pop(_DTYPES, "{}")))
  arrays = {}
  for name, array in members.items():
    if name in dtypes:
      array = array.astype(jnp.dtype(dtypes[name]))
    elif array.dtype == np.dtype("V2"):  # bfloat16 of before there was a list of types
      array = array.view(jnp.bfloat16)
    arrays[name] = array
  return arrays, strings


def _kind(dtype: np.dtype) -> str:
  if jnp.issubdtype(dtype, jnp.floating):
    return "f"
  return "u" if jnp.issubdtype(dtype, jnp.unsignedinteger) else "i"
