"""States of Equinox models, such as the statistics of `equinox.nn.BatchNorm`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core

from ace_jax import paths
from ace_jax.errors import ConfigurationError

STATE = "state"
"""Collection of variables with what a state holds."""
_DEVICES = "data"  # the axis of the mesh that devices share batches along
_BATCH = "batch"  # what Equinox calls the axis of samples


def module_and_state(model: Any) -> tuple[Any, Any]:
  """Returns a module and its state, None of a module without."""
  pair = isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State)
  return model if pair else (model, None)


def names(module: Any, state: Any, wrappers: frozenset[paths.Path]) -> list[tuple[str, ...]]:
  """Returns the path of every leaf of a state, below that of its index in the module.

  Args:
    module: The model.
    state: Its state.
    wrappers: Paths that are left out (`paths.linen_path`).
  """
  indices: dict[Any, tuple[str, ...]] = {}
  for path, index in paths.submodules(module, eqx.nn.StateIndex).items():
    indices.setdefault(index.marker, paths.linen_path(path, wrappers))
  # A state flattens to its values, in the order of the markers that its structure holds.
  markers = jax.tree.structure(state).node_data()
  assert markers is not None
  return [
    (*indices[markers[1][keys[0].key]], *map(str, paths.entries(keys[1:])))
    for keys, _ in jax.tree_util.tree_flatten_with_path(state)[0]
  ]


def batch_axis(module: Any) -> Any:
  """Returns what a module calls the axis of samples: in `eqx.nn.BatchNorm`, or else "batch".

  Raises:
    ConfigurationError: its layers name it differently.
  """
  given = [norm.axis_name for norm in paths.submodules(module, eqx.nn.BatchNorm).values()]
  several = [names if isinstance(names, tuple | list) else (names,) for names in given]
  named = {name for names in several for name in names}
  axes = sorted(named - {_DEVICES}, key=str)
  if len(axes) > 1:
    raise ConfigurationError(
      f"layers of batch normalisation call the axis of samples {' and '.join(map(str, axes))}; "
      "give all of them one axis_name."
    )
  return axes[0] if axes else _BATCH


def without_mesh(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that is traced as if there were no mesh, for Equinox's states.

  Equinox compares the type of what a state holds with that of what is put in, of which under a mesh
  one names it and a constant does not; and JAX's types of manual axes have no means over the axis
  of a vmap.

  Raises:
    TypeError: when called on arrays of such types; `parallel.over_replicas` then goes without.
  """

  def typed(leaf: Any) -> bool:
    kind = jax.typeof(leaf)  # whose `vma` it was until JAX 0.9
    axes = getattr(kind, "manual_axis_type", kind)
    return bool(getattr(axes, "varying", None) or getattr(kind, "vma", None))

  def called(*arguments: Any) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    if any(map(typed, leaves)):
      raise TypeError("an Equinox state is trained without types of manual axes.")
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
      program, result = jax.make_jaxpr(
        lambda *leaves: function(*jax.tree.unflatten(structure, leaves)), return_shape=True
      )(*shapes)
    return jax.tree.unflatten(jax.tree.structure(result), core.jaxpr_as_fun(program)(*leaves))

  return called
