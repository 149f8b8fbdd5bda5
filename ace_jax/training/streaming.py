"""Epochs and evaluations over a loader: several batches are one device program.

Batches of one shape that follow each other are a chunk, which a thread reads and brings to the
devices while these work on the chunk before. Each device gets its share of every batch. A chunk
has room for a fixed number of batches, of which the first `steps` are used, so that each shape is
compiled once however the loader mixes them. What is written here of `state` is what `epochs` says.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ace_jax import weights
from ace_jax.errors import ConfigurationError
from ace_jax.primal_dual import PrimalDual, StepOutput
from ace_jax.state import AceState
from ace_jax.task import Batch, Task, take
from ace_jax.training import epochs, hosts, loaders, parallel
from ace_jax.training.loaders import Loader

MOST_STEPS = 16
MOST_BYTES = 2**26
"""Batches in a chunk: at most so many, and (but for one) of so many bytes."""
SPLIT = PartitionSpec(parallel.DATA)


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
    self.run = parallel.over_replicas(run, mesh, (0,), (SPLIT, PartitionSpec()))
    self._end = parallel.over_replicas(epochs.end_epoch, mesh)

  def compile(self, state: AceState, loader: Loader):
    """Compiles the program of a chunk, in the shape of the loader's first batch."""
    chunk = _example(loader, self._mesh)
    return self.run.compile(state, chunk.batches, np.int32(chunk.steps))

  def __call__(self, state: AceState, loader: Loader) -> tuple[AceState, StepOutput]:
    # A copy, since a replica that fails comes back as it was.
    trained = self._begin(jax.tree.map(jnp.copy, state))
    several: list[StepOutput] = []
    before: tuple[Any, int] | None = None

    def keep(outputs: Any, steps: int) -> None:
      several.append(jax.tree.map(lambda x: x[:, :steps], hosts.fetch(outputs)))

    for chunk in _prefetched(_chunks(loader, self._mesh, check_share)):
      trained, outputs = self.run(trained, chunk.batches, np.int32(chunk.steps))
      if before:  # waits for the chunk before, so that no more than two are on the devices
        keep(*before)
      before = outputs, chunk.steps
    assert before is not None
    keep(*before)
    outputs = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *several)
    steps = np.all([np.isfinite(values) for values in outputs.scalars()], axis=0)
    finite = steps.all(axis=1)
    if not finite.any():  # all replicas fail, the last of them at this batch
      loader.refuse_not_finite(1 + int(np.argmin(steps, axis=1).max()))
    return self._end((trained, state, finite)), outputs


class Errors:
  """`errors(predictors, loader) -> {name: mean error}`, as `epochs.compile_errors`.

  Means are over all samples: a short batch counts as its samples do, padded graphs not at all.

  Args:
    errors: `errors(variables, batch)`, a tree of arrays [samples] or `weights.Weighted`.
    mesh: Devices; they share the samples.
  """

  def __init__(self, errors: Callable[[Any, Batch], Any], mesh: Mesh):
    def run(predictors: dict[str, Any], batches: tuple[Batch, ...], rows: Any, steps: Any):
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

      def add(i, carry):
        batch = take(stacked, i)
        totals = {}
        for name, variables in predictors.items():
          values = errors(variables, batch)
          counts = _samples(batch, len(jax.tree.leaves(values)[0]), rows[i])
          sums = jax.tree.map(lambda v, c=counts: weights.summed(v, c), values)
          totals[name] = jax.lax.psum((sums, jnp.sum(counts, dtype=jnp.int32)), parallel.DATA)
        return jax.tree.map(jnp.add, carry, totals)

      shapes = jax.eval_shape(lambda: {k: errors(v, batches[0]) for k, v in predictors.items()})
      zeros = jax.tree.map(lambda x: weights.summed(jnp.zeros(1, x.dtype), False), shapes)
      none = {name: (zero, jnp.int32(0)) for name, zero in zeros.items()}
      return jax.lax.fori_loop(0, steps, add, jax.lax.pcast(none, parallel.REPLICA, to="varying"))

    self._mesh = mesh
    self.run = parallel.over_replicas(run, mesh, (), (SPLIT, PartitionSpec(), PartitionSpec()))

  def compile(self, predictors: dict[str, Any], loader: Loader):
    """Compiles the program of a chunk, in the shape of the loader's first batch."""
    chunk = _example(loader, self._mesh)
    return self.run.compile(predictors, chunk.batches, chunk.rows, np.int32(chunk.steps))

  def __call__(self, predictors: dict[str, Any], loader: Loader) -> dict[str, Any]:
    totals: Any = None
    before: Any = None
    for chunk in _prefetched(_chunks(loader, self._mesh, filled_up)):
      sums = self.run(predictors, chunk.batches, chunk.rows, np.int32(chunk.steps))
      if before is not None:
        totals = _plus(totals, before)
      before = sums
    totals = _plus(totals, before)
    bad = [~np.isfinite(x) for sums, _ in totals.values() for x in jax.tree.leaves(sums)]
    if np.any(bad, axis=0).all():  # in every replica
      loader.refuse_not_finite()
    return {
      name: jax.tree.map(np.float32, weights.means(sums, count))
      for name, (sums, count) in totals.items()
    }


