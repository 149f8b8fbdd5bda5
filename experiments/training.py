"""The training of any experiment: initial states, one device program, a result.json a replica."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

import ace_jax
from ace_jax import (
  checkpoints,
  epochs,
  history,
  homotopy,
  hosts,
  parallel,
  relaxations,
  rivals,
  state,
  task,
  training,
)
from ace_jax.errors import CheckpointError, NonFiniteError
from ace_jax.functional import Functional, ResilientFunctional, Symmetry
from ace_jax.lagrangian import dual_optimizer
from ace_jax.logging import ProgressBar, TensorBoardLogger
from ace_jax.parallel import DATA, default_mesh, make_mesh
from ace_jax.primal_dual import primal_adam
from experiments import gaps, runs, text
from experiments.replicas import GRIDDED, Plan

_ALONE = Plan()
RELAXATIONS = {
  "mlp": relaxations.MLP,
  "linear": relaxations.Linear,
  "spectral_mlp": relaxations.SpectralMLP,
  "low_rank": relaxations.LowRank,
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """What an experiment hands to `train`.

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
    draw: Draws the run's figures into a folder, from the final state and the records.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
    symmetry: The group and its action on the data; None where there is no known one.
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
  published: dict[str, Any]
  draw: Callable[[Path, state.AceState, list[history.Record]], None]
  eval_batch_size: int = 500
  symmetry: Symmetry | None = None


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


def make_constraint(settings: dict[str, Any], problem: Problem) -> ace_jax.Formulation:
  """Builds the formulation of the settings."""
  name, augmented = settings["constraint"], settings["augmented"]
  augmented = 0.0 if augmented is None else augmented
  symmetry = problem.symmetry

  def remul():
    if settings["weighting"] == "gradnorm":
      return rivals.GradNorm(symmetry=symmetry, axis_name=DATA)
    return rivals.Remul(beta=settings["beta"], symmetry=symmetry)

  def schedule():
    steps = settings["schedule_epochs"] * _steps_an_epoch(settings, problem)
    return rivals.Schedule(steps=steps, symmetry=symmetry, axis_name=DATA)

  return {
    "strict": ace_jax.Unconstrained,
    "none": ace_jax.Unconstrained,
    "equality": lambda: ace_jax.Equality(augmented=augmented),
    "inequality": lambda: ace_jax.Inequality(augmented=augmented, epsilon=settings["epsilon"]),
    "resilient": lambda: ace_jax.Resilient(augmented=augmented, rho=settings["rho"]),
    "one_sided": lambda: ace_jax.OneSided(augmented=augmented),
    "ridge": lambda: ace_jax.Ridge(rho=settings["rho"]),
    "schedule": schedule,
    "remul": remul,
    "augment": lambda: rivals.Augment(symmetry=symmetry),
    "functional": lambda: Functional(augmented, symmetry, settings["epsilon"]),
    "functional_resilient": lambda: ResilientFunctional(augmented, symmetry, settings["rho"]),
  }[name]()


def start(replicas: Sequence[dict[str, Any]], problem: Problem) -> state.AceState:
  """Returns the states at the start of training, with a leading axis of replicas.

  Args:
    replicas: Settings of each; they differ in the seed and in what `replicas.GRIDDED` names.
    problem: Model and data.
  """
  shared = replicas[0]
  init = problem.network.init
  if shared["constraint"] == "strict":
    init = homotopy.strict(init)
  elif shared.get("gamma") == "channel":
    init = homotopy.per_channel(init)
  learned = task.from_model(problem.network, problem.loss, problem.inputs, problem.metric)
  optimizers = _optimizers(shared, problem)

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, constants, batch):
    own = shared | constants
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *problem.inputs(batch))
    formulation = make_constraint(own, problem)
    begin = state.create(learned, variables, formulation, *_optimizers(own, problem), run_key)
    # Step sizes ride in the optimizers' states; the optimizers themselves must be the same.
    primal, dual = optimizers
    return begin.replace(primal_optimizer=primal, dual_optimizer=dual)  # pyright: ignore[reportAttributeAccessIssue]

  sample = task.take(problem.train, slice(0, 2))
  begins = []
  for own in replicas:
    constants = {name: own[name] for name in GRIDDED if own.get(name) is not None}
    begins.append(create(jax.random.key(own["seed"]), constants, sample))
  return parallel.stack(begins)


def _optimizers(settings: dict[str, Any], problem: Problem) -> tuple[Any, Any]:
  epochs, decay = settings.get("decay_epochs"), None
  if epochs is not None:
    decay = optax.cosine_decay_schedule(1.0, epochs * _steps_an_epoch(settings, problem))
  rates = (settings[name] for name in ("lr", "gamma_lr", "slack_lr", "clip_norm"))
  primal = primal_adam(*rates, decay=decay)
  options = {"eps": settings["dual_eps"]} if settings["dual_optimizer"] == "adam" else {}
  return primal, dual_optimizer(settings["dual_optimizer"], settings["dual_lr"], **options)


