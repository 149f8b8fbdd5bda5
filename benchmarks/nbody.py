"""Times the simulation of 14,000 trajectories of 5 charged particles, compilation included.

The last line of the output is JSON; the time is the median of three runs, each in a program of
its own chunks to frame 40 (4,100 steps), without the cache.
"""

import json
import statistics
import time

import numpy as np

from benchmarks import launching, machine
from data import nbody
from data.nbody.physics import Physics

TRAJECTORIES = 14_000


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  before = machine.product_ms()
  seconds = []
  for seed in range(3):
    start = time.perf_counter()
    nbody.simulate(Physics(), 5, np.arange(TRAJECTORIES), seed)
    seconds.append(time.perf_counter() - start)
  report = {
    "benchmark": "nbody",
    "trajectories": TRAJECTORIES,
    "seconds": round(statistics.median(seconds), 2),
    "seconds_with_compilation": round(seconds[0], 2),
    "milliseconds_a_trajectory": round(1e3 * statistics.median(seconds) / TRAJECTORIES, 3),
    "product_ms": round((before + machine.product_ms()) / 2, 1),
    "machine": machine.describe(),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  launching.launch(main)