class Evaluation:
  """`evaluate(state, loader) -> (state, errors, named)`, as `epochs.compile_evaluation`.

  Args:
    task: Model and metric.
    mesh: Devices; they share the samples.
    patience: Evaluations without improvement that are waited for; None never stops.
    metrics: As of `epochs.compile_evaluation`.
  """

  def __init__(
    self,
    task: Task,
    mesh: Mesh,
    patience: int | None,
    metrics: Mapping[str, Callable[[Any, Batch], Any]],
  ):
    self._task, self._metrics = task, metrics
    self._errors = Errors(task.errors_of(metrics), mesh)
    self._select = parallel.over_replicas(
      lambda pair: epochs.select(task, pair[0], pair[1], patience), mesh
    )

  def compile(self, state: AceState, loader: Loader):
    """Compiles the program of a chunk, in the shape of the loader's first batch."""
    return self._errors.compile(state.current(), loader)

  def __call__(
    self, state: AceState, loader: Loader
  ) -> tuple[AceState, dict[str, Any], dict[str, Any]]:
    means = self._errors(state.current(), loader)
    errors, named = epochs.by_metric(self._task, means, self._metrics)
    return self._select((state, errors)), errors, named


def _plus(totals: Any, sums: Any) -> Any:
  """Adds up in float64, on the host."""
  sums = jax.tree.map(lambda x: np.asarray(x, np.float64), hosts.fetch(sums))
  return sums if totals is None else jax.tree.map(np.add, totals, sums)


def _samples(batch: Batch, rows: int, samples: Any) -> Any:
  """Returns which rows of this device's errors are those of samples that the loader gave."""
  if loaders.whole(batch):
    return jnp.ones(rows, bool)
  return jax.lax.axis_index(parallel.DATA) * rows + jnp.arange(rows) < samples


def _prefetched(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
  """Yields what an iterator does, of which a thread has the next ready."""
  # A `with jax.enable_x64` sets it for its own thread alone.
  wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

  def read() -> Chunk | None:
    with jax.enable_x64(wide):
      return next(chunks, None)

  with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
    ahead = thread.submit(read)
    while (chunk := _agreed(ahead.result())) is not None:
      ahead = thread.submit(read)
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
  room = room_for(loader)
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


def room_for(loader: Loader) -> int:
  """Returns how many batches a chunk has room for."""
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(loader.first))
  return max(1, min(MOST_STEPS, loader.most_steps() or MOST_STEPS, MOST_BYTES // max(1, size)))


def _example(loader: Loader, mesh: Mesh) -> Chunk:
  batch, count = filled_up(loader.first, loader, mesh)
  return _filled([_put(batch, loader, mesh)], [count], room_for(loader))


def _put(batch: Batch, loader: Loader, mesh: Mesh) -> Batch:
  sharding = NamedSharding(mesh, SPLIT)
  if not hosts.several():
    return jax.device_put(batch, sharding)

  def put(leaf: np.ndarray) -> jax.Array:
    shape = (jax.process_count() * leaf.shape[0], *leaf.shape[1:])
    return jax.make_array_from_process_local_data(sharding, leaf, shape)

  return jax.tree.map(put, batch)


def check_share(batch: Batch, loader: Loader, mesh: Mesh) -> tuple[Batch, int]:
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


def filled_up(batch: Batch, loader: Loader, mesh: Mesh) -> tuple[Batch, int]:
  """Fills a short batch up with copies of its last sample, which are not counted."""
  if loaders.whole(batch):
    return batch, 0
  rows = jax.tree.leaves(batch)[0].shape[0]
  if hosts.several():  # whose rows that count would not be the first ones
    return check_share(batch, loader, mesh)
  devices = mesh.shape[parallel.DATA]
  full = math.ceil(max(rows, loader.samples) / devices) * devices
  return take(batch, np.minimum(np.arange(full), rows - 1)), rows
