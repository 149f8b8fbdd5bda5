"""The verdict on a run in words: the report's where one was made, and what its constraint came to.

A sentence a fact, with the numbers of result.json; what they cannot say is not said.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ace_jax.symmetry import report, verdicts
from ace_jax.training.history import Record
from experiments.harness import constraints, page_runs, result_files
from experiments.harness.page_runs import dictionary

REPORT = "report.md"
_SAID = {"projection": "the projection f_\u03b8,0", "relaxed": "the relaxed f_\u03b8,\u03b3"}
_REPORTED = ("nbody", "qm9", "modelnet40")
"""Experiments that `experiments.report` knows."""
_SMALL = 0.01  # a slack below is called none


def verdict(run: page_runs.Run, records: Sequence[Record], root: Path) -> list[str]:
  """Returns the sentences on a finished training.

  Args:
    run: The run.
    records: Of it.
    root: The folder that is shown.
  """
  reported = of_report(run.folder / REPORT, root)
  sentences = [f"Report: {reported}"] if reported else []
  sentences += [_errors(run.result), *_constraint(run.result), *_settled(run.result, records)]
  if not reported and _may_report(run):
    sentences.append(
      "Not measured: which symmetries the data break. With the path of this folder, "
      f"`python -m experiments.report --runs={run.folder.resolve().name}` measures them."
    )
  return [sentence for sentence in sentences if sentence]


def of_report(path: Path, root: Path) -> str:
  """Returns the verdict in a report.md; "" where there is none.

  Args:
    path: The file.
    root: The folder that is shown.
  """
  if not page_runs.inside(path, root):
    return ""
  try:
    paragraphs = path.read_text(errors="replace").split("\n\n")
  except OSError:
    return ""
  return paragraphs[1].strip() if len(paragraphs) > 1 else ""


def _errors(result: Mapping[str, Any]) -> str:
  linear, metric = result.get("linear_mse"), result.get("metric", result_files.MSE)
  errors = {name: predictor["test_mse"] for name, predictor in result["predictors"].items()}
  order = sorted(errors, key=errors.__getitem__)
  numbers = [f"{errors[name]:.4g} of {_SAID[name]}" for name in order]
  if len(errors) == 1:  # of a model that has no other, and may have no projection
    numbers = [f"{errors[order[0]]:.4g}"]
  said = f"Test {metric}: {' and '.join(numbers)}"
  if result_files.finite(linear):
    better = linear < errors[order[0]]
    said += f"; a linear prediction has {linear:.4g}{', which is better' if better else ''}"
  return f"{said}."


def _constraint(result: Mapping[str, Any]) -> list[str]:
  name = result["constraint"]
  final = dictionary(result.get("final"))
  gammas = _numbers(final.get("gamma"))
  slack = _numbers(final.get("slack"))
  settings, largest = result["settings"], result.get("largest_gamma_in_last_tenth")
  if "functional" in result:
    return [_functional(result)]
  if name in constraints.where(gamma="absent"):
    return [f"{name}: the model has no \u03b3; it is equivariant by construction."]
  if not gammas:
    return []
  top = max(gammas, key=lambda layer: abs(gammas[layer]))
  said = [f"Largest |\u03b3| at the end: {abs(gammas[top]):.3g}, in {top}."]
  if slack:
    return [*said, *_slack(name, gammas, slack)]
  bound = {"equality": 0.0, "inequality": settings.get("epsilon")}.get(name)
  if bound is not None and result_files.finite(bound):
    asked = f"|\u03b3| \u2264 {bound:g}" if bound else "\u03b3 = 0"
    tolerance = _tolerance(bound)
    how = "holds in every layer" if abs(gammas[top]) <= bound + tolerance else "does not hold"
    said.append(f"{name}: {asked} {how} at the end of the training (tolerance {tolerance:.2g}).")
    if result_files.finite(largest):
      said.append(f"In the last tenth of the epochs |\u03b3| was at most {largest:.3g}.")
  return said


def _tolerance(bound: float) -> float:
  """Returns by how much |gamma| may exceed a bound that is said to hold."""
  return 0.05 * bound + 1e-3


def _slack(name: str, gammas: Mapping[str, float], slack: Mapping[str, float]) -> list[str]:
  over = {k: abs(gammas[k]) - u for k, u in slack.items() if k in gammas}
  missed = [k for k, excess in over.items() if excess > _tolerance(slack[k])]
  said = []
  if missed:
    worst = max(missed, key=over.__getitem__)
    said.append(
      f"{name}: |\u03b3| \u2264 u, with a learned slack u, does not hold at the end "
      f"in {len(missed)} of {len(over)} layers, by {over[worst]:.3g} in {worst}: the slack does "
      "not tell yet which layers need to be relaxed."
    )
  elif over:
    said.append(
      f"{name}: |\u03b3| \u2264 u, with a learned slack u, holds at the end in every layer."
    )
  top = max(slack.values())
  large = sorted((k for k in slack if slack[k] > max(_SMALL, top / 2)), key=lambda k: -slack[k])
  if not large:
    return [*said, f"The slack u is below {_SMALL:g} in every layer."]
  shown = ", ".join(f"{layer} ({slack[layer]:.3g})" for layer in large[:4])
  more = f" and {len(large) - 4} more" if len(large) > 4 else ""
  return [*said, f"Layers of the largest slack u: {shown}{more}."]


def _functional(result: Mapping[str, Any]) -> str:
  asked, final = result["functional"]["asked"], result["functional"]["final"]
  reached, error = final["test_gap"], final.get("test_gap_error")
  error = float(error) if error is not None and result_files.finite(error) else 0.0
  how = "holds" if reached <= asked else "does not hold"
  if abs(reached - asked) <= 2 * error:
    how = "cannot be told to hold or not, being within two standard errors"
  around = f" \u00b1 {error:.2g} (standard error)" if error else ""
  slack = _numbers(dictionary(result.get("final")).get("slack"))
  learned = ", the learned slack," if slack else ""
  return (
    f"{result['constraint']}: the mean squared equivariance error on test data is {reached:.3g}"
    f"{around} at the end of the training; the bound {asked:.3g}{learned} {how}."
  )


def _settled(result: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
  """Returns what the last quarter of the training says of whether it was long enough."""
  baseline = dictionary(result["data"].get("linear_mse")).get("valid")
  if not records or baseline is None or not result_files.finite(baseline):
    return []
  evidence = report.evidence(records, float(baseline))
  doubts = verdicts.doubts(evidence)
  said = []
  if doubts:
    words = "; ".join(doubts).replace("the baseline", "the linear prediction on validation data")
    said.append(f"Conclusions from this run need care: {words.replace('gamma', chr(0x3B3))}.")
  if evidence.improvement is not None and math.isfinite(evidence.improvement):
    fell = f"fell by {100 * evidence.improvement:.2g} %"
    fell = fell if evidence.improvement > 0 else "did not fall"
    said.append(f"In the last quarter of the epochs the lowest validation error {fell}.")
  if evidence.gamma_change is not None:
    said.append(
      "Last quarter of the epochs: \u03b3 at its beginning and at the end differ by at most "
      f"{evidence.gamma_change:.2g}."
    )
  return said


def _may_report(run: page_runs.Run) -> bool:
  known = run.result["experiment"] in _REPORTED and "relaxed" in run.result["predictors"]
  return known and bool(_numbers(dictionary(run.result.get("final")).get("gamma")))


def _numbers(value: Any) -> dict[str, float]:
  return {k: v for k, v in dictionary(value).items() if result_files.finite(v)}
