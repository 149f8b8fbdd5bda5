"""Results kept by their arguments, so that a second `fit` with equal ones compiles nothing."""

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P, R = ParamSpec("P"), TypeVar("R")

KEPT = 8
"""How many results of each function are kept: programs and models of that many trainings."""


def kept(function: Callable[P, R]) -> Callable[P, R]:
  """Returns a function that returns its last results again for equal arguments.

  Arguments without a hash are computed with anew. The results are shared, and must depend on the
  arguments alone.

  Args:
    function: A constructor of something immutable, or of a compiled program.
  """
  remembered = functools.lru_cache(KEPT, typed=True)(function)

  @functools.wraps(function)
  def call(*args: P.args, **kwargs: P.kwargs) -> R:
    try:
      hash((args, *kwargs.values()))
    except TypeError:
      return function(*args, **kwargs)
    return remembered(*args, **kwargs)

  return call


def signature(tree: Any) -> Hashable:
  """Returns structure, shapes and dtypes of a pytree of arrays: what a program depends on."""
  leaves, structure = jax.tree.flatten(tree)
  types = map(jax.typeof, leaves)
  return structure, tuple((kind.shape, kind.dtype) for kind in types)


def outside(function: Callable[..., Any] | None) -> Hashable:
  """Returns what a function reads from outside of its arguments, by name: globals and closures.

  So that a loss whose constant was changed in a notebook is not taken for what it was. It sees one
  function deep; what has no hash counts by identity.

  Args:
    function: Any; None reads nothing.
  """
  try:
    names = inspect.getclosurevars(function)  # pyright: ignore[reportArgumentType]
  except (TypeError, ValueError):  # no Python function
    return ()
  read = {**names.globals, **names.nonlocals}
  return tuple((name, type(value), _Same(value)) for name, value in sorted(read.items()))


class _Same:
  """Equal to what holds an equal value, or, if the value has no hash, the same one."""

  def __init__(self, value: Any):
    self.value = value
    try:
      self.hash = hash(value)
    except TypeError:
      self.hash = None

  def __hash__(self) -> int:
    return id(self.value) if self.hash is None else self.hash

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, _Same) or self.hash != other.hash:
      return False
    return self.value is other.value or (self.hash is not None and self.value == other.value)


class Keyed:
  """A value that stands for every other one with its key, such as a model for its static part."""

  def __init__(self, value: Any, key: Hashable):
    self.value = value
    self.key = key

  def __hash__(self) -> int:
    return hash(self.key)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Keyed) and self.key == other.key


def leaf_key(leaf: Any, *, by_value: bool) -> Hashable:
  """Returns what a leaf of a model is told apart by: shape and dtype, and its value if asked for.

  Args:
    leaf: An array, or something else, which counts by itself.
    by_value: Whether the numbers of an array count.
  """
  if not isinstance(leaf, jax.Array | np.ndarray):
    return type(leaf), leaf
  kind = jnp.shape(leaf), str(leaf.dtype)
  if not by_value:
    return kind
  typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return *kind, np.asarray(jax.random.key_data(leaf) if typed else leaf).tobytes()
