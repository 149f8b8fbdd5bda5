"""One of the processes of tests/test_hosts.py: trains a small SEGNN on particles in float64.

python hosts_worker.py COORDINATOR PROCESSES PROCESS REPLICAS FOLDER
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ace_jax
from ace_jax import files, optimizers, task
from ace_jax.models.segnn import SEGNN
from ace_jax.relaxations import Relaxation
from ace_jax.training import hosts, loop, measuring, parallel
from experiments.nbody.models import NBodySEGNN


def data(samples):
  keys = jax.random.split(jax.random.key(0), 4)
  shape = (samples, 3, 3)
  return {
    "positions": jax.random.normal(keys[0], shape),
    "velocities": jax.random.normal(keys[1], shape),
    "charges": jax.random.rademacher(keys[2], shape[:2], jnp.result_type(float)),
    "targets": jax.random.normal(keys[3], shape),
  }


def begin(seed, model, method, inputs, sample):
  variables = jax.jit(model.init)(jax.random.key(seed), *inputs(sample))
  constraint = ace_jax.Resilient(augmented=1.0, rho=0.3)
  begun = method.init(variables, constraint, jax.random.key(seed))
  floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
  return jax.tree.map(lambda a: a.astype(jnp.float64) if floating(a) else a, begun)


def main(coordinator, processes, process, replicas, folder):
  jax.config.update("jax_enable_x64", True)
  if int(processes) > 1:
    hosts.join(coordinator, int(processes), int(process), timeout_seconds=60)
  samples, workdir = data(80), Path(folder)
  inputs = lambda batch: (batch["positions"], batch["velocities"], batch["charges"])  # noqa: E731
  model = NBodySEGNN(
    SEGNN(
      hidden_features=2,
      num_layers=1,
      relaxation=Relaxation(scale="fixed", axis_name=parallel.DATA),
    )
  )
  learned = task.from_model(model, lambda y, batch: jnp.square(y - batch["targets"]), inputs)
  method = ace_jax.PrimalDual(
    learned, optimizers.primal_adam(1e-2), optimizers.dual_optimizer("adam", 1e-2)
  )
  sample = task.take(samples, slice(0, 2))
  seeds = range(int(replicas))
  begun = [begin(seed, model, method, inputs, sample) for seed in seeds]
  train, valid = (task.take(samples, part) for part in (slice(0, 64), slice(64, 80)))
  end, records = loop.train(
    method,
    parallel.stack(begun),
    train,
    valid,
    loop.Settings(epochs=4, batch_size=16, checkpoint_every=2),
    workdir=workdir,
    names=[f"seed{seed}" for seed in seeds],
    resume=True,
  )
  errors = measuring.test_errors(learned, end, valid)
  leaves = jax.tree.leaves((end.primal, end.multipliers, end.best))
  arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
  np.savez(workdir / f"end{process}.npz", **arrays)
  files.write_json(workdir / f"errors{process}.json", {"errors": errors, "records": records})


if __name__ == "__main__":
  main(*sys.argv[1:])
