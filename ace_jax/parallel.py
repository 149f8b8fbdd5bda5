"""The device mesh, and how functions are mapped over it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ace_jax.errors import ConfigurationError

REPLICA, DATA = "replica", "data"
"""Names of the mesh axes: independent runs, and samples of one batch."""


def make_mesh(data: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
  """Makes the mesh ("replica", "data") with all devices along "data".

  Args:
    data: Number of devices that share a batch; all of them by default.
    devices: Which devices; `jax.devices()` by default.

  Raises:
    ConfigurationError: there are fewer devices than asked for.
  """
  devices = list(jax.devices() if devices is None else devices)
  data = len(devices) if data is None else data
  if not 1 <= data <= len(devices):
    raise ConfigurationError(f"mesh: {data} devices asked for, but {len(devices)} are there.")
  auto = (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh((1, data), (REPLICA, DATA), auto, devices=devices[:data])


def on_mesh(
  function: Callable[..., Any], mesh: Mesh, donate_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
  """Compiles a per-device function over the mesh; arguments and results are replicated.

  The function sees the axis name `DATA` and takes its own share of the samples itself
  (`jax.lax.axis_index`): data sets are small, every device holds all of them, and all devices
  slice the same permutation, so that results do not depend on the mesh.

  Args:
    function: Written with named-axis collectives.
    mesh: From `make_mesh`.
    donate_argnums: Arguments whose buffers the result may reuse.
  """
  spec = PartitionSpec()
  mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
  return jax.jit(mapped, donate_argnums=donate_argnums)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts a pytree of arrays on every device of the mesh."""
  put = partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec()))
  return jax.tree.map(put, tree)


def check_divides(batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that does not divide over the devices of axis "data".

  Raises:
    ConfigurationError: names the batch sizes nearby that would do.
  """
  devices = mesh.shape[DATA]
  if batch_size % devices:
    below = batch_size - batch_size % devices
    choices = [str(size) for size in (below, below + devices) if size]
    raise ConfigurationError(
      f"a batch of {batch_size} does not divide over {devices} devices; "
      f"take a batch size of {' or '.join(choices)}, or another number of devices."
    )
