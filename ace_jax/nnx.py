"""Homotopic layers for Flax NNX, and NNX modules as a `Model`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ace_jax import homotopy, paths, relaxing, scales
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import GAMMA, RELAXATION
from ace_jax.model import Model, Variables, carried, mode_keywords
from ace_jax.recording import LayerCall, layer_arrays, layer_calls, readable, record_call
from ace_jax.scales import MEAN_SQUARE

__all__ = ["Gamma", "Homotopic", "as_model", "prune", "relax", "update", "variables"]

_WRAPPED = "wrapped"


class Gamma(nnx.Variable):
  """The weight of a branch."""


class Homotopic(nnx.Module):
  """Adds a non-equivariant branch, weighted by a trained gamma: y = f_eq(x) + gamma f_neq(x).

  Called on the output of the equivariant map and its input, as `ace_jax.Homotopic` is; without
  gamma (None) it returns y_eq untouched.

  Attributes:
    relaxation: f_neq, an NNX module that maps [..., in] to [..., out].
    gamma: Its weight, one number or [out]; None in a projection.
    mean_square: Running mean square of f_neq if scale is "fixed", 1 at first; else None.
    scale: "free", or "fixed", which divides f_neq by its root mean square over batch and features:
      the batch's own in training, the running one in evaluation.
    axis_name: Mapped axis over which the mean square is averaged, if any.
    momentum: Decay of the running mean square.
    use_running_average: Set by `module.eval()`, and unset by `module.train()`.
    axes: Number of trailing axes that are features; the branch sees them as one.
    name: What reports call the layer; set from its place in the model.
  """

  def __init__(
    self,
    branch: nnx.Module,
    *,
    scale: str = "free",
    axis_name: str | None = None,
    gamma_shape: tuple[int, ...] = (),
    initial_gamma: float = 1.0,
    momentum: float = 0.99,
    axes: int = 1,
  ):
    scales.check(scale)
    self.relaxation: Any = branch
    self.gamma: Any = nnx.data(Gamma(jnp.full(gamma_shape, initial_gamma, jnp.float32)))
    self.mean_square: Any = nnx.data(nnx.BatchStat(jnp.ones(())) if scale == "fixed" else None)
    self.scale = scale
    self.axis_name = axis_name
    self.momentum = momentum
    self.use_running_average = False
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
      ConfigurationError: a "fixed" layer is called within a `jax.grad`, `jax.vmap` or the like.
    """
    flat_y = homotopy.flatten(y_eq, self.axes)
    if self.gamma is None:
      record_call(LayerCall(self.name, flat_y, None, flat_y, None))
      return y_eq
    gamma = self.gamma.get_value()
    f_neq = self.relaxation(homotopy.flatten(x, self.axes), *args, **kwargs)
    if self.mean_square is not None:
      where = homotopy.flat_mask(where, y_eq.shape, self.axes)
      f_neq = scales.divide_by_root(f_neq, self._mean_square(f_neq, where))
    y = homotopy.combine(self.name, flat_y, f_neq, gamma)
    record_call(LayerCall(self.name, flat_y, f_neq, y, gamma))
    return homotopy.unflatten(y, y_eq)

  def _mean_square(self, f_neq: Array, where: Bool[Array, "..."] | None) -> Float[Array, ""]:
    running = self.mean_square.get_value()
    if self.use_running_average:
      return running
    current = scales.mean_square(f_neq, where, self.axis_name)
    try:
      self.mean_square.set_value(scales.decayed(running, current, self.momentum))
    except TraceContextError as error:
      raise ConfigurationError(
        f"{self.name}: its running scale cannot be kept through a jax.grad, jax.vmap or the like "
        "within the model; use nnx.grad, nnx.vmap, nnx.scan or the like, or scale='free'."
      ) from error
    return current


class Relaxed(relaxing.AroundSubmodule, nnx.Module):
  """A submodule with a homotopic layer around it (`relax`)."""

  def __init__(self, wrapped: nnx.Module, layer: Homotopic):
    self.wrapped = wrapped
    self.layer = layer


def variables(module: nnx.Module) -> dict[str, Any]:
  """Returns a module's variables by collection, paths as in Linen: {"params": ..., "gamma": ...}.

  `nnx.Param` are `params`, `nnx.BatchStat` `batch_stats`; others are called as their class is.
  Random number generators and `nnx.Intermediate` are left out.
  """
  left_out = _wrappers(module)
  leaves: dict[str, list[tuple[tuple[str, ...], Array]]] = {}
  for path, variable in nnx.to_flat_state(nnx.state(module)):
    collection = _collection(variable)
    if collection is not None:
      leaf = (paths.linen_path(path, left_out), variable.get_value())
      leaves.setdefault(collection, []).append(leaf)
  return {collection: paths.nest(some) for collection, some in leaves.items()}


def update(module: nnx.Module, variables: Variables) -> None:
  """Writes variables into a module; a layer without gamma among them becomes its projection.

  Args:
    module: Changed in place.
    variables: In the form of `variables(module)`; those of branches may be missing (`prune`).

  Raises:
    ConfigurationError: another one is missing.
  """
  left_out = _wrappers(module)
  layers = {path: layer for path, layer in nnx.iter_modules(module) if isinstance(layer, Homotopic)}
  running = {(*path, MEAN_SQUARE) for path in layers}
  for path, variable in nnx.to_flat_state(nnx.state(module)):
    collection = _collection(variable)
    if collection is None:
      continue
    name = paths.linen_path(path, left_out)
    value = paths.lookup(variables.get(collection, {}), name)
    if value is not None:
      _variable(module, path).set_value(value)
    elif collection == GAMMA:
      layers[path[:-1]].gamma = None
    elif RELAXATION not in name and path not in running:
      raise ConfigurationError(f"the variables have no {collection}/{'/'.join(name)}.")


