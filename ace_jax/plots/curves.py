"""Figures from the records of runs: errors, gammas and multipliers over epochs.

Functions return a matplotlib Figure, made without pyplot's global state; `save` writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ace_jax import files
from ace_jax.plots import style
from ace_jax.training.history import Record

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
  unit: str = "",
) -> Figure:
  """Draws errors over epochs for the projection and the relaxed model of each run.

  Args:
    histories: Records of each run, by label.
    metric: "valid" or "test".
    baseline: Error of the linear prediction, drawn as a dotted line.
    reference: Further curves (epochs, errors), by label.
    unit: Of the errors.
  """
  figure, grid = style.panels(1, 1, 6.4, 4.4)
  axes = grid[0, 0]
  index = 0
  for label, records in histories.items():
    for predictor, name in _PREDICTORS.items():
      epochs, values = series(records, f"{metric}/{predictor}")
      if not len(epochs):
        continue
      # Of several runs the dash still says which predictor it is.
      dash = style.LOOKS[predictor].dash
      look = style.LOOKS[predictor] if len(histories) == 1 else style.look("", index)
      axes.plot(epochs, values, color=look.color, ls=dash, lw=1.4, label=f"{label}, {name}")
      index += 1
      if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        axes.plot(epochs[best], values[best], look.marker, color=look.color, ms=6)
  for label, (epochs, values) in (reference or {}).items():
    look = style.LOOKS["reference"]
    axes.plot(epochs, values, color=look.color, lw=1.2, ls=look.dash, label=label)
  if baseline is not None:
    look = style.LOOKS["linear"]
    label = r"linear prediction $x + v t$"
    axes.axhline(baseline, color=look.color, lw=1.2, ls=look.dash, label=label)
  what = {"valid": "validation", "test": "test"}.get(metric, metric)
  axes.set(xlabel="epoch", ylabel=_with_unit(f"{what} MSE", unit))
  style.logarithmic(axes, "y")
  style.legend(figure, note="one seed a curve; marks: its lowest error", ncols=2)
  return figure


def gamma_and_multipliers(records: Sequence[Record]) -> Figure:
  """Draws gamma, multipliers and (where there is one) slack over epochs, a line for each layer.

  A column a quantity; a row for each map of a layer, where layers have several. More layers than
  can be told apart as lines are drawn as a heat map, a row a layer. A constraint that is not one
  on gamma gets a panel of its violation too.

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
  if len({_layer_and_map(name)[0] for name in names}) > len(style.PALETTE):
    return _heat_maps(records, kinds)
  return _small_multiples(records, kinds, names)


def _layer_and_map(name: str) -> tuple[str, str]:
  """Splits "layers_0/update_1"; a name without a map is a layer."""
  layer, _, last = name.rpartition("/")
  return (layer, last) if layer else (last, "")


