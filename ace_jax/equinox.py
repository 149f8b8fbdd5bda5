"""Homotopic layers for Equinox, and Equinox modules as a `Model`. Needs the extra `equinox`."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ace_jax import homotopy, paths, relaxing, scales
from ace_jax.errors import ConfigurationError, MissingPackageError
from ace_jax.homotopy import GAMMA, RELAXATION
from ace_jax.model import Model, Variables
from ace_jax.recording import (
  LayerCall,
  layer_arrays,
  layer_calls,
  readable,
  record_arrays,
  record_call,
  require_readable,
)
from ace_jax.scales import MEAN_SQUARE

try:
  import equinox as eqx
except ImportError as error:
  raise MissingPackageError(
    "ace_jax.equinox needs the package equinox; pip install 'ace-equivariance[equinox]'."
  ) from error

from ace_jax import equinox_states

__all__ = ["Homotopic", "as_model", "prune", "relax", "update", "variables"]

_KEPT = {GAMMA: GAMMA, MEAN_SQUARE: "batch_stats"}  # collections of what a layer has itself


class Homotopic(eqx.Module):
  """Adds a non-equivariant branch, weighted by a trained gamma: y = f_eq(x) + gamma f_neq(x).

  Called on the output of the equivariant map and its input, as `ace_jax.Homotopic` is; without
  gamma (None) it returns y_eq untouched.

  Attributes:
    relaxation: f_neq, what maps the features of x to those of y_eq, such as `eqx.nn.MLP`.
    gamma: Its weight, one number or [out]; None in a projection.
    mean_square: Running mean square of f_neq if scale is "fixed", 1 at first; else None. The
      `Model` of a module moves it; a module does not change itself.
    inference: Set by `eqx.nn.inference_mode`.
    scale: "free", or "fixed", which divides f_neq by its root mean square over batch and features:
      the batch's own in training, the running one in inference. The batch is what x has and, under
      `jax.vmap`, the axis that the layer is mapped over (the innermost, if there are several).
    axis_name: Mapped axis of devices over which the mean square is averaged, if any.
    momentum: Decay of the running mean square.
    axes: Number of trailing axes that are features; the branch sees them as one.
    name: What reports call the layer; set from its place in the model.
  """

  relaxation: Any
  gamma: Array | None
  mean_square: Array | None
  inference: bool
  scale: str = eqx.field(static=True)
  axis_name: str | None = eqx.field(static=True)
  momentum: float = eqx.field(static=True)
  axes: int = eqx.field(static=True)
  name: str = eqx.field(static=True)

  def __init__(
    self,
    branch: Callable[..., Any],
    *,
    scale: str = "free",
    axis_name: str | None = None,
    gamma_shape: tuple[int, ...] = (),
    initial_gamma: float = 1.0,
    momentum: float = 0.99,
    axes: int = 1,
  ):
    scales.check(scale)
    self.relaxation = branch
    self.gamma = jnp.full(gamma_shape, initial_gamma, jnp.float32)
    self.mean_square = jnp.ones(()) if scale == "fixed" else None
    self.inference = False
    self.scale = scale
    self.axis_name = axis_name
    self.momentum = momentum
    self.axes = axes
    self.name = ""

  def __call__(
    self, y_eq: Any, x: Any, *args: Any, where: Bool[Array, "..."] | None = None, **kwargs: Any
  ) -> Any:
    """Returns f_eq(x) + gamma f_neq(x), of y_eq's shape and dtype, or y_eq for a projection.

    Args:
      y_eq: Output of the equivariant map, an array or an e3nn `IrrepsArray`.
      x: What f_neq sees, of either type; its leading axes are y_eq's.
      *args: Passed on to the branch after x.
      where: Which entries of f_neq count in its mean square, broadcast against y_eq; None: all.
      **kwargs: Passed on to the branch.

    Raises:
      ValueError: the branch returns another shape.
      ConfigurationError: under `fit` a "fixed" layer is called within a `jax.grad`, `jax.lax.scan`
        or the like of the model.
    """
    flat_y = homotopy.flatten(y_eq, self.axes)
    if self.gamma is None:
      record_arrays(LayerCall(self.name, flat_y, None, flat_y, None))
      return y_eq
    f_neq = self.relaxation(homotopy.flatten(x, self.axes), *args, **kwargs)
    current = None
    if self.mean_square is not None:
      if not self.inference:
        require_readable(self.name, f_neq)
        where = homotopy.flat_mask(where, homotopy.array(y_eq).shape, self.axes)
        current = self._mean_square(f_neq, where)
      f_neq = scales.divide_by_root(f_neq, self.mean_square if current is None else current)
    y = homotopy.combine(self.name, flat_y, f_neq, self.gamma)
    record_call(LayerCall(self.name, flat_y, f_neq, y, self.gamma, current))
    return homotopy.unflatten(y, y_eq)

  def _mean_square(self, f_neq: Array, where: Bool[Array, "..."] | None) -> Float[Array, ""]:
    def over_devices(value: Array) -> Array:
      return value if self.axis_name is None else jax.lax.pmean(value, self.axis_name)

    if where is None:
      return over_devices(_mean_over_samples(scales.mean_square(f_neq)))
    # Samples may count differently many entries: the sums are over all of them.
    total, count = map(over_devices, _sums_over_samples(*scales.sums(f_neq, where)))
    return total / jnp.where(count > 0, count, 1)


class Relaxed(relaxing.AroundSubmodule, eqx.Module):
  """A submodule with a homotopic layer around it (`relax`)."""

  wrapped: Any
  layer: Homotopic


def variables(model: Any) -> dict[str, Any]:
  """Returns {"params": ..., "gamma": ...} of a module, paths as in Linen.

  `params` are all inexact arrays but gammas and running mean squares (`batch_stats`); integers and
  functions stay in the module. Of a pair (module, state), as `equinox.nn.make_with_state` returns
  it, `state` is what the state holds, below the layers that hold its indices.

  Args:
    model: A module, or such a pair.
  """
  module, state = equinox_states.module_and_state(model)
  leaves: dict[str, list[tuple[tuple[str, ...], Array]]] = {"params": []}
  for collection, name, leaf in _named_leaves(module):
    if collection is not None:
      leaves.setdefault(collection, []).append((name, leaf))
  if state is not None:
    # Of strong types, as all that is trained: no program is compiled for weak ones too.
    values = [jnp.asarray(leaf, jnp.result_type(leaf)) for leaf in jax.tree.leaves(state)]
    leaves[equinox_states.STATE] = [
      *zip(equinox_states.names(module, state, _wrappers(module)), values, strict=True)
    ]
  return {collection: paths.nest(some) for collection, some in leaves.items()}


def update(model: Any, variables: Variables) -> Any:
  """Returns a module with variables in it; a layer without gamma among them is its projection.

  Args:
    model: A module, or a pair (module, state), of which such a pair is returned; not changed.
    variables: In the form of `variables(module)`; those of branches may be missing (`prune`).

  Raises:
    ConfigurationError: another one is missing.
  """
  module, state = equinox_states.module_and_state(model)
  if state is not None:
    names = equinox_states.names(module, state, _wrappers(module))
    held = [paths.lookup(variables.get(equinox_states.STATE, {}), name) for name in names]
    missing = next((name for name, value in zip(names, held, strict=True) if value is None), None)
    if missing is not None:
      raise ConfigurationError(f"the variables have no {equinox_states.STATE}/{'/'.join(missing)}.")
    return update(module, variables), jax.tree.unflatten(jax.tree.structure(state), held)
  new = []
  for collection, name, leaf in _named_leaves(module):
    value = leaf
    if collection is not None:
      value = paths.lookup(variables.get(collection, {}), name)
      if value is None and collection != GAMMA:
        if RELAXATION not in name and collection != "batch_stats":
          raise ConfigurationError(f"the variables have no {collection}/{'/'.join(name)}.")
        value = leaf
    new.append(value)
  return jax.tree.unflatten(jax.tree.structure(module), new)


def prune(module: Any) -> Any:
  """Returns a module in which every homotopic layer is f_eq alone, without branch.

  What `relax` put around submodules is gone from it.
  """

  def strip(node: Any) -> Any:
    if isinstance(node, Relaxed):
      return prune(node.wrapped)
    if isinstance(node, Homotopic):

      def parts(layer: Homotopic) -> tuple[Any, ...]:
        return layer.gamma, layer.relaxation, layer.mean_square

      return eqx.tree_at(parts, node, (None, None, None), is_leaf=lambda x: x is None)
    return node

  return jax.tree.map(strip, module, is_leaf=lambda node: isinstance(node, Homotopic | Relaxed))


def relax(
  module: Any, where: Callable[[Any], bool], branch: Callable[[Any], Any], **layer: Any
) -> Any:
  """Returns a module with homotopic layers around chosen submodules.

  Args:
    module: The model; not changed.
    where: Which submodules.
    branch: `branch(submodule) -> callable`, what maps the submodule's input to its output.
    **layer: Further arguments of `Homotopic`.

  Raises:
    ConfigurationError: no submodule is chosen.
  """
  chosen = 0

  def wrap(node: Any) -> Any:
    nonlocal chosen
    if isinstance(node, Homotopic) or not isinstance(node, eqx.Module):
      return node
    chosen += 1
    return Relaxed(within(node), Homotopic(branch(node), **layer))

  def within(node: Any) -> Any:
    """Wraps what is chosen below a module, also where that is chosen itself."""

    def stop(child: Any) -> bool:
      is_module = isinstance(child, eqx.Module) and child is not node
      return isinstance(child, Homotopic) or (is_module and where(child))

    return jax.tree.map(wrap, node, is_leaf=stop)

  relaxed = within(module)
  if not chosen:
    raise ConfigurationError("relax: `where` chooses no submodule of the model.")
  return relaxed


def as_model(model: Any) -> Model:
  """Turns an Equinox module into a `Model`; it starts from the weights that it has.

  The module is called on one sample at a time, as Equinox has it: `jax.vmap(module)(*inputs)`,
  with `key=` in training if its `__call__` takes it; evaluation has `eqx.nn.inference_mode`. A
  module that takes whole batches goes through `Model`, with `variables` and `update`.

  Of a pair (module, state) the module is called as `module(*inputs, state) -> (prediction, state)`,
  under the axis name of its `eqx.nn.BatchNorm`, "batch" if it has none. Batch statistics are then
  those of a device's share of the batch, running ones the mean over devices; with
  `axis_name=("batch", "data")` under `fit` both are of the whole batch.

  Args:
    model: A module, or a pair as `equinox.nn.make_with_state` returns it.

  Raises:
    ConfigurationError: a module has state, and comes without it; or its layers of batch
      normalisation name the axis of samples differently.
  """
  module, state = equinox_states.module_and_state(model)
  indices = paths.submodules(module, eqx.nn.StateIndex)
  if indices and state is None:
    path = "/".join(paths.linen_path(next(iter(indices))))
    raise ConfigurationError(
      f"the Equinox model has state ({path}); give the pair (model, state) that "
      f"equinox.nn.make_with_state({type(module).__name__})(...) returns."
    )
  named = _with_names(module)
  start = variables(model)
  momenta = {layer.name: layer.momentum for layer in paths.submodules(named, Homotopic).values()}
  takes_key = "key" in inspect.signature(type(module).__call__).parameters
  axis = equinox_states.batch_axis(module)

  def run(
    values: Variables, inputs: tuple[Any, ...], key: PRNGKeyArray | None, *fields: str
  ) -> tuple[Any, list[tuple[str, dict[str, Array]]], Any]:
    arrays, static = eqx.partition(inputs, eqx.is_array)
    names: list[str] = []

    def over_samples(values: Variables, arrays: Any, keys: Any) -> Any:
      pair = update(named if state is None else (named, state), values)
      built, held = equinox_states.module_and_state(pair)
      built = eqx.nn.inference_mode(built, value=keys is None)

      def on_sample(arrays: Any, key: Any, held: Any) -> tuple[Any, list[dict[str, Array]], Any]:
        keywords = {"key": key} if takes_key else {}
        states = () if held is None else (held,)
        with layer_arrays(*fields) as listed:
          y = built(*eqx.combine(arrays, static), *states, **keywords)
        y, moved = (y, None) if held is None else y
        names[:] = [name for name, _ in listed]
        # Evaluation moves nothing.
        return y, [arrays for _, arrays in listed], None if keys is None else moved

      mapped = jax.vmap(on_sample, (0, 0, None), (0, 0, None), axis_name=axis)
      return mapped(arrays, keys, held)

    if key is None:
      y, by_call, moved = over_samples(values, arrays, None)
    else:
      keys = jax.random.split(key, len(jax.tree.leaves(arrays)[0]))
      traced = over_samples if state is None else equinox_states.without_mesh(over_samples)
      y, by_call, moved = traced(values, arrays, keys)
    return y, list(zip(names, by_call, strict=True)), moved

  def init(key: PRNGKeyArray, *inputs: Any) -> dict[str, Any]:
    del key, inputs
    return start

  def apply(
    values: Variables, *inputs: Any, key: PRNGKeyArray | None = None
  ) -> tuple[Any, dict[str, Any]]:
    kept = {name: tree for name, tree in values.items() if name not in ("params", GAMMA)}
    prediction, listed, moved = run(values, inputs, key, MEAN_SQUARE)
    for name, arrays in listed:
      if "batch_stats" in kept:
        path = name.split("/") if name else []
        current = arrays[MEAN_SQUARE]
        kept["batch_stats"] = _decayed(kept["batch_stats"], path, current, momenta[name])
    if moved is not None:
      kept[equinox_states.STATE] = variables((module, moved))[equinox_states.STATE]
    return prediction, kept

  def calls(values: Variables, *inputs: Any) -> dict[str, LayerCall]:
    with layer_calls() as called:
      listed = run(values, inputs, None, "y_eq", "f_neq", "y")[1]
    return readable(listed, called)

  return Model(init, apply, calls)


@jax.custom_batching.custom_vmap
def _mean_over_samples(x: Array) -> Array:
  return x


# Not `jax.lax.pmean`: JAX refuses it for the axis of a vmap within a typed shard_map.
@_mean_over_samples.def_vmap
def _mean_of_batch(size: int, batched: list[bool], x: Array) -> tuple[Array, bool]:
  del size
  return (jnp.mean(x, axis=0) if batched[0] else x), False


@jax.custom_batching.custom_vmap
def _sums_over_samples(total: Array, count: Array) -> tuple[Array, Array]:
  return total, count


@_sums_over_samples.def_vmap
def _sums_of_batch(
  size: int, batched: list[bool], *sums: Array
) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
  pairs = zip(sums, batched, strict=True)
  return tuple(jnp.sum(x, axis=0) if mapped else size * x for x, mapped in pairs), (False, False)


def _decayed(tree: Any, path: list[str], current: Array, momentum: float) -> Any:
  """Returns running mean squares in which that of the layer at a path has taken a step."""
  if path:
    return {**tree, path[0]: _decayed(tree[path[0]], path[1:], current, momentum)}
  # All samples have the same one.
  moved = scales.decayed(tree[MEAN_SQUARE], jnp.mean(current), momentum)
  return {**tree, MEAN_SQUARE: moved}


def _named_leaves(module: Any) -> list[tuple[str | None, tuple[str, ...], Any]]:
  """Returns (collection, path, leaf) of every leaf; the collection is None of what is constant."""
  left_out = _wrappers(module)
  layers = paths.submodules(module, Homotopic)
  leaves = []
  for keys, leaf in jax.tree_util.tree_flatten_with_path(module)[0]:
    path = paths.entries(keys)
    trained = eqx.is_inexact_array(leaf)
    collection = "params" if trained else None
    if path[:-1] in layers:
      collection = _KEPT.get(str(path[-1]), collection)
    leaves.append((collection, paths.linen_path(path, left_out), leaf))
  return leaves


def _wrappers(module: Any) -> frozenset[paths.Path]:
  relaxed = paths.submodules(module, Relaxed)
  return frozenset((*path, name) for path in relaxed for name in ("wrapped", "layer"))


def _with_names(module: Any) -> Any:
  """Returns the module with the name of every homotopic layer in it."""
  left_out = _wrappers(module)

  def is_layer(node: Any) -> bool:
    return isinstance(node, Homotopic)

  def name(keys: Any, node: Any) -> Any:
    if not is_layer(node):
      return node
    named = object.__new__(Homotopic)
    for field in dataclasses.fields(Homotopic):
      object.__setattr__(named, field.name, getattr(node, field.name))
    object.__setattr__(named, "name", "/".join(paths.linen_path(paths.entries(keys), left_out)))
    return named

  return jax.tree_util.tree_map_with_path(name, module, is_leaf=is_layer)
