"""Times several replicas of a training step against one, in one process, by turns.

`python -m benchmarks.replicas --model=segnn --replicas=5` ends with one line of JSON; `ratio` is
the median over the rounds. Replicas are shared out over the devices that JAX sees; one has one
device. `XLA_FLAGS=--xla_force_host_platform_device_count=2` makes two of a CPU.
"""

import json
import statistics

import jax
from absl import flags

from ace_jax.training import parallel
from benchmarks import launching, machine, steps
from data.machine import cores

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "segnn", steps.MODELS, "Which training step.")
flags.DEFINE_integer("replicas", 5, "Runs trained at once.", lower_bound=2)
flags.DEFINE_integer("steps", 10, "In an epoch.", lower_bound=1)
flags.DEFINE_integer("rounds", 9, "Epochs of each to take the median of.", lower_bound=4)


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  # As the experiments do it.
  jax.config.update("jax_num_cpu_devices", min(FLAGS.replicas, cores()))
  problem = steps.problem(FLAGS.model).first(FLAGS.steps)
  constraint = "equality" if steps.relaxes(FLAGS.model) else "strict"
  begin = steps.start(problem, constraint)
  programs = {
    name: steps.Epoch(
      problem, [begin] * count, parallel.make_mesh(1, min(count, jax.device_count()))
    )
    for name, count in (("one", 1), ("all", FLAGS.replicas))
  }
  before = machine.product_ms()
  times = steps.interleave(programs, FLAGS.rounds)
  product, median = (before + machine.product_ms()) / 2, statistics.median(times["all"])
  estimate = steps.ratio(times["all"], times["one"])
  report = {
    "benchmark": "replicas",
    "model": FLAGS.model,
    "constraint": constraint,
    "replicas": FLAGS.replicas,
    "devices": jax.device_count(),
    "median_ms": round(median, 2),
    "one_ms": round(statistics.median(times["one"]), 2),
    "ratio": round(estimate["ratio"], 3),
    "ratio_error": round(estimate["error"], 3),
    "product_ms": round(product, 2),
    "products": round(median / product, 3),
    **machine.floor(FLAGS.replicas * programs["one"].gflop, median, product),
    "machine": machine.describe(),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  launching.launch(main)
