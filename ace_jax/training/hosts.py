"""Several processes, on one machine or many, that train one program together.

Every process runs the same code over the devices of all (`jax.devices()`), holds all samples, and
takes the same decisions, since it takes them from the same numbers. The first process alone writes
records and results; Orbax writes checkpoints from all of them into one folder that all can see.
In a process alone every function here does next to nothing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from ace_jax.errors import ConfigurationError, HostError, first_line

AUTO = "auto"
_HEARTBEAT_SECONDS = 30
_SIGNS = ("Gloo", "NCCL", "coordination", "Coordination", "heartbeat", "Barrier", "UNAVAILABLE")


def join(
  coordinator: str,
  processes: int | None = None,
  process: int | None = None,
  timeout_seconds: int = 300,
) -> None:
  """Joins this process with the others; must come before anything else asks for devices.

  Args:
    coordinator: HOST:PORT of the first process, which listens there; or "auto", to read all of it
      from the environment (SLURM, Open MPI, Kubernetes, Cloud TPU: whatever
      `jax.distributed.initialize` knows).
    processes: How many there are.
    process: Which this is, from 0.
    timeout_seconds: How long to wait for the others.

  Raises:
    ConfigurationError: the environment does not say, or the address is none.
    HostError: the others did not come in time.
  """
  if coordinator != AUTO and not (coordinator.rpartition(":")[2].isdecimal()):
    raise ConfigurationError(f"coordinator {coordinator} must be HOST:PORT, or {AUTO}.")
  try:
    jax.distributed.initialize(
      None if coordinator == AUTO else coordinator,
      processes,
      process,
      initialization_timeout=timeout_seconds,
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  except ValueError as error:
    raise ConfigurationError(
      f"coordinator {coordinator}: {first_line(error)} Name all three: the coordinator as "
      "HOST:PORT, the number of processes, and which of them this is."
    ) from error
  except RuntimeError as error:
    raise HostError(
      f"the processes did not find each other within {timeout_seconds} s at {coordinator}: "
      f"{first_line(error)}"
    ) from error


def several() -> bool:
  """Whether there are other processes."""
  return jax.process_count() > 1


def first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def fetch(tree: Any) -> Any:
  """Returns the whole of every array as NumPy's; all processes must call it alike."""

  def fetch_leaf(leaf):
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    return leaf if here else multihost_utils.process_allgather(leaf, tiled=True)

  return jax.device_get(jax.tree.map(fetch_leaf, tree))


def put(tree: Any, sharding: Sharding) -> Any:
  """Puts arrays on the devices of all processes, with the values that the first process has."""
  if not several():
    return jax.device_put(tree, sharding)
  values = multihost_utils.broadcast_one_to_all(jax.device_get(tree))

  def put_value(value):
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

  return jax.tree.map(put_value, values)


def from_first(decide: Callable[[], int]) -> int:
  """Returns what the first process decides; the others do not ask.

  Args:
    decide: Returns a whole number; if it raises, the first process ends, and with it the others.
  """
  if not several():
    return decide()
  return int(multihost_utils.broadcast_one_to_all(np.int32(decide() if first() else 0)))


def any_of(flag: bool) -> bool:
  """Whether the flag is set in any process."""
  if not several():
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def check_same(number: int, otherwise: str) -> None:
  """Refuses, in all processes alike, a number that is not the same in all.

  Args:
    number: Below 2**31.
    otherwise: What to say.

  Raises:
    ConfigurationError: it is not the same.
  """
  if several() and len({*np.ravel(multihost_utils.process_allgather(np.int32(number)))}) > 1:
    raise ConfigurationError(otherwise)


def gather_json(value: Any) -> list[Any]:
  """Returns each process's value, of what JSON can hold; all processes must call it."""
  if not several():
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = np.ravel(multihost_utils.process_allgather(np.int32(text.size)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: text.size] = text
  texts = multihost_utils.process_allgather(padded)
  return [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Says in one line that another process was lost, where a collective operation fails of it.

  A context, or a decorator of a function.

  Raises:
    HostError: instead of the runtime's error.
  """
  try:
    yield
  except (ValueError, RuntimeError) as error:
    if not several() or not any(sign in str(error) for sign in _SIGNS):
      raise
    raise HostError(
      f"process {jax.process_index()} of {jax.process_count()} lost another one, whose output says "
      "why; start all of them again, and resume, to go on from the last checkpoint "
      f"({first_line(error)})."
    ) from error
