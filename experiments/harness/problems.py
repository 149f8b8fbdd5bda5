"""What an experiment trains: model and data, and the states at the start."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from ace_jax import homotopy, state, task
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history, loop, parallel
from ace_jax.training.finishing import Finish
from experiments.harness import build, constraints
from experiments.harness.settings import Settings, Training


@dataclasses.dataclass(frozen=True)
class Problem:
  """What an experiment hands to `experiments.harness.training.train`.

  Attributes:
    experiment: Its name.
    model: The model's name.
    network: The model, called with `inputs(batch)`.
    inputs: What the model sees of a batch.
    loss: `loss(prediction, batch) -> [samples, ...]`.
    metric: What is reported; the loss if None.
    train: Training samples.
    valid: Validation samples.
    test: Test samples.
    summary: What is known of the data; `linear_mse` is the baseline's error by split.
    measure: Further numbers of one replica's state, recorded at every evaluation,
      "equivariance/PREDICTOR" among them.
    published: The published value of every setting that decides a result.
    draw: Draws the run's figures into a folder, from the final state, the records and what
      `predictions` returned.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    symmetry: The group and its action on the data; None where there is no known one.
    rotations: How test samples are turned, inputs and targets, to measure what a predictor is worth
      on them: "vertical" (about the vertical), "random_axes" (Haar), ...
    predictions: Arrays that figures need of a fixed few test samples, from the final state: inputs,
      truth, and the selected parameters' prediction under each predictor's name.
  """

  experiment: str
  model: str
  network: nn.Module
  inputs: Callable[[task.Batch], tuple[Any, ...]]
  loss: Callable[[Any, task.Batch], jax.Array]
  metric: Callable[[Any, task.Batch], jax.Array] | None
  train: task.Batch
  valid: task.Batch
  test: task.Batch
  summary: dict[str, Any]
  measure: Callable[[state.AceState], dict[str, jax.Array]]
  published: Mapping[str, Any]
  draw: Callable[[Path, state.AceState, list[history.Record], dict[str, Any]], None]
  eval_batch_size: int = 500
  symmetry: Symmetry | None = None
  rotations: Mapping[str, Symmetry] = dataclasses.field(default_factory=dict)
  predictions: Callable[[state.AceState], dict[str, Any]] = lambda end: {}


def start(replicas: Sequence[Settings], problem: Problem, epochs_done: int = 0) -> state.AceState:
  """Returns the states at the start of training, with a leading axis of replicas.

  Args:
    replicas: Settings of each; they differ in the seed and in what `constraints.gridded` names.
    problem: Model and data.
    epochs_done: After how many epochs of the run: step sizes have fallen by so many.
  """
  shared = replicas[0]
  init = problem.network.init
  if shared.constraint.entry.gamma == "absent":
    init = homotopy.strict(init)
  elif shared.branch.gamma == "channel":
    init = homotopy.per_channel(init)
  learned = task.from_model(problem.network, problem.loss, problem.inputs, problem.metric)
  steps = task.size(problem.train) // shared.training.batch_size
  groups = (shared.primal, shared.dual, steps, epochs_done)
  primal, dual = build.optimizers(*groups)

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, constants, batch):
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *problem.inputs(batch))
    formulation = build.constraint(shared.constraint, problem.symmetry, steps, constants)
    own_optimizers = build.optimizers(*groups, constants)
    begin = state.create(learned, variables, formulation, *own_optimizers, run_key)
    # Step sizes ride in the optimizers' states; the optimizers themselves must be the same.
    return begin.replace(primal_optimizer=primal, dual_optimizer=dual)  # pyright: ignore[reportAttributeAccessIssue]

  sample = task.take(problem.train, slice(0, 2))
  begins = []
  for own in replicas:
    flat = own.to_json()
    riding = {name: flat[name] for name in constraints.gridded() if flat.get(name) is not None}
    begins.append(create(jax.random.key(own.training.seed), riding, sample))
  return parallel.stack(begins)


def finish(replicas: Sequence[Settings], problem: Problem) -> Finish | None:
  """Returns what `training.train` needs for a finish, None where there is none.

  Arguments as of `start`. A strict run (of a sample-efficiency curve) has no other finish.
  """
  shared = replicas[0]
  training = shared.training
  if not training.finish_epochs or shared.constraint.entry.gamma == "absent":
    return None
  after = training.epochs - training.finish_epochs
  fresh = start([own.replace(constraint="strict") for own in replicas], problem, after)
  return Finish(after, fresh, training.finish_from or "best")


def training_settings(settings: Training, problem: Problem) -> loop.Settings:
  """Returns what `ace_jax.training.train` needs of the settings."""
  return loop.Settings(
    epochs=settings.epochs,
    batch_size=settings.batch_size,
    eval_every=settings.eval_every,
    eval_batch_size=problem.eval_batch_size,
    checkpoint_every=settings.checkpoint_every,
    keep_period=settings.keep_period,
    patience=settings.patience,
  )


def predict(current: state.AceState, variables: tuple[Any, Any, Any], batch: task.Batch) -> Any:
  """Returns a predictor's output; variables are an entry of `current()` or `selected()`."""
  return current.task.apply(homotopy.merge(*variables), batch, None)[0]
