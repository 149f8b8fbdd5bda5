"""What benchmarks ran on, the unit that makes machines comparable, and the report of a campaign."""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ace_jax import history

REPEATS = 10


def product_ms() -> float:
  """Returns the median time of a jitted 2048 x 2048 float32 product, in milliseconds."""
  a = jax.random.normal(jax.random.key(0), (2048, 2048))
  multiply = jax.jit(jnp.dot)
  multiply(a, a).block_until_ready()
  times = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    multiply(a, a).block_until_ready()
    times.append(time.perf_counter() - start)
  return 1e3 * statistics.median(times)


def describe() -> dict[str, Any]:
  """Returns processor, cores, device and the version of JAX."""
  processor = "unknown"
  cpuinfo = Path("/proc/cpuinfo")
  if cpuinfo.exists():
    lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
    processor = next(lines, ": unknown").split(":", 1)[1].strip()
  return {
    "processor": processor,
    "cores": os.cpu_count(),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }


def report(path: Path, totals: dict[str, Any], details: dict[str, Any]) -> None:
  """Writes a campaign's report, and prints its totals as the last line.

  Args:
    path: The JSON file; its folder is made if missing.
    totals: Of all.
    details: What they are made of.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  history.write_json(path, {**totals, **details, "machine": describe()})
  print(json.dumps(totals))
