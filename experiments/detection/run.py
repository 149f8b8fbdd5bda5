"""What `experiments.detection` does once its flags are checked."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from ace_jax import files, plots, task
from ace_jax.symmetry import actions, report, verdicts
from ace_jax.training import history, loop, measuring, parallel, progress
from experiments.detection import figures as detection_figures
from experiments.harness import page, problems, result_files, results, tables, workdirs
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

KEPT_BY_CONSTRUCTION = "translation_"
"""What these names begin with, centred positions keep: a verdict of them says nothing."""

OUTCOMES = ("right", "wrong", "cannot tell")
"""Of all verdicts on a run together (`verdicts.outcome`)."""

_HELD_OUT, _ANGLES = 1000, 8


@dataclasses.dataclass(frozen=True)
class Campaign:
  """What is trained.

  Attributes:
    strengths: By kind of breaking.
    seeds: Seeds of each data set.
    data_sets: Data sets of each strength; twice as many at 0.
    first_data_seed: Seed of the first of them.
    lengths: Epochs after which each run is judged, in ascending order; the last is its length.
    rho: Price of slack: too high, and a weak breaking is not worth it to the model.
    breaking_from: When the field starts to act, "input" or "start".
  """

  strengths: dict[str, list[float]]
  seeds: int
  data_sets: int
  first_data_seed: int
  lengths: tuple[int, ...]
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


class Judged(TypedDict):
  """The verdicts on a run: their `outcome` together, each by generator, why some are missing."""

  outcome: str
  called_broken: list[str]
  verdicts: dict[str, str]
  reasons: list[str]


class JudgedRun(Judged):
  """A run after so many epochs, as it is judged alone.

  `training` has the fields of `verdicts.Training`; errors and gammas are those of the model then,
  `test_mse` by predictor; `memory` is the expected peak in bytes, None where it is not known;
  `generators` has the Lie error, the loss of data fit and its standard error of each.
  """

  kind: str
  strength: float
  data_seed: int
  seed: int
  epochs: int
  training: dict[str, Any]
  test_mse: dict[str, float]
  memory: dict[str, Any] | None
  largest_gamma: float | None
  largest_multiplier: float | None
  generators: dict[str, dict[str, float]]


class Counts(TypedDict):
  """How often each verdict is given, of generators whose `truth` is "broken" or "kept"."""

  epochs: int
  truth: str
  verdicts: dict[str, int]


def run(campaign: Campaign, folder: Path) -> None:
  """Runs every program that is not finished, then counts, prints and draws.

  Args:
    campaign: What is trained.
    folder: Where to write.
  """
  with workdirs.opened(
    folder, dataclasses.asdict(campaign), resume=(folder / workdirs.CONFIG).exists()
  ):
    rows: list[JudgedRun] = []
    for kind, strength, data_seed in progress.over(campaign.programs(), "program"):
      path = folder / f"{kind}{exact(strength)}_data{data_seed}.json"
      if not path.exists():
        files.write_json(path, train(campaign, kind, strength, data_seed))
      rows.extend(result_files.read_json(path, "remove it and run again", list))
    write(folder, campaign, rows)


def train(campaign: Campaign, kind: str, strength: float, data_seed: int) -> list[JudgedRun]:
  """Trains the seeds of one data set as replicas, and judges each alone after every length."""
  settings = SETTINGS.replace(
    rho=campaign.rho,
    epochs=campaign.lengths[-1],
    eval_every=max(1, campaign.lengths[0] // 8),
    symmetry_breaking=f"{kind}:{exact(strength)}",
    breaking_from=campaign.breaking_from,
    data_seed=data_seed,
  )
  data = nbody_run.load(settings, max(settings.data.train_samples or ()))
  problem = nbody_run.make_problem(settings, data)
  seeds = range(campaign.seeds)
  states = problems.start([settings.replace(seed=seed) for seed in seeds], problem)
  held_out = task.take(data.test, slice(0, _HELD_OUT))
  group = subjects.nbody_group(settings, held_out)
  measure = report_run.compile_measure(problem, group, actions.position, _ANGLES)
  baseline = data.summary["linear_mse"]["valid"]
  report_memory, peaks = results.keep_memory()
  records: list[list[history.Record]] = [[] for _ in seeds]
  rows: list[JudgedRun] = []
  for epochs in campaign.lengths:
    states, new = loop.train(
      problems.method(settings, problem),
      states,
      data.train,
      data.valid,
      problems.training_settings(settings.replace(epochs=epochs).training, problem),
      names=[f"seed{seed}" for seed in seeds],
      report_memory=report_memory,
    )
    test = measuring.test_errors(problem.task, states, data.test)
    for seed in seeds:
      records[seed] += new[seed]
      relaxed = parallel.select(states.selected()["relaxed"], seed)
      training = report.evidence(records[seed], baseline)
      generators = report.generator_reports([measure(relaxed, held_out)], [training])
      rows.append(
        {
          "kind": kind,
          "strength": strength,
          "data_seed": data_seed,
          "seed": seed,
          "epochs": epochs,
          **judged(generators, BROKEN[kind] if strength else ()),
          "training": dataclasses.asdict(training),
          "test_mse": test[seed],
          "memory": results.memory(peaks),
          "largest_gamma": history.largest(records[seed][-1], "gamma"),
          "largest_multiplier": history.largest(records[seed][-1], "multiplier"),
          "generators": {
            reported.name: {
              "lie_error": reported.lie_error,
              "loss": reported.loss,
              "standard_error": reported.error,
            }
            for reported in generators
          },
        }
      )
  return rows


def judged(generators: Sequence[report.GeneratorReport], truth: Sequence[str]) -> Judged:
  """Returns whether the verdicts on a run are right, what they are, and why one is missing.

  Args:
    generators: Of one run.
    truth: The generators that the data break.
  """
  judgements = {reported.name: reported.judgement for reported in generators}
  reasons = dict.fromkeys(reason for reported in judgements.values() for reason in reported.reasons)
  return {
    "outcome": verdicts.outcome(judgements, truth),
    "called_broken": sorted(reported.name for reported in generators if reported.broken),
    "verdicts": {name: reported.verdict.value for name, reported in judgements.items()},
    "reasons": [reason for reason in reasons if reason != verdicts.BY_CONSTRUCTION],
  }


def by_generator(judged_runs: Sequence[JudgedRun]) -> list[Counts]:
  """Counts verdicts on single generators, by length of training and what is true of them.

  Those that the model keeps by construction are left out.

  Args:
    judged_runs: The rows of `train`.
  """
  counts: dict[tuple[int, str], collections.Counter[str]] = {}
  for row in judged_runs:
    broken = BROKEN[row["kind"]] if row["strength"] else ()
    for name, verdict in row["verdicts"].items():
      if not name.startswith(KEPT_BY_CONSTRUCTION):
        truth = "broken" if name in broken else "kept"
        counts.setdefault((row["epochs"], truth), collections.Counter())[verdict] += 1
  return [
    {
      "epochs": epochs,
      "truth": truth,
      "verdicts": {verdict.value: count[verdict.value] for verdict in verdicts.Verdict},
    }
    for (epochs, truth), count in sorted(counts.items())
  ]


def write(folder: Path, campaign: Campaign, judged_runs: list[JudgedRun]) -> None:
  """Prints the table, and writes result.json and detection.png."""
  table, counts, curves, shares = [], [], {}, {}
  for kind, strengths in campaign.strengths.items():
    for strength in strengths:
      for epochs in campaign.lengths:
        key = (kind, strength, epochs)
        rows = [row for row in judged_runs if (row["kind"], row["strength"], row["epochs"]) == key]
        outcomes = {name: sum(row["outcome"] == name for row in rows) for name in OUTCOMES}
        names = sorted(rows[0]["generators"])
        calls = {name: sum(name in row["called_broken"] for row in rows) for name in names}
        shares.setdefault(kind, {}).setdefault(strength, {})[epochs] = outcomes
        if epochs == campaign.lengths[-1]:
          for name, count in calls.items():
            if not name.startswith(KEPT_BY_CONSTRUCTION):
              curves.setdefault(kind, {}).setdefault(name, {})[strength] = (count, len(rows))
        shared = {"kind": kind, "strength": strength, "epochs": epochs, "runs": len(rows)}
        counts.append({**shared, "outcomes": outcomes, "called": calls})
        called = ", ".join(f"{name} {count}" for name, count in calls.items() if count)
        reasons = collections.Counter(reason for row in rows for reason in row["reasons"])
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        cells = [kind, f"{strength:g}", str(epochs), str(len(rows))]
        table.append([*cells, *map(str, outcomes.values()), called, why])
  header = ["breaking", "strength", "epochs", "runs", *OUTCOMES, "called broken", "cannot tell of"]
  generators = by_generator(judged_runs)
  print(f"\n{tables.table(header, table)}\n")
  for row in generators:
    said = ", ".join(f"{name} {count}" for name, count in row["verdicts"].items())
    print(f"after {row['epochs']} epochs, generators that are {row['truth']} in truth: {said}")
  print(f"\nRule: {verdicts.rule()}.\n")
  result = {
    "experiment": "detection",
    "rule": verdicts.rule(),
    "campaign": dataclasses.asdict(campaign),
    "settings": SETTINGS.to_json(),
    "counts": counts,
    "generators": generators,
    "runs": judged_runs,
  }
  workdirs.write_result(folder, result)
  figure = detection_figures.detection_curves(curves, BROKEN, shares)
  plots.save(figure, folder / "detection.png")
  page.write(folder)
  print(f"Everything is in {folder}: result.json, detection.png, {page.PAGE}")
