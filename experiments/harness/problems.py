"""What an experiment trains: model, data and constraint, and the states at the start."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax

import ace_jax
from ace_jax import homotopy, relaxations, state
from ace_jax import task as tasks
from ace_jax.constraints import on_error, rivals
from ace_jax.constraints.on_error import Functional, ResilientFunctional
from ace_jax.constraints.prescribed import RandomHomotopy, Swing
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.symmetry.data import Symmetry
from ace_jax.training import history, loop, parallel
from ace_jax.training.finishing import Finish
from ace_jax.training.parallel import DATA
from experiments.harness.replicas import GRIDDED

RELAXATIONS = {
  "mlp": relaxations.MLP,
  "linear": relaxations.Linear,
  "spectral_mlp": relaxations.SpectralMLP,
  "low_rank": relaxations.LowRank,
}


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
    measure: Further numbers of one replica's state, `measure(task, state)`, recorded at every
      evaluation, "equivariance/PREDICTOR" among them.
    published: The published value of every setting that decides a result.
    draw: Draws the run's figures into a folder, from the final state, the records and what
      `predictions` returned.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    symmetry: The group and its action on the data; None where there is no known one.
    rotations: How test samples are turned, inputs and targets, to measure what a predictor is worth
      on them: "vertical" (about the vertical), "random_axes" (Haar), ...
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
  measure: Callable[[tasks.Task, state.AceState], dict[str, jax.Array]]
  published: dict[str, Any]
  draw: Callable[[Path, state.AceState, list[history.Record], dict[str, Any]], None]
  eval_batch_size: int = 500
  symmetry: Symmetry | None = None
  rotations: Mapping[str, Symmetry] = dataclasses.field(default_factory=dict)
  predictions: Callable[[tasks.Task, state.AceState], dict[str, Any]] = lambda learned, end: {}

  @functools.cached_property
  def task(self) -> tasks.Task:
    """Model, loss and metric."""
    return tasks.from_model(self.network, self.loss, self.inputs, self.metric)


def relaxation(settings: dict[str, Any]) -> Callable[..., nn.Module]:
  """Returns the constructor of the branches; under a schedule they start near 0, as published."""
  branch, options = RELAXATIONS[settings["relaxation"]], {}
  # Runs from before there were sizes do not name them.
  width, rank = settings.get("relaxation_features"), settings.get("rank")
  if settings["constraint"] == "schedule":
    options["kernel_init"] = nn.initializers.normal(1e-4)
  if width is not None:
    options["hidden"] = (width, width)
  if rank is not None:
    options["rank"] = rank
  return functools.partial(branch, **options) if options else branch


def make_constraint(settings: dict[str, Any], problem: Problem) -> ace_jax.Constraint:
  """Builds the constraint of the settings."""
  name, augmented = settings["constraint"], settings["augmented"]
  augmented = 0.0 if augmented is None else augmented
  symmetry = problem.symmetry

  def weighted(rule, objectives):
    if settings["weighting"] == "gradnorm":
      return rivals.GradNorm(symmetry=symmetry, objectives=objectives, axis_name=DATA)
    return rule(beta=settings["beta"], symmetry=symmetry)

  def schedule():
    steps = settings["schedule_epochs"] * _steps_an_epoch(settings, problem)
    return rivals.Schedule(steps=steps, symmetry=symmetry, axis_name=DATA)

  def swing():
    numbers = {name: settings[f"swing_{name}"] for name in _SWING}
    if settings.get("swing_epochs"):
      whole = settings["swing_epochs"] * _steps_an_epoch(settings, problem)
      numbers["steps"] = float(whole - settings["swing_start"])
    return Swing(**numbers)

  return {
    "strict": ace_jax.Unconstrained,
    "none": ace_jax.Unconstrained,
    "equality": lambda: ace_jax.Equality(augmented=augmented),
    "inequality": lambda: ace_jax.Inequality(augmented=augmented, epsilon=settings["epsilon"]),
    "resilient": lambda: ace_jax.Resilient(augmented=augmented, rho=settings["rho"]),
    "one_sided": lambda: ace_jax.OneSided(augmented=augmented),
    "published_resilient": lambda: ace_jax.PublishedResilient(augmented=augmented),
    "ridge": lambda: ace_jax.Ridge(rho=settings["rho"]),
    "schedule": schedule,
    "swing": swing,
    "random_homotopy": lambda: RandomHomotopy(draws=settings["homotopy_draw"], axis_name=DATA),
    "remul": lambda: weighted(rivals.Remul, rivals.loss_and_moved_loss),
    "gap_penalty": lambda: weighted(rivals.GapPenalty, on_error.loss_and_gap),
    "augment": lambda: rivals.Augment(symmetry=symmetry),
    "functional": lambda: Functional(settings["epsilon"], augmented=augmented, symmetry=symmetry),
    "functional_resilient": lambda: ResilientFunctional(
      settings["rho"], augmented=augmented, symmetry=symmetry
    ),
  }[name]()


_SWING = ("amplitude", "period", "time_constant", "phase", "initial", "start")


def method(settings: dict[str, Any], problem: Problem, epochs_done: int = 0) -> ace_jax.PrimalDual:
  """Returns task and optimizers; the step sizes of a replica ride in its state.

  Args:
    settings: Of a replica.
    problem: Model and data.
    epochs_done: After how many epochs of the run: step sizes have fallen by so many.
  """
  return ace_jax.PrimalDual(problem.task, *optimizers(settings, problem, epochs_done))


def start(
  replicas: Sequence[dict[str, Any]], problem: Problem, epochs_done: int = 0
) -> state.AceState:
  """Returns the states at the start of training, with a leading axis of replicas.

  Args:
    replicas: Settings of each; they differ in the seed and in what `replicas.GRIDDED` names.
    problem: Model and data.
    epochs_done: After how many epochs of the run: step sizes have fallen by so many.
  """
  shared = replicas[0]
  init = problem.network.init
  if shared["constraint"] == "strict":
    init = homotopy.strict(init)
  elif shared.get("gamma") == "channel":
    init = homotopy.per_channel(init)

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, constants, batch):
    own = shared | constants
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *problem.inputs(batch))
    constraint = make_constraint(own, problem)
    return method(own, problem, epochs_done).init(variables, constraint, run_key)

  sample = tasks.take(problem.train, slice(0, 2))
  begins = []
  for own in replicas:
    constants = {name: own[name] for name in GRIDDED if own.get(name) is not None}
    begins.append(create(jax.random.key(own["seed"]), constants, sample))
  return parallel.stack(begins)


def finish(replicas: Sequence[dict[str, Any]], problem: Problem) -> Finish | None:
  """Returns what `training.train` needs for a finish, None where there is none.

  Arguments as of `start`. A strict run (of a sample-efficiency curve) has no other finish.
  """
  shared = replicas[0]
  if not shared.get("finish_epochs") or shared["constraint"] == "strict":
    return None
  after = shared["epochs"] - shared["finish_epochs"]
  fresh = start([{**own, "constraint": "strict"} for own in replicas], problem, after)
  return Finish(after, method(shared, problem, after), fresh, shared["finish_from"])


def optimizers(settings: dict[str, Any], problem: Problem, epochs_done: int = 0) -> tuple[Any, Any]:
  """Returns the primal and the dual optimizer of the settings, from some epoch of the run on."""
  epochs, decay = settings.get("decay_epochs"), None
  if epochs is not None:
    steps = _steps_an_epoch(settings, problem)
    cosine = optax.cosine_decay_schedule(1.0, epochs * steps)
    decay = _later(cosine, epochs_done * steps) if epochs_done else cosine
  rates = (settings[name] for name in ("lr", "gamma_lr", "slack_lr", "clip_norm"))
  primal = primal_adam(
    *rates,
    decay=decay,
    gamma_optimizer=settings.get("gamma_optimizer", "adam"),
    weight_decay=settings.get("weight_decay"),
  )
  options = {"eps": settings["dual_eps"]} if settings["dual_optimizer"] == "adam" else {}
  return primal, dual_optimizer(settings["dual_optimizer"], settings["dual_lr"], **options)


def _later(schedule: optax.Schedule, done: int) -> optax.Schedule:
  return lambda count: schedule(count + done)


def _steps_an_epoch(settings: dict[str, Any], problem: Problem) -> int:
  return tasks.size(problem.train) // settings["batch_size"]


def training_settings(settings: dict[str, Any], problem: Problem) -> loop.Settings:
  """Returns what `ace_jax.training.train` needs of the settings."""
  return loop.Settings(
    epochs=settings["epochs"],
    batch_size=settings["batch_size"],
    eval_every=settings["eval_every"],
    eval_batch_size=problem.eval_batch_size,
    checkpoint_every=settings["checkpoint_every"],
    keep_period=settings.get("keep_period"),
    patience=settings["patience"],
  )
