"""The homotopic layer f_eq + gamma f_neq, and the projection of what is built from it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import meta, tracers, unfreeze
from jaxtyping import Array, Bool, Float

# Here too: where the other project was installed last, its __init__.py takes the place of ours.
import ace_jax.installation  # noqa: F401
from ace_jax import scales
from ace_jax.errors import ConfigurationError
from ace_jax.paths import entries
from ace_jax.recording import LayerCall, layer_calls, record_call

GAMMA = "gamma"
"""Name of the variable collection that holds gamma, and of the variable in it."""
RELAXATION = "relaxation"
"""Name of the submodule that computes f_neq; reserved for it in parameter trees."""
OUTPUT = "output"
"""Name under which every homotopic layer sows what it returns, into `intermediates`."""

IRREPS = "irreps"
"""Name under which a layer that has them sows its `Irreps`."""

Variables = Mapping[str, Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Irreps:
  """Representations of a layer's flat features, [component, channel] within each irrep.

  Attributes:
    x: Of what the branch sees, such as "16x0e+16x1o".
    y: Of what it returns.
  """

  x: str
  y: str


def array(x: Any) -> Array:
  """Returns the array of an e3nn `IrrepsArray`, or x itself."""
  return x.array if hasattr(x, "irreps") else x


def flatten(x: Any, axes: int) -> Float[Array, "... features"]:
  """Joins the last `axes` axes, those of the features, of an array or `IrrepsArray` into one."""
  x = array(x)
  if not 1 <= axes <= x.ndim:
    raise ConfigurationError(
      f"a Homotopic has axes={axes} on an array of shape {x.shape}; give how many of its last axes "
      "are features, at least 1."
    )
  return x if axes == 1 else x.reshape(*x.shape[: x.ndim - axes], math.prod(x.shape[-axes:]))


def unflatten(y: Float[Array, "... features"], y_eq: Any) -> Any:
  """Returns y in the type and shape of `y_eq`."""
  y = y.reshape(array(y_eq).shape)
  return type(y_eq)(y_eq.irreps, y) if hasattr(y_eq, "irreps") else y


def flat_mask(
  where: Bool[Array, "..."] | None, shape: tuple[int, ...], axes: int
) -> Bool[Array, "..."] | None:
  """Returns `where`, broadcast against an array of that shape, for the array flattened."""
  if where is None or axes == 1:
    return where
  return flatten(jnp.broadcast_to(where, shape), axes)


def combine(name: str, y_eq: Array, f_neq: Array, gamma: Array) -> Array:
  """Returns y_eq + gamma f_neq in y_eq's dtype.

  Raises:
    ValueError: the branch returned another shape, or complex numbers beside real ones.
  """
  if f_neq.shape != y_eq.shape:
    raise ValueError(
      f"{name}: the branch returned shape {f_neq.shape} where the equivariant map has {y_eq.shape}."
    )
  if jnp.iscomplexobj(f_neq) and not jnp.iscomplexobj(y_eq):
    raise ValueError(
      f"{name}: the branch is complex ({f_neq.dtype}) where the equivariant map is {y_eq.dtype}; "
      "let the branch return real numbers."
    )
  return (y_eq + gamma.astype(y_eq.dtype) * f_neq).astype(y_eq.dtype)


class Homotopic(nn.Module):
  """Adds a non-equivariant branch, weighted by a trained gamma, to an equivariant map.

  .. math:: y = f_{eq}(x) + \\gamma f_{neq}(x)

  The module takes the *output* of the equivariant map and its input. It adds the branch if the
  collection `gamma` is passed to `apply` (or is being initialised), and otherwise returns
  `y_eq` untouched, without computing or creating anything: the strict model is the relaxed one
  without the `gamma` collection.

  Attributes:
    branch: Constructor of f_neq, called as `branch(features=..., name=...)`; any Linen module
      that maps [..., in] to [..., features], such as `flax.linen.Dense` or those of
      `ace_jax.relaxations`. Not a module instance: its parameters would live elsewhere.
    scale: "free" is f_neq as it stands. "fixed" divides f_neq by its root mean square over
      batch and features (a running value where `batch_stats` is not mutable), so that gammas
      and multipliers of different layers can be compared and a bound on gamma binds.
    axis_name: Mapped axis over which the root mean square is averaged, if any.
    gamma_shape: Shape of gamma: () for one number a layer, (features,) for one a channel.
    initial_gamma: Initial value of every entry of gamma.
    momentum: Decay of the running mean square of a "fixed" branch.
    irreps: Representations of x and y, where they are known: for training rules that ask how far
      a branch is from equivariant (`rivals.Schedule`). They decide nothing here.
    axes: Number of trailing axes that are features. The branch sees them as one, in x and y: with
      axes=3 it mixes all of [..., parity, degree, channel], where one on the last axis alone
      would commute with the group.

  Reference: Manolache et al., "Learning (Approximately) Equivariant Networks via Constrained
  Optimization", NeurIPS 2025, Eq. (1).
  """

  branch: Callable[..., nn.Module]
  scale: str = "free"
  axis_name: str | None = None
  gamma_shape: tuple[int, ...] = ()
  initial_gamma: float = 1.0
  momentum: float = 0.99
  irreps: Irreps | None = None
  axes: int = 1

  def __call__(
    self, y_eq: Any, x: Any, *args, where: Bool[Array, "..."] | None = None, **kwargs
  ) -> Any:
    """Returns f_eq(x) + gamma f_neq(x), or `y_eq` itself for a projection.

    Args:
      y_eq: Output of the equivariant map: an array [..., out] (the last `axes` axes are out), or
        an e3nn `IrrepsArray`.
      x: What f_neq sees, an array [..., in] or an `IrrepsArray`; its leading axes are y_eq's.
      *args: Passed on to the branch after x.
      where: Which entries of f_neq count in its mean square, broadcast against y_eq (as in
        `jax.numpy.mean`); None counts all. Padding must not (`ace_jax.padding.node_mask`).
      **kwargs: Passed on to the branch.

    Returns:
      The same type, shape and dtype as `y_eq`.

    Raises:
      ValueError: scale is neither "free" nor "fixed", or the branch returns another shape.
      ConfigurationError: a "fixed" layer is differentiated by `jax.grad` within the model, or one
      whose features are asked for.
    """
    return self.carry(y_eq, x, *args, where=where, **kwargs)[0]

  @nn.compact
  def carry(
    self, y_eq: Any, x: Any, *args, where: Bool[Array, "..."] | None = None, **kwargs
  ) -> tuple[Any, Array | None]:
    """Returns (f_eq + gamma f_neq, f_neq), for branches that carry a stream from layer to layer.

    Arguments as of `__call__`; f_neq is what the next layer's branch takes for its x. It is not
    divided by its scale, and None in a projection, where x may be None too.
    """
    scales.check(self.scale)
    name = "/".join(self.path)
    if self.is_mutable_collection("intermediates") and self._is_transformed():
      raise ConfigurationError(
        f"{name}: its features cannot be read through a jax.grad, jax.vmap or the like within the "
        "model; use nn.vjp, nn.value_and_grad or nn.vmap."
      )
    flat_y = flatten(y_eq, self.axes)
    if not self._is_relaxed():
      self.sow("intermediates", OUTPUT, array(y_eq))
      record_call(LayerCall(name, flat_y, None, flat_y, None))
      return y_eq, None
    gamma = self.variable(
      GAMMA, GAMMA, lambda: jnp.full(self.gamma_shape, self.initial_gamma, jnp.float32)
    ).value
    flat_x = flatten(x, self.axes)
    f_neq = self.branch(features=flat_y.shape[-1], name=RELAXATION)(flat_x, *args, **kwargs)
    stream = f_neq
    if self.scale == "fixed":
      where = flat_mask(where, array(y_eq).shape, self.axes)
      f_neq = scales.divide_by_root(f_neq, self._mean_square(f_neq, where))
    if self.irreps is not None:
      self.sow("intermediates", IRREPS, self.irreps)
    y = combine(name, flat_y, f_neq, gamma)
    self.sow("intermediates", "input", flat_x)
    self.sow("intermediates", "equivariant", flat_y)
    self.sow("intermediates", "non_equivariant", f_neq)
    record_call(LayerCall(name, flat_y, f_neq, y, gamma))
    output = unflatten(y, y_eq)
    self.sow("intermediates", OUTPUT, array(output))
    return output, stream

  def _is_relaxed(self) -> bool:
    # The second test alone would relax every `apply` with a broad `mutable`.
    initialising = self.is_initializing() and self.is_mutable_collection(GAMMA)
    return self.has_variable(GAMMA, GAMMA) or initialising

  def _is_transformed(self) -> bool:
    # By the root: a module that is first called within a transformation has a scope of its own
    # that begins there.
    assert self.scope is not None
    return tracers.current_trace() != self.scope.root.trace_level

  def _mean_square(
    self, f_neq: Float[Array, "... features"], where: Bool[Array, "..."] | None
  ) -> Float[Array, ""]:
    assert self.scope is not None
    moves = self.is_mutable_collection("batch_stats")
    if moves and self._is_transformed():
      raise ConfigurationError(
        f"{'/'.join(self.path)}: its running scale cannot be kept through a jax.grad, jax.vmap or "
        "the like within the model; use nn.vjp, nn.value_and_grad or nn.vmap, or scale='free'."
      )
    if not moves and not self.has_variable("batch_stats", scales.MEAN_SQUARE):
      raise ConfigurationError(
        f"{'/'.join(self.path)}: its running scale is not among the variables; under nn.scan or "
        "nn.vmap add 'batch_stats': 0 to variable_axes, and give `apply` the collection."
      )
    running = self.variable(
      "batch_stats", scales.MEAN_SQUARE, lambda: scales.mean_square(f_neq, where)
    )
    if self.is_initializing() or not moves:
      return running.value
    current = scales.mean_square(f_neq, where, self.axis_name)
    running.value = scales.decayed(running.value, current, self.momentum)
    return current


def split(variables: Variables) -> tuple[Any, Any, dict[str, Any]]:
  """Splits what `model.init` returns into (theta, gamma, model_state).

  Args:
    variables: Variable collections; `gamma` may be missing (a strict model).

  Returns:
    theta: The collection `params`.
    gamma: The collection `gamma`, {} for a strict model.
    model_state: All other collections (`batch_stats`, ...), by name, but for what modules sow.
  """
  variables = without_sown(variables)
  rest = {k: v for k, v in variables.items() if k not in ("params", GAMMA)}
  return variables.get("params", {}), variables.get(GAMMA, {}), rest


def without_sown(variables: Variables) -> dict[str, Any]:
  """Returns the variables without `intermediates` and `perturbations`, and what else is sown.

  What is sown is a tuple that grows by an entry whenever it is passed to `apply` again, or what its
  `reduce_fn` makes of it: that is known to `Model.without_sown` alone.
  """
  kept = {}
  for collection, tree in variables.items():
    if collection in ("params", GAMMA):
      kept[collection] = tree
    elif collection not in ("intermediates", "perturbations"):
      flat = traverse_util.flatten_dict(tree)
      left = {path: leaf for path, leaf in flat.items() if not isinstance(leaf, tuple)}
      if len(left) == len(flat):
        kept[collection] = tree
      elif left:
        kept[collection] = traverse_util.unflatten_dict(left)
  return kept


def unbox(variables: Variables) -> dict[str, Any]:
  """Returns the variables without boxes of metadata (`nn.with_partitioning`) around leaves.

  All are dictionaries: what a model updates is one, which a `FrozenDict` could not become.
  """
  return dict(unfreeze(meta.unbox(variables)))


def merge(theta: Any, gamma: Any, model_state: Variables | None = None) -> dict[str, Any]:
  """Inverse of `split`; an empty gamma gives the variables of the projection."""
  variables = {"params": theta, **(model_state or {})}
  return {**variables, GAMMA: gamma} if gamma else variables


def project(variables: Variables) -> dict[str, Any]:
  """Returns the variables of the projection f_{theta,0}: all but the collection `gamma`."""
  return {k: v for k, v in variables.items() if k != GAMMA}


def prune(variables: Variables) -> dict[str, Any]:
  """Returns the variables of the plain strict model: no gamma, no parameters of any f_neq.

  The result has exactly the tree that `strict(model.init)` gives, and computes f_{theta,0}.

  Args:
    variables: Variables of either predictor. Every subtree named `relaxation` is dropped from every
      collection, and so is the running mean square of every homotopic layer, which is known by
      its gamma or by its branch; what other modules call `mean_square` stays.
  """
  flat: dict[str, dict[tuple[str, ...], Any]] = {
    collection: traverse_util.flatten_dict(tree) for collection, tree in variables.items()
  }
  layers = {path[:-1] for path in flat.pop(GAMMA, {})}
  layers |= {
    path[: path.index(RELAXATION)]
    for leaves in flat.values()
    for path in leaves
    if RELAXATION in path
  }
  running = {(*layer, scales.MEAN_SQUARE) for layer in layers}
  kept = {}
  for collection, leaves in flat.items():
    dropped = running if collection == "batch_stats" else set()
    left = {
      path: leaf for path, leaf in leaves.items() if RELAXATION not in path and path not in dropped
    }
    if left:
      kept[collection] = traverse_util.unflatten_dict(left)
  return kept


def strict(init: Callable[..., Any]) -> Callable[..., Any]:
  """Turns `model.init` into one that creates the plain equivariant model, without f_neq.

  Example: `variables = strict(model.init)(key, x)`; shared parameters get the values that
  `model.init(key, x)` gives them, bit for bit.
  """
  hidden = nn.DenyList((GAMMA, "intermediates"))  # pyright: ignore[reportCallIssue]

  def strict_init(*args, **kwargs):
    return init(*args, **kwargs, mutable=hidden)

  return strict_init


def per_channel(init: Callable[..., Any]) -> Callable[..., Any]:
  """Turns `model.init` into one that creates a gamma for every channel instead of every layer.

  Every gamma that is one number becomes [features], an entry for each flat feature that its layer
  returns, all of the same initial value; everything else is what `model.init` gives. Every entry
  is a constraint of its own, and prices and penalties sum over entries.

  Example: `variables = per_channel(model.init)(key, x)`.
  """

  def wide_init(*args, **kwargs):
    # The calls say how many channels each layer returns.
    with layer_calls() as calls:
      variables = dict(init(*args, **kwargs))
    layers = {call.name: call for call in calls}

    def widen(path, leaf):
      call = layers.get("" if len(path) == 1 else _name(path))
      if call is None or call.gamma is None:
        raise ConfigurationError(
          f"{_name(path)}: the width of this layer is not known; call per_channel(model.init) "
          "outside of jax.jit."
        )
      if call.gamma.ndim:
        return leaf
      # Layers of an nn.scan have a leading axis here, which their calls have not.
      return jnp.broadcast_to(leaf[..., None], (*leaf.shape, call.y.shape[-1]))

    return {**variables, GAMMA: jax.tree_util.tree_map_with_path(widen, variables.get(GAMMA, {}))}

  return wide_init


def names(gamma: Any) -> list[str]:
  """Returns the name of every homotopic layer, "layers_2/update_1", in the order of tree leaves.

  Args:
    gamma: The collection `gamma`, or a tree of the same structure (multipliers, slack).
  """
  paths, _ = jax.tree_util.tree_flatten_with_path(gamma)
  return [_name(path) for path, _ in paths]


def by_name(gamma: Any) -> dict[str, Array]:
  """Returns {name of the homotopic layer: leaf} for the collection `gamma` or a tree like it.

  Of other trees, such as the multipliers of a constraint of one's own, the names are the paths of
  the leaves; a leaf alone is called "all".
  """
  paths, _ = jax.tree_util.tree_flatten_with_path(gamma)
  return {_name(path): leaf for path, leaf in paths}


def _name(path: tuple[Any, ...]) -> str:
  parts = [*map(str, entries(path))]
  if len(parts) > 1 and parts[-1] == GAMMA:
    del parts[-1]
  return "/".join(parts) or "all"
