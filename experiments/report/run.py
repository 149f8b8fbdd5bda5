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
from experiments.harness import problems, result_files, tables, training, workdirs
from experiments.harness.tables import markdown
from experiments.report import subjects


class Run(NamedTuple):
  """A finished run, restored.

  Attributes:
    problem: Its model and data.
    end: Its final state.
    records: What it recorded.
    settings: Its settings.
    subject: Its experiment.
  """

  problem: problems.Problem
  end: state.AceState
  records: list[history.Record]
  settings: Any
  subject: subjects.Subject = subjects.NBODY


def run(folders: list[str], out: str | None, samples: int, angles: int) -> None:
  """Writes the report of one or several runs.

  Args:
    folders: Runs that differ in the seed alone.
    out: Where report.md and report.png go; the first run by default.
    samples: Held-out samples to measure on.
    angles: Points on the circle of every generator.
  """
  found = [restore(Path(folder), subjects.SUBJECTS) for folder in folders]
  check_same(folders, found)
  subject, problem = found[0].subject, found[0].problem
  group = subject.group(found[0].settings, problem.test)
  held_out = task.take(problem.test, slice(0, samples))
  inputs = problem.inputs(held_out)
  layers = [
    report.layer_reports(one.problem.network, one.end.relaxed, inputs, one.records)
    if one.end.primal.gamma
    else report.layer_reports(one.problem.network, {}, inputs, one.records)
    for one in found
  ]
  measure = compile_measure(problem, group, subject.act_prediction, angles)
  generators = report.generator_reports(
    [measure(one.end.selected()["relaxed"], held_out) for one in found]
  )
  place = Path(out or folders[0])
  place.mkdir(parents=True, exist_ok=True)
  write(place, folders, layers, generators)


def restore(folder: Path, known: Sequence[subjects.Subject] = (subjects.NBODY,)) -> Run:
  """Restores a finished run from its folder.

  Args:
    folder: Of the run.
    known: The experiments that it may be of.

  Raises:
    DataError: the folder holds no finished run of these.
  """
  flat = result_files.read_settings(folder / workdirs.CONFIG, "name the folder of a finished run")
  records = history.read(folder / history.FILE)
  subject = next((subject for subject in known if subject.key in flat), None)
  if subject is None or not records:
    names = " or ".join(subject.name for subject in known)
    raise DataError(f"{folder}: holds no finished {names} run; name the folder of one.")
  settings = subject.settings.from_json(flat)
  problem = subject.problem(settings)
  end = training.restore(folder, settings, problem)
  return Run(problem, end, records, settings, subject)


def check_same(folders: list[str], found: list[Run]) -> None:
  """Refuses runs that differ in more than the seed.

  Raises:
    DataError: names the first setting that differs.
  """
  for folder, one in zip(folders, found, strict=True):
    first, own = found[0].settings.to_json(), one.settings.to_json()
    for name in workdirs.differences(first, own):
      if name != "seed":
        raise DataError(
          f"{folder}: {name} is {own.get(name)} where {folders[0]} has {first.get(name)}; "
          "join runs that differ in the seed alone."
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
