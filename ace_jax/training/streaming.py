"""Epochs and evaluations over a loader: several batches are one device program.

Batches of one shape that follow each other are a chunk, which a thread reads and brings to the
devices while these work on the chunk before. Each device gets its share of every batch. A chunk
has room for a fixed number of batches, of which the first `steps` are used, so that each shape is
compiled once however the loader mixes them. What is written here of `state` is what `epochs` says.

`loop` takes either kind of data: the functions at the end tell them apart.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ace_jax import padding
from ace_jax.errors import ConfigurationError
from ace_jax.primal_dual import PrimalDual, StepOutput
from ace_jax.state import AceState
from ace_jax.task import Batch, Task, take
from ace_jax.training import checkpoints, epochs, hosts, loaders, memory, parallel
from ace_jax.training.loaders import Loader

MOST_STEPS = 16
MOST_BYTES = 2**26
"""Batches in a chunk: at most so many, and (but for one) of so many bytes."""
_SPLIT = PartitionSpec(parallel.DATA)


class Chunk(NamedTuple):
  """Batches on the devices.

  Attributes:
    batches: All of one shape; those after the first `steps` are there for their shape alone.
    steps: How many count.
    rows: Samples of each that count, over all devices.
  """

  batches: tuple[Batch, ...]
  steps: int
  rows: np.ndarray


class Epoch:
  """`epoch(state, loader) -> (state, outputs)`, as `epochs.compile_epoch`; the state is donated.

  Args:
    method: Task and optimizers.
    mesh: Devices; they share every batch.
  """

  def __init__(self, method: PrimalDual, mesh: Mesh):
    def begin(state: AceState):
      begun = state.constraint.begin_epoch(state.multipliers, state.constraint_state)
      return state.replace(constraint_state=begun)  # pyright: ignore[reportAttributeAccessIssue]

    def run(state: AceState, batches: tuple[Batch, ...], steps: Any):
      def step(i, carry):
        state, outputs = carry
        state, output = method.step(state, take(stacked, i), parallel.DATA)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), outputs, output)

      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
      output = jax.eval_shape(lambda: method.step(state, batches[0], parallel.DATA)[1])
      room = jax.tree.map(lambda x: jnp.zeros((len(batches), *x.shape), x.dtype), output)
      room = jax.lax.pcast(room, parallel.REPLICA, to="varying")
      return jax.lax.fori_loop(0, steps, step, (state, room))

    self._mesh = mesh
    self._begin = parallel.over_replicas(begin, mesh, donate_argnums=(0,))
    self.run = parallel.over_replicas(run, mesh, (0,), (_SPLIT, PartitionSpec()))
    self._end = parallel.over_replicas(epochs.end_epoch, mesh)

  def lower(self, state: AceState, loader: Loader):
    """Lowers the program of a chunk, in the shape of the loader's first batch."""
    chunk = _example(loader, self._mesh)
    return self.run.lower(state, chunk.batches, np.int32(chunk.steps))

  def __call__(self, state: AceState, loader: Loader) -> tuple[AceState, StepOutput]:
    # A copy, since a replica that fails comes back as it was.
    trained = self._begin(jax.tree.map(jnp.copy, state))
    several: list[StepOutput] = []
    before: tuple[Any, int] | None = None

    def keep(outputs: Any, steps: int) -> None:
      several.append(jax.tree.map(lambda x: x[:, :steps], hosts.fetch(outputs)))

    for chunk in _prefetched(_chunks(loader, self._mesh, _check_share)):
      trained, outputs = self.run(trained, chunk.batches, np.int32(chunk.steps))
      if before:  # waits for the chunk before, so that no more than two are on the devices
        keep(*before)
      before = outputs, chunk.steps
    assert before is not None
    keep(*before)
    outputs = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *several)
    finite = np.all([np.isfinite(values).all(1) for values in outputs.scalars()], axis=0)
    return self._end((trained, state, finite)), outputs


