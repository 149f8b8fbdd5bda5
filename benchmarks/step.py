"""Times a training step: a scanned epoch, divided by its steps.

`python -m benchmarks.step --model=segnn` ends with one line of JSON. The unit `products` is the
time over that of a 2048 x 2048 float32 product in the same process, taken just before and after;
`floor_ms` is what the step's operations take at the product's rate. --profile adds where the time
goes, by kind of kernel and for the kernels that take longest, with the lines that they come from.
"""

import json
import statistics
import sys
from pathlib import Path

import jax
from absl import app, flags

from benchmarks import kernels, launching, machine, steps
from experiments.harness import folders, paths

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "segnn", steps.MODELS, "Which training step.")
flags.DEFINE_enum("formulation", "auto", ["auto", "fast", "general"], "Of the tensor products.")
flags.DEFINE_integer(
  "replicas", 1, "Runs trained at once; a step moves all of them.", lower_bound=1
)
flags.DEFINE_bool("strict", False, "Time the plain equivariant model instead.")
flags.DEFINE_bool("unconstrained", False, "Leave out multipliers and violations.")
flags.DEFINE_integer("epochs", 9, "Epochs to take the median of.", lower_bound=1)
paths.DEFINE_path("trace", None, "Folder for a trace of one more epoch, by jax.profiler.")
flags.DEFINE_bool("profile", False, "Print where the time of one more epoch goes.")


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  refusal = steps.refusal(FLAGS.model, FLAGS.formulation, FLAGS.strict, FLAGS.unconstrained)
  if refusal:
    raise app.UsageError(refusal)
  if FLAGS.trace:
    folders.tried(Path(FLAGS.trace), "trace")
  problem = steps.problem(FLAGS.model, FLAGS.formulation)
  if FLAGS.profile:  # a program from JAX's cache would name the lines of the day it was compiled
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
  constraint = steps.constraint(FLAGS.model, FLAGS.strict, FLAGS.unconstrained)
  epoch = steps.Epoch(problem, [steps.start(problem, constraint)] * FLAGS.replicas)
  epoch()
  before = machine.product_ms()
  times = [epoch() for _ in range(FLAGS.epochs)]
  product, median = (before + machine.product_ms()) / 2, statistics.median(times)
  if FLAGS.trace:
    with jax.profiler.trace(FLAGS.trace):
      epoch()
  report = {
    "benchmark": "step",
    "model": FLAGS.model,
    **({"formulation": FLAGS.formulation} if FLAGS.model == "segnn" else {}),
    "constraint": constraint,
    "batch": problem.batch_size,
    "replicas": FLAGS.replicas,
    "median_ms": round(median, 2),
    "fastest_ms": round(min(times), 2),
    "product_ms": round(product, 2),
    "products": round(median / product, 3),
    **machine.floor(epoch.gflop, median, product),
    "gigabytes": round(epoch.gigabytes, 3),
    "compile_seconds": round(epoch.compile_seconds, 1),
    "machine": machine.describe(),
  }
  if FLAGS.profile:
    measured = kernels.profile(epoch.text(), epoch, epoch.steps)
    if not measured[0]:
      sys.exit("error: the trace names no kernel of the program; --profile reads traces of CPUs.")
    print(kernels.as_tables(*measured))
    report["profile"] = kernels.report(*measured)
  print(json.dumps(report))


if __name__ == "__main__":
  launching.launch(main)