def prune(module: nnx.Module) -> nnx.Module:
  """Returns a copy of a module in which every homotopic layer is f_eq alone, without branch.

  What `relax` put around submodules is gone from it.
  """
  pruned = nnx.clone(module)
  _replace(pruned, lambda node: node.wrapped if isinstance(node, Relaxed) else node)
  for _, node in nnx.iter_modules(pruned):
    if isinstance(node, Homotopic):
      node.gamma = node.relaxation = node.mean_square = None
  return pruned


def relax(
  module: nnx.Module,
  where: Callable[[nnx.Module], bool],
  branch: Callable[[Any], nnx.Module],
  **layer: Any,
) -> nnx.Module:
  """Returns a copy of a module with homotopic layers around chosen submodules.

  Args:
    module: The model.
    where: Which submodules.
    branch: `branch(submodule) -> module`, what maps the submodule's input to its output.
    **layer: Further arguments of `Homotopic`.

  Raises:
    ConfigurationError: no submodule is chosen.
  """
  relaxed = nnx.clone(module)

  def wrap(node: Any) -> Any:
    chosen = isinstance(node, nnx.Module) and not isinstance(node, Homotopic) and where(node)
    return Relaxed(node, Homotopic(branch(node), **layer)) if chosen else node

  if not _replace(relaxed, wrap):
    raise ConfigurationError("relax: `where` chooses no submodule of the model.")
  return relaxed


def as_model(module: nnx.Module) -> Model:
  """Turns an instance of an NNX module into a `Model`; it starts from the weights that it has.

  Called on a batch, with `train`, `training` or `deterministic` if its `__call__` takes it, and
  in the mode of `module.train()` or `module.eval()`. In training its generators of random numbers
  are seeded anew at every step.
  """
  graph, state = nnx.split(module)
  call = type(module).__call__
  start = variables(module)

  def build(values: Variables, key: PRNGKeyArray | None) -> nnx.Module:
    built = nnx.merge(graph, jax.tree.map(jnp.asarray, state))
    _name_layers(built)
    update(built, values)
    _set_mode(built, key)
    return built

  def init(key: PRNGKeyArray, *inputs: Any) -> dict[str, Any]:
    del key, inputs
    return start

  def apply(
    values: Variables, *inputs: Any, key: PRNGKeyArray | None = None
  ) -> tuple[Any, dict[str, Any]]:
    built = build(values, key)
    prediction = built(*inputs, **mode_keywords(call, key is not None))
    kept = {name: tree for name, tree in values.items() if name not in ("params", GAMMA)}
    if key is None:
      return prediction, kept
    new = variables(built)
    # Of a strict run branches are not among them, though their statistics are still in the module.
    return prediction, carried(kept, new)

  def calls(values: Variables, *inputs: Any) -> dict[str, LayerCall]:
    with layer_calls() as called, layer_arrays("y_eq", "f_neq", "y") as listed:
      apply(values, *inputs)
    return readable(listed, called)

  return Model(init, apply, calls)


def _collection(variable: Any) -> str | None:
  kind = variable.type if hasattr(variable, "type") else type(variable)
  if issubclass(kind, nnx.RngState | nnx.Intermediate):
    return None
  if issubclass(kind, Gamma):
    return GAMMA
  known = {nnx.Param: "params", nnx.BatchStat: "batch_stats"}
  return next((name for base, name in known.items() if issubclass(kind, base)), kind.__name__)


def _wrappers(module: nnx.Module) -> frozenset[paths.Path]:
  return frozenset(
    (*path, name)
    for path, node in nnx.iter_modules(module)
    if isinstance(node, Relaxed)
    for name in (_WRAPPED, "layer")
  )


def _name_layers(module: nnx.Module) -> None:
  left_out = _wrappers(module)
  for path, node in nnx.iter_modules(module):
    if isinstance(node, Homotopic):
      node.name = "/".join(paths.linen_path(path, left_out))


def _variable(module: Any, path: paths.Path) -> Any:
  for entry in path:
    by_key = isinstance(entry, int) or isinstance(module, dict)
    module = module[entry] if by_key else getattr(module, str(entry))
  return module


def _set_mode(module: nnx.Module, key: PRNGKeyArray | None) -> None:
  if key is None:
    module.eval()
    return
  module.train()
  for i, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.RngState))):
    value = variable.get_value()
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    seeds = jax.random.split(jax.random.fold_in(key, i), value.shape) if is_key else None
    _variable(module, path).set_value(jnp.zeros_like(value) if seeds is None else seeds)


def _replace(module: Any, change: Callable[[Any], Any]) -> int:
  """Replaces the submodules that `change` replaces, below branches none; returns how many."""
  done: dict[int, tuple[Any, Any]] = {}  # by id, with the node, so that its id stays its own
  count = 0

  def visit(node: Any) -> Any:
    nonlocal count
    if id(node) in done:
      return done[id(node)][1]
    new = change(node)
    done[id(node)] = node, new
    done[id(new)] = new, new
    count += new is not node
    descend(node if node is new or isinstance(new, Relaxed) else new)
    return new

  def descend(node: Any) -> None:
    if isinstance(node, nnx.List | list | dict):
      for key in range(len(node)) if not isinstance(node, dict) else list(node):
        if _contains_modules(node[key]):
          node[key] = visit(node[key])
    elif isinstance(node, nnx.Module):
      for name, value in list(vars(node).items()):
        if name != RELAXATION and _contains_modules(value):
          new = visit(value)
          if new is not value:
            setattr(node, name, new)

  descend(module)
  return count


def _contains_modules(value: Any) -> bool:
  return isinstance(value, nnx.Module | nnx.List | list | dict)
