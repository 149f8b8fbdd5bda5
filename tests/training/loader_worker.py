"""One of the processes of tests/training/test_hosts.py: trains on a loader of its share of batches.

python loader_worker.py COORDINATOR PROCESSES PROCESS FOLDER
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import ace_jax
from ace_jax import files
from ace_jax.errors import ConfigurationError
from ace_jax.training import hosts


class Radial(nn.Module):
  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(4)(jnp.linalg.norm(x, axis=-1, keepdims=True)))
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1)(h), x)


class Share:
  """Batches of eight samples, of which each process reads its rows; says where it is."""

  def __init__(self, processes, process, batches=5):
    x = np.random.default_rng(0).normal(size=(batches, 8, 3)).astype(np.float32)
    y = np.linalg.norm(x, axis=2, keepdims=True) + 0.3 * x[:, :, :1]
    rows = slice(process * 8 // processes, (process + 1) * 8 // processes)
    self.x, self.y, self.passes = x[:, rows], y[:, rows], 0

  def __iter__(self):
    self.passes += 1
    order = np.random.default_rng(self.passes).permutation(len(self.x))
    yield from ((self.x[i], self.y[i]) for i in order)

  def state_dict(self):
    return {"passes": self.passes}

  def load_state_dict(self, state):
    self.passes = state["passes"]


def fit(train, valid, **options):
  def loss(prediction, batch):
    return jnp.square(prediction - batch[1])

  return ace_jax.fit(Radial(), loss, train, valid, progress=None, lr=1e-2, **options)


def refusal(train, valid):
  try:
    fit(train, valid, epochs=1)
  except ConfigurationError as error:
    return str(error)
  return ""


def main(coordinator, processes, process, folder):
  processes, process, folder = int(processes), int(process), Path(folder)
  if processes > 1:
    hosts.join(coordinator, processes, process, timeout_seconds=60)
  shared = lambda batches=5: Share(processes, process, batches)  # noqa: E731
  options = {"workdir": folder / "run", "checkpoint_every": 2}
  fit(shared(), shared(), epochs=2, **options)
  run = fit(shared(), shared(), epochs=4, resume=True, test=shared(), **options)
  said = {"test": run.test, "records": run.history}
  if processes > 1:
    said["uneven"] = refusal(shared(5 - process), shared())
    bad = shared()
    if process:
      bad.x[:, 1, 0] = np.nan  # the second half of every batch, in the second process
    said["not_finite"] = refusal(bad, shared())
  leaves = jax.tree.leaves((run.state.primal, run.state.multipliers, run.state.best))
  arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
  np.savez(folder / f"end{process}.npz", **arrays)
  files.write_json(folder / f"said{process}.json", said)


if __name__ == "__main__":
  main(*sys.argv[1:])
