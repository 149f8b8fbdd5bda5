"""What an accelerator makes of this: `python -m benchmarks.accelerator --minutes=9`.

In turn: rates of the machine; gradients and losses against float64 on the CPU; time of the
training steps, and how near they come to what the machine can do, by --precision of the products; 1
to 32 replicas; and for the rest of the time the published N-body and motion capture settings with
five replicas. --out is written after every number, so that a cut leaves what was there before.
Packages that are missing are named in it, and what needs them is skipped. On a CPU the sizes are
small.
"""

import json
import time

from absl import app, flags

from benchmarks import launching
from experiments.harness import paths

FLAGS = flags.FLAGS
STAGES = ("machine", "correctness", "steps", "replicas", "training")
flags.DEFINE_float("minutes", 9.0, "When to end.", lower_bound=0.1)
flags.DEFINE_list("stages", list(STAGES), "Which, in this order.")
flags.DEFINE_enum("sizes", "auto", ["auto", "published", "small"], "auto: small on a CPU alone.")
paths.DEFINE_path("out", None, "The report; by default results/accelerator/DEVICE.json.")

OPTIONAL = ("e3nn_jax", "jraph", "platformdirs")


def main(argv: list[str]) -> None:
  """Runs the stages, writes the report, prints its state as the last line."""
  del argv
  begin = time.monotonic()
  unknown = [name for name in FLAGS.stages if name not in STAGES]
  if unknown:
    raise app.UsageError(f"--stages={unknown[0]} is none of {', '.join(STAGES)}.")
  from benchmarks import packages

  absent = packages.allow_absent(OPTIONAL)
  import jax

  from benchmarks import accelerator_stages as stages

  small = FLAGS.sizes == "small" or (FLAGS.sizes == "auto" and jax.default_backend() == "cpu")
  name = jax.devices()[0].device_kind.replace(" ", "_").replace("/", "_")
  path = launching.report_path(FLAGS.out or f"results/accelerator/{name}.json")
  report = stages.run(
    [name for name in STAGES if name in FLAGS.stages],
    stages.Suite("small" if small else "published", begin + 60 * FLAGS.minutes),
    absent,
    path,
  )
  short = {key: report[key] for key in ("benchmark", "finished", "not_done")}
  print(json.dumps({**short, "out": str(path)}))


if __name__ == "__main__":
  launching.launch(main)
