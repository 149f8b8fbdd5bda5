"""Paths of leaves in the modules of NNX and Equinox, as nested dictionaries named like Linen's."""

from collections.abc import Iterable
from typing import Any

import jax

from ace_jax.errors import ConfigurationError

Path = tuple[Any, ...]
"""Attributes (str), indices (int) and keys from the root of a module."""


def linen_path(path: Path, wrappers: frozenset[Path] = frozenset()) -> tuple[str, ...]:
  """Names a path as Linen does: an index joins the name before it, "layers_0".

  Args:
    path: Attributes, keys and indices from the root.
    wrappers: Paths that are left out, since what lies below them was at their parent before.
  """
  parts: list[str] = []
  for i, entry in enumerate(path):
    if path[: i + 1] in wrappers:
      continue
    if isinstance(entry, int) and parts:
      parts[-1] = f"{parts[-1]}_{entry}"
    else:
      parts.append(str(entry))
  return tuple(parts)


def entries(keys: tuple[Any, ...]) -> Path:
  """Returns the attributes, indices and keys of a path of JAX."""
  kinds = ("name", "idx", "key")
  return tuple(next(getattr(key, kind) for kind in kinds if hasattr(key, kind)) for key in keys)


def submodules(module: Any, kind: type) -> dict[Path, Any]:
  """Returns the submodules of a kind by path, also those within others of the kind."""
  nodes: dict[Path, Any] = {}

  def search(node: Any, base: Path) -> None:
    def stop(child: Any) -> bool:
      return isinstance(child, kind) and child is not node

    for keys, child in jax.tree_util.tree_flatten_with_path(node, is_leaf=stop)[0]:
      if isinstance(child, kind):
        path = (*base, *entries(keys))
        nodes[path] = child
        search(child, path)

  search(module, ())
  return nodes


def nest(leaves: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
  """Returns nested dictionaries of leaves given by their paths, keys in sorted order.

  Raises:
    ConfigurationError: two leaves have the same path.
  """
  tree: dict[str, Any] = {}
  for path, leaf in sorted(leaves, key=lambda entry: entry[0]):
    node = tree
    for part in path[:-1]:
      node = node.setdefault(part, {})
    if path[-1] in node:
      raise ConfigurationError(f"two leaves are called {'/'.join(path)}; rename an attribute.")
    node[path[-1]] = leaf
  return tree


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
  """Returns the leaf at a path of nested dictionaries, or None if there is none."""
  for part in path:
    if not isinstance(tree, dict) or part not in tree:
      return None
    tree = tree[part]
  return tree
