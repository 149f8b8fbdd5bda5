"""`relax`: homotopic layers around chosen submodules of a model that stays as it was published."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Homotopic
from ace_jax.model import is_module_of


class Relaxed(nn.Module):
  """A Linen model with a `Homotopic` around every submodule that is chosen; see `relax`.

  Its variables have the model's paths; gamma and branch of a submodule lie at the submodule's.

  Attributes:
    relaxed_model: The model.
    where: Which submodules.
    layer: The homotopic layer, called as `layer(parent=scope)`.
  """

  relaxed_model: nn.Module
  where: Callable[[nn.Module], bool]
  layer: Callable[..., Homotopic]

  def setup(self):
    nn.share_scope(self, self.relaxed_model)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Returns what the model returns, with the layers in it."""
    layers: dict[Any, tuple[Any, Homotopic]] = {}

    def intercept(call, args, kwargs, context):
      module = context.module
      result = call(*args, **kwargs)
      if (
        context.method_name != "__call__"
        or isinstance(module, Homotopic | Relaxed)
        or homotopy.RELAXATION in module.path
        or not self.where(module)
      ):
        return result
      # One layer for a submodule that is called twice; the scope is kept, so that its id is too.
      scope = module.scope
      if id(scope) not in layers:
        layers[id(scope)] = scope, self.layer(parent=scope)
      return layers[id(scope)][1](result, first_input(module, args, kwargs))

    with nn.intercept_methods(intercept):
      return self.relaxed_model(*args, **kwargs)


class AroundSubmodule:
  """A submodule (`wrapped`) with a homotopic `layer` around it, in any framework of objects."""

  wrapped: Any
  layer: Any

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Returns wrapped(x) + gamma branch(x), for the first argument x."""
    return self.layer(self.wrapped(*args, **kwargs), first_input(self.wrapped, args, kwargs))

  def __getattr__(self, name: str) -> Any:
    """Returns what the model around it reads of the submodule, such as its weight."""
    if name in ("wrapped", "layer") or name.startswith("_"):
      raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    return getattr(self.wrapped, name)


def first_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
  """Returns what a submodule maps: its first argument, also where that is given by its name.

  Raises:
    ConfigurationError: it is called without any.
  """
  if args:
    return args[0]
  taken = [name for name in inspect.signature(type(module).__call__).parameters if name in kwargs]
  names = taken or list(kwargs)
  if not names:
    raise ConfigurationError(
      f"a {type(module).__name__} is called without an input; leave it out of the `where` of relax."
    )
  return kwargs[names[0]]


def relax(
  model: Any,
  where: Callable[[Any], bool],
  branch: Callable[..., Any],
  **layer: Any,
) -> Any:
  """Puts a homotopic layer around chosen submodules: y = f(x) + gamma branch(x).

  `prune` of its variables has exactly the tree of the model as it was, for which it computes f_eq.

  Args:
    model: A Linen module, or an instance of an NNX or Equinox module; it is not changed.
    where: Which submodules, such as `lambda module: isinstance(module, e3x.nn.Dense)`; asked about
      those that map their first argument to an output with the same leading axes.
    branch: Of a Linen model: constructor of the branch, as of `Homotopic`. Of the others:
      `branch(submodule) -> module`, which maps what the submodule takes to what it returns.
    **layer: Further attributes of the framework's `Homotopic`, such as `axes` or `gamma_shape`.

  Returns:
    A model of the same framework.

  Raises:
    ConfigurationError: no submodule is chosen (of a Linen model: seen by `fit`), or the model is
      of none of the three.
  """
  if isinstance(model, nn.Module):

    def build(parent: Any) -> Homotopic:
      return Homotopic(branch, parent=parent, **layer)

    return Relaxed(model, where, build)
  if is_module_of("flax.nnx", model):
    from ace_jax import nnx as ace_nnx

    return ace_nnx.relax(model, where, branch, **layer)
  if is_module_of("equinox", model):
    from ace_jax import equinox as ace_equinox

    return ace_equinox.relax(model, where, branch, **layer)
  raise ConfigurationError(
    f"a model of type {type(model).__name__} cannot be relaxed; give a Linen module, or an "
    "instance of an NNX or Equinox module."
  )
