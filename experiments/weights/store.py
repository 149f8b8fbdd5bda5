"""Keeping trained models in results/weights, and reading them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ace_jax import export, files, homotopy, saving, task
from ace_jax.errors import CheckpointError
from data import arrays
from data.errors import DataError, RequestError
from experiments.harness import artifacts, build, result_files
from experiments.harness.problems import Problem
from experiments.harness.settings import Settings
from experiments.harness.workdirs import CONFIG, RESULT
from experiments.weights import cards
from experiments.weights.subjects import SUBJECTS, Subject

LARGEST = 5_000_000
"""Bytes that the file of a model may have."""
KEPT = 50
"""Test samples that are kept with a model."""
TOLERANCE = 1e-4
"""Relative, of an error that is computed again, on this or another machine."""


class Weights(NamedTuple):
  """A trained model.

  Attributes:
    model: Called with `problem.inputs(batch)`.
    variables: Of each predictor on the card, by its name, for `model.apply`.
    problem: The experiment's model, loss and metric; its three splits are the test samples that
      are kept with the model.
    card: What is known of it.
  """

  model: Any
  variables: dict[str, homotopy.Variables]
  problem: Problem
  card: cards.Card


def load(name: str, folder: Path = cards.FOLDER) -> Weights:
  """Reads a model; as `experiments.weights.load`, from any folder."""
  card = cards.read(name, folder)
  path = folder / f"{name}_samples.npz"
  try:
    digest = files.sha256(path)
  except OSError as error:
    raise CheckpointError(f"{path}: cannot be read ({error.strerror}); restore it.") from error
  if digest != card.samples_sha256:
    raise CheckpointError(f"{path}: its SHA-256 is not that of the card; restore it.")
  subject = _subject(card.experiment)
  problem = subject.problem(
    subject.settings.from_json(card.settings), _excerpt(subject, path, card)
  )
  saved = saving.load(folder / f"{name}.npz", problem.network, sha256=card.sha256)
  variables = {predictor: getattr(saved, predictor) for predictor in card.predictors}
  return Weights(problem.network, variables, problem, card)


def on_all_samples(card: cards.Card) -> Problem:
  """Returns the experiment's problem with the data that the run had.

  Raises:
    DataError: they are not here; ACE_DATA_DIR may name their folder.
  """
  subject = _subject(card.experiment)
  settings = subject.settings.from_json(card.settings)
  return subject.problem(settings, subject.load(settings))


def error(problem: Problem, variables: homotopy.Variables) -> float:
  """Returns the mean of the metric over the problem's test samples."""
  errors, count = jax.jit(problem.task.errors), task.size(problem.test)
  step = min(problem.eval_batch_size, count)
  parts = [
    np.asarray(errors(variables, task.take(problem.test, slice(begin, begin + step))))
    for begin in range(0, count, step)
  ]
  return float(np.mean(np.concatenate(parts), dtype=np.float64))


