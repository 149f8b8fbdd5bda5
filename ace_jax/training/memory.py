"""How much memory a training run needs at its peak, and whether it is there.

.. math:: peak = state + data + \\max_{program} buffers

on every device: the state (parameters, optimizer states and best variables of its replicas), all
training and validation samples, and what the hungriest program needs beside them. For the compiled
epoch and evaluation that is XLA's own plan (temporaries, code, and results that do not take an
argument's place), read off the programs that are compiled anyway, whether replicas are vmapped or
run one after the other; writing a checkpoint copies the state.

What is assumed: programs run one after the other. The devices of a CPU share its memory, so that
each need counts as often as there are devices. Not counted is what was there before: the
interpreter, libraries, the compiler, data in NumPy arrays, on an accelerator what other processes
hold; memory that is available is read after it. Nor are test samples, whose evaluation at the end
needs no more than that of the validation samples, and measurements of an experiment's own.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.stages import Compiled

from ace_jax.errors import ConfigurationError
from ace_jax.task import size
from ace_jax.training import parallel

EPOCH, EVALUATION, CHECKPOINT = "epoch", "evaluation", "checkpoint"


class Peak(NamedTuple):
  """Expected memory of a run, in bytes: of one accelerator, or of all devices of a CPU together.

  Attributes:
    state: Of all replicas there.
    data: Training and validation samples.
    buffers: What each program needs beside them; None where XLA does not say.
    available: What could still be had when state and data were there; None where nothing says.
  """

  state: int
  data: int
  buffers: dict[str, int | None]
  available: int | None

  @property
  def total(self) -> int:
    """The peak."""
    return self.state + self.data + max((need or 0 for need in self.buffers.values()), default=0)

  def describe(self) -> str:
    """Returns one line that says it."""
    programs = ", ".join(f"{name} {readable(need)}" for name, need in self.buffers.items())
    there = "" if self.available is None else f"; {readable(self.available)} more are available"
    return (
      f"Memory: {readable(self.total)} expected at the peak (state {readable(self.state)}, data "
      f"{readable(self.data)}, buffers: {programs}){there}."
    )

  def record(self) -> dict[str, Any]:
    """Returns what result.json keeps, in bytes."""
    return {"peak": self.total, **self._asdict()}


def expect(
  state: Any, data: Any, programs: Mapping[str, Compiled], mesh: Mesh, checkpoints: bool
) -> Peak:
  """Returns the expected peak of a run whose state and data are on their devices.

  Args:
    state: States with a leading axis of replicas, sharded.
    data: All samples that are kept there.
    programs: The compiled programs, by name.
    mesh: Devices.
    checkpoints: Whether any are written.
  """
  times = _sharers(mesh)
  needs = {name: _buffers(program) for name, program in programs.items()}
  buffers = {name: need if need is None else times * need for name, need in needs.items()}
  resident = times * _on_one_device(state)
  if checkpoints:
    # One copy without the padding of replicas; on a CPU a second one, in the host's memory.
    buffers[CHECKPOINT] = resident * (2 if _is_cpu(mesh) else 1)
  return Peak(resident, times * _on_one_device(data), buffers, available(mesh))


def check_data(train: Any, valid: Any, mesh: Mesh) -> None:
  """Refuses samples that the devices cannot hold, before they are put there.

  Args:
    train: Training samples.
    valid: Validation samples.
    mesh: Devices.

  Raises:
    ConfigurationError: says how many would fit.
  """
  times, there = _sharers(mesh), available(mesh)
  need, beside = (times * sum(leaf.nbytes for leaf in jax.tree.leaves(x)) for x in (train, valid))
  if there is None or need + beside <= there:
    return
  samples = size(train)
  fits = max(0, there - beside) * samples // need
  raise ConfigurationError(
    f"the samples take {readable(need + beside)} of memory, but {readable(there)} are available; "
    + (f"{fits} of {samples} training samples would fit." if fits else "no training sample fits.")
  )


def check_programs(peak: Peak, batch_sizes: Mapping[str, int], mesh: Mesh) -> None:
  """Refuses batches that the devices cannot compute, before any is.

  What would fit is computed as if buffers as large as the state did not depend on the batch (the
  gradients and their moments), and all else were proportional to it.

  Args:
    peak: Of `expect`.
    batch_sizes: Samples in a batch of each program.
    mesh: Devices; the batch divides over them.

  Raises:
    ConfigurationError: says what would fit.
  """
  there, devices = peak.available, mesh.shape[parallel.DATA]
  for name, need in peak.buffers.items():
    if there is None or need is None or need <= there:
      continue
    beside = f"beside {readable(peak.state)} of state and {readable(peak.data)} of data"
    if name not in batch_sizes:
      raise ConfigurationError(
        f"a {name} needs {readable(need)} of memory {beside}, but {readable(there)} are "
        "available; take a smaller model or fewer replicas."
      )
    batch, fixed = batch_sizes[name], min(peak.state, need)
    fits = int(max(0, there - fixed) / max(1, need - fixed) * batch)
    fits -= fits % devices
    raise ConfigurationError(
      f"the {name}'s batch of {batch} needs {readable(need)} of memory {beside}, but "
      f"{readable(there)} are available; "
      + (
        f"a batch of {fits} would fit: lower the {'' if name == EPOCH else f'{name} '}batch size."
        if fits
        else "no batch would fit: take a smaller model or fewer replicas."
      )
    )


def available(mesh: Mesh) -> int | None:
  """Returns the bytes that a device can still give: the least of this process's, None if unknown.

  An accelerator's by `memory_stats`; of a CPU what /proc/meminfo calls available, or what the
  control groups of the process leave, if that is less.
  """
  if _is_cpu(mesh):
    return host_memory()
  limits = []
  for device in mesh.local_devices:
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics and "bytes_in_use" in statistics:
      limits.append(statistics["bytes_limit"] - statistics["bytes_in_use"])
  return min(limits, default=None)


def host_memory(root: Path = Path("/")) -> int | None:
  """Returns the bytes that this process can still have of the host's memory, None if unknown.

  Args:
    root: Of the file system.
  """
  limits = [*_control_groups(root)]
  try:
    lines = (root / "proc/meminfo").read_text().splitlines()
    limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
  except (OSError, ValueError, IndexError):
    pass
  return max(0, min(limits)) if limits else None


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _control_groups(root: Path) -> Iterator[int]:
  """Yields what the limit of each control group around the process leaves."""
  try:
    lines = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:
    return
  for line in lines:
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    base, files = root / "sys/fs/cgroup", _VERSION_2
    if controllers:
      base, files = base / "memory", _VERSION_1
      if "memory" not in controllers.split(","):
        continue
    # Seen from within a container, the path may be that of the host.
    parts = [] if ".." in path else [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
      yield from _left(base.joinpath(*parts[:depth]), *files)


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
  try:
    most, used = ((folder / name).read_text().strip() for name in (limit, usage))
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    if most != "max":
      # File caches count as usage, but are given up for whoever asks.
      yield int(most) - int(used) + int(statistics.get(reclaimable, 0))
  except (OSError, ValueError):
    return


def _buffers(program: Compiled) -> int | None:
  try:
    analysis = program.memory_analysis()
  except Exception:  # not every device's compiler says, and each declines in its own way
    return None
  if analysis is None:
    return None
  results = max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
  return analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes + results


def _on_one_device(tree: Any) -> int:
  def shard(leaf):
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

  return sum(map(shard, jax.tree.leaves(tree)))


def _is_cpu(mesh: Mesh) -> bool:
  return mesh.devices.flat[0].platform == "cpu"


def _sharers(mesh: Mesh) -> int:
  """Returns how many devices of this process share one memory."""
  return len(mesh.local_devices) if _is_cpu(mesh) else 1


def readable(size: int | None) -> str:
  """Formats a number of bytes, such as "1.5 GiB"; None is unknown."""
  if size is None:
    return "unknown"
  for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
    if size >= 1024**exponent:
      return f"{size / 1024**exponent:.1f} {unit}"
  return f"{size} B"
