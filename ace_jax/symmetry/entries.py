"""Predictions of several entries, such as energy and forces: names, norms, one number of all.

A prediction is an array, or any pytree of arrays with one leading axis of samples. Entries differ
in units, so that the errors of several are joined as relative ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax.errors import ConfigurationError


def by_name(tree: Any) -> dict[str, Any]:
  """Returns the leaves by name: "forces", "heads/0" of nested trees; "" of a single array."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def combined(relative: Any) -> Float[Array, "..."]:
  """Joins the relative errors of all entries to one number; that of a single array is itself.

  .. math:: r = \\sqrt{\\tfrac{1}{K} \\sum_k r_k^2}

  Args:
    relative: r_k, a tree of one relative error for each of K entries.
  """
  leaves = jax.tree.leaves(relative)
  if len(leaves) == 1:
    return leaves[0]
  return jnp.sqrt(jnp.mean(jnp.square(jnp.stack(leaves)), axis=0))


def norms(tree: Any) -> Any:
  """Returns the norm of every sample, [samples], in every entry."""
  return jax.tree.map(lambda y: jnp.linalg.norm(y.reshape(y.shape[0], -1), axis=1), tree)


def differences(moved: Any, expected: Any) -> Any:
  """Returns f(g x) - g f(x) in every entry.

  Raises:
    ConfigurationError: the action returned other entries, or another shape.
  """
  there, wanted = by_name(expected), by_name(moved)
  for name in {**wanted, **there}:
    shapes = [jnp.shape(some[name]) if name in some else None for some in (wanted, there)]
    if shapes[0] != shapes[1]:
      of_entry = f"the entry {name} of " if name else ""
      raise ConfigurationError(
        f"the action on predictions does not fit: {of_entry}the prediction has "
        f"{_shape(shapes[0])}, its action returned {_shape(shapes[1])}; say how the group acts on "
        "each entry (Symmetry.by_entry)."
      )
  return jax.tree.map(jnp.subtract, moved, expected)


def check_samples(prediction: Any, count: int) -> None:
  """Refuses predictions that are not one for each of `count` samples.

  Raises:
    ConfigurationError: names the first entry.
  """
  for name, leaf in by_name(prediction).items():
    if jnp.shape(leaf)[:1] != (count,):
      raise ConfigurationError(
        f"{f'the entry {name} of ' if name else ''}the prediction has {_shape(jnp.shape(leaf))}; "
        f"its leading axis must be that of the {count} samples."
      )


def _shape(shape: tuple[int, ...] | None) -> str:
  return "no array" if shape is None else f"shape {list(shape)}"