class Errors:
  """`errors(predictors, loader) -> {name: mean error}`, as `epochs.compile_errors`.

  Means are over all samples: a short batch counts as its samples do, padded graphs not at all.

  Args:
    task: Model and metric.
    mesh: Devices; they share the samples.
  """

  def __init__(self, task: Task, mesh: Mesh):
    def run(predictors: dict[str, Any], batches: tuple[Batch, ...], rows: Any, steps: Any):
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

      def add(i, carry):
        batch = take(stacked, i)
        totals = {}
        for name, variables in predictors.items():
          values = task.errors(variables, batch)
          counts = _counts(batch, len(values), rows[i])
          sums = jnp.sum(jnp.where(counts, values, 0)), jnp.sum(counts, dtype=values.dtype)
          totals[name] = jax.lax.psum(sums, parallel.DATA)
        return jax.tree.map(jnp.add, carry, totals)

      zero = jax.lax.pcast(jnp.zeros(()), parallel.REPLICA, to="varying")
      return jax.lax.fori_loop(0, steps, add, {name: (zero, zero) for name in predictors})

    self._mesh = mesh
    self.run = parallel.over_replicas(run, mesh, (), (_SPLIT, PartitionSpec(), PartitionSpec()))

  def lower(self, predictors: dict[str, Any], loader: Loader):
    """Lowers the program of a chunk, in the shape of the loader's first batch."""
    chunk = _example(loader, self._mesh)
    return self.run.lower(predictors, chunk.batches, chunk.rows, np.int32(chunk.steps))

  def __call__(self, predictors: dict[str, Any], loader: Loader) -> dict[str, np.ndarray]:
    totals: Any = None
    before: Any = None
    for chunk in _prefetched(_chunks(loader, self._mesh, _filled_up)):
      sums = self.run(predictors, chunk.batches, chunk.rows, np.int32(chunk.steps))
      if before is not None:
        totals = _plus(totals, before)
      before = sums
    totals = _plus(totals, before)
    return {name: np.float32(total / count) for name, (total, count) in totals.items()}


class Evaluation:
  """`evaluate(state, loader) -> (state, errors)`, as `epochs.compile_evaluation`.

  Args:
    task: Model and metric.
    mesh: Devices; they share the samples.
    patience: Evaluations without improvement that are waited for; None never stops.
  """

  def __init__(self, task: Task, mesh: Mesh, patience: int | None):
    self._errors = Errors(task, mesh)
    self._select = parallel.over_replicas(lambda pair: epochs.select(task, *pair, patience), mesh)

  def lower(self, state: AceState, loader: Loader):
    """Lowers the program of a chunk, in the shape of the loader's first batch."""
    return self._errors.lower(state.current(), loader)

  def __call__(self, state: AceState, loader: Loader) -> tuple[AceState, dict[str, Any]]:
    errors = self._errors(state.current(), loader)
    return self._select((state, errors)), errors


def _plus(totals: Any, sums: Any) -> Any:
  """Adds up in float64, on the host."""
  sums = jax.tree.map(lambda x: np.asarray(x, np.float64), hosts.fetch(sums))
  return sums if totals is None else jax.tree.map(np.add, totals, sums)


def _counts(batch: Batch, rows: int, samples: Any) -> Any:
  """Returns which rows of this device's errors are those of samples, not of padding."""
  is_graph = lambda node: isinstance(node, padding.PaddedGraphs)  # noqa: E731
  for graph in filter(is_graph, jax.tree.leaves(batch, is_leaf=is_graph)):
    return padding.graph_mask(graph)
  if loaders.whole(batch):
    return jnp.ones(rows, bool)
  return jax.lax.axis_index(parallel.DATA) * rows + jnp.arange(rows) < samples


def of_real_graphs(loss: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Any]:
  """Returns a loss whose mean over the graphs of a padded batch is that over the real ones.

  .. math:: \\frac{1}{G} \\sum_g \\frac{G m_g}{\\sum_h m_h} l_g = \\sum_g m_g l_g / \\sum_h m_h

  Args:
    loss: `loss(prediction, batch) -> [graphs, ...]`, for padding too.
  """

  def masked(prediction: Any, batch: Batch) -> Any:
    values = loss(prediction, batch)
    is_graph = lambda node: isinstance(node, padding.PaddedGraphs)  # noqa: E731
    for graph in filter(is_graph, jax.tree.leaves(batch, is_leaf=is_graph)):
      mask: Any = padding.graph_mask(graph)
      mask = mask.reshape(-1, *[1] * (values.ndim - 1))
      return jnp.where(mask, values, 0) * (len(mask) / jnp.sum(mask, dtype=values.dtype))
    return values

  return masked


