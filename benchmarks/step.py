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
flags.DEFINE_enum("model", "segnn", ["segnn", "egno"], "Which training step.")
flags.DEFINE_enum("formulation", "auto", ["auto", "fast", "general"], "Of the tensor products.")
flags.DEFINE_integer(
  "replicas", 1, "Runs trained at once; a step moves all of them.", lower_bound=1
)
flags.DEFINE_bool("strict", False, "Time the plain equivariant model instead.")
flags.DEFINE_bool("unconstrained", False, "Leave out multipliers and violations.")
flags.DEFINE_integer("epochs", 9, "Epochs to take the median of.")


def segnn():
  """Returns model, inputs, data and batch size: published sizes, random particles."""
  keys = jax.random.split(jax.random.key(0), 4)
  shape = (3000, 5, 3)
  data = {
    "positions": jax.random.normal(keys[0], shape),
    "velocities": jax.random.normal(keys[1], shape) / 2,
    "charges": jax.random.rademacher(keys[2], shape[:2], jnp.float32),
    "targets": jax.random.normal(keys[3], shape),
  }
  model = NBodySEGNN(SEGNN(formulation=FLAGS.formulation))

  def inputs(batch):
    return batch["positions"], batch["velocities"], batch["charges"]

  return model, inputs, data, 100


def egno():
  """Returns model, inputs, data and batch size: published sizes, the synthetic walker."""
  from data import mocap
  from experiments import mocap_models, mocap_run
  from experiments.mocap_presets import preset

  data = mocap.load("run", "synthetic")
  settings = {**preset("paper", "egno"), "relaxation": "mlp", "relaxation_scale": "free"}
  model = mocap_models.make_model({**settings, "height": True}, data)
  return model, mocap_run.model_inputs, data.train, 12


def start(model, inputs, data):
  """Returns the start of a run."""
  init = homotopy.strict(model.init) if FLAGS.strict else model.init
  variables = jax.jit(init)(jax.random.key(0), *inputs(task.take(data, slice(0, 2))))
  plain = FLAGS.strict or FLAGS.unconstrained
  return state.create(
    task.from_model(model, lambda y, batch: jnp.square(y - batch["targets"]), inputs),
    variables,
    constraints.Unconstrained() if plain else constraints.Equality(),
    primal_adam(9e-4),
    dual_optimizer("adam", 8e-4),
    jax.random.key(1),
  )


def main(argv: list[str]) -> None:
  """Prints the JSON line."""
  del argv
  model, inputs, data, batch = {"segnn": segnn, "egno": egno}[FLAGS.model]()
  mesh = parallel.make_mesh(1)
  run_epoch = epochs.compile_epoch(mesh, batch)
  run = parallel.stack([start(model, inputs, data)] * FLAGS.replicas)
  run, data = parallel.shard_replicas(run, mesh), parallel.replicate(data, mesh)
  begin = time.perf_counter()
  run, outputs = jax.block_until_ready(run_epoch(run, data))
  first = time.perf_counter() - begin
  before = machine.product_ms()
  times = []
  for _ in range(FLAGS.epochs):
    begin = time.perf_counter()
    run, outputs = jax.block_until_ready(run_epoch(run, data))
    times.append(1e3 * (time.perf_counter() - begin) / outputs.loss.shape[1])
  after = machine.product_ms()
  product, median = (before + after) / 2, statistics.median(times)
  report = {
    "benchmark": "step",
    "model": FLAGS.model,
    **({"formulation": FLAGS.formulation} if FLAGS.model == "segnn" else {}),
    "constraint": "strict" if FLAGS.strict else "none" if FLAGS.unconstrained else "equality",
    "batch": batch,
    "replicas": FLAGS.replicas,
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
