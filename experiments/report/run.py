"""What `experiments.report` does once its flags are checked."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import files, plots, state, task
from ace_jax.symmetry import actions, groups, report
from ace_jax.training import history
from data.errors import DataError
from experiments.harness import problems, result_files, tables, training, workdirs
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
  folders: list[str], out: str | None, samples: int, angles: int
) -> tuple[list[report.GeneratorReport], nbody_settings.Settings]:
  """Writes the report of one or several runs.

  Args:
    folders: Runs that differ in the seed alone.
    out: Where report.md and report.png go; the first run by default.
    samples: Held-out samples to measure on.
    angles: Points on the circle of every generator.

  Returns:
    What it says of every generator, and the settings of the first run.
  """
  found = [restore(Path(folder)) for folder in folders]
  check_same(folders, found)
  group = symmetry_group(found[0].settings.model.centring, found[0].problem.test)
  held_out = task.take(found[0].problem.test, slice(0, samples))
  inputs = found[0].problem.inputs(held_out)
  layers = [
    report.layer_reports(one.problem.network, one.end.relaxed, inputs, one.records)
    if one.end.primal.gamma
    else report.layer_reports(one.problem.network, {}, inputs, one.records)
    for one in found
  ]
  measure = compile_measure(found[0].problem.task, group, angles)
  generators = report.generator_reports(
    [measure(one.end.selected()["relaxed"], held_out) for one in found]
  )
  place = Path(out or folders[0])
  place.mkdir(parents=True, exist_ok=True)
  write(place, folders, layers, generators)
  return generators, found[0].settings


def restore(folder: Path) -> Run:
  """Restores a finished run from its folder.

  Raises:
    DataError: the folder holds no finished N-body run.
  """
  flat = result_files.read_settings(folder / workdirs.CONFIG, "name the folder of a finished run")
  records = history.read(folder / history.FILE)
  if "system" not in flat or not records:
    raise DataError(f"{folder}: holds no finished N-body run; name the folder of one.")
  settings = nbody_settings.Settings.from_json(flat)
  sizes = settings.data.train_samples
  data = nbody_run.load(settings, max(sizes) if sizes else None)
  problem = nbody_run.make_problem(settings, data)
  return Run(problem, training.restore(folder, settings, problem), records, settings)


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
