"""Functions compiled as by `jax.jit`, whose programs outlive them: an equal one is not compiled.

`jax.jit` keeps a program with the function that it compiled, so that the same loss and model,
handed to `fit` a second time, would be compiled a second time. Here a function is traced anew, and
its program kept by the text that the compiler gets. So nothing needs to be known of models, losses
or optimizers: whatever they read while they are traced, a global too, is in the text or changes
nothing. The key is

- that text, with all constants;
- shape, dtype, weak type and sharding of every argument, and the types of all results;
- the mesh, the compiler's options, and all of JAX's configuration.

Kept are executables alone: no model, no function, no argument. Programs that call Python while they
run are not kept, since their text does not say what they call.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import Mesh
from jax.stages import Compiled

MOST = 16
"""How many programs are kept, those that were asked for last; `fit` has four to eight."""

_kept: OrderedDict[Hashable, Compiled] = OrderedDict()
_lock = threading.Lock()


def clear() -> None:
  """Frees all kept programs; after `jax.clear_caches()` they are freed when one is asked for."""
  _kept.clear()


class _Ready(NamedTuple):
  """A program, and the structure of its results."""

  run: Compiled
  results: Any


class Jitted:
  """A function as `jax.jit` compiles it, of positional arrays or trees of them.

  Args:
    function: Pure, as of `jax.jit`.
    donate_argnums: Arguments whose buffers the result may reuse.
    mesh: Devices that the function names itself (by `jax.shard_map`).
    compiler_options: As of `jax.jit`.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    donate_argnums: Sequence[int] = (),
    mesh: Mesh | None = None,
    compiler_options: dict[str, Any] | None = None,
  ):
    self._function, self._donated, self._mesh = function, frozenset(donate_argnums), mesh
    self._options = compiler_options
    self._plain = jax.jit(
      function, donate_argnums=tuple(donate_argnums), compiler_options=compiler_options
    )
    self._ready: dict[Hashable, _Ready] = {}

  def lower(self, *args: Any) -> Any:
    """Lowers the function as `jax.jit` does; what is compiled of it is not kept."""
    return self._plain.lower(*args)

  def compile(self, *args: Any) -> Compiled:
    """Returns the program for such arguments, which calls with them will run.

    It takes and returns the leaves of trees, not the trees.
    """
    return self._program(args, *jax.tree.flatten(args)).run

  def __call__(self, *args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    disabled = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    if disabled or any(isinstance(leaf, Tracer) for leaf in leaves):
      return self._plain(*args)
    program = self._program(args, leaves, structure)
    return jax.tree.unflatten(program.results, program.run(*leaves))

  def _program(self, args: Sequence[Any], leaves: Sequence[Any], structure: Any) -> _Ready:
    kinds = (structure, *map(_kind, leaves))
    if kinds not in self._ready:
      self._ready[kinds] = self._compile(args, leaves, structure)
    return self._ready[kinds]

  def _compile(self, args: Sequence[Any], leaves: Sequence[Any], structure: Any) -> _Ready:
    results = None

    # Of leaves: what a tree says beside its arrays, such as a constraint's symmetry, is that of
    # this function, not that of an equal program.
    def flat(*leaves: Any) -> list[Any]:
      nonlocal results
      flattened, results = jax.tree.flatten(self._function(*jax.tree.unflatten(structure, leaves)))
      return flattened

    flat.__name__ = getattr(self._function, "__name__", "flat")
    ends, end = [], 0
    for i, arg in enumerate(args):
      begin, end = end, end + jax.tree.structure(arg).num_leaves
      ends += range(begin, end) if i in self._donated else ()
    traced = jax.jit(
      flat,
      donate_argnums=ends,
      keep_unused=True,  # the text does not say which arguments were left out of it
      compiler_options=self._options,
    ).trace(*leaves)
    lowered = traced.lower()
    text = lowered.as_text()
    key = (
      hashlib.sha256(text.encode()).digest(),
      tuple(map(_kind, leaves)),
      tuple(traced.jaxpr.in_avals),
      tuple(traced.jaxpr.out_avals),
      self._mesh,
      repr(self._options),
      repr(sorted(jax.config.values.items())),
    )
    return _Ready(_compiled(None if outside(text) else key, lowered), results)


def _compiled(key: Hashable, lowered: Any) -> Compiled:
  """Returns a program, kept or compiled; without a key it is compiled and not kept."""
  if key is None:
    return lowered.compile()
  _of_cleared_caches.trace()
  with _lock:
    if key in _kept:
      _kept.move_to_end(key)
      return _kept[key]
  program = lowered.compile()
  with _lock:
    _kept[key] = program
    while len(_kept) > MOST:
      _kept.popitem(last=False)
  return program


@jax.jit
def _of_cleared_caches() -> None:
  # Runs when it is traced: at first, and whenever `jax.clear_caches()` has freed the trace.
  clear()


def _kind(leaf: Any) -> Hashable:
  """Returns what a program depends on of an argument."""
  if not isinstance(leaf, jax.Array):
    return jax.typeof(leaf), None
  layout = leaf.sharding
  # On one device, or along an axis of one, all specifications say the same.
  where = frozenset(layout.device_set) if layout.is_fully_replicated else layout
  return jax.typeof(leaf), where, layout.memory_kind, leaf.committed


def outside(text: str) -> bool:
  """Whether a program is not told by its text: it calls Python, or takes constants beside it."""
  return "callback" in text or getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)
