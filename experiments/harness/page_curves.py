"""The curves of a run's page: panels of records over epochs, thinned, as JSON that a browser draws.

A number that is not finite is a gap.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ace_jax.plots import style
from ace_jax.training.history import Record
from experiments.harness import result_files

POINTS = 2000
"""Epochs of a curve at most."""
_DIGITS = 6
_PREDICTORS = {"projection": "projection f_\u03b8,0", "relaxed": "relaxed f_\u03b8,\u03b3"}
_KINDS = {
  "gamma": "\u03b3 by layer",
  "multiplier": "Multipliers \u03bb by layer",
  "slack": "Slack u by layer",
}
_DASHES = ([], [8, 3], [2, 3], [8, 3, 2, 3])
"""Line, pause, ... in pixels."""


def panels(records: Sequence[Record], result: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the panels of a page.

  Args:
    records: Of a run.
    result: Content of its result.json, for what its errors are called; {} before there is one.

  Returns:
    For each panel its id, title, label of the axis, whether that is logarithmic, epochs, and
    series: name, color, dash, values (null where there is none). `every` is how many epochs apart
    the points are, where there are too many to show all.
  """
  metric = result.get("metric", result_files.MSE)
  metric = metric if isinstance(metric, str) else result_files.MSE
  names = list(dict.fromkeys(name for record in records for name in record))
  errors = _of_predictors(names, {"valid": "validation", "test": "test"})
  errors |= {"loss": ("training loss", style.GREY, [2, 3])} if "loss" in names else {}
  equivariance = _of_predictors(names, {"equivariance": ""})
  panels = [
    _panel("errors", f"Errors ({metric})", errors, records, logarithmic=True),
    _panel("equivariance", "Equivariance error (relative)", equivariance, records, True),
  ]
  kinds = {kind: title for kind, title in _KINDS.items() if _layers(names, kind)}
  if set(_layers(names, "multiplier")) - set(_layers(names, "gamma")):
    kinds["violation"] = "Violation v"  # of a constraint that is none on gamma
  for kind, title in kinds.items():
    lines = {
      f"{kind}/{layer}": (layer, style.PALETTE[i % len(style.PALETTE)], _dash(i))
      for i, layer in enumerate(_layers(names, kind))
    }
    panels.append(_panel(kind, title, lines, records, logarithmic=False))
  if not _layers(names, "gamma") and "gamma" in names:  # of the evaluations in a result.json
    lines = {"gamma": ("largest |\u03b3|", style.BLUE, [])}
    panels.append(_panel("gamma", "Largest |\u03b3|", lines, records, logarithmic=False))
  return [panel for panel in panels if panel["series"]]


def _of_predictors(
  names: Sequence[str], sets: Mapping[str, str]
) -> dict[str, tuple[str, str, list[int]]]:
  return {
    f"{key}/{predictor}": (
      f"{word}, {said}".removeprefix(", "),
      style.LOOKS[predictor].color,
      [] if key != "test" else [8, 3],
    )
    for key, word in sets.items()
    for predictor, said in _PREDICTORS.items()
    if f"{key}/{predictor}" in names
  }


def _layers(names: Sequence[str], kind: str) -> list[str]:
  return [name.removeprefix(f"{kind}/") for name in names if name.startswith(f"{kind}/")]


def _dash(index: int) -> list[int]:
  return _DASHES[index // len(style.PALETTE) % len(_DASHES)]


def _panel(
  key: str,
  title: str,
  lines: Mapping[str, tuple[str, str, list[int]]],
  records: Sequence[Record],
  logarithmic: bool,
) -> dict[str, Any]:
  rows = [record for record in records if any(name in record for name in lines)]
  values = {name: [_number(record.get(name)) for record in rows] for name in lines}
  shown = thinned([*values.values()], len(rows))
  return {
    "id": key,
    "title": title,
    "logarithmic": logarithmic,
    "every": round(len(rows) / POINTS, 1) if len(shown) < len(rows) else None,
    "epochs": [_number(rows[i].get("epoch")) for i in shown],
    "series": [
      {"name": said, "color": color, "dash": dash, "values": [values[name][i] for i in shown]}
      for name, (said, color, dash) in lines.items()
    ],
  }


def thinned(curves: Sequence[Sequence[float | None]], rows: int) -> list[int]:
  """Returns which rows are shown: evenly spaced ones, of each curve its ends, lowest and highest.

  The first gap of each curve is among them, so that none is drawn over.

  Args:
    curves: Values of each row.
    rows: How many there are.
  """
  if rows <= POINTS:
    return [*range(rows)]
  kept = {0, rows - 1}
  for curve in curves[: POINTS // 8]:
    numbers = np.array([np.nan if value is None else value for value in curve])
    if np.isfinite(numbers).any():
      kept |= {int(np.nanargmin(numbers)), int(np.nanargmax(numbers))}
    kept |= {int(i) for i in np.flatnonzero(np.isnan(numbers))[:1]}
  even = np.linspace(0, rows - 1, POINTS - len(kept)).round().astype(int)
  return sorted(kept | {int(i) for i in even})


def _number(value: Any) -> float | None:
  if not result_files.finite(value):
    return None
  return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
