"""A process of `benchmarks.compare`: compiles a step of the tree in its folder, then runs epochs.

It is started as a file, since the tree may be that of a commit without this module. All that it
knows of the tree are `problem`, `start` and `Epoch` of benchmarks/steps.py and `product_ms` and
`describe` of benchmarks/machine.py. It writes a line of JSON when the step is compiled, and one for
every line that it reads: "epoch" or "product", answered by milliseconds. It ends with its input.
"""

import json
import os
import sys
from typing import Any


def prepare(model: str, formulation: str, constraint: str, replicas: int) -> tuple[dict, dict]:
  """Returns what the compiled step is, and what can be asked for."""
  from benchmarks import machine, steps

  if model not in steps.MODELS:
    raise ValueError(f"it knows no model {model!r}, only {', '.join(steps.MODELS)}")
  problem = steps.problem(model, formulation)
  epoch = steps.Epoch(problem, [steps.start(problem, constraint)] * replicas)
  about = {
    "batch": problem.batch_size,
    "compile_seconds": round(epoch.compile_seconds, 1),
    "machine": machine.describe(),
  }
  return about, {"epoch": epoch, "product": machine.product_ms}


def main() -> None:
  """Answers until nothing more is asked."""
  sys.path[0] = os.getcwd()  # not this file's folder
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # whatever else is printed is no answer

  def answer(value: Any) -> None:
    print(json.dumps(value), file=answers, flush=True)

  model, formulation, constraint, replicas = sys.argv[1:]
  try:
    about, questions = prepare(model, formulation, constraint, int(replicas))
  except Exception as error:  # an older tree may lack anything
    answer({"error": " ".join(f"{type(error).__name__}: {error}".split())})
    sys.exit(1)
  answer(about)
  for line in sys.stdin:
    answer(questions[line.strip()]())


if __name__ == "__main__":
  main()
