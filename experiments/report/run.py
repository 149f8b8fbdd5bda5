"""What `experiments.report` does once its flags are checked."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import files, plots, state, task
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import actions, groups, report
from ace_jax.training import history
from data.errors import DataError
from experiments.harness import models, problems, result_files, tables, training, workdirs
from experiments.harness.tables import markdown
from experiments.nbody import run as nbody_run
from experiments.nbody import settings as nbody_settings


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
  settings: nbody_settings.Settings


def run(
  runs: list[str], place: Path, samples: int, angles: int
) -> tuple[list[report.GeneratorReport], nbody_settings.Settings]:
  """Writes the report of one or several runs.

  Args:
    runs: Folders of runs that differ in the seed alone.
    place: Where report.md and report.png go.
    samples: Held-out samples to measure on.
    angles: Points on the circle of every generator.

  Returns:
    What it says of every generator, and the settings of the first run.

  Raises:
    ConfigurationError: a run has no gamma.
    DataError: they differ in more.
  """
  settings = [read_settings(Path(folder)) for folder in runs]
  check_same(runs, settings)
  check_relaxed(runs[0], settings[0])
  found = [restore(Path(folder)) for folder in runs]
  group = symmetry_group(found[0].settings.model.centring, found[0].problem.test)
  held_out = task.take(found[0].problem.test, slice(0, samples))
  inputs = found[0].problem.inputs(held_out)
  layers = [
    report.layer_reports(one.problem.network, one.end.relaxed, inputs, one.records) for one in found
  ]
  measure = compile_measure(found[0].problem.task, group, angles)
  generators = report.generator_reports(
    [measure(one.end.selected()["relaxed"], held_out) for one in found],
    [report.evidence(one.records, one.problem.summary["linear_mse"]["valid"]) for one in found],
  )
  write(place, runs, layers, generators)
  return generators, settings[0]


def read_settings(folder: Path) -> nbody_settings.Settings:
  """Reads the settings of a run.

  Raises:
    DataError: the folder holds no N-body run.
  """
  flat = result_files.read_settings(folder / workdirs.CONFIG, "name the folder of a finished run")
  if "system" not in flat or not history.read(folder / history.FILE):
    raise DataError(f"{folder}: holds no finished N-body run; name the folder of one.")
  return nbody_settings.Settings.from_json(flat)


def restore(folder: Path) -> Run:
  """Restores a finished run from its folder.

  Raises:
    DataError: the folder holds no finished N-body run.
  """
  settings = read_settings(folder)
  sizes = settings.data.train_samples
  data = nbody_run.load(settings, max(sizes) if sizes else None)
  problem = nbody_run.make_problem(settings, data)
  end = training.restore(folder, settings, problem)
  return Run(problem, end, history.read(folder / history.FILE), settings)


def check_same(runs: list[str], settings: list[nbody_settings.Settings]) -> None:
  """Refuses runs that differ in more than the seed.

  Raises:
    DataError: names the first setting that differs.
  """
  first = settings[0].to_json()
  for folder, other in zip(runs, [one.to_json() for one in settings], strict=True):
    for name in workdirs.differences(first, other):
      if name != "seed":
        raise DataError(
          f"{folder}: {name} is {other.get(name)} where {runs[0]} has {first.get(name)}; "
          "join runs that differ in the seed alone."
        )


def check_relaxed(run: str, settings: nbody_settings.Settings) -> None:
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


def symmetry_group(centring: str, batch: Any) -> groups.Group:
  """Returns the group that the strict model has: with uncentred positions, rotations alone."""
  if centring == "none":
    return groups.so3()
  return groups.se3(radius(batch))


def radius(batch: Any) -> float:
  """Returns the root mean square distance of particles from their centre."""
  positions = batch["positions"]
  centred = positions - positions.mean(axis=1, keepdims=True)
  return float(np.sqrt(np.mean(np.sum(np.square(centred), -1))))


def compile_measure(learned: task.Task, group: groups.Group, angles: int):
  """Compiles `report.measure` for N-body data.

  Args:
    learned: Model and loss.
    group: Whose generators are measured.
    angles: Points on the circle of every generator.

  Returns:
    `measure(variables, batch) -> Measured`, of a predictor's variables.
  """
  act = nbody_run.act_on_batch

  @jax.jit
  def measure(variables, batch) -> report.Measured:
    def predict(batch):
      return learned.predict(variables, batch)

    def loss(batch):
      return learned.losses(variables, batch)

    times = {name: _times(name, batch, angles) for name in group.generators}
    return report.measure(predict, loss, batch, group.generators, act, actions.position, times)

  return measure


def _times(name: str, batch: Any, angles: int) -> jax.Array:
  if name.startswith("rotation"):
    return jnp.arange(1, angles) * (2 * jnp.pi / angles)
  positions = batch["positions"]
  centred = positions - positions.mean(axis=1, keepdims=True)
  radius = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(centred), -1)))
  return radius * jnp.linspace(-1, 1, angles)


def write(
  place: Path,
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
  files.write_text(place / "report.md", "\n".join(lines) + "\n")

  plots.save(plots.misalignment(layers[0], generators), place / "report.png")
  print(f"\nWrote {place}/report.md and report.png")
