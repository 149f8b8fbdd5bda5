"""Which variables of a Linen module are sown, or are perturbations: results, and no state.

Both lie in collections as state does, and `sow` with a `reduce_fn` leaves what looks like it. So
they are known by who made them: while a module is initialised, its calls of both are recorded.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn

Path = tuple[str, ...]
"""Collection, and what lies on the way to a variable in it."""
_METHODS = ("sow", "perturb")

_lock = threading.Lock()
_replaced: dict[str, Any] = {}
_recording = 0  # in all threads
_local = threading.local()


@contextlib.contextmanager
def recorded() -> Iterator[set[Path]]:
  """Records what modules sow or perturb in this thread; yields the set that it fills."""
  global _recording
  paths: set[Path] = set()
  outer = getattr(_local, "paths", None)
  with _lock:
    if not _recording:
      for name in _METHODS:
        _replaced[name] = getattr(nn.Module, name)
        setattr(nn.Module, name, _recording_of(_replaced[name]))
    _recording += 1
  _local.paths = paths
  try:
    yield paths
  finally:
    _local.paths = outer
    with _lock:
      _recording -= 1
      if not _recording:
        for name in _METHODS:
          setattr(nn.Module, name, _replaced.pop(name))


def _recording_of(method: Callable[..., Any]) -> Callable[..., Any]:
  is_perturb = method.__name__ == "perturb"

  @functools.wraps(method)
  def record(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    result = method(self, *args, **kwargs)
    paths = getattr(_local, "paths", None)
    if paths is not None and self.scope is not None:
      if is_perturb:  # perturb(name, value, collection="perturbations")
        name = args[0] if args else kwargs["name"]
        collection = args[2] if len(args) > 2 else kwargs.get("collection", "perturbations")
      else:  # sow(col, name, value, ...)
        collection = args[0] if args else kwargs["col"]
        name = args[1] if len(args) > 1 else kwargs["name"]
      if self.scope.has_variable(collection, name):
        paths.add((collection, *self.scope.path, name))
    return result

  return record


def without(variables: Mapping[str, Any], paths: set[Path]) -> dict[str, Any]:
  """Returns variables without those at some paths, and without what is then empty."""
  return {
    name: kept
    for name, tree in variables.items()
    if (kept := _without(tree, {path[1:] for path in paths if path[0] == name})) is not None
  }


def _without(tree: Any, paths: set[Path]) -> Any:
  """Returns a tree without what lies at the paths; None if nothing is left of it."""
  if not paths:
    return tree
  if () in paths:
    return None
  kept = without(tree, paths)
  return kept or None
