"""Times an evaluation of both predictors on as many samples as the experiments have.

`python -m benchmarks.evaluation --model=segnn` ends with one line of JSON.
"""

import json
import statistics
import time

import jax
from absl import flags

from ace_jax import task
from ace_jax.training import epochs, parallel
from benchmarks import launching, machine, steps

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "segnn", steps.MODELS, "Which model.")
flags.DEFINE_integer("repeats", 9, "Evaluations to take the median of.", lower_bound=1)


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  problem = steps.problem(FLAGS.model)
  samples = min(2000, task.size(problem.data))
  at_once = 500 if FLAGS.model == "segnn" else 60  # as the experiments have it
  constraint = "equality" if steps.relaxes(FLAGS.model) else "strict"
  mesh = parallel.make_mesh(1)
  states = parallel.stack([steps.start(problem, constraint)])
  data = task.take(problem.data, slice(0, samples))
  states, data = parallel.shard_replicas(states, mesh), parallel.replicate(data, mesh)
  begin = time.perf_counter()
  evaluate = epochs.compile_evaluation(steps.method(problem).task, mesh, at_once)
  evaluate = evaluate.lower(states, data).compile()
  seconds = time.perf_counter() - begin
  states, errors, _ = evaluate(states, data)
  before, times = machine.product_ms(), []
  for _ in range(FLAGS.repeats):
    begin = time.perf_counter()
    states, errors, _ = jax.block_until_ready(evaluate(states, data))
    times.append(1e3 * (time.perf_counter() - begin))
  product, median = (before + machine.product_ms()) / 2, statistics.median(times)
  report = {
    "benchmark": "evaluation",
    "model": FLAGS.model,
    "samples": samples,
    "predictors": sorted(errors),
    "median_ms": round(median, 2),
    "product_ms": round(product, 2),
    "products": round(median / product, 3),
    "compile_seconds": round(seconds, 1),
    "machine": machine.describe(),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  launching.launch(main)
