"""What a training found: the content of result.json, and the table that ends a run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tqdm

from ace_jax import state, task
from ace_jax.training import history
from ace_jax.training.memory import Peak
from experiments.harness import tables
from experiments.harness.problems import Problem
from experiments.harness.result_files import MSE, Result, about_origin, equivariance_error
from experiments.harness.settings import Settings, Training


def make(
  problem: Problem,
  settings: Settings,
  end: state.AceState,
  records: list[history.Record],
  test: dict[str, float],
  turned: dict[str, dict[str, float]],
) -> Result:
  """Collects what a run found: the content of result.json, but for what it ran on.

  Args:
    problem: Model and data.
    settings: Of the run.
    end: Its final state.
    records: Its history.
    test: Test error of each predictor.
    turned: The same on test samples that were turned, by the name of the rotations.
  """

  def last(name):
    return next((r for r in reversed(records) if f"valid/{name}" in r), {})

  before = [record for record in records if not record.get("finish")]
  predictors = {
    name: {
      "valid_mse": float(best.error),
      "best_epoch": int(best.epoch),
      "test_mse": test[name],
      "test_mse_turned": {rotations: errors[name] for rotations, errors in turned.items()},
      problem.error_name: last(name).get(f"equivariance/{name}"),
      **({} if len(before) == len(records) else {"phase": _phase(int(best.epoch), len(before))}),
    }
    for name, best in end.best.items()
  }
  final = {kind: history.of_kind(before[-1], kind) for kind in ("gamma", "multiplier", "slack")}
  flat = settings.to_json()
  tail = before[-max(1, len(before) // 10) :]
  return {
    "experiment": problem.experiment,
    "model": problem.model,
    "constraint": settings.constraint.name,
    "seeds": [settings.training.seed],
    "epochs": int(end.epoch),
    "steps": int(end.step),
    "train_samples": task.size(problem.train),
    **({} if problem.metric_name == MSE else {"metric": problem.metric_name}),
    "linear_mse": problem.summary["linear_mse"]["test"],
    "predictors": predictors,
    "curve": [_evaluation(record) for record in records if "valid/projection" in record],
    "final": final,
    "largest_gamma_in_last_tenth": max((history.largest(r, "gamma") or 0.0) for r in tail),
    **(
      {} if len(before) == len(records) else {"finish": _finish(settings.training, before, records)}
    ),
    "seconds": sum(record["seconds"] for record in records),
    "steps_per_second": float(np.median([record["steps_per_second"] for record in records])),
    "settings": flat,
    "differs_from_published": {
      name: [flat.get(name), value]
      for name, value in problem.published.items()
      if flat.get(name) != value
    },
    "data": problem.summary,
  }


def _phase(epoch: int, before: int) -> str:
  return "finish" if epoch > before else "constrained"


def _finish(
  settings: Training, before: list[history.Record], records: list[history.Record]
) -> dict[str, Any]:
  """Returns when the finish began and from what, and the seconds of an epoch before and in it."""
  after = records[len(before) :]
  median = [float(np.median([record["seconds"] for record in part])) for part in (before, after)]
  names = ("seconds_an_epoch_before", "seconds_an_epoch")
  return {
    "after_epoch": len(before),
    "from": settings.finish_from,
    **dict(zip(names, median, strict=True)),
  }


def keep_memory() -> tuple[Callable[[Peak], None], list[Peak]]:
  """Returns what prints the expected peak of a training, and the list that it is kept in."""
  kept: list[Peak] = []

  def report(peak: Peak) -> None:
    kept.append(peak)
    tqdm.tqdm.write(peak.describe())

  return report, kept


def memory(kept: list[Peak]) -> dict[str, Any] | None:
  """Returns the expected peak for a result.json; None if a resumed run had nothing left to do."""
  return kept[0].record() if kept else None


def _evaluation(record: history.Record) -> history.Record:
  numbers = {k: float(f"{v:.6g}") for k, v in record.items() if k.startswith(_KEPT)}
  largest = history.largest(record, "gamma")
  return {"epoch": record["epoch"], **numbers, **({} if largest is None else {"gamma": largest})}


_KEPT = ("loss", "valid/", "test/", "equivariance")


def summary_table(results: Sequence[Result], baseline: str, scale: float = 1.0) -> str:
  """Formats results as the table that ends a run.

  Args:
    results: Contents of result.json.
    baseline: What the linear prediction is called, such as "x + v t".
    scale: What errors are multiplied by: 100 shows them in units of 10^-2.
  """
  unit = "" if scale == 1 else f" x 10^-{round(np.log10(scale))}"
  metric = results[0].get("metric", MSE)
  header = ["predictor", f"test {metric}{unit}", f"valid {metric}{unit}"]
  about = " (origin)" if any(map(about_origin, results[0]["predictors"].values())) else ""
  header += ["best epoch", f"equiv. error{about}"]
  rows = []

  def shown(error):
    return f"{scale * error:.5f}" if scale == 1 else f"{scale * error:.2f}"

  linear = results[0]["linear_mse"]
  rows.append([baseline, shown(linear), "", "", "", "1.0"])
  for result in results:
    replica = f", {name}" if (name := result.get("replica")) else ""
    for name, predictor in result["predictors"].items():
      equivariance = equivariance_error(predictor)
      rows.append(
        [
          f"{result['constraint']}, {name}{replica}",
          shown(predictor["test_mse"]),
          shown(predictor["valid_mse"]),
          str(predictor["best_epoch"]),
          "" if equivariance is None else f"{equivariance:.1e}",
          f"{linear / predictor['test_mse']:.1f}" if predictor["test_mse"] else "inf",
        ]
      )
  return tables.table([*header, f"{baseline} / test"], rows)
