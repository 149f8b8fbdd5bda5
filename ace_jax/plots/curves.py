"""Figures from the records of runs: errors, gammas and multipliers over epochs.

Functions return a matplotlib Figure, made without pyplot's global state; `save` writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ace_jax import files
from ace_jax.plots.palette import PALETTE
from ace_jax.training.history import Record

_STYLES = ("-", "--", ":", "-.")
_PREDICTORS = {
  "projection": r"projection $f_{\theta,0}$",
  "relaxed": r"relaxed $f_{\theta,\gamma}$",
}


def save(figure: Figure, path: str | Path) -> None:
  """Writes a PNG atomically, at 150 dots per inch."""
  with files.replaced(path) as temporary:
    figure.savefig(temporary, dpi=150, format="png")


def mean_and_deviation(values: np.ndarray | Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean over the leading axis, of seeds, and the standard deviation; 0 of one seed."""
  values = np.asarray(values)
  return values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))


def series(records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns (epochs, values) of the records that have `key`."""
  pairs = [(record["epoch"], record[key]) for record in records if key in record]
  table = np.array(pairs, float).reshape(-1, 2)
  return table[:, 0], table[:, 1]


def layers(records: Sequence[Record], kind: str) -> list[str]:
  """Returns the names of the layers for which `kind` ("gamma", "slack", ..) was recorded."""
  keys = dict.fromkeys(key for record in records for key in record)
  return [key.removeprefix(f"{kind}/") for key in keys if key.startswith(f"{kind}/")]


def validation_curve(
  histories: Mapping[str, Sequence[Record]],
  metric: str = "valid",
  baseline: float | None = None,
  reference: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:
  """Draws errors over epochs for the projection and the relaxed model of each run.

  Args:
    histories: Records of each run, by label.
    metric: "valid" or "test".
    baseline: Error of the linear prediction, drawn as a dashed line.
    reference: Further curves (epochs, errors), by label.
  """
  figure = Figure(figsize=(6.4, 4), layout="constrained")
  axes = figure.subplots()
  color = iter(PALETTE * 4)
  for label, records in histories.items():
    for predictor, name in _PREDICTORS.items():
      epochs, values = series(records, f"{metric}/{predictor}")
      if not len(epochs):
        continue
      shade = next(color)
      axes.plot(epochs, values, color=shade, lw=1.4, label=f"{label}, {name}")
      if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        axes.plot(epochs[best], values[best], "o", color=shade, ms=5)
  for label, (epochs, values) in (reference or {}).items():
    axes.plot(epochs, values, color="0.3", lw=1.2, ls="--", label=label)
  if baseline is not None:
    axes.axhline(baseline, color="0.5", lw=1, ls=":", label=r"linear prediction $x + v t$")
  what = {"valid": "validation", "test": "test"}.get(metric, metric)
  axes.set(xlabel="epoch", ylabel=f"{what} MSE", yscale="log")
  axes.set_title("dots: lowest error of each curve", fontsize=9, color="0.4")
  axes.grid(alpha=0.25, which="both")
  axes.legend(fontsize=8)
  return figure


def gamma_and_multipliers(records: Sequence[Record]) -> Figure:
  """Draws gamma, multipliers and (where there is one) slack over epochs, a line for each name.

  A constraint that is not one on gamma gets a panel of its violation too.

  Raises:
    ValueError: nothing of this was recorded: the model is strict, and nothing constrained.
  """
  kinds = {
    "gamma": r"$\gamma$",
    "multiplier": r"multiplier $\lambda$",
    "slack": "slack $u$",
  }
  if set(layers(records, "multiplier")) - set(layers(records, "gamma")):
    kinds["violation"] = "violation $v$"
  kinds = {kind: label for kind, label in kinds.items() if layers(records, kind)}
  if not kinds:
    raise ValueError("these records have no gamma and no multiplier: the run was unconstrained.")
  names = list(dict.fromkeys(name for kind in kinds for name in sorted(layers(records, kind))))
  groups = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
  parts = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
  shades = colormaps["viridis"](np.linspace(0, 0.9, max(len(groups), 2)))
  figure = Figure(figsize=(4.2 * len(kinds) + 1.6, 3.6), layout="constrained")
  drawn = {}
  for axes, (kind, label) in zip(
    np.ravel(figure.subplots(1, len(kinds))), kinds.items(), strict=True
  ):
    for name in layers(records, kind):
      group, _, part = name.rpartition("/")
      (drawn[name],) = axes.plot(
        *series(records, f"{kind}/{name}"),
        color=shades[groups.index(group)],
        ls=_STYLES[parts.index(part) % len(_STYLES)],
        lw=1.4,
      )
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.25)
  figure.legend([drawn[name] for name in names], names, loc="outside right center", fontsize=8)
  return figure


def equivariance_error(records: Sequence[Record]) -> Figure:
  """Draws the relative equivariance error of both predictors over epochs."""
  figure = Figure(figsize=(6.4, 4), layout="constrained")
  axes = figure.subplots()
  for color, (predictor, name) in zip(PALETTE, _PREDICTORS.items(), strict=False):
    epochs, values = series(records, f"equivariance/{predictor}")
    if len(epochs):
      axes.plot(epochs, values, color=color, lw=1.4, label=name)
  axes.set(xlabel="epoch", ylabel="relative equivariance error (rotations)", yscale="log")
  axes.grid(alpha=0.25)
  axes.legend(fontsize=8)
  return figure


def trajectories(
  paths: np.ndarray | None,
  positions: np.ndarray,
  velocities: np.ndarray,
  targets: np.ndarray,
  predictions: Mapping[str, np.ndarray],
) -> Figure:
  """Draws true paths and predicted end points of a few samples, seen along z and along y.

  Args:
    paths: True positions over time [samples, frames, particles, 3], if known.
    positions: Where the model starts from, [samples, particles, 3].
    velocities: Velocities there.
    targets: True end points.
    predictions: Predicted end points by predictor.
  """
  samples = len(positions)
  figure = Figure(figsize=(3.2 * samples, 6.4), layout="constrained")
  grid = figure.subplots(2, samples, squeeze=False)
  markers = dict(zip(predictions, ("x", "+", "1", "2"), strict=False))
  for row, (i, j) in enumerate(((0, 1), (0, 2))):
    for k in range(samples):
      axes = grid[row, k]
      for particle in range(positions.shape[1]):
        color = PALETTE[particle % len(PALETTE)]
        if paths is not None:
          axes.plot(*paths[k, :, particle, [i, j]], color=color, lw=1)
        start, end = positions[k, particle], targets[k, particle]
        linear = start + velocities[k, particle]
        axes.plot([start[i], linear[i]], [start[j], linear[j]], color=color, lw=0.7, ls=":")
        axes.plot(start[i], start[j], "o", color=color, ms=3)
        axes.plot(end[i], end[j], "o", color=color, ms=7, mfc="none")
        for name, marker in markers.items():
          point = predictions[name][k, particle]
          axes.plot(point[i], point[j], marker, color=color, ms=8, mew=1.5)
      axes.set_aspect("equal", adjustable="datalim")
      axes.set_xlabel("xyz"[i])
      axes.set_ylabel("xyz"[j])
      if row == 0:
        axes.set_title(f"test trajectory {k}", fontsize=9)
  handles = [
    ("o", 3, "k", "start"),
    ("o", 7, "none", "truth"),
    *((marker, 8, "k", name) for name, marker in markers.items()),
  ]
  proxies = [
    grid[0, 0].plot([], [], marker, ms=size, mfc=face, color="k", label=name)[0]
    for marker, size, face, name in handles
  ]
  proxies += grid[0, 0].plot([], [], ":", color="k", lw=0.7, label="linear $x + v t$")
  figure.legend(handles=proxies, loc="outside lower center", ncols=len(proxies), fontsize=9)
  return figure


def sample_efficiency(results: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
  """Draws test error against the number of training samples, mean +- standard deviation.

  Args:
    results: For each label {training samples: test error of every seed}.
  """
  figure = Figure(figsize=(6.4, 4), layout="constrained")
  axes = figure.subplots()
  seeds = {len(values) for sizes in results.values() for values in sizes.values()}
  for color, (label, sizes) in zip(PALETTE, results.items(), strict=False):
    counts = sorted(sizes)
    means, spread = zip(*(mean_and_deviation(sizes[n]) for n in counts), strict=True)
    axes.errorbar(counts, means, spread, color=color, marker="o", ms=4, capsize=3, label=label)
  axes.set(xlabel="training trajectories", ylabel="test MSE", xscale="log", yscale="log")
  axes.set_title(f"seeds: {', '.join(map(str, sorted(seeds)))}", fontsize=9, color="0.4")
  axes.grid(alpha=0.25, which="both")
  axes.legend(fontsize=8)
  return figure


def against_reference(
  curves: Mapping[str, Sequence[Sequence[Record]]],
  reference: Mapping[str, tuple[np.ndarray, np.ndarray]],
  key: str,
  ylabel: str,
) -> Figure:
  """Draws mean +- 2 standard deviations over seeds beside reference curves.

  Args:
    curves: For each label the records of every seed.
    reference: For each label (epochs, errors).
    key: What of the records to draw, such as "test/projection".
    ylabel: Label of the error axis.
  """
  figure = Figure(figsize=(6.4, 4), layout="constrained")
  axes = figure.subplots()
  for color, (label, seeds) in zip(PALETTE, curves.items(), strict=False):
    runs = [dict(zip(*series(records, key), strict=True)) for records in seeds]
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    values = np.array([[run[epoch] for epoch in epochs] for run in runs])
    mean, spread = mean_and_deviation(values)
    axes.plot(epochs, mean, color=color, lw=1.4, label=f"{label} ({len(runs)} seeds, +- 2 std)")
    low = np.maximum(mean - 2 * spread, values.min() / 2)
    axes.fill_between(epochs, low, mean + 2 * spread, color=color, alpha=0.2, lw=0)
  for color, (label, (epochs, values)) in zip(PALETTE, reference.items(), strict=False):
    axes.plot(epochs, values, color=color, lw=1.2, ls="--", label=label)
  axes.set(xlabel="epoch", ylabel=ylabel, yscale="log")
  axes.grid(alpha=0.25, which="both")
  axes.legend(fontsize=8)
  return figure