def add(
  run: Path, name: str, predictors: Sequence[str] = (), folder: Path = cards.FOLDER
) -> cards.Card:
  """Keeps a finished run's model: writes its variables, some test samples, and the card.

  Args:
    run: Folder of the run, or of what is committed of it under results/.
    name: Of the weights.
    predictors: Which to keep; all that the run has by default. The projection alone is pruned.
    folder: Where to write.

  Raises:
    RequestError: the name is none, the run has no such predictor, or its experiment no entry.
    DataError: a file of the run is missing or damaged, its data are not here, its errors are others
      than its result.json says, or the model is too large.
  """
  cards.check_name(name)
  config = result_files.read_json(run / CONFIG, "name the folder of a finished run")
  result = result_files.read_result(run / RESULT)
  subject = _subject(result["experiment"])
  assert result_files.is_training(result)  # as whatever has a subject
  settings = subject.settings.from_json(config["settings"])
  chosen = cards.pick(predictors, [*result["predictors"]])
  data = subject.load(settings)
  problem = subject.problem(settings, data)
  variables = {key: _variables(run / artifacts.VARIABLES[key]) for key in chosen}
  for predictor in chosen:
    computed = error(problem, variables[predictor])
    said = result["predictors"][predictor]["test_mse"]
    if not np.isclose(computed, said, rtol=TOLERANCE, atol=0):
      raise DataError(
        f"{run}: {predictor} has test error {computed:.6g} on the data that are here, where its "
        f"result.json has {said:.6g}; give the data and the version of the run."
      )
  path, samples = folder / f"{name}.npz", folder / f"{name}_samples.npz"
  folder.mkdir(parents=True, exist_ok=True)
  members: dict[str, Any] = {field: np.asarray(getattr(data, field)) for field in subject.shared}
  members |= {f"test/{field}": np.asarray(array[:KEPT]) for field, array in data.test.items()}
  files.write_binary(samples, lambda file: np.savez_compressed(file, **members))
  saving.save(path, _saved(variables, result, settings, problem))
  if path.stat().st_size > LARGEST:
    path.unlink()
    raise DataError(f"{path} would have more than {LARGEST / 1e6:.0f} MB; keep a single predictor.")
  environment = config["environment"]
  card = cards.Card(
    run=_from_checkout(run),
    experiment=result["experiment"],
    model=result["model"],
    constraint=result["constraint"],
    metric=result.get("metric", result_files.MSE),
    predictors={},
    data=subject.about,
    command=environment["command"],
    commit=environment["commit"],
    epochs=result["epochs"],
    seed=result["seeds"][0],
    differs_from_published=result["differs_from_published"],
    settings=config["settings"],
    summary=result["data"],
    sha256=files.sha256(path),
    samples_sha256=files.sha256(samples),
  )
  few = subject.problem(settings, _excerpt(subject, samples, card))
  errors = {
    key: {"test": result["predictors"][key]["test_mse"], "samples": error(few, variables[key])}
    for key in chosen
  }
  card = dataclasses.replace(card, predictors=errors)
  files.write_text(folder / f"{name}.json", json.dumps(dataclasses.asdict(card), indent=1) + "\n")
  return card


def _from_checkout(run: Path) -> str:
  path = run.resolve()
  return path.relative_to(cards.ROOT).as_posix() if cards.ROOT in path.parents else run.name


def _subject(experiment: str) -> Subject:
  if experiment not in SUBJECTS:
    raise RequestError(f"weights of {experiment} are not kept; those of {', '.join(SUBJECTS)} are.")
  return SUBJECTS[experiment]


def _excerpt(subject: Subject, path: Path, card: cards.Card) -> Any:
  """Returns the experiment's data with the kept test samples as each of its splits."""
  members = arrays.read(path, None, "restore it")
  split = {
    key.removeprefix("test/"): array for key, array in members.items() if key.startswith("test/")
  }
  shared = {field: members[field] for field in subject.shared}
  return subject.dataset(train=split, valid=split, test=split, summary=card.summary, **shared)


def _variables(path: Path) -> homotopy.Variables:
  try:
    return export.load_parameters(path)
  except OSError as failure:
    raise DataError(f"{path}: cannot be read ({failure.strerror}).") from failure


def _saved(
  variables: Mapping[str, homotopy.Variables],
  result: result_files.Result,
  settings: Settings,
  problem: Problem,
) -> saving.Saved:
  """Returns what `Fit.save` would have kept; a predictor that is left out is the other one."""
  only = next(iter(variables.values()))
  final = result["final"] if "relaxed" in variables else {}
  training, primal, dual = settings.training, settings.primal, settings.dual
  constraint = build.constraint(settings.constraint, problem.symmetry, 1)

  def by_layer(kind: str) -> dict[str, Any]:
    return {layer: np.float32(value) for layer, value in final.get(kind, {}).items()}

  return saving.Saved(
    projection=dict(variables.get("projection", only)),
    relaxed=dict(variables.get("relaxed", only)),
    gamma=by_layer("gamma"),
    multipliers=by_layer("multiplier"),
    history=[],
    test={name: result["predictors"][name]["test_mse"] for name in variables},
    settings=saving.FitSettings(
      epochs=training.epochs,
      batch_size=training.batch_size,
      eval_every=training.eval_every,
      patience=training.patience,
      constraint=type(constraint).__name__,
      constants=saving.constants(constraint),
      lr=primal.lr,
      gamma_lr=primal.gamma_lr,
      slack_lr=primal.slack_lr,
      dual_lr=dual.dual_lr,
      dual=dual.dual_optimizer,
      clip_norm=primal.clip_norm,
      decays=primal.decay_epochs is not None,
      seed=training.seed,
      inputs=saving.input_shapes(problem.inputs(task.take(problem.test, slice(0, 2)))),
    ),
  )
