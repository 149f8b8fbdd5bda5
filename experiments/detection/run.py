"""What `experiments.detection` does once its flags are checked."""

import dataclasses
from pathlib import Path
from typing import Any

import tqdm

from ace_jax import files, plots, task
from ace_jax.symmetry import actions, report
from ace_jax.training import history, loop, parallel
from experiments.detection import figures as detection_figures
from experiments.harness import problems, result_files, results, tables, workdirs
from experiments.harness.replicas import exact
from experiments.nbody import run as nbody_run
from experiments.nbody.settings import preset
from experiments.report import run as report_run
from experiments.report import subjects

BROKEN = {
  "gravity": ("rotation_x", "rotation_y"),
  "wind": ("rotation_y", "rotation_z"),
  "anisotropy": ("rotation_y", "rotation_z"),
}
"""The truth: generators that a field breaks at any strength above 0."""

SETTINGS = preset(
  "quick",
  constraint="resilient",
  relaxation="mlp",
  relaxation_scale="fixed",
  slack_lr=5e-3,
  clip_norm=None,
  patience=None,
  hidden_features=16,
  layers=2,
  lmax=1,
  lmax_attributes=1,
  norm="none",
  centring="center_of_mass",
  train_samples=[1000],
  batch_size=50,
  system="charged",
  data_file=None,
  force_clip="component",
)
"""A reduced SEGNN: what differs from `--preset=quick` is listed after it."""

_HELD_OUT, _ANGLES = 1000, 8


@dataclasses.dataclass(frozen=True)
class Campaign:
  """What is trained.

  Attributes:
    strengths: By kind of breaking.
    seeds: Seeds of each data set.
    data_sets: Data sets of each strength; twice as many at 0.
    first_data_seed: Seed of the first of them.
    epochs: Length of each run.
    rho: Price of slack: too high, and a weak breaking is not worth it to the model.
    breaking_from: When the field starts to act, "input" or "start".
  """

  strengths: dict[str, list[float]]
  seeds: int
  data_sets: int
  first_data_seed: int
  epochs: int
  rho: float
  breaking_from: str

  def programs(self) -> list[tuple[str, float, int]]:
    """Returns (kind, strength, data seed) of every program."""
    return [
      (kind, strength, self.first_data_seed + i)
      for kind, strengths in self.strengths.items()
      for strength in strengths
      for i in range(self.data_sets * (1 if strength else 2))
    ]


def run(campaign: Campaign, workdir: str | None) -> None:
  """Runs every program that is not finished, then counts, prints and draws.

  Args:
    campaign: What is trained.
    workdir: Where to write; a new folder under runs/ by default.
  """
  place = (
    Path(workdir) if workdir else workdirs.default_workdir("detection", campaign.breaking_from)
  )
  with workdirs.opened(
    place, dataclasses.asdict(campaign), resume=(place / workdirs.CONFIG).exists()
  ):
    found = []
    for kind, strength, data_seed in tqdm.tqdm(campaign.programs(), unit="program"):
      path = place / f"{kind}{exact(strength)}_data{data_seed}.json"
      if not path.exists():
        files.write_json(path, train(campaign, kind, strength, data_seed))
      found.extend(result_files.read_json(path, "remove it and run again", list))
    write(place, campaign, found)


def train(campaign: Campaign, kind: str, strength: float, data_seed: int) -> list[dict[str, Any]]:
  """Trains the seeds of one data set as replicas, and returns the verdict of each alone."""
  settings = SETTINGS.replace(
    rho=campaign.rho,
    epochs=campaign.epochs,
    eval_every=max(1, campaign.epochs // 4),
    symmetry_breaking=f"{kind}:{exact(strength)}",
    breaking_from=campaign.breaking_from,
    data_seed=data_seed,
  )
  data = nbody_run.load(settings, max(settings.data.train_samples or ()))
  problem = nbody_run.make_problem(settings, data)
  seeds = range(campaign.seeds)
  begin = problems.start([settings.replace(seed=seed) for seed in seeds], problem)
  report_memory, peaks = results.keep_memory()
  end, records = loop.train(
    problems.method(settings, problem),
    begin,
    data.train,
    data.valid,
    problems.training_settings(settings.training, problem),
    names=[f"seed{seed}" for seed in seeds],
    report_memory=report_memory,
  )
  test = loop.test_errors(problem.task, end, data.test)
  held_out = task.take(data.test, slice(0, _HELD_OUT))
  group = subjects.nbody_group(settings, held_out)
  measure = report_run.compile_measure(problem, group, actions.position, _ANGLES)
  truth = set(BROKEN[kind]) if strength else set()
  rows = []
  for seed in seeds:
    relaxed = parallel.select(end.selected()["relaxed"], seed)
    generators = report.generator_reports([measure(relaxed, held_out)])
    called = {one.name for one in generators if one.broken}
    rows.append(
      {
        "kind": kind,
        "strength": strength,
        "data_seed": data_seed,
        "seed": seed,
        "right": called == truth,
        "called_broken": sorted(called),
        "test_mse": test[seed],
        "memory": results.memory(peaks),
        "largest_gamma": history.largest(records[seed][-1], "gamma"),
        "largest_multiplier": history.largest(records[seed][-1], "multiplier"),
        "generators": {
          one.name: {"lie_error": one.lie_error, "loss": one.loss, "standard_error": one.error}
          for one in generators
        },
      }
    )
  return rows


def write(place: Path, campaign: Campaign, found: list[dict[str, Any]]) -> None:
  """Prints the table, and writes result.json and detection.png."""
  table, counts, curves = [], [], {}
  for kind, strengths in campaign.strengths.items():
    for strength in strengths:
      rows = [row for row in found if (row["kind"], row["strength"]) == (kind, strength)]
      right = sum(row["right"] for row in rows)
      names = sorted(rows[0]["generators"])
      calls = {name: sum(name in row["called_broken"] for row in rows) for name in names}
      for name, count in calls.items():
        curves.setdefault(kind, {}).setdefault(name, {})[strength] = (count, len(rows))
      counts.append(
        {"kind": kind, "strength": strength, "runs": len(rows), "right": right, "called": calls}
      )
      called = ", ".join(f"{name} {count}" for name, count in calls.items() if count)
      table.append([kind, f"{strength:g}", f"{right} of {len(rows)}", called])
  header = ["breaking", "strength", "verdict right", "called broken (runs)"]
  print(f"\n{tables.table(header, table)}\n")
  result = {
    "experiment": "detection",
    "rule": {"standard_errors": report.THRESHOLD, "smallest_effect": report.SMALLEST_EFFECT},
    "campaign": dataclasses.asdict(campaign),
    "settings": SETTINGS.to_json(),
    "counts": counts,
    "runs": found,
  }
  workdirs.write_result(place, result)
  plots.save(detection_figures.detection_curves(curves, BROKEN), place / "detection.png")
  print(f"Everything is in {place}: result.json, detection.png")
