"""The misalignment report of what `fit` trained, printed and drawn: `Fit.report`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import homotopy, task
from ace_jax.errors import ConfigurationError, MissingPackageError
from ace_jax.symmetry import report
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch, Task
from ace_jax.training import loaders

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from ace_jax.training.fitting import Fit


@dataclasses.dataclass(frozen=True)
class Misalignment:
  """Which layer's symmetry the data resist, and which part of the group.

  Attributes:
    layers: Of the first seed, the one whose symmetry costs most first; () without gamma, and where
      what layers compute cannot be read (a line says why).
    generators: Over all seeds, the one that the data resist most first.
    verdict: What is said of the generators, and by which rule.
    figure: The drawing; None without Matplotlib.
  """

  layers: tuple[report.LayerReport, ...]
  generators: tuple[report.GeneratorReport, ...]
  verdict: str
  figure: "Figure | None" = dataclasses.field(default=None, repr=False, compare=False)

  @property
  def text(self) -> str:
    """Both tables and the verdict."""
    parts = [_aligned(*report.generator_rows(self.generators))]
    if self.layers:
      parts.append(_aligned(*report.layer_rows(self.layers)))
    return "\n\n".join([*parts, self.verdict])


def misalignment(
  fits: "Sequence[Fit]",
  data: Batch,
  symmetry: Symmetry,
  *,
  path: str | Path | None = None,
  baseline: float | None = None,
  samples: int = 500,
) -> Misalignment:
  """Prints and draws the misalignment report of fits that differ in the seed alone.

  Generators are measured on the relaxed predictor at its best, layers at the end of training.

  Args:
    fits: Of one model and one constraint, a seed each.
    data: Held-out samples, such as the test data, as arrays in memory.
    symmetry: How the group acts on them; the group says where they are moved.
    path: A PNG to save the figure to; a leading ~ is the home folder.
    baseline: The validation error of a prediction that learns nothing of the inputs: a model that
      is no better has learned nothing. By default the error, on `data`, of each fit's own mean
      prediction.
    samples: How many of the data are measured, from the first.

  Raises:
    ConfigurationError: the group has no generators, or does not say where one moves data; or the
      data are a loader.
  """
  if loaders.is_loader(data):
    raise ConfigurationError(
      f"data are a loader of batches ({type(data).__name__}), and a report needs arrays in memory; "
      "give the arrays of one batch, such as the tuple (x, y)."
    )
  held_out = task.take(data, slice(0, samples))
  learned, state = fits[0].method.task, fits[0].state
  measure = jax.jit(lambda variables: _measure(learned, variables, held_out, symmetry))
  measured, evidence = [], []
  for fit in fits:
    of_seed, constant = jax.device_get(measure(fit.relaxed))
    measured.append(of_seed)
    least = float(constant) if baseline is None else baseline
    evidence.append(report.evidence(fit.history, least, mode=learned.mode))
  generators = report.generator_reports(measured, evidence, symmetry.group.lines)
  layers: list[report.LayerReport] = []
  if learned.calls is not None and state.primal.gamma:
    try:
      calls = learned.calls(state.relaxed, held_out)
      layers = report.reports_of_calls(calls, state.relaxed, fits[0].history)
    except ConfigurationError as error:
      print(f"Layers are not reported on: {error}", file=sys.stderr)
  said = Misalignment(tuple(layers), tuple(generators), report.verdict(generators))
  print(said.text)
  try:
    from ace_jax import plots
  except MissingPackageError as error:
    print(error, file=sys.stderr)
    return said
  figure = plots.misalignment(layers, generators)
  if path is not None:
    plots.save(figure, path)
  return dataclasses.replace(said, figure=figure)


def _measure(
  learned: Task, variables: homotopy.Variables, batch: Batch, symmetry: Symmetry
) -> tuple[report.Measured, Any]:
  """Returns what a predictor shows, and the error of its mean prediction."""

  def predict(batch):
    return learned.predict(variables, batch)

  def loss(batch):
    return learned.losses(variables, batch)

  def constant(y):
    mean = jnp.mean(y, axis=0, keepdims=True).astype(y.dtype)
    return jnp.broadcast_to(mean, y.shape)

  def errors_of(prediction):
    fixed = dataclasses.replace(learned, apply=lambda *_: (prediction, {}))
    return jnp.mean(fixed.errors(variables, batch))

  measured = report.measure_group(predict, loss, batch, symmetry)
  return measured, errors_of(jax.tree.map(constant, predict(batch)))


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Formats a table: the first column to the left, the others to the right."""
  table = np.array([header, ["-"] * len(header), *rows], dtype=object)
  widths = [max(map(len, column)) for column in table.T]
  lines = []
  for cells in table:
    fill = "-" if cells[0] == "-" else " "
    first, *rest = zip(cells, widths, strict=True)
    padded = [cell.rjust(width, fill) for cell, width in rest]
    lines.append("  ".join([first[0].ljust(first[1], fill), *padded]).rstrip())
  return "\n".join(lines)
