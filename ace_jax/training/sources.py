"""What `loop` and `fit` ask of data, whether they are arrays in memory or a loader."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding

from ace_jax.errors import ConfigurationError
from ace_jax.primal_dual import PrimalDual
from ace_jax.task import Batch, Task
from ace_jax.training import checkpoints, epochs, hosts, loaders, memory, parallel, streaming
from ace_jax.training.loaders import Loader

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
  streaming.check_share(data.first, data, mesh)
  return streaming.Epoch(method, mesh)


def compile_evaluation(
  task: Task,
  mesh: Mesh,
  batch_size: int,
  patience: int | None,
  data: Data,
  metrics: Mapping[str, Callable[[Any, Batch], Any]],
) -> Any:
  """Returns the program of an evaluation on data of this kind."""
  if not isinstance(data, Loader):
    return epochs.compile_evaluation(task, mesh, batch_size, patience, metrics)
  _check_mesh(data, mesh)
  return streaming.Evaluation(task, mesh, patience, metrics)


def compile_means(
  errors: Callable[[Any, Batch], Any], mesh: Mesh, batch_size: int, data: Data
) -> Any:
  """Returns the program of means over data of this kind (`epochs.compile_means`)."""
  if not isinstance(data, Loader):
    return epochs.compile_means(errors, mesh, batch_size)
  _check_mesh(data, mesh)
  return streaming.Errors(errors, mesh)


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


def in_memory(**kinds: Data) -> dict[str, Batch]:
  """Returns which of some data are arrays in memory, by name."""
  return {name: data for name, data in kinds.items() if not isinstance(data, Loader)}


def put(data: Data, mesh: Mesh) -> Data:
  """Puts samples on every device; a loader's come when their time has come."""
  return data if isinstance(data, Loader) else parallel.replicate(data, mesh)


def resident(data: Data, mesh: Mesh) -> Any:
  """Returns arrays, or their shapes, that take the memory which the data do: of two chunks."""
  if not isinstance(data, Loader):
    return data
  sharding = NamedSharding(mesh, streaming.SPLIT)
  batch = streaming.filled_up(data.first, data, mesh)[0]
  times = 2 * streaming.room_for(data) * jax.process_count()
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
  if not checkpoint.exists():  # a run that goes on from another's state
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
    "the checkpoint has no state of %s: %s.", data.called,
    "its iteration begins anew, wherever it was in its pass" if data.steps
    else "epochs are whole passes, and the next one begins anew",
  )  # fmt: skip
