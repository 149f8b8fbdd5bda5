"""Times a training step: a scanned epoch, divided by its steps.

`python -m benchmarks.step --model=segnn` ends with one line of JSON. The unit `products` is the
time over that of a 2048 x 2048 float32 product in the same process, taken just before and after.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from ace_jax import constraints, epochs, homotopy, parallel, state, task
from ace_jax.lagrangian import dual_optimizer
from ace_jax.models.segnn import SEGNN, NBodySEGNN
from ace_jax.primal_dual import primal_adam
from benchmarks import machine

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "segnn", ["segnn"], "Which training step.")
flags.DEFINE_enum("formulation", "auto", ["auto", "fast", "general"], "Of the tensor products.")
flags.DEFINE_bool("strict", False, "Time the plain equivariant model instead.")
flags.DEFINE_bool("unconstrained", False, "Leave out multipliers and violations.")
flags.DEFINE_integer("epochs", 9, "Epochs to take the median of.")

BATCH, STEPS = 100, 30


def segnn():
  """Returns the start of a run and its data: published sizes, random particles."""
  keys = jax.random.split(jax.random.key(0), 5)
  shape = (BATCH * STEPS, 5, 3)
  data = {
    "positions": jax.random.normal(keys[0], shape),
    "velocities": jax.random.normal(keys[1], shape) / 2,
    "charges": jax.random.rademacher(keys[2], shape[:2], jnp.float32),
    "targets": jax.random.normal(keys[3], shape),
  }
  model = NBodySEGNN(SEGNN(formulation=FLAGS.formulation))

  def inputs(batch):
    return batch["positions"], batch["velocities"], batch["charges"]

  init = homotopy.strict(model.init) if FLAGS.strict else model.init
  variables = jax.jit(init)(keys[4], *inputs(task.take(data, slice(0, 2))))
  plain = FLAGS.strict or FLAGS.unconstrained
  begin = state.create(
    task.from_model(model, lambda y, batch: jnp.square(y - batch["targets"]), inputs),
    variables,
    constraints.Unconstrained() if plain else constraints.Equality(),
    primal_adam(9e-4),
    dual_optimizer("adam", 8e-4),
    jax.random.key(1),
  )
  return begin, data


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  run, data = {"segnn": segnn}[FLAGS.model]()
  mesh = parallel.make_mesh(1)
  run_epoch = epochs.compile_epoch(mesh, BATCH)
  run, data = parallel.replicate((run, data), mesh)
  start = time.perf_counter()
  run, outputs = jax.block_until_ready(run_epoch(run, data))
  first = time.perf_counter() - start
  before = machine.product_ms()
  times = []
  for _ in range(FLAGS.epochs):
    start = time.perf_counter()
    run, outputs = jax.block_until_ready(run_epoch(run, data))
    times.append(1e3 * (time.perf_counter() - start) / len(outputs.loss))
  after = machine.product_ms()
  product, median = (before + after) / 2, statistics.median(times)
  report = {
    "benchmark": "step",
    "model": FLAGS.model,
    "formulation": FLAGS.formulation,
    "constraint": "strict" if FLAGS.strict else "none" if FLAGS.unconstrained else "equality",
    "batch": BATCH,
    "median_ms": round(median, 2),
    "fastest_ms": round(min(times), 2),
    "product_ms": round(product, 2),
    "products": round(median / product, 3),
    "first_epoch_seconds": round(first, 1),
    "machine": machine.describe(),
  }
  print(json.dumps(report))


if __name__ == "__main__":
  app.run(main)