def _steps_an_epoch(settings: dict[str, Any], problem: Problem) -> int:
  return task.size(problem.train) // settings["batch_size"]


def restore(folder: Path, settings: dict[str, Any], problem: Problem) -> state.AceState:
  """Returns the final state of a finished run, or of one of the replicas of a command.

  Args:
    folder: The run's own folder.
    settings: Its settings.
    problem: Its model and data.

  Raises:
    CheckpointError: no checkpoint of it is whole.
  """
  place, begin, index = _locate(folder, settings, problem)
  return parallel.select(checkpoints.restore(place, begin), index)


def trajectory(folder: Path, settings: dict[str, Any], problem: Problem) -> list[state.AceState]:
  """Returns the states of a run at every checkpoint that it kept, the oldest first.

  Arguments as of `restore`; a run keeps more than its newest few with `keep_period`.
  """
  place, begin, index = _locate(folder, settings, problem)
  return [parallel.select(found, index) for found in checkpoints.restore_all(place, begin)]


def _locate(
  folder: Path, settings: dict[str, Any], problem: Problem
) -> tuple[Path, state.AceState, int]:
  """Returns a run's checkpoints, fresh states of all replicas in them, and which of them it is."""
  own, index, place = [settings], 0, folder
  together = runs.read_settings(folder.parent)
  if together and not checkpoints.exists(folder / training.CHECKPOINTS):
    grid = tuple((name, tuple(values)) for name, values in together.get("grid", {}).items())
    names, several = zip(
      *Plan(tuple(together.get("seeds", ())), grid).expand(together), strict=True
    )
    if folder.name in names:
      own, index, place = several, names.index(folder.name), folder.parent
  return place / training.CHECKPOINTS, start(own, problem), index


def predict(current: state.AceState, variables: tuple[Any, Any, Any], batch: task.Batch) -> Any:
  """Returns a predictor's output; variables are an entry of `current()` or `selected()`."""
  return current.task.apply(homotopy.merge(*variables), batch, None)[0]


def train(
  problem: Problem,
  settings: dict[str, Any],
  place: Path,
  resume: bool,
  plan: Plan = _ALONE,
) -> list[dict[str, Any]]:
  """Trains the replicas of a plan as one device program; writes everything about each.

  A run alone has config.json, metrics, result.json and figures in `place`; of several replicas
  each has its own folder there, and they share the checkpoints.

  Args:
    problem: Model and data.
    settings: All settings of the command.
    place: The folder.
    resume: Continue what is there.
    plan: The replicas.

  Returns:
    The content of each result.json; `seconds` in it is for all `replicas` together.

  Raises:
    NonFiniteError: a replica met a number that is not finite; the others are written by then.
  """
  names, own = zip(*plan.expand(settings), strict=True)
  if plan.mesh:
    replica, data = plan.mesh
    mesh = make_mesh(data, replica)
  else:
    mesh = default_mesh(len(names))

  def loggers(name, done):
    try:
      return [TensorBoardLogger(place / name / "tensorboard", done)]
    except ImportError:
      return []

  settled = {**settings, **plan.identity()}
  with runs.opened(place, settled, resume) if hosts.first() else contextlib.nullcontext():
    begin = start(own, problem)
    test_errors = epochs.compile_errors(mesh, problem.eval_batch_size, begin.task)
    measured = parallel.over_replicas(problem.measure, mesh)
    measure_gaps = problem.symmetry and gaps.compile_measure(
      begin.task, problem.symmetry, problem.eval_batch_size
    )

    def measure(current):
      numbers = measured(current)
      if settings["log_test"]:
        found = test_errors(current.current(), problem.test)
        numbers |= {f"test/{name}": error for name, error in found.items()}
      return numbers

    end, records = training.train(
      begin,
      problem.train,
      problem.valid,
      training_settings(settings, problem),
      mesh=mesh,
      workdir=place,
      names=names,
      resume=resume,
      progress=lambda done: ProgressBar(settings["epochs"], done),
      loggers=loggers,
      measure=measure,
    )
    tests = training.test_errors(end, problem.test, problem.eval_batch_size, mesh)
    results, failed = [], []
    for i, name in enumerate(names):
      alone = jax.device_get(parallel.select(end, i))
      if int(alone.failed):
        failed.append(f"{name} in epoch {int(alone.failed)}")
        continue
      result = make_result(problem, own[i], alone, records[i], tests[i])
      if measure_gaps:
        result = gaps.add(result, measure_gaps, alone, problem.train, problem.test)
      results.append({**result, "replica": name, "replicas": len(names)})
      if hosts.first():
        _write(place / name, problem, own[i], alone, records[i], results[-1])
  if failed:
    raise NonFiniteError(
      f"of {len(names)} replicas, these met numbers that are not finite: {', '.join(failed)}; "
      f"the results of the others are in {place}. Lower the step sizes or clip gradients."
    )
  return results


