"""Training steps that are timed: published sizes, their states, their programs, their costs."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ace_jax import graphs, homotopy, primal_dual, state, task
from ace_jax.constraints import base
from ace_jax.constraints import on_gamma as constraints
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.training import epochs, memory, parallel

PLAIN = ("strict", "none")
"""Constraints without multipliers: the plain equivariant model, and the relaxed one."""
CONSTRAINTS = {"equality": constraints.Equality, "resilient": constraints.Resilient}
"""Those with."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """A model and the data that it is trained on.

  Attributes:
    name: Of the model.
    network: Called with `inputs(batch)`.
    inputs: What it sees of a batch.
    data: Training samples.
    batch_size: Samples in a batch.
  """

  name: str
  network: nn.Module
  inputs: Callable[[task.Batch], tuple[Any, ...]]
  data: task.Batch
  batch_size: int

  def first(self, steps: int) -> "Problem":
    """Returns the problem with the data of so many steps."""
    return dataclasses.replace(self, data=task.take(self.data, slice(0, steps * self.batch_size)))


def segnn(
  formulation: str = "auto",
  width: int = 64,
  layers: int = 4,
  batch_size: int = 100,
  *,
  particles: int = 5,
  neighbours: int | None = None,
  batches: int = 30,
) -> Problem:
  """Returns the N-body SEGNN, by default of published sizes, on batches of random particles.

  Args:
    formulation: Of the tensor products.
    width: `SEGNN.hidden_features`.
    layers: Of the network.
    batch_size: Samples in a batch.
    particles: In a sample, spread out as the simulator's at the start.
    neighbours: From how many, the nearest, each of them receives; None is all others.
    batches: How many.
  """
  from ace_jax.models.segnn import SEGNN
  from data.nbody.neighbours import nearest
  from experiments.nbody.models import NBodySEGNN

  keys = jax.random.split(jax.random.key(0), 4)
  shape = (batches * batch_size, particles, 3)
  data = {
    "positions": jax.random.normal(keys[0], shape) * (particles / 5) ** (1 / 3),
    "velocities": jax.random.normal(keys[1], shape) / 2,
    "charges": jax.random.rademacher(keys[2], shape[:2], jnp.float32),
    "targets": jax.random.normal(keys[3], shape),
  }
  if neighbours is not None:
    data["senders"] = jnp.asarray(nearest(np.asarray(data["positions"]), neighbours))
  network = SEGNN(hidden_features=width, num_layers=layers, formulation=formulation)

  def inputs(batch):
    edges = [graphs.Neighbours(batch["senders"])] if neighbours is not None else []
    return batch["positions"], batch["velocities"], batch["charges"], *edges

  return Problem("segnn", NBodySEGNN(network), inputs, data, batch_size)


MOCAP = ("egno", "egnn", "mpnn", "tfn", "se3_transformer", "radial_field")
POINTS = ("schnet", "vn_dgcnn")
MODELS = ("segnn", *MOCAP, *POINTS)


def skeleton(name: str, **sizes: int) -> Problem:
  """Returns a motion capture model on the synthetic walker, sizes as published unless given."""
  from data import mocap
  from experiments.harness import models
  from experiments.mocap import models as mocap_models
  from experiments.mocap import run as mocap_run
  from experiments.mocap.settings import preset

  data = mocap.load("run", "synthetic", steps=models.get("mocap", name).predicts)
  settings = preset("paper", name, constraint="none", **sizes)
  network = mocap_models.make_model(settings, data)
  return Problem(name, network, mocap_run.model_inputs, data.train, settings.training.batch_size)


def schnet(
  batch_size: int = 256, *, atoms: int = 18, padded: int = 29, batches: int = 2
) -> Problem:
  """Returns the SchNet of QM9, of published size, on random molecules of one size.

  Args:
    batch_size: Molecules in a batch.
    atoms: Of a molecule; 18 is QM9's mean.
    padded: Number of atoms that arrays have; 29 is QM9's largest molecule.
    batches: How many.
  """
  from experiments.qm9 import models, run
  from experiments.qm9.settings import preset

  settings = preset("paper", "schnet")
  network = models.MoleculeModel(models.schnet(settings), None, settings.model.radius)
  keys = jax.random.split(jax.random.key(0))
  numbers = jnp.tile(jnp.arange(padded) < atoms, (batches * batch_size, 1))
  data = {
    "numbers": jnp.where(numbers, 6, 0),
    "positions": 2 * jax.random.normal(keys[0], (*numbers.shape, 3)),
    "targets": jax.random.normal(keys[1], (len(numbers),)),
  }
  return Problem("schnet", network, run.model_inputs, data, batch_size)


def vn_dgcnn(batch_size: int = 32, *, points: int = 300, batches: int = 2) -> Problem:
  """Returns the VN-DGCNN of ModelNet40, of published size, on random points.

  Args:
    batch_size: Shapes in a batch.
    points: Of a shape.
    batches: How many.
  """
  from experiments.modelnet40 import models, run
  from experiments.modelnet40.settings import preset

  network = models.vn_dgcnn(preset("paper"), classes=40)
  shape = (batches * batch_size, points, 3)
  data = {
    "points": jax.random.normal(jax.random.key(0), shape),
    "targets": jnp.zeros((shape[0], 1)),
  }
  return Problem("vn_dgcnn", network, run.model_inputs, data, batch_size)


def problem(name: str, formulation: str = "auto") -> Problem:
  """Returns the problem of one of `MODELS`, in published sizes."""
  others = {"segnn": lambda: segnn(formulation), "schnet": schnet, "vn_dgcnn": vn_dgcnn}
  return others[name]() if name in others else skeleton(name)


def relaxes(name: str) -> bool:
  """Whether a model has homotopic layers."""
  return name != "mpnn"


def constraint(name: str, strict: bool, unconstrained: bool) -> str:
  """Returns the constraint that is timed of a model: equality, unless asked for another."""
  plain = strict or not relaxes(name)
  return "strict" if plain else "none" if unconstrained else "equality"


def refusal(model: str, formulation: str, strict: bool, unconstrained: bool) -> str:
  """Returns why flags ask for no step, with what to do; "" if they ask for one."""
  if formulation != "auto" and model != "segnn":
    return f"--formulation is SEGNN's alone; {model} has none."
  if strict and unconstrained:
    return "--strict and --unconstrained contradict each other; leave out one."
  return ""


def method(problem: Problem) -> primal_dual.PrimalDual:
  """Returns task and optimizers."""
  learned = task.from_model(problem.network, squared_error, problem.inputs)
  return primal_dual.PrimalDual(learned, primal_adam(9e-4), dual_optimizer("adam", 8e-4))


def start(problem: Problem, constraint: str, seed: int = 0) -> state.AceState:
  """Returns the start of a run.

  Args:
    problem: Model and data.
    constraint: One of "strict", "none", and those of `CONSTRAINTS`.
    seed: Draws initial values.
  """
  init = homotopy.strict(problem.network.init) if constraint == "strict" else problem.network.init
  sample = problem.inputs(task.take(problem.data, slice(0, 2)))
  variables = jax.jit(init)(jax.random.key(seed), *sample)
  rule = base.Unconstrained() if constraint in PLAIN else CONSTRAINTS[constraint]()
  return method(problem).init(variables, rule, jax.random.key(1))


def squared_error(prediction: jax.Array, batch: task.Batch) -> jax.Array:
  """Returns squared errors; their mean is the loss."""
  return jnp.square(prediction - batch["targets"])


class Epoch:
  """A compiled epoch and the states that it moves.

  Attributes:
    steps: In an epoch.
    compile_seconds: Tracing and compilation.
    gflop: Additions and multiplications of a step, in 10^9, as the program was written: before
      XLA computes anything twice. Of all replicas, where they are vmapped. NaN if unknown.
    gigabytes: What the compiled operations of a step read and write; what caches keep counts too.
    peak: Memory that training is expected to need.
    states: As the last epoch left them.
    losses: Of every replica and step of the last epoch.
  """

  def __init__(self, problem: Problem, states: Sequence[state.AceState], mesh: Mesh | None = None):
    """Compiles.

    Args:
      problem: Data and batch size.
      states: Of every replica.
      mesh: Devices; by default one.
    """
    mesh = parallel.make_mesh(1) if mesh is None else mesh
    stacked = parallel.pad(parallel.stack(states), mesh)
    self.steps = task.size(problem.data) // problem.batch_size
    self.states = parallel.shard_replicas(stacked, mesh)
    self._data = parallel.replicate(problem.data, mesh)
    begin = time.perf_counter()
    run = epochs.compile_epoch(method(problem), mesh, problem.batch_size)
    lowered = run.lower(self.states, self._data)
    self._run = lowered.compile()
    self.compile_seconds = time.perf_counter() - begin
    programs = {memory.EPOCH: self._run}
    self.peak = memory.expect(self.states, self._data, programs, mesh, checkpoints=False)
    # XLA counts the body of a loop once, and all of a step is in the body of the epoch's loop.
    self.gflop = _count(lowered, "flops") or _count(self._run, "flops") or math.nan
    self.gigabytes = _count(self._run, "bytes accessed") or math.nan

  def __call__(self) -> float:
    """Runs an epoch; returns milliseconds a step."""
    begin = time.perf_counter()
    self.states, outputs = self._run(self.states, self._data)
    self.losses = jax.block_until_ready((self.states, outputs))[1].loss
    return 1e3 * (time.perf_counter() - begin) / self.steps

  def text(self) -> str:
    """Returns the compiled program."""
    return self._run.as_text()


def _count(stage: Any, name: str) -> float | None:
  try:
    costs = stage.cost_analysis()
  except Exception:  # not every device's compiler counts, and each says so in its own way
    return None
  costs = costs[0] if isinstance(costs, list) else costs or {}
  return costs.get(name, 0.0) / 1e9 or None


def interleave(programs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """Runs programs in turn, so that what disturbs the machine disturbs all of them.

  The order turns round every other time; the first round, which meets cold caches, is not kept.

  Args:
    programs: Each returns its time.
    rounds: How often each is run.

  Returns:
    The times of each, of one length: entries at one place were taken in one round.
  """
  times: dict[str, list[float]] = {name: [] for name in programs}
  names = [*programs]
  for i in range(rounds + 1):
    for name in names if i % 2 else reversed(names):
      taken = programs[name]()
      if i:
        times[name].append(taken)
  return times


def ratio(times: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
  """Returns the median of the rounds' ratios, and its standard error.

  The error is that of a median of normal numbers whose spread is read from the quartiles.
  """
  ratios = sorted(a / b for a, b in zip(times, reference, strict=True))
  lower, middle, upper = statistics.quantiles(ratios, n=4)
  return {"ratio": middle, "error": 1.2533 * (upper - lower) / 1.349 / len(ratios) ** 0.5}
