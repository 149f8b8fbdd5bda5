"""The tries of every kind of fault, and what became of them."""

import collections
import itertools
import json
import time
from pathlib import Path

import numpy as np

from benchmarks import fault_kinds, fault_runs
from experiments.harness import workdirs


def run(root: Path, kinds: list[str], scale: float, seed: int) -> dict[str, dict]:
  """Returns what became of the tries of every kind.

  Args:
    root: Folder to work in.
    kinds: Names in `fault_kinds.KINDS`.
    scale: Of the numbers of tries; at least one of each kind is made.
    seed: Draws moments, files and bits.
  """
  bench = fault_runs.Bench(root)
  report = {}
  for kind in kinds:
    tries, attempt = fault_kinds.KINDS[kind]
    tries = max(1, round(scale * tries))
    rng = np.random.default_rng([seed, *kind.encode()])
    folder = root / kind
    folder.mkdir()
    begin = time.monotonic()
    outcomes = [*itertools.islice(attempt(bench, folder, rng), tries)]
    endings = collections.Counter(outcome.ending for outcome in outcomes)
    report[kind] = {
      "tries": len(outcomes),
      "survived": len(outcomes) - endings["failed"],
      "endings": dict(endings),
      "where": dict(collections.Counter(outcome.where for outcome in outcomes)),
      "failures": workdirs.portable([outcome.why for outcome in outcomes if outcome.why]),
      "seconds": round(time.monotonic() - begin),
    }
    print(f"{kind}: {json.dumps(report[kind])}", flush=True)
  return report
