"""One training run of any experiment: its initial state, the training, and its result.json."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import ace_jax
from ace_jax import epochs, history, homotopy, relaxations, state, task, training
from ace_jax.errors import CheckpointError
from ace_jax.lagrangian import dual_optimizer
from ace_jax.logging import ProgressBar, TensorBoardLogger
from ace_jax.parallel import make_mesh
from ace_jax.primal_dual import primal_adam
from experiments import runs, text

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
    measure: Further numbers of a state, recorded at every evaluation, "equivariance/PREDICTOR"
      among them; compiled.
    published: The published value of every setting that decides a result.
    draw: Draws the run's figures into a folder, from the final state and the records.
    eval_batch_size: Samples evaluated at once; only memory and speed depend on it.
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


def make_constraint(settings: dict[str, Any]) -> ace_jax.Formulation:
  """Builds the formulation of the settings."""
  name, augmented = settings["constraint"], settings["augmented"] or 0.0
  return {
    "strict": ace_jax.Unconstrained,
    "none": ace_jax.Unconstrained,
    "equality": lambda: ace_jax.Equality(augmented=augmented),
    "inequality": lambda: ace_jax.Inequality(augmented=augmented, epsilon=settings["epsilon"]),
    "resilient": lambda: ace_jax.Resilient(augmented=augmented, rho=settings["rho"]),
    "one_sided": lambda: ace_jax.OneSided(augmented=augmented),
    "ridge": lambda: ace_jax.Ridge(rho=settings["rho"]),
  }[name]()


def start(settings: dict[str, Any], problem: Problem) -> state.AceState:
  """Returns the state at the start of training."""
  init = problem.network.init
  if settings["constraint"] == "strict":
    init = homotopy.strict(init)
  learned = task.from_model(problem.network, problem.loss, problem.inputs, problem.metric)
  primal = primal_adam(
    settings["lr"], settings["gamma_lr"], settings["slack_lr"], settings["clip_norm"]
  )
  options = {"eps": settings["dual_eps"]} if settings["dual_optimizer"] == "adam" else {}
  dual = dual_optimizer(settings["dual_optimizer"], settings["dual_lr"], **options)

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, batch):
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *problem.inputs(batch))
    return state.create(learned, variables, make_constraint(settings), primal, dual, run_key)

  return create(jax.random.key(settings["seed"]), task.take(problem.train, slice(0, 2)))


def predict(current: state.AceState, variables: tuple[Any, Any, Any], batch: task.Batch) -> Any:
  """Returns a predictor's output; variables are an entry of `current()` or `selected()`."""
  return current.task.apply(homotopy.merge(*variables), batch, None)[0]


def train(
  problem: Problem,
  settings: dict[str, Any],
  place: Path,
  resume: bool,
  devices: int | None,
) -> dict[str, Any]:
  """Trains one model and writes config.json, metrics, checkpoints, result.json and figures.

  Args:
    problem: Model and data.
    settings: All settings.
    place: The run's folder.
    resume: Continue what is there.
    devices: Devices that share a batch.

  Returns:
    The content of result.json.
  """
  mesh = make_mesh(devices)

  def loggers(done):
    bar = ProgressBar(settings["epochs"], done)
    try:
      return [bar, TensorBoardLogger(place / "tensorboard", done)]
    except ImportError:
      return [bar]

  def measure(current):
    numbers = problem.measure(current)
    if settings["log_test"]:
      found = test_errors(current.current(), problem.test)
      numbers |= {f"test/{name}": error for name, error in found.items()}
    return {name: float(number) for name, number in numbers.items()}

  with runs.opened(place, settings, resume):
    begin = start(settings, problem)
    test_errors = epochs.compile_errors(mesh, problem.eval_batch_size, begin.task)
    options = training.Settings(
      epochs=settings["epochs"],
      batch_size=settings["batch_size"],
      eval_every=settings["eval_every"],
      eval_batch_size=problem.eval_batch_size,
      checkpoint_every=settings["checkpoint_every"],
      patience=settings["patience"],
    )
    end, _ = training.train(
      begin,
      problem.train,
      problem.valid,
      options,
      mesh=mesh,
      workdir=place,
      resume=resume,
      loggers=loggers,
      measure=measure,
    )
    records = history.read(place / history.FILE)
    result = make_result(problem, settings, end, records)
    try:
      history.write_json(place / runs.RESULT, runs.portable(result))
      (place / "figures").mkdir(exist_ok=True)
      problem.draw(place / "figures", end, records)
    except OSError as error:
      raise CheckpointError(
        f"cannot write results to {place}: {error.strerror}; the checkpoints are whole: mend the "
        "disk and add --resume."
      ) from error
  return result


def make_result(
  problem: Problem,
  settings: dict[str, Any],
  end: state.AceState,
  records: list[history.Record],
) -> dict[str, Any]:
  """Collects what a run found: the content of result.json."""
  test = training.test_errors(end, problem.test, problem.eval_batch_size, make_mesh(1))
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
  final = {kind: _of_kind(records[-1], kind) for kind in ("gamma", "multiplier", "slack")}
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


def _of_kind(record: history.Record, kind: str) -> dict[str, float]:
  return {k.removeprefix(f"{kind}/"): v for k, v in record.items() if k.startswith(f"{kind}/")}


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

  for result in results:
    linear = result["linear_mse"]
    rows.append([baseline, shown(linear), "", "", "", "1.0"])
    for name, found in result["predictors"].items():
      equivariance = found["final_equivariance_error"]
      rows.append(
        [
          f"{result['constraint']}, {name}",
          shown(found["test_mse"]),
          shown(found["valid_mse"]),
          str(found["best_epoch"]),
          "" if equivariance is None else f"{equivariance:.1e}",
          f"{linear / found['test_mse']:.1f}",
        ]
      )
  return text.table([*header, f"{baseline} / test"], rows)
