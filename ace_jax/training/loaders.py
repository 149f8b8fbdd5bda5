"""Loaders: re-iterables of batches, for data that do not fit in memory or differ in size.

A loader is anything that can be iterated over more than once (grain's DataLoader and IterDataset, a
torch DataLoader, a list of batches, what has but __len__ and __getitem__) or a function that
returns an iterator (a generator function). Order, shuffling and batch sizes are the loader's own.
Here its batches become NumPy arrays that are known to fit together; `streaming` brings them to the
devices.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jraph
import numpy as np
from absl import logging

from ace_jax.errors import ConfigurationError
from ace_jax.finite import not_finite, require_kept
from ace_jax.task import Batch, take
from ace_jax.training import hosts, loader_states
from ace_jax.whole import whole as whole_number

MOST_SHAPES = 8
"""Each shape of a batch is another compiled program."""
_ENDLESS = 10_000  # batches after which a pass of unknown length is said to have no end yet
_END = object()


def is_loader(data: Any) -> bool:
  """Whether data are a loader, and not arrays in memory.

  A pytree of arrays is data in memory; so is every tuple and dictionary. A list of which no entry
  is an array is a list of batches.
  """
  if isinstance(data, (Loader, Iterator)):
    return True
  if isinstance(data, list):
    return bool(data) and not any(_is_array(entry) for entry in data)
  leaves = jax.tree.leaves(data)
  return len(leaves) == 1 and leaves[0] is data and not _is_array(data)


def whole(batch: Batch) -> bool:
  """Whether a batch holds graphs, whose arrays have no common axis of samples."""
  leaves = jax.tree.leaves(batch, is_leaf=_is_graph)
  return any(map(_is_graph, leaves))


class Loader:
  """A loader, with the epochs that are made of it.

  Without `steps` an epoch is one pass. With `steps` it is so many batches: the iteration goes on
  from epoch to epoch, and begins anew when it has ended.

  Attributes:
    source: What the user gave.
    called: What messages call it.
    steps: Batches in an epoch; None is all of a pass.
    first: The first batch, as NumPy arrays.
    samples: In the first batch of this process; its rows of `n_node` where it holds graphs.

  Raises:
    ConfigurationError: the source can be iterated over once only, is endless, or its first batch is
      none that can be trained on.
  """

  def __init__(self, source: Iterable[Any] | Callable[[], Any], called: str, steps: int | None):
    number = whole_number(steps)
    if steps is not None and number is None:
      raise ConfigurationError(f"steps_per_epoch is {steps!r:.40}; it must be a whole number.")
    if number is not None and number < 1:
      raise ConfigurationError(f"steps_per_epoch is {number}; it must be at least 1.")
    self.source, self.called, self.steps = source, called, number
    self._before: Any = None  # the iterator of the pass before
    self._iterator: Iterator[Any] | None = None
    self._held: list[Any] = []  # read from the iterator, and not yet given out
    self._read = 0  # batches of this pass that were given out
    self._shapes: set[Any] = set()
    self._not_finite: dict[int, str] = {}  # batches of this epoch that hold such numbers, in words
    self._length()
    self._begin()
    first = self._next()
    if first is _END:
      raise ConfigurationError(f"{called} has no batches; its first epoch is empty.")
    self._held = [first]
    self.first = self._converted(first, 1)
    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(self.first)]
    graphs = [g for g in jax.tree.leaves(self.first, is_leaf=_is_graph) if _is_graph(g)]
    self.samples = graphs[0].n_node.shape[0] if graphs else sizes[0]

  def sample(self) -> Batch:
    """Returns two samples of the first batch; all of it where it holds graphs."""
    if whole(self.first):
      return self.first
    return take(self.first, np.arange(2) % self.samples)

  def most_steps(self) -> int | None:
    """Returns how many batches an epoch has at most, where that is known."""
    return self._length() if self.steps is None else self.steps

  def epoch(self) -> Iterator[Batch]:
    """Yields the batches of the next epoch, and reads no further.

    Raises:
      ConfigurationError: there are none, or fewer than `steps`; or one does not fit the first.
    """
    count = 0
    self._not_finite = {}
    if self._iterator is None:
      self._begin()
    while self.steps is None or count < self.steps:
      batch = self._next()
      if batch is _END:
        self._iterator = None
        if self.steps is None:
          break
        if self._read < self.steps:
          raise ConfigurationError(
            f"{self.called} ended after {self._read} batches, but steps_per_epoch is {self.steps}; "
            "lower it, or let the loader repeat."
          )
        self._begin()
        continue
      count += 1
      self._read += 1
      if count == _ENDLESS and self.steps is None and self._length() is None:
        logging.warning(
          "%s has had %d batches in one epoch, and no end; an infinite loader needs "
          "steps_per_epoch=.", self.called, count,
        )  # fmt: skip
      yield self._converted(batch, count)
    if not count:
      raise ConfigurationError(
        f"{self.called} has no batches left in a further epoch; give what can be iterated over "
        "again, such as a generator function."
      )

  def refuse_not_finite(self, number: int | None = None) -> None:
    """Refuses a batch of this epoch with numbers that are not finite; all processes must call it.

    Batches may hold some, such as missing labels that the loss leaves out: it is called where a
    loss is not finite.

    Args:
      number: Of the batch, from 1; None is any.

    Raises:
      ConfigurationError: it has some; names the array, how many, and the first sample.
    """
    said = [text for i, text in self._not_finite.items() if number in (None, i)]
    for text in hosts.gather_json(said[:1]):
      if text:
        raise ConfigurationError(text[0])

  @property
  def has_state(self) -> bool:
    """Whether the loader or its iterator can be put where it was."""
    return loader_states.has_state(self.source) or loader_states.has_state(self._before)

  def state(self) -> dict[str, Any] | None:
    """Returns where the loader is between two epochs; None where it does not say."""
    if loader_states.has_state(self.source):
      return {"of": "loader", "read": self._read, "value": loader_states.get(self.source)}
    if not self.has_state:
      return None
    if self._iterator is None:
      return {"of": "nothing"}
    return {"of": "iterator", "read": self._read, "value": loader_states.get(self._iterator)}

  def restore(self, state: dict[str, Any]) -> None:
    """Puts the loader where `state` says.

    Raises:
      ConfigurationError: this loader is another one, which takes no such state.
    """
    self._held, self._iterator, self._read = [], None, int(state.get("read", 0))
    try:
      if state["of"] == "loader":
        loader_states.set_(self.source, state["value"])
        if self.steps is not None:
          self._begin(read=self._read)
      elif state["of"] == "iterator":
        self._begin(read=self._read)
        loader_states.set_(self._iterator, state["value"])
    except Exception as error:  # the loader's, of any kind
      raise ConfigurationError(
        f"{self.called} takes not the state that its checkpoint has "
        f"({type(error).__name__}: {error}); give the loader that the run had."
      ) from error

  def _length(self) -> int | None:
    """Returns the batches of a pass, where the source says; refuses one that says it has no end."""
    length = _length(self.source)
    if length is None:
      return None
    if length < sys.maxsize // 2:
      return length
    if self.steps is None:
      raise ConfigurationError(f"{self.called} is an infinite loader; give steps_per_epoch=.")
    return None

  def _begin(self, read: int = 0) -> None:
    iterator = _iterated(self.source)
    if iterator is None and callable(self.source):
      iterator = _iterated(self.source())
    if iterator is None:
      raise ConfigurationError(
        f"{self.called} is a {type(self.source).__name__}; it must be arrays with one leading "
        "axis, batches that can be iterated over again, or a generator function."
      )
    if iterator is self.source or iterator is self._before:
      name = getattr(self.source, "__name__", type(self.source).__name__)
      raise ConfigurationError(
        f"{self.called} ({name}) can be iterated over once only; give the generator function "
        "itself (without calling it), or what makes the iterator."
      )
    self._iterator, self._before, self._held, self._read = iterator, iterator, [], read

  def _next(self) -> Any:
    """Returns the next batch of this pass as the source gave it, `_END` after the last."""
    if self._held:
      return self._held.pop()
    assert self._iterator is not None
    return next(self._iterator, _END)

  def _converted(self, batch: Any, number: int) -> Batch:
    """Returns a batch as NumPy arrays of the types that JAX will give them."""
    where = f"batch {number} of {self.called}"
    arrays = jax.tree_util.tree_map_with_path(
      lambda path, leaf: _array(leaf, f"{where}{jax.tree_util.keystr(path)}"), batch
    )
    leaves = jax.tree.leaves(arrays)
    sizes = sorted({leaf.shape[0] for leaf in leaves})
    if not leaves or (not whole(arrays) and len(sizes) != 1):
      raise ConfigurationError(
        f"{where} has arrays with leading axes {sizes}; all must have that of its samples, or be "
        "in a jraph.GraphsTuple."
      )
    if not whole(arrays) and sizes == [0]:
      raise ConfigurationError(f"{where} has no samples; let the loader leave it out.")
    first = getattr(self, "first", arrays)
    if jax.tree.structure(arrays) != jax.tree.structure(first):
      raise ConfigurationError(
        f"{where} is {jax.tree.structure(arrays)}, but the first one {jax.tree.structure(first)}; "
        "all must have one structure."
      )
    paths = jax.tree_util.tree_flatten_with_path(arrays)[0]
    unit = "row" if whole(arrays) else "sample"
    for (path, leaf), same in zip(paths, jax.tree.leaves(first), strict=True):
      if leaf.dtype != same.dtype or leaf.ndim != same.ndim:
        raise ConfigurationError(
          f"{where}{jax.tree_util.keystr(path)} is {leaf.dtype} of {leaf.ndim} axes, but in the "
          f"first one {same.dtype} of {same.ndim}; all must have one type."
        )
      problem = not_finite(f"{where}{jax.tree_util.keystr(path)}", leaf, unit)
      if problem:
        self._not_finite.setdefault(number, problem[1])
    self._shapes.add(shapes(arrays))
    if len(self._shapes) > MOST_SHAPES:
      raise ConfigurationError(
        f"{self.called} has batches of more than {MOST_SHAPES} shapes, of which each is compiled; "
        "pad to few (graphs: ace_jax.graphs.batches), or drop incomplete batches."
      )
    return arrays


def _iterated(source: Any) -> Iterator[Any] | None:
  """Returns an iterator over a source; None if Python cannot iterate over it."""
  try:
    iterator = iter(source)
  except TypeError:
    if isinstance(source, Iterable):  # an error of the loader's own
      raise
    return None
  if isinstance(source, Iterable):
    return iterator
  # One that has but __getitem__ need not refuse the index after its last: a slice never does.
  return itertools.islice(iterator, _length(source))


def _length(source: Any) -> int | None:
  """Returns how many entries a source says it has, None where it does not say."""
  try:
    return len(source)
  except (TypeError, NotImplementedError):
    return None
  except (OverflowError, ValueError):  # more than a whole number of Python's size
    return sys.maxsize


def shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
  """Returns the shapes of a batch's arrays, which key its compiled program."""
  return tuple(leaf.shape for leaf in jax.tree.leaves(batch))


def _array(leaf: Any, where: str) -> np.ndarray:
  if callable(getattr(leaf, "numpy", None)):  # torch
    leaf = leaf.detach() if hasattr(leaf, "detach") else leaf
    leaf = (leaf.cpu() if hasattr(leaf, "cpu") else leaf).numpy()
  if not _is_array(leaf) or np.ndim(leaf) == 0:
    raise ConfigurationError(
      f"{where} is {leaf!r:.40}, no array with an axis of samples; leave it out of the batch."
    )
  dtype = leaf.dtype
  if not (jax.numpy.issubdtype(dtype, np.number) or jax.numpy.issubdtype(dtype, np.bool_)):
    raise ConfigurationError(f"{where} is an array of {dtype}; give numbers, or leave it out.")
  require_kept(where, leaf)
  return np.asarray(leaf, jax.dtypes.canonicalize_dtype(dtype))


def _is_array(leaf: Any) -> bool:
  if isinstance(leaf, np.ndarray | np.generic | jax.Array | int | float | complex):
    return True
  return callable(getattr(leaf, "numpy", None)) and hasattr(leaf, "shape")


def _is_graph(node: Any) -> bool:
  return isinstance(node, jraph.GraphsTuple)
