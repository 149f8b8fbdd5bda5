"""What an experiment trains: model and data, and the states at the start."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from ace_jax import homotopy, state
from ace_jax import task as tasks
from ace_jax.primal_dual import PrimalDual
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history, loop, parallel
from ace_jax.training.finishing import Finish
from experiments.harness import build, constraints
from experiments.harness.artifacts import Predictions
from experiments.harness.result_files import ERROR, MSE
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
    measured: Samples for `measure`. They are an argument of its program: XLA would compute all that
      follows from constants alone while it compiles, which can take it minutes.
    measure: Further numbers of one replica's state, `measure(task, state, measured)`, recorded at
      every evaluation, "equivariance/PREDICTOR" among them.
    published: The published value of every setting that decides a result.
    draw: Draws the run's figures into a folder, from the final state, the records and what
      `predictions` returned.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    symmetry: The group and its action on the data; None where there is no known one.
    rotations: How test samples are turned, inputs and targets, to measure what a predictor is worth
      on them: "vertical" (about the vertical), "random_axes" (Haar), ...
    error_name: What result.json calls the last error that `measure` recorded, which may be of other
      rotations than those of `symmetry`.
    metric_name: What the metric's mean is called, with its unit where it has one.
    predictions: Arrays that figures need of a fixed few test samples, `predictions(task, end)`:
      inputs, truth, and the selected parameters' prediction under each predictor's name.
  """

  experiment: str
  model: str
  network: nn.Module
  inputs: Callable[[tasks.Batch], tuple[Any, ...]]
  loss: Callable[[Any, tasks.Batch], jax.Array]
  metric: Callable[[Any, tasks.Batch], jax.Array] | None
  train: tasks.Batch
  valid: tasks.Batch
  test: tasks.Batch
  summary: dict[str, Any]
  measured: tasks.Batch
  measure: Callable[[tasks.Task, state.AceState, tasks.Batch], dict[str, jax.Array]]
  published: Mapping[str, Any]
  draw: Callable[[Path, state.AceState, list[history.Record], Predictions], None]
  eval_batch_size: int = 500
  symmetry: Symmetry | None = None
  rotations: Mapping[str, Symmetry] = dataclasses.field(default_factory=dict)
  error_name: str = ERROR
  metric_name: str = MSE
  predictions: Callable[[tasks.Task, state.AceState], Predictions] = lambda learned, end: {}

  @functools.cached_property
  def task(self) -> tasks.Task:
    """Model, loss and metric."""
    return tasks.from_model(self.network, self.loss, self.inputs, self.metric)


def method(settings: Settings, problem: Problem, epochs_done: int = 0) -> PrimalDual:
  """Returns task and optimizers; the step sizes of a replica ride in its state.

  Args:
    settings: Of a replica.
    problem: Model and data.
    epochs_done: After how many epochs of the run: step sizes have fallen by so many.
  """
  steps = _steps_an_epoch(settings, problem)
  optimizers = build.optimizers(settings.primal, settings.dual, steps, epochs_done)
  return PrimalDual(problem.task, *optimizers)


def _steps_an_epoch(settings: Settings, problem: Problem) -> int:
  return tasks.size(problem.train) // settings.training.batch_size


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
  steps = _steps_an_epoch(shared, problem)

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, constants, batch):
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *problem.inputs(batch))
    constraint = build.constraint(shared.constraint, problem.symmetry, steps, constants)
    # Step sizes ride in the optimizers' states; the optimizers themselves are those of `method`.
    optimizers = build.optimizers(shared.primal, shared.dual, steps, epochs_done, constants)
    return PrimalDual(problem.task, *optimizers).init(variables, constraint, run_key)

  sample = tasks.take(problem.train, slice(0, 2))
  begins = []
  for settings in replicas:
    flat = settings.to_json()
    riding = {name: flat[name] for name in constraints.gridded() if flat.get(name) is not None}
    begins.append(create(jax.random.key(settings.training.seed), riding, sample))
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
  fresh = start([settings.replace(constraint="strict") for settings in replicas], problem, after)
  return Finish(after, method(shared, problem, after), fresh, training.finish_from or "best")


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