def _small_multiples(
  records: Sequence[Record], kinds: Mapping[str, str], names: Sequence[str]
) -> Figure:
  owners = list(dict.fromkeys(_layer_and_map(name)[0] for name in names))
  maps = list(dict.fromkeys(_layer_and_map(name)[1] for name in names))
  size = (3.6 * len(kinds) + 0.6, 2.5 * len(maps) + 1.1)
  figure, grid = style.panels(len(maps), len(kinds), *size, sharex=True, sharey="col")
  for row, part in zip(grid, maps, strict=True):
    for axes, (kind, label) in zip(row, kinds.items(), strict=True):
      for name in layers(records, kind):
        layer, of_map = _layer_and_map(name)
        if of_map != part:
          continue
        index = owners.index(layer)
        look = style.look(layer, index)
        epochs, values = series(records, f"{kind}/{name}")
        # Marks at other epochs for each layer, so that lines upon each other are seen.
        every = max(1, len(epochs) // 8)
        marks = (index * every // len(owners), every)
        line = {"color": look.color, "ls": look.dash, "marker": look.marker, "markevery": marks}
        axes.plot(epochs, values, lw=1.3, ms=3.5, **line)
      axes.axhline(0, color="0.6", lw=0.8, zorder=0)
      axes.set_ylabel(label)
      if part:
        axes.set_title(part, fontsize=9)
  for axes in grid[-1]:
    axes.set_xlabel("epoch")
  handles = [style.handle(layer, style.look(layer, i)) for i, layer in enumerate(owners)]
  style.legend(figure, handles, "one seed; a line a layer", ncols=min(len(owners), 6))
  return figure


def _heat_maps(records: Sequence[Record], kinds: Mapping[str, str]) -> Figure:
  most = max(len(layers(records, kind)) for kind in kinds)
  figure, grid = style.panels(1, len(kinds), 4.4 * len(kinds) + 1, 0.22 * most + 1.4)
  for axes, (kind, label) in zip(grid[0], kinds.items(), strict=True):
    names = sorted(layers(records, kind))
    epochs = series(records, f"{kind}/{names[0]}")[0]
    values = np.stack([series(records, f"{kind}/{name}")[1] for name in names])
    largest = float(np.nanmax(np.abs(values))) or 1.0
    colors = axes.pcolormesh(
      epochs, np.arange(len(names)), values, shading="nearest", cmap="PuOr",
      vmin=-largest, vmax=largest,
    )  # fmt: skip
    axes.grid(False)
    axes.invert_yaxis()
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("epoch")
    figure.colorbar(colors, ax=axes, label=label)
  return figure


def equivariance_error(records: Sequence[Record]) -> Figure:
  """Draws the relative equivariance error of both predictors over epochs."""
  figure, grid = style.panels(1, 1, 6.4, 4)
  axes = grid[0, 0]
  for predictor, name in _PREDICTORS.items():
    epochs, values = series(records, f"equivariance/{predictor}")
    look = style.LOOKS[predictor]
    if len(epochs):
      mark = {"marker": look.marker, "ms": 3.5, "markevery": max(1, len(epochs) // 12)}
      axes.plot(epochs, values, color=look.color, ls=look.dash, lw=1.4, label=name, **mark)
  axes.set(xlabel="epoch", ylabel="relative equivariance error (rotations)")
  style.logarithmic(axes, "y")
  style.legend(figure, note="one seed", ncols=2)
  return figure


def trajectories(
  paths: np.ndarray | None,
  positions: np.ndarray,
  velocities: np.ndarray,
  targets: np.ndarray,
  predictions: Mapping[str, np.ndarray],
  unit: str = "",
) -> Figure:
  """Draws true paths and predicted end points of a few samples, seen along z and along y.

  Args:
    paths: True positions over time [samples, frames, particles, 3], if known.
    positions: Where the model starts from, [samples, particles, 3].
    velocities: Velocities there.
    targets: True end points.
    predictions: Predicted end points by predictor.
    unit: Of positions.
  """
  samples = len(positions)
  figure, grid = style.panels(2, samples, 3.2 * samples, 6.8)
  markers = dict(zip(predictions, ("x", "+", "1", "2"), strict=False))
  for row, (i, j) in enumerate(((0, 1), (0, 2))):
    for k in range(samples):
      axes = grid[row, k]
      for particle in range(positions.shape[1]):
        color = style.PALETTE[particle % len(style.PALETTE)]
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
      axes.set_xlabel(_with_unit("xyz"[i], unit))
      axes.set_ylabel(_with_unit("xyz"[j], unit))
      if row == 0:
        axes.set_title(f"test trajectory {k}")
  black = style.Look(style.BLACK, "o", "")
  handles = [
    style.handle("start", black, ms=3),
    style.handle("truth", black, ms=7, mfc="none"),
    *(style.handle(name, black, marker=mark, ms=8) for name, mark in markers.items()),
    style.handle("linear $x + v t$", black, marker="", ls=":", lw=0.9),
  ]
  style.legend(figure, handles, "a colour a particle", ncols=len(handles))
  return figure


def sample_efficiency(
  results: Mapping[str, Mapping[int, Sequence[float]]], unit: str = ""
) -> Figure:
  """Draws test error against the number of training samples, mean +- standard deviation.

  Args:
    results: For each label {training samples: test error of every seed}.
    unit: Of the errors.
  """
  figure, grid = style.panels(1, 1, 6.4, 4.4)
  axes = grid[0, 0]
  seeds = sorted({len(values) for sizes in results.values() for values in sizes.values()})
  for index, (label, sizes) in enumerate(results.items()):
    counts = sorted(sizes)
    means, spread = zip(*(mean_and_deviation(sizes[n]) for n in counts), strict=True)
    look = style.look(label, index)
    line = {"color": look.color, "marker": look.marker, "ls": look.dash, "ms": 4, "capsize": 3}
    axes.errorbar(counts, means, spread, label=label, **line)
  axes.set(xlabel="training trajectories", ylabel=_with_unit("test MSE", unit))
  style.logarithmic(axes, "x", "y")
  many = max(seeds) > 1
  note = (
    f"mean +- standard deviation of {' or '.join(map(str, seeds))} seeds" if many else "one seed"
  )
  style.legend(figure, note=note, ncols=3)
  return figure


def against_reference(
  curves: Mapping[str, Sequence[Sequence[Record]]],
  reference: Mapping[str, tuple[np.ndarray, np.ndarray]],
  key: str,
  ylabel: str,
) -> Figure:
  """Draws mean +- 2 standard deviations over seeds beside reference curves.

  On the logarithmic axis the band is cut at half the lowest value.

  Args:
    curves: For each label the records of every seed.
    reference: For each label (epochs, errors).
    key: What of the records to draw, such as "test/projection".
    ylabel: Label of the error axis.
  """
  figure, grid = style.panels(1, 1, 6.4, 4.6)
  axes = grid[0, 0]
  for index, (label, seeds) in enumerate(curves.items()):
    runs = [dict(zip(*series(records, key), strict=True)) for records in seeds]
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    values = np.array([[run[epoch] for epoch in epochs] for run in runs])
    mean, spread = mean_and_deviation(values)
    predictor = next((name for name in (label, key.rpartition("/")[2]) if name in _PREDICTORS), "")
    look = style.look(predictor, index)
    number = f"mean of {len(runs)} seeds" if len(runs) > 1 else "1 seed"
    axes.plot(epochs, mean, color=look.color, lw=1.6, label=f"{label}, {number}")
    if len(runs) > 1:
      low = np.maximum(mean - 2 * spread, values.min() / 2)
      axes.fill_between(epochs, low, mean + 2 * spread, color=look.color, alpha=0.2, lw=0)
  dashes = [(0, (4, 2)), (0, (1, 1)), (0, (6, 2, 1, 2))]
  for dash, (label, (epochs, values)) in zip(dashes, reference.items(), strict=False):
    axes.plot(epochs, values, color=style.LOOKS["reference"].color, lw=1.2, ls=dash, label=label)
  axes.set(xlabel="epoch", ylabel=ylabel)
  style.logarithmic(axes, "y")
  several = any(len(seeds) > 1 for seeds in curves.values())
  note = "band: +- 2 standard deviations over seeds" if several else ""
  style.legend(figure, note=note, ncols=1)
  return figure


def _with_unit(name: str, unit: str) -> str:
  return f"{name} ({unit})" if unit else name
