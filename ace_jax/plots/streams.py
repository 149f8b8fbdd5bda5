"""Gammas, slack and multipliers by layer and stream, over epochs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ace_jax.plots import style
from ace_jax.plots.curves import layers, mean_and_deviation
from ace_jax.training.history import Record

KINDS = {"slack": "slack $u$", "gamma": r"$\gamma$", "multiplier": r"multiplier $\lambda$"}


def table(
  runs: Sequence[Sequence[Record]], kind: str
) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
  """Returns (epochs that all runs recorded, {stream: {layer: [runs, epochs]}}).

  A name such as "layers_2/positions" is stream "positions" of layer "layers_2".

  Args:
    runs: The records of each.
    kind: "slack", "gamma" or "multiplier".

  Raises:
    ValueError: a run has recorded nothing of this kind, other layers, or no epoch of the others'.
  """
  names = layers(runs[0], kind)
  if not names or any(layers(run, kind) != names for run in runs):
    raise ValueError(f"the runs have no {kind}, or not of the same layers.")
  by_epoch = [{int(r["epoch"]): r for r in run if f"{kind}/{names[0]}" in r} for run in runs]
  epochs = sorted(set.intersection(*map(set, by_epoch)))
  if not epochs:
    raise ValueError("the runs have recorded no epoch in common.")
  streams: dict[str, dict[str, np.ndarray]] = {}
  for name in names:
    layer, _, stream = name.rpartition("/")
    values = [[run[epoch][f"{kind}/{name}"] for epoch in epochs] for run in by_epoch]
    streams.setdefault(stream, {})[layer] = np.array(values)
  return np.array(epochs), streams


def by_stream(runs: Sequence[Sequence[Record]], kind: str, log: bool = False) -> Figure:
  """Draws a quantity of every layer over epochs, a column for each stream.

  Above lines, mean and +- one standard deviation over runs; below the mean as a heat map, a row a
  layer, the first at the bottom, one colour scale for all streams.

  Args:
    runs: The records of each, of one configuration with several seeds.
    kind: "slack", "gamma" or "multiplier".
    log: Whether lines are drawn over a logarithmic axis, of absolute values.

  Raises:
    ValueError: as of `table`.

  Reference: Manolache et al., NeurIPS 2025, Fig. 4 (u of the first and last two EGNO layers).
  """
  epochs, streams = table(runs, kind)
  means = {s: {l: v.mean(0) for l, v in values.items()} for s, values in streams.items()}
  everything = np.concatenate([v for values in means.values() for v in values.values()])
  norm = Normalize(min(0.0, everything.min()), everything.max())
  figure, grid = style.panels(2, len(streams), 4.2 * len(streams) + 1, 6.4, sharex=True)
  for column, (stream, by_layer) in enumerate(streams.items()):
    lines, heat = grid[:, column]
    for index, (layer, values) in enumerate(by_layer.items()):
      values = np.abs(values) if log else values
      mean, spread = mean_and_deviation(values)
      look = style.look(layer, index)
      lines.plot(epochs, mean, color=look.color, ls=look.dash, lw=1.4, label=layer)
      low = np.maximum(mean - spread, values.min(0)) if log else mean - spread
      lines.fill_between(epochs, low, mean + spread, color=look.color, alpha=0.2, lw=0)
    lines.set(title=stream, ylabel=KINDS[kind] if column == 0 else "")
    if log:
      style.logarithmic(lines, "y")
    image = np.stack(list(means[stream].values()))
    colors = heat.pcolormesh(epochs, np.arange(len(by_layer)), image, norm=norm, shading="nearest")
    heat.grid(False)
    heat.set_yticks(range(len(by_layer)), list(by_layer) if column == 0 else [""] * len(by_layer))
    heat.set(xlabel="epoch")
    if column == len(streams) - 1:
      figure.colorbar(colors, ax=list(grid[1]), label=KINDS[kind])
  seeds = f"mean +- standard deviation of {len(runs)} seeds" if len(runs) > 1 else "one seed"
  handles = [
    style.handle(layer, style.look(layer, i), marker="") for i, layer in enumerate(by_layer)
  ]
  style.legend(figure, handles, f"{seeds}; below: the mean as a colour", ncols=6)
  return figure
