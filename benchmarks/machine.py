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
PRODUCT_GFLOP = 2 * 2048**3 / 1e9


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


def floor(gflop: float, median_ms: float, product_ms: float) -> dict[str, float]:
  """Returns the least time that so many operations take, and how close a time comes to it.

  Args:
    gflop: Operations, in 10^9.
    median_ms: The time.
    product_ms: From `product_ms`; its rate is taken to be the machine's.
  """
  floor_ms = gflop / PRODUCT_GFLOP * product_ms
  return {
    "gflop": round(gflop, 3),
    "floor_ms": round(floor_ms, 3),
    "fraction_of_matmul_rate": round(floor_ms / median_ms, 3),
  }


def matmul_rate(size: int) -> float:
  """Returns 10^9 operations a second of a square product, in the precision that is set.

  Args:
    size: Rows; large enough that starting it takes no part of its time.
  """
  a = jax.random.normal(jax.random.key(0), (size, size))
  return 2e-9 * size**3 / _seconds(jax.jit(jnp.dot), a, a)


def copy_rate(size: int) -> float:
  """Returns 10^9 bytes a second, read and written, of x + 1 for a float32 vector.

  Args:
    size: Entries; large enough that no cache holds them.
  """
  return 8e-9 * size / _seconds(jax.jit(lambda x: x + 1), jnp.zeros(size))


def _seconds(function, *arguments) -> float:
  """Returns the time of one of several calls that are queued together: the best of three tries."""
  jax.block_until_ready(function(*arguments))
  best = float("inf")
  for _ in range(3):
    start = time.perf_counter()
    jax.block_until_ready([function(*arguments) for _ in range(4)])
    best = min(best, (time.perf_counter() - start) / 4)
  return best


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
