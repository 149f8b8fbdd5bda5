"""Disturbs runs in every way that ends them in practice: `python -m benchmarks.faults`.

Every try must end in a run that is the undisturbed one bit for bit (final state, records save
wall-clock, results), or in a refusal of one line; nothing that was reported as saved may be lost.
The report is --out; the last line says how many survived. Mounting small disks needs root;
without it a limit on file sizes stands for the full disk, and the read-only one is not tried.
"""

import shutil
import tempfile
from pathlib import Path

from absl import app, flags, logging

from benchmarks import fault_campaign, fault_kinds, launching, machine
from experiments.harness import paths

FLAGS = flags.FLAGS
flags.DEFINE_list("kinds", list(fault_kinds.KINDS), "Which faults.")
flags.DEFINE_float("tries", 1.0, "Scales the number of tries of every kind.", lower_bound=0.0)
flags.DEFINE_integer("seed", 0, "Draws moments, files and bits.", lower_bound=0)
paths.DEFINE_path("bench", None, "Folder to work in, kept; a temporary one by default.")
paths.DEFINE_path("out", "benchmarks/results/faults.json", "The report.")


def main(argv: list[str]) -> None:
  """Runs the campaign, writes the report, prints its summary."""
  del argv
  logging.set_verbosity(logging.WARNING)
  unknown = [kind for kind in FLAGS.kinds if kind not in fault_kinds.KINDS]
  if unknown:
    raise app.UsageError(f"--kinds={unknown[0]} is none of {', '.join(fault_kinds.KINDS)}.")
  out = launching.report_path(FLAGS.out)
  root = Path(FLAGS.bench or tempfile.mkdtemp(prefix="faults_")).absolute()
  try:
    kinds = fault_campaign.run(root, FLAGS.kinds, FLAGS.tries, FLAGS.seed)
  finally:
    if not FLAGS.bench:
      shutil.rmtree(root, ignore_errors=True)
  tries, survived = (sum(kind[key] for kind in kinds.values()) for key in ("tries", "survived"))
  totals = {"benchmark": "faults", "tries": tries, "survived": survived, "seed": FLAGS.seed}
  machine.report(out, totals, {"kinds": kinds})


if __name__ == "__main__":
  launching.launch(main)
