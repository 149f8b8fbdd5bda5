"""Figures of the pendulum experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure


def phase_portraits(
  grid: Float[np.ndarray, "rows columns 2"],
  fields: Mapping[str, Float[np.ndarray, "rows columns 2"]],
  damping: float,
) -> Figure:
  """Draws vector fields as stream lines, coloured by how far they are from the first.

  Args:
    grid: States (q, p).
    fields: (dq/dt, dp/dt) there, by label; the first is the truth.
    damping: For the title.
  """
  figure = Figure(figsize=(3.1 * len(fields) + 0.8, 3.3), layout="constrained")
  panels = figure.subplots(1, len(fields), squeeze=False, sharey=True)[0]
  truth = next(iter(fields.values()))
  errors = {label: np.linalg.norm(field - truth, axis=-1) for label, field in fields.items()}
  largest = max(float(error.max()) for error in errors.values()) or 1.0
  for axes, (label, field) in zip(panels, fields.items(), strict=True):
    q, p = grid[..., 0], grid[..., 1]
    image = axes.pcolormesh(q, p, errors[label], vmin=0, vmax=largest, cmap="Oranges")
    axes.streamplot(
      q[0], p[:, 0], field[..., 0], field[..., 1], color="#0072B2", linewidth=0.8, density=0.9
    )
    axes.set(title=label, xlabel="q", xlim=(q.min(), q.max()), ylim=(p.min(), p.max()))
  panels[0].set_ylabel("p")
  figure.colorbar(image, ax=panels, label="error of the field")
  figure.suptitle(f"damping {damping:g}", fontsize=10)
  return figure


def error_by_damping(results: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws the test error of every constraint's model against the damping.

  Args:
    results: With constraint, damping, projection_test_mse and relaxed_test_mse.
  """
  figure = Figure(figsize=(6.4, 4), layout="constrained")
  axes = figure.subplots()
  curves = {
    "strict": ("strict", "projection_test_mse", "o-", "#0072B2"),
    "equality, projection": ("equality", "projection_test_mse", "s--", "#009E73"),
    "resilient, projection": ("resilient", "projection_test_mse", "^:", "#E69F00"),
    "resilient, relaxed": ("resilient", "relaxed_test_mse", "^-", "#D55E00"),
  }
  for label, (constraint, key, style, color) in curves.items():
    found = sorted((r["damping"], r[key]) for r in results if r["constraint"] == constraint)
    axes.plot(*zip(*found, strict=True), style, color=color, lw=1.4, ms=5, label=label)
  axes.set(xlabel="damping c", ylabel="test MSE of the vector field", yscale="log")
  axes.grid(alpha=0.25, which="both")
  axes.legend(fontsize=8)
  return figure