def _prefetched(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
  """Yields what an iterator does, of which a thread has the next ready."""
  with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
    ahead = thread.submit(next, chunks, None)
    while (chunk := _agreed(ahead.result())) is not None:
      ahead = thread.submit(next, chunks, None)
      yield chunk


def _agreed(chunk: Chunk | None) -> Chunk | None:
  """Refuses, in all processes, chunks that differ between them; they would wait for ever."""
  if hosts.several():
    shape = () if chunk is None else (chunk.steps, loaders.shapes(chunk.batches[0]))
    hosts.check_same(
      hash(shape) % 2**31,
      "the processes have different numbers or shapes of batches; give each loader as many, of the "
      "same sizes (steps_per_epoch=, complete batches).",
    )
  return chunk


def _chunks(
  loader: Loader, mesh: Mesh, prepare: Callable[[Batch, Loader, Mesh], tuple[Batch, int]]
) -> Iterator[Chunk]:
  """Groups a loader's batches into chunks on the devices."""
  room = _room(loader)
  shape, batches, rows = None, [], []
  for batch in loader.epoch():
    ready, count = prepare(batch, loader, mesh)
    if batches and (len(batches) == room or loaders.shapes(ready) != shape):
      yield _filled(batches, rows, room)
      batches, rows = [], []
    shape = loaders.shapes(ready)
    batches.append(_put(ready, loader, mesh))
    rows.append(count)
  if batches:
    yield _filled(batches, rows, room)


def _filled(batches: list[Batch], rows: list[int], room: int) -> Chunk:
  spare = room - len(batches)
  counts = np.array([*rows, *[0] * spare], np.int32)
  return Chunk((*batches, *[batches[-1]] * spare), len(batches), counts)


def _room(loader: Loader) -> int:
  """Returns how many batches a chunk has room for."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(loader.first))
  return max(1, min(MOST_STEPS, loader.most_steps() or MOST_STEPS, MOST_BYTES // max(1, size)))


def _example(loader: Loader, mesh: Mesh) -> Chunk:
  batch, count = _filled_up(loader.first, loader, mesh)
  return _filled([_put(batch, loader, mesh)], [count], _room(loader))


def _put(batch: Batch, loader: Loader, mesh: Mesh) -> Batch:
  sharding = NamedSharding(mesh, _SPLIT)
  if not hosts.several():
    return jax.device_put(batch, sharding)

  def put(leaf: np.ndarray) -> jax.Array:
    shape = (jax.process_count() * leaf.shape[0], *leaf.shape[1:])
    return jax.make_array_from_process_local_data(sharding, leaf, shape)

  return jax.tree.map(put, batch)


def _check_share(batch: Batch, loader: Loader, mesh: Mesh) -> tuple[Batch, int]:
  """Refuses a batch that the devices cannot share; returns it, and its samples over all of them."""
  if loaders.whole(batch):
    return batch, 0
  rows = jax.tree.leaves(batch)[0].shape[0] * jax.process_count()
  if rows % mesh.shape[parallel.DATA] and rows != loader.samples * jax.process_count():
    raise ConfigurationError(
      f"{loader.called} has a batch of {rows} samples, which does not divide over "
      f"{mesh.shape[parallel.DATA]} devices; let the loader drop its incomplete batches."
    )
  parallel.check_divides(rows, mesh)
  return batch, rows


def _filled_up(batch: Batch, loader: Loader, mesh: Mesh) -> tuple[Batch, int]:
  """Fills a short batch up with copies of its last sample, which are not counted."""
  if loaders.whole(batch):
    return batch, 0
  rows = jax.tree.leaves(batch)[0].shape[0]
  if hosts.several():  # whose rows that count would not be the first ones
    return _check_share(batch, loader, mesh)
  devices = mesh.shape[parallel.DATA]
  full = math.ceil(max(rows, loader.samples) / devices) * devices
  return take(batch, np.minimum(np.arange(full), rows - 1)), rows


# What `loop` asks of either kind of data.

Data = Batch | Loader


def opened(
  train: Any,
  valid: Any,
  test: Any,
  steps: int | None,
  options: Any,
  given: Collection[str],
) -> tuple[Data, Data, Data | None, Any]:
  """Returns what `fit` was given, loaders as `Loader`; and its settings with their batch size.

  Args:
    train: Of `fit`.
    valid: Of `fit`.
    test: Of `fit`.
    steps: Batches in an epoch of training.
    options: A `loop.Settings`.
    given: Which settings the user gave.

  Raises:
    ConfigurationError: a setting is about data in memory and these are none, or the reverse.
  """
  kinds = {"train": train, "valid": valid, "test": test}
  opening = {name: data for name, data in kinds.items() if loaders.is_loader(data)}
  if steps is not None and "train" not in opening:
    raise ConfigurationError(
      f"steps_per_epoch is {steps}, but train is arrays in memory, of which an epoch is one pass; "
      "leave it out, or give a loader of batches."
    )
  for setting, name in {"batch_size": "train", "eval_batch_size": "valid"}.items():
    if setting in given and name in opening:
      raise ConfigurationError(
        f"{name} is a loader, whose batches have the size that it gives them; leave {setting} out "
        "(parts of one batch in memory are a tuple or dictionary, a list is one of batches)."
      )
  for name, data in opening.items():
    kinds[name] = Loader(data, name, steps if name == "train" else None)
  if "train" in opening:
    size = kinds["train"].samples * jax.process_count()
    options = dataclasses.replace(options, batch_size=size)
  return kinds["train"], kinds["valid"], kinds["test"], options


def compile_epoch(method: PrimalDual, mesh: Mesh, batch_size: int, data: Data) -> Any:
  """Returns the program of an epoch over data of this kind."""
  if not isinstance(data, Loader):
    return epochs.compile_epoch(method, mesh, batch_size)
  _check_mesh(data, mesh)
  _check_share(data.first, data, mesh)
  return Epoch(method, mesh)


def compile_evaluation(
  task: Task, mesh: Mesh, batch_size: int, patience: int | None, data: Data
) -> Any:
  """Returns the program of an evaluation on data of this kind."""
  if not isinstance(data, Loader):
    return epochs.compile_evaluation(task, mesh, batch_size, patience)
  _check_mesh(data, mesh)
  return Evaluation(task, mesh, patience)


def compile_errors(task: Task, mesh: Mesh, batch_size: int, data: Data) -> Any:
  """Returns the program of errors on data of this kind."""
  if not isinstance(data, Loader):
    return epochs.compile_errors(task, mesh, batch_size)
  _check_mesh(data, mesh)
  return Errors(task, mesh)


def _check_mesh(loader: Loader, mesh: Mesh) -> None:
  devices = mesh.shape[parallel.DATA]
  if loaders.whole(loader.first) and devices > 1:
    raise ConfigurationError(
      f"{loader.called} has batches of graphs, which are not split over {devices} devices; give "
      "mesh=make_mesh(data=1)."
    )
  if hosts.several() and devices < len(mesh.devices.flat):
    raise ConfigurationError(
      f"{loader.called} is read by each process for itself, so that replicas cannot be shared out "
      "among them; give mesh=make_mesh()."
    )


def put(data: Data, mesh: Mesh) -> Data:
  """Puts samples on every device; a loader's come when their time has come."""
  return data if isinstance(data, Loader) else parallel.replicate(data, mesh)


def resident(data: Data, mesh: Mesh) -> Any:
  """Returns arrays, or their shapes, that take the memory which the data do: of two chunks."""
  if not isinstance(data, Loader):
    return data
  sharding = NamedSharding(mesh, _SPLIT)
  batch = _filled_up(data.first, data, mesh)[0]
  times = 2 * _room(data) * jax.process_count()
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((times * x.shape[0], *x.shape[1:]), x.dtype, sharding=sharding),
    batch,
  )


