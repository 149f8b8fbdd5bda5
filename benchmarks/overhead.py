"""What a constraint costs: the same relaxed model with and without it, in one process, by turns.

`python -m benchmarks.overhead --model=segnn` ends with one line of JSON; `percent` is the median
over the rounds of what multipliers, slack and violation add to a step, `percent_error` its
standard error.
"""

import json
import statistics

from absl import app, flags

from benchmarks import launching, machine, steps

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  "model", "segnn", [name for name in steps.MODELS if steps.relaxes(name)], "Which step."
)
flags.DEFINE_list("constraints", ["equality", "resilient"], "Held against none.")
flags.DEFINE_integer("steps", 5, "In an epoch.", lower_bound=1)
flags.DEFINE_integer("rounds", 60, "Epochs of each; the error falls with the root.", lower_bound=4)


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  for name in FLAGS.constraints or [""]:
    if name not in steps.CONSTRAINTS:
      raise app.UsageError(f"--constraints={name} is none of {', '.join(steps.CONSTRAINTS)}.")
  problem = steps.problem(FLAGS.model).first(FLAGS.steps)
  programs = {
    name: steps.Epoch(problem, [steps.start(problem, name)])
    for name in ("none", *FLAGS.constraints)
  }
  times = steps.interleave(programs, FLAGS.rounds)
  product = machine.product_ms()
  overhead = {}
  for name in FLAGS.constraints:
    estimate = steps.ratio(times[name], times["none"])
    overhead[name] = {
      "percent": round(100 * (estimate["ratio"] - 1), 2),
      "percent_error": round(100 * estimate["error"], 2),
    }
  median = statistics.median(times["none"])
  report = {
    "benchmark": "overhead",
    "model": FLAGS.model,
    "median_ms": round(median, 2),
    "product_ms": round(product, 2),
    "products": round(median / product, 3),
    "overhead": overhead,
    "rounds": FLAGS.rounds,
    "machine": machine.describe(),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  launching.launch(main)
