"""One point of `benchmarks.scaling`: time and memory of a SEGNN step of some size, as JSON."""

import contextlib
import ctypes
import dataclasses
import gc
import json
import statistics
import time
from pathlib import Path

import jax
from absl import app, flags

from ace_jax.training import parallel
from benchmarks import machine, steps
from data.machine import cores

FLAGS = flags.FLAGS
flags.DEFINE_string("size", "{}", "JSON of the fields of `Size` that are not the default.")
flags.DEFINE_float("seconds", 1.5, "How long to go on timing epochs; three are always timed.")

_EDGES = 60_000
_LONGEST = 10


@dataclasses.dataclass(frozen=True)
class Size:
  """What is trained; by default the published N-body step.

  Attributes:
    particles: In a sample.
    neighbours: From how many each receives; None is all others.
    batch: Samples in a batch.
    width: `SEGNN.hidden_features`.
    layers: Of the network.
    replicas: Trained at once.
    samples: Of the training set; None takes the batches of a short epoch.
  """

  particles: int = 5
  neighbours: int | None = None
  batch: int = 100
  width: int = 64
  layers: int = 4
  replicas: int = 1
  samples: int | None = None

  @property
  def batches(self) -> int:
    """Batches in an epoch, fewer where they are large."""
    if self.samples is not None:
      return self.samples // self.batch
    edges = self.batch * self.particles * (self.neighbours or self.particles - 1)
    return max(2, min(_LONGEST, _EDGES // edges))


class Resident:
  """The memory that this process has in use, and its peak since `reset`, by /proc (Linux)."""

  def reset(self) -> None:
    """Gives back what is free, and starts to measure the peak anew; sets `before`, in bytes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
      ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
      Path("/proc/self/clear_refs").write_text("5")
      self.before = self._read("VmRSS")
    except OSError:
      self.before = None

  def rise(self) -> int | None:
    """Returns by how much the peak lies above what was in use at `reset`; None if unknown."""
    return None if self.before is None else self._read("VmHWM") - self.before

  def _read(self, name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measure(size: Size, seconds: float) -> dict[str, float | int | None]:
  """Compiles and times the step.

  Args:
    size: What is trained.
    seconds: How long to go on.

  Returns:
    `step_ms`, of all replicas; `gflop` of a step as XLA counts the program as written; `gigabytes`
    that the compiled step reads and writes; `buffers`, XLA's plan for the epoch beside `state` and
    `data`; `rss`, by how much the process grew at most while it ran; all sizes in bytes.
  """
  problem = steps.segnn(
    **{"width": size.width, "layers": size.layers, "batch_size": size.batch},
    particles=size.particles,
    neighbours=size.neighbours,
    batches=size.batches,
  )
  # As the experiments do it.
  rows = min(size.replicas, jax.device_count())
  states = [steps.start(problem, "equality")] * size.replicas
  epoch = steps.Epoch(problem, states, parallel.make_mesh(1, rows))
  del states
  resident = Resident()
  resident.reset()
  begin, times = time.perf_counter(), []
  while len(times) < 4 or (len(times) < 10 and time.perf_counter() - begin < seconds):
    times.append(epoch())
  return {
    "step_ms": statistics.median(times[1:]),
    "steps": epoch.steps,
    "epochs": len(times) - 1,
    # XLA counts the body of the loop over a device's replicas once.
    "gflop": epoch.gflop * size.replicas,
    "gigabytes": epoch.gigabytes * size.replicas,
    "state": epoch.peak.state,
    "data": epoch.peak.data,
    "buffers": epoch.peak.buffers["epoch"],
    "rss": resident.rise(),
    "compile_seconds": epoch.compile_seconds,
    "devices": rows,
  }


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  size = Size(**json.loads(FLAGS.size))
  jax.config.update("jax_num_cpu_devices", min(size.replicas, cores()))
  record = measure(size, FLAGS.seconds)
  record |= {"product_ms": machine.product_ms(), "machine": machine.describe()}
  print(json.dumps({"size": dataclasses.asdict(size), **record}))


if __name__ == "__main__":
  app.run(main)
