"""What benchmarks ran on, the unit that makes machines comparable, and the report of a campaign."""

import json
import platform
import re
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ace_jax import files
from data.machine import cores

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
  """Returns processor, cores that this process may use, device and the version of JAX."""
  cpuinfo = Path("/proc/cpuinfo")
  return {
    "processor": processor(cpuinfo.read_text() if cpuinfo.exists() else ""),
    "cores": cores(),
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }


def processor(cpuinfo: str) -> str:
  """Returns the name of a processor.

  A virtual machine may hide the model ("AMD EPYC"); family, model and stepping, which are those
  of a generation and not of one product, are then added.

  Args:
    cpuinfo: What Linux has in /proc/cpuinfo; "" elsewhere.
  """
  pairs = (line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
  fields = {key.strip(): value.strip() for key, value in pairs}
  name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
  if re.search(r"\d{3}", name.partition("@")[0]):  # without its frequency
    return name
  known = [
    f"{what} {fields[key]}"
    for what, key in (("family", "cpu family"), ("model", "model"), ("stepping", "stepping"))
    if key in fields
  ]
  return f"{name} ({', '.join(known)})" if known else name


def title(about: Mapping[str, Any]) -> str:
  """Returns how a table calls what `describe` found: processor, cores, and a device beside them."""
  device = "" if about["device"] == "cpu" else f", {about['device']}"
  return f"{about['processor']}, {about['cores']} cores{device}"


def folder(about: Mapping[str, Any]) -> str:
  """Returns the name of the folder that keeps what was measured there, from `title`."""
  name = re.sub(r"\((?:R|TM)\)", "", title(about), flags=re.IGNORECASE)
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def report(path: Path, totals: dict[str, Any], details: dict[str, Any]) -> None:
  """Writes a campaign's report, and prints its totals as the last line.

  Args:
    path: The JSON file; its folder is made if missing.
    totals: Of all.
    details: What they are made of.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_json(path, {**totals, **details, "machine": describe()})
  print(json.dumps(totals))
