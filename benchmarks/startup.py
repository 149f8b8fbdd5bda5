"""Times the start of `experiments.nbody` to the end of its first epoch, cold and warm.

Cold is with an empty compilation cache, warm with the one that the cold start left; the data are
simulated in both. The last line of the output is JSON.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from benchmarks import machine

SAID = re.compile(r"First epoch done after ([0-9.]+) s")


def first_epoch(home: str) -> float:
  """Returns the seconds that a new process says it took, with its caches below `home`."""
  environment = {**os.environ, "XDG_CACHE_HOME": home}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, "-m", "experiments.nbody", "--epochs=1", f"--workdir={workdir}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  found = SAID.search(done.stdout + done.stderr)
  assert found is not None, done.stderr
  return float(found[1])


def main() -> None:
  """Prints the JSON line."""
  with tempfile.TemporaryDirectory() as home:
    cold = first_epoch(home)
    warm = first_epoch(home)
  product = round(machine.product_ms(), 1)
  report = {"benchmark": "startup", "cold_seconds": cold, "warm_seconds": warm}
  print(json.dumps({**report, "product_ms": product, "machine": machine.describe()}))


if __name__ == "__main__":
  main()