def training_settings(settings: dict[str, Any], problem: Problem) -> training.Settings:
  """Returns what `ace_jax.training.train` needs of the settings."""
  return training.Settings(
    epochs=settings["epochs"],
    batch_size=settings["batch_size"],
    eval_every=settings["eval_every"],
    eval_batch_size=problem.eval_batch_size,
    checkpoint_every=settings["checkpoint_every"],
    keep_period=settings.get("keep_period"),
    patience=settings["patience"],
  )


def _write(folder, problem, settings, end, records, result) -> None:
  try:
    runs.write_config(folder, settings)
    history.write_json(folder / runs.RESULT, runs.portable(result))
    (folder / "figures").mkdir(exist_ok=True)
    problem.draw(folder / "figures", end, records)
  except OSError as error:
    raise CheckpointError(
      f"cannot write results to {folder}: {error.strerror}; the checkpoints are whole: mend the "
      "disk and add --resume."
    ) from error


def make_result(
  problem: Problem,
  settings: dict[str, Any],
  end: state.AceState,
  records: list[history.Record],
  test: dict[str, float],
) -> dict[str, Any]:
  """Collects what a run found: the content of result.json.

  Args:
    problem: Model and data.
    settings: Of the run.
    end: Its final state.
    records: Its history.
    test: Test error of each predictor.
  """
  last = next((r for r in reversed(records) if "valid/projection" in r), {})
  predictors = {
    name: {
      "valid_mse": float(best.error),
      "best_epoch": int(best.epoch),
      "test_mse": test[name],
      "final_equivariance_error": last.get(f"equivariance/{name}"),
    }
    for name, best in end.best.items()
  }
  final = {kind: history.of_kind(records[-1], kind) for kind in ("gamma", "multiplier", "slack")}
  tail = records[-max(1, len(records) // 10) :]
  return {
    "experiment": problem.experiment,
    "model": problem.model,
    "constraint": settings["constraint"],
    "seeds": [settings["seed"]],
    "epochs": int(end.epoch),
    "steps": int(end.step),
    "train_samples": task.size(problem.train),
    "linear_mse": problem.summary["linear_mse"]["test"],
    "predictors": predictors,
    "curve": [_evaluation(record) for record in records if "valid/projection" in record],
    "final": final,
    "largest_gamma_in_last_tenth": max((history.largest(r, "gamma") or 0.0) for r in tail),
    "seconds": sum(record["seconds"] for record in records),
    "steps_per_second": float(np.median([record["steps_per_second"] for record in records])),
    "settings": settings,
    "differs_from_published": {
      name: [settings[name], value]
      for name, value in problem.published.items()
      if settings[name] != value
    },
    "data": problem.summary,
    "environment": runs.environment(),
  }


def _evaluation(record: history.Record) -> history.Record:
  numbers = {k: float(f"{v:.6g}") for k, v in record.items() if k.startswith(_KEPT)}
  largest = history.largest(record, "gamma")
  return {"epoch": record["epoch"], **numbers, **({} if largest is None else {"gamma": largest})}


_KEPT = ("valid/", "test/", "equivariance")


def summary_table(results: list[dict[str, Any]], baseline: str, scale: float = 1.0) -> str:
  """Formats results as the table that ends a run.

  Args:
    results: Contents of result.json.
    baseline: What the linear prediction is called, such as "x + v t".
    scale: What errors are multiplied by: 100 shows them in units of 10^-2.
  """
  unit = "" if scale == 1 else f" x 10^-{round(np.log10(scale))}"
  header = ["predictor", f"test MSE{unit}", f"valid MSE{unit}", "best epoch", "equiv. error"]
  rows = []

  def shown(error):
    return f"{scale * error:.5f}" if scale == 1 else f"{scale * error:.2f}"

  linear = results[0]["linear_mse"]
  rows.append([baseline, shown(linear), "", "", "", "1.0"])
  for result in results:
    replica = f", {result['replica']}" if result["replica"] else ""
    for name, found in result["predictors"].items():
      equivariance = found["final_equivariance_error"]
      rows.append(
        [
          f"{result['constraint']}, {name}{replica}",
          shown(found["test_mse"]),
          shown(found["valid_mse"]),
          str(found["best_epoch"]),
          "" if equivariance is None else f"{equivariance:.1e}",
          f"{linear / found['test_mse']:.1f}",
        ]
      )
  return text.table([*header, f"{baseline} / test"], rows)
