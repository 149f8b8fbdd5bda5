"""The verdict on a run in words: the report's where one was made, and what its constraint came to.

A sentence a fact, with the numbers of result.json; what they cannot say is not said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ace_jax.symmetry import report, verdicts
from ace_jax.training.history import Record
from experiments.harness import constraints, page_runs, result_files
from experiments.harness.page_runs import dictionary

REPORT = "report.md"
_SAID = {"projection": "f_\u03b8,0 (exactly equivariant)", "relaxed": "f_\u03b8,\u03b3 (relaxed)"}
_REPORTED = ("nbody", "qm9", "modelnet40")
"""Experiments that `experiments.report` knows."""
_SMALL = 0.01  # of the largest slack: layers below ask for nothing


def verdict(run: page_runs.Run, records: Sequence[Record], root: Path) -> list[str]:
  """Returns the sentences on a finished training.

  Args:
    run: The run.
    records: Of it.
    root: The folder that is shown.
  """
  reported = of_report(run.folder / REPORT, root)
  found = [f"Report: {reported}"] if reported else []
  found += [_errors(run.result), *_constraint(run.result), _doubts(run.result, records)]
  if not reported and _may_report(run):
    found.append(
      "Which symmetry the data break was not measured; "
      f"python -m experiments.report --runs={run.folder.name} measures it."
    )
  return [sentence for sentence in found if sentence]


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
  predictors, linear = result["predictors"], result.get("linear_mse")
  errors = {name: predictor["test_mse"] for name, predictor in predictors.items()}
  best = min(errors, key=lambda name: errors[name])
  metric = result.get("metric", result_files.MSE)
  said = f"The better predictor is {_SAID[best]}: test {metric} {errors[best]:.4g}"
  others = [f"{errors[name]:.4g} of {_SAID[name]}" for name in errors if name != best]
  said += f", against {others[0]}" if others else ""
  if result_files.finite(linear) and linear and errors[best]:
    ratio = linear / errors[best]
    said += f"; a linear prediction has {linear:.4g}, {ratio:.3g} times as much"
  return f"{said}." if others else said.replace("The better", "The only") + "."


def _constraint(result: Mapping[str, Any]) -> list[str]:
  name = result["constraint"]
  final = dictionary(result.get("final"))
  gammas = _numbers(final.get("gamma"))
  slack = _numbers(final.get("slack"))
  settings, largest = result["settings"], result.get("largest_gamma_in_last_tenth")
  if "functional" in result:
    return [_functional(result)]
  if name in constraints.where(gamma="absent"):
    return ["strict: the model is equivariant by construction; nothing was constrained."]
  if not gammas:
    return []
  top = max(gammas, key=lambda layer: abs(gammas[layer]))
  said = [f"At the end the largest |\u03b3| is {abs(gammas[top]):.3g}, of {top}."]
  if slack:
    return [*said, _slack(slack)]
  bound = {"equality": 0.0, "inequality": settings.get("epsilon")}.get(name)
  if bound is not None and result_files.finite(bound):
    how = "holds" if abs(gammas[top]) <= 1.05 * bound + 1e-3 else "does not hold"
    asked = f"|\u03b3| \u2264 {bound:g}" if bound else "\u03b3 = 0"
    said.append(f"{name}: {asked} {how} at the end (to 5 % and 0.001).")
    if result_files.finite(largest):
      said.append(f"In the last tenth of the epochs |\u03b3| was {largest:.3g} at most.")
  return said


def _slack(slack: Mapping[str, float]) -> str:
  top = max(slack.values())
  asking = [layer for layer, value in slack.items() if value > max(_SMALL, top / 2)]
  if not asking:
    return f"resilient: no layer asks to be relaxed (slack {top:.3g} at most)."
  asking.sort(key=lambda layer: -slack[layer])
  shown = ", ".join(f"{layer} ({slack[layer]:.3g})" for layer in asking[:4])
  return f"resilient: the layers that ask most to be relaxed, by their slack: {shown}."


def _functional(result: Mapping[str, Any]) -> str:
  asked, final = result["functional"]["asked"], result["functional"]["final"]
  reached, error = final["test_gap"], final.get("test_gap_error")
  how = "is kept" if reached <= asked else "is not kept"
  around = f" \u00b1 {error:.2g}" if result_files.finite(error) else ""
  return (
    f"functional: the mean squared equivariance error on test data is {reached:.3g}{around} at the "
    f"end, where at most {asked:.3g} was asked for: the bound {how}."
  )


def _doubts(result: Mapping[str, Any], records: Sequence[Record]) -> str:
  data = dictionary(result["data"].get("linear_mse"))
  baseline = data.get("valid")
  if not records or not result_files.finite(baseline):
    return ""
  doubts = verdicts.doubts(report.evidence(records, float(baseline)))
  if not doubts:
    return "The training has come to rest: neither errors nor \u03b3 still move."
  return f"To be read with care: {'; '.join(doubts)}."


def _may_report(run: page_runs.Run) -> bool:
  known = run.result["experiment"] in _REPORTED and "relaxed" in run.result["predictors"]
  return known and bool(_numbers(dictionary(run.result.get("final")).get("gamma")))


def _numbers(value: Any) -> dict[str, float]:
  return {k: v for k, v in dictionary(value).items() if result_files.finite(v)}
