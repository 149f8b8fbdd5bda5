"""The device mesh, and how functions are mapped over it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ace_jax import compiling
from ace_jax.errors import ConfigurationError
from ace_jax.training import hosts

REPLICA, DATA = "replica", "data"
"""Names of the mesh axes: independent runs, and samples of one batch."""


def make_mesh(
  data: int | None = None, replica: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """Makes the mesh ("replica", "data").

  Args:
    data: Number of devices that share a batch; by default as many as there are for it.
    replica: Number of devices (or groups of `data` devices) that share the replicas.
    devices: Which devices; `jax.devices()` by default.

  Raises:
    ConfigurationError: there are fewer devices than asked for, or (several processes) more.
  """
  devices = list(jax.devices() if devices is None else devices)
  data = max(1, len(devices) // max(1, replica)) if data is None else data
  if min(data, replica) < 1 or data * replica > len(devices):
    raise ConfigurationError(
      f"mesh: replica:{replica},data:{data} takes {replica * data} devices, but {len(devices)} "
      "are there."
    )
  if hosts.several() and data * replica < len(devices):
    raise ConfigurationError(
      f"mesh: replica:{replica},data:{data} leaves out {len(devices) - replica * data} of "
      f"{len(devices)} devices; with several processes it must take all."
    )
  auto = (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh((replica, data), (REPLICA, DATA), auto, devices=devices[: replica * data])


def default_mesh(replicas: int, devices: Sequence[Any] | None = None) -> Mesh:
  """Makes the mesh for a number of replicas: devices go to replicas first, then to data.

  Args:
    replicas: How many runs are trained at once.
    devices: Which devices; `jax.devices()` by default.
  """
  devices = list(jax.devices() if devices is None else devices)
  rows = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and n <= replicas)
  return make_mesh(replica=rows, devices=devices)


def over_replicas(
  function: Callable[..., Any],
  mesh: Mesh,
  donate_argnums: tuple[int, ...] = (),
  shared_specs: Sequence[PartitionSpec] | None = None,
) -> compiling.Jitted:
  """Compiles a function of one replica for all replicas, over the mesh.

  Replicas are a leading axis of the first argument and of every result: sharded over the axis
  `REPLICA`; within a device vmapped, or on a CPU one after the other, which keeps their data in its
  caches. The other arguments are shared. The function sees the axis
  name `DATA` and takes its own share of the samples itself (`jax.lax.axis_index`): data sets are
  small, every device holds all of them, and all devices slice the same permutation, so that
  results do not depend on the mesh.

  Args:
    function: `function(tree, *shared)` of one replica, written with named-axis collectives.
    mesh: From `make_mesh`; its replica axis divides the number of replicas (`pad`).
    donate_argnums: Arguments whose buffers the result may reuse.
    shared_specs: How each of the other arguments is laid out, if not all of it on every device.
  """

  over_all = _MAPS.get(mesh.devices.flat[0].platform, _vmap)

  def local(tree, *shared):
    if replicas(tree) > 1:
      return over_all(lambda replica: function(replica, *shared), tree)
    # A map over one replica costs what it needs not: batched products of one.
    alone = function(jax.tree.map(lambda x: x[0], tree), *shared)
    return jax.tree.map(lambda x: x[None], alone)

  def typed(tree, *shared):
    # Shared arrays vary over replicas as parameters do, so that a scan within a model, whose carry
    # has one type in all steps, may begin with a sample.
    return local(tree, *jax.lax.pcast(shared, REPLICA, to="varying"))

  def mapped(tree, *shared):
    specs = (PartitionSpec(REPLICA), *(shared_specs or [PartitionSpec()] * len(shared)))
    over_mesh = functools.partial(
      jax.shard_map, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(REPLICA)
    )
    try:
      return over_mesh(typed)(tree, *shared)
    except (TypeError, ValueError) as error:
      if _VARYING not in str(error):
        raise
    # A scan that begins with zeros is refused by JAX's types of what varies over which axis: the
    # zeros are the same on all devices, and what follows is not. The types would also prove that
    # results are the same along DATA; without them it is so by construction, since all that leaves
    # a step or an evaluation comes of means or sums over DATA, and gradients are averaged
    # (`PrimalDual.gradients`). XLA rounds differently there: only what needs it goes this way.
    return over_mesh(local, check_vma=False)(tree, *shared)

  return compiling.Jitted(mapped, donate_argnums, mesh)


def _vmap(function: Callable[[Any], Any], tree: Any) -> Any:
  return jax.vmap(function)(tree)


_MAPS = {"cpu": jax.lax.map}
"""How a device goes over its replicas, by platform."""

_VARYING = "manual ax"
"""Of JAX's messages (manual axis types, varying manual axes) where types differ in what varies."""


def stack(trees: Sequence[Any]) -> Any:
  """Stacks pytrees of one structure along a new leading axis of replicas."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def select(tree: Any, index: Any) -> Any:
  """Indexes the replica axis: a number gives one replica without it, a slice or array several."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def replicas(tree: Any) -> int:
  """Returns the number of replicas: the length of the leading axis."""
  return jax.tree.leaves(tree)[0].shape[0]


def pad(tree: Any, mesh: Mesh) -> Any:
  """Fills replicas up with copies, to a number that the mesh's replica axis divides."""
  count, rows = replicas(tree), mesh.shape[REPLICA]
  return select(tree, jnp.arange(-(-count // rows) * rows) % count) if count % rows else tree


def shard_replicas(tree: Any, mesh: Mesh) -> Any:
  """Puts a pytree with a leading replica axis on the mesh, each device its replicas."""
  return hosts.put(tree, NamedSharding(mesh, PartitionSpec(REPLICA)))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts a pytree of arrays on every device of the mesh."""
  return hosts.put(tree, NamedSharding(mesh, PartitionSpec()))


def check_divides(batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that does not divide over the devices of axis "data".

  Raises:
    ConfigurationError: lists the divisors, and the batch sizes nearby that would do.
  """
  devices = mesh.shape[DATA]
  if batch_size % devices:
    below = batch_size - batch_size % devices
    choices = [str(size) for size in (below, below + devices) if size]
    divisors = [str(n) for n in range(1, batch_size + 1) if batch_size % n == 0]
    raise ConfigurationError(
      f"a batch of {batch_size} does not divide over {devices} devices; take a batch size of "
      f"{' or '.join(choices)}, or {', '.join(divisors)} devices along data."
    )
