"""Disturbs runs in every way that ends them in practice: `python -m benchmarks.faults`.

Every try must end in a run that is the undisturbed one bit for bit (final state, records save
wall-clock, results), or in a refusal of one line; nothing that was reported as saved may be lost.
The report is --out; the last line says how many survived. Mounting small disks needs root;
without it a limit on file sizes stands for the full disk, and the read-only one is not tried.
"""

import collections
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from ace_jax import history
from benchmarks import fault_kinds, fault_runs, machine
from experiments import runs

FLAGS = flags.FLAGS
flags.DEFINE_list("kinds", list(fault_kinds.KINDS), "Which faults.")
flags.DEFINE_float("tries", 1.0, "Scales the number of tries of every kind.", lower_bound=0.0)
flags.DEFINE_integer("fault_seed", 0, "Draws moments, files and bits.", lower_bound=0)
flags.DEFINE_string("bench", None, "Folder to work in, kept; a temporary one by default.")
flags.DEFINE_string("out", "benchmarks/results/faults.json", "The report.")


def campaign(place: Path, kinds: list[str], scale: float, seed: int) -> dict[str, dict]:
  """Returns what became of the tries of every kind.

  Args:
    place: Folder to work in.
    kinds: Names in `fault_kinds.KINDS`.
    scale: Of the numbers of tries; at least one of each kind is made.
    seed: Draws moments, files and bits.
  """
  bench = fault_runs.Bench(place)
  report = {}
  for kind in kinds:
    tries, attempt = fault_kinds.KINDS[kind]
    tries = max(1, round(scale * tries))
    rng = np.random.default_rng([seed, *kind.encode()])
    folder = place / kind
    folder.mkdir()
    begin = time.monotonic()
    found = [*itertools.islice(attempt(bench, folder, rng), tries)]
    endings = collections.Counter(one.ending for one in found)
    report[kind] = {
      "tries": len(found),
      "survived": len(found) - endings["failed"],
      "endings": dict(endings),
      "where": dict(collections.Counter(one.where for one in found)),
      "failures": runs.portable([one.why for one in found if one.why]),
      "seconds": round(time.monotonic() - begin),
    }
    print(f"{kind}: {json.dumps(report[kind])}", flush=True)
  return report


def main(argv: list[str]) -> None:
  """Runs the campaign, writes the report, prints its summary."""
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
  unknown = [kind for kind in FLAGS.kinds if kind not in fault_kinds.KINDS]
  if unknown:
    raise app.UsageError(f"--kinds={unknown[0]} is none of {', '.join(fault_kinds.KINDS)}.")
  place = Path(FLAGS.bench or tempfile.mkdtemp(prefix="faults_")).absolute()
  try:
    found = campaign(place, FLAGS.kinds, FLAGS.tries, FLAGS.fault_seed)
  finally:
    if not FLAGS.bench:
      shutil.rmtree(place, ignore_errors=True)
  tries, survived = (sum(kind[key] for kind in found.values()) for key in ("tries", "survived"))
  totals = {"benchmark": "faults", "tries": tries, "survived": survived, "seed": FLAGS.fault_seed}
  out = Path(FLAGS.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  history.write_json(out, {**totals, "kinds": found, "machine": machine.describe()})
  print(json.dumps(totals))


if __name__ == "__main__":
  app.run(main)