def check_memory(data: Data, valid: Data, mesh: Mesh) -> None:
  """Refuses samples in memory that the devices cannot hold (`memory.check_data`)."""
  kept = [x for x in (data, valid) if not isinstance(x, Loader)]
  if kept:
    memory.check_data(kept[0], kept[1] if len(kept) > 1 else (), mesh)


def state_of(data: Data) -> list[Any] | None:
  """Returns each process's saved state of a loader, for the checkpoint; None where there is none.

  Raises:
    ConfigurationError: a loader's state holds what cannot be written.
  """
  if not isinstance(data, Loader) or not data.has_state:
    return None
  try:
    return hosts.gather_json(data.state())
  except TypeError as error:
    raise ConfigurationError(
      f"{data.called} cannot be saved ({error}); hide its state_dict or get_state to go without."
    ) from error


def restore(data: Data, checkpoint: Path) -> None:
  """Puts a loader where it was at a checkpoint, or says in one line what happens instead."""
  if not isinstance(data, Loader):
    return
  saved = checkpoints.loader_state(checkpoint)
  if saved is not None and data.has_state:
    if len(saved) != jax.process_count():
      raise ConfigurationError(
        f"{data.called} was read by {len(saved)} processes, now by {jax.process_count()}; resume "
        "with as many."
      )
    data.restore(saved[jax.process_index()])
    return
  logging.warning(
    "%s has no saved state: %s.", data.called,
    "its iteration begins anew, wherever it was in its pass" if data.steps
    else "epochs are whole passes, and the next one begins anew",
  )  # fmt: skip
