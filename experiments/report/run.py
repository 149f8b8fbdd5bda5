"""What `experiments.report` does once its flags are checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ace_jax import files, plots, state, task
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import actions, groups, report
from ace_jax.training import history
from data.errors import DataError
from experiments.harness import models, page, problems, result_files, tables, training, workdirs
from experiments.harness.settings import Settings
from experiments.harness.tables import markdown
from experiments.report import subjects


class Run(NamedTuple):
  """A finished run, restored.

  Attributes:
    problem: Its model and data.
    end: Its final state.
    records: What it recorded.
    settings: Its settings.
  """

  problem: problems.Problem
  end: state.AceState
  records: list[history.Record]
  settings: Any


def run(
  runs: list[str], target: Path, samples: int, angles: int
) -> tuple[list[report.GeneratorReport], Settings]:
  """Writes the report of one or several runs.

  Args:
    runs: Folders of runs that differ in the seed alone.
    target: Where report.md and report.png go.
    samples: Held-out samples to measure on.
    angles: Points on the circle of every generator.

  Returns:
    What it says of every generator, and the settings of the first run.

  Raises:
    ConfigurationError: a run has no gamma.
    DataError: they differ in more.
  """
  settings = [read_settings(Path(folder), subjects.SUBJECTS) for folder in runs]
  check_same(runs, settings)
  check_relaxed(runs[0], settings[0])
  runs_there = [restore(Path(folder), subjects.SUBJECTS) for folder in runs]
  subject, problem = subjects.of(settings[0]), runs_there[0].problem
  group = subject.group(settings[0], problem.test)
  held_out = task.take(problem.test, slice(0, samples))
  inputs = problem.inputs(held_out)
  layers = [
    report.layer_reports(of_seed.problem.network, of_seed.end.relaxed, inputs, of_seed.records)
    for of_seed in runs_there
  ]
  measure = compile_measure(problem, group, subject.act_prediction, angles)
  generators = report.generator_reports(
    [measure(of_seed.end.selected()["relaxed"], held_out) for of_seed in runs_there],
    [
      report.evidence(of_seed.records, of_seed.problem.summary["linear_mse"]["valid"])
      for of_seed in runs_there
    ],
    group.lines,
  )
  write(target, runs, layers, generators)
  return generators, settings[0]


def read_settings(folder: Path, known: Sequence[subjects.Subject] = (subjects.NBODY,)) -> Any:
  """Reads the settings of a run.

  Args:
    folder: Of the run.
    known: The experiments that it may be of.

  Raises:
    DataError: the folder holds no run of these.
  """
  flat = result_files.read_settings(folder / workdirs.CONFIG, "name the folder of a finished run")
  subject = next((subject for subject in known if subject.key in flat), None)
  if subject is None or not history.read(folder / history.FILE):
    names = " or ".join(subject.name for subject in known)
    raise DataError(f"{folder}: holds no finished {names} run; name the folder of one.")
  return subject.settings.from_json(flat)


def restore(folder: Path, known: Sequence[subjects.Subject] = (subjects.NBODY,)) -> Run:
  """Restores a finished run from its folder.

  Args:
    folder: Of the run.
    known: The experiments that it may be of.

  Raises:
    DataError: the folder holds no finished run of these.
  """
  settings = read_settings(folder, known)
  problem = subjects.of(settings).problem(settings)
  end = training.restore(folder, settings, problem)
  return Run(problem, end, history.read(folder / history.FILE), settings)


def check_same(runs: list[str], settings: Sequence[Settings]) -> None:
  """Refuses runs that differ in more than the seed, or not even in that.

  Raises:
    DataError: names the first setting that differs, or the seed that is there twice.
  """
  first = settings[0].to_json()
  for folder, other in zip(runs, [of_run.to_json() for of_run in settings], strict=True):
    for name in workdirs.differences(first, other):
      if name != "seed":
        raise DataError(
          f"{folder}: {name} is {other.get(name)} where {runs[0]} has {first.get(name)}; "
          "join runs that differ in the seed alone."
        )
  seeds: dict[int, str] = {}
  for folder, of_run in zip(runs, settings, strict=True):
    seed = of_run.training.seed
    if seed in seeds:
      raise DataError(
        f"{folder} and {seeds[seed]} are of one seed, {seed}, and so the same training; name one "
        "of them."
      )
    seeds[seed] = folder


def check_relaxed(run: str, settings: Settings) -> None:
  """Refuses a run that ends without gamma, before its data are there.

  Raises:
    ConfigurationError: says which runs have one.
  """
  strict = settings.constraint.entry.gamma == "absent"
  if strict or settings.training.finish_epochs or settings.model.model in models.plain_models():
    raise ConfigurationError(
      f"{run} ended without gamma (a strict or plain model, or --finish_epochs); name a run of a "
      "relaxed one."
    )


def compile_measure(
  problem: problems.Problem,
  group: groups.Group,
  act_prediction: actions.Representation,
  angles: int,
):
  """Compiles `report.measure`.

  Args:
    problem: Model, loss, and how motions act on the data.
    group: Whose generators are measured.
    act_prediction: How its elements act on predictions.
    angles: Points on the circle of every generator.

  Raises:
    ConfigurationError: the problem has no known symmetry.

  Returns:
    `measure(variables, batch) -> Measured`, of a predictor's variables.
  """
  if problem.symmetry is None:
    raise ConfigurationError(f"{problem.experiment}: the data have no known symmetry.")
  act, learned = problem.symmetry.act_batch, problem.task

  @jax.jit
  def measure(variables, batch) -> report.Measured:
    def predict(batch):
      return learned.predict(variables, batch)

    def loss(batch):
      return learned.losses(variables, batch)

    times = {name: _times(name, batch, angles) for name in group.generators}
    return report.measure(predict, loss, batch, group.generators, act, act_prediction, times)

  return measure


def _times(name: str, batch: Any, angles: int) -> jax.Array:
  if name.startswith("rotation"):
    return jnp.arange(1, angles) * (2 * jnp.pi / angles)
  positions = batch["positions"]
  centred = positions - positions.mean(axis=1, keepdims=True)
  radius = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(centred), -1)))
  return radius * jnp.linspace(-1, 1, angles)


def write(
  target: Path,
  folders: list[str],
  layers: list[list[report.LayerReport]],
  generators: list[report.GeneratorReport],
) -> None:
  """Prints the report, and writes report.md and report.png."""
  said = report.verdict(generators)
  lines = [f"# Misalignment report\n\n{said}\n"]
  header, rows = report.generator_rows(generators)
  print(f"\n{tables.table(header, rows)}\n")
  lines.append(markdown(header, rows) + "\n")
  for folder, reports in zip(folders, layers, strict=True):
    header, rows = report.layer_rows(reports)
    print(f"{folder}\n{tables.table(header, rows)}\n")
    lines.append(f"{Path(folder).name}\n\n{markdown(header, rows)}\n")
  lines.append("![report](report.png)")
  print(said)
  files.write_text(target / "report.md", "\n".join(lines) + "\n")

  plots.save(plots.misalignment(layers[0], generators), target / "report.png")
  print(f"\nWrote {target}/report.md and report.png")
  if (target / page.PAGE).exists():
    page.write(target)  # whose verdict is this one from now on
