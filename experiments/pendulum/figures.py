"""Figures of the pendulum experiment."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ace_jax.plots import style
from experiments.pendulum.run import Summary


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
  figure, axes_grid = style.panels(1, len(fields), 3.1 * len(fields) + 0.8, 3.7, sharey=True)
  panels = axes_grid[0]
  truth = next(iter(fields.values()))
  errors = {label: np.linalg.norm(field - truth, axis=-1) for label, field in fields.items()}
  largest = max(float(error.max()) for error in errors.values()) or 1.0
  for axes, (label, field) in zip(panels, fields.items(), strict=True):
    q, p = grid[..., 0], grid[..., 1]
    image = axes.pcolormesh(q, p, errors[label], vmin=0, vmax=largest, cmap="Oranges")
    axes.streamplot(
      q[0], p[:, 0], field[..., 0], field[..., 1], color=style.BLUE, linewidth=0.8, density=0.9
    )
    axes.grid(False)
    axes.set(xlabel="angle $q$ (rad)", xlim=(q.min(), q.max()), ylim=(p.min(), p.max()))
    axes.set_title(label if field is truth else f"{label}\nmean error {errors[label].mean():.2g}")
    axes.set_xticks([-np.pi, 0, np.pi], [r"$-\pi$", "0", r"$\pi$"])
  panels[0].set_ylabel(r"momentum $p$ (1 = $m\,l\sqrt{g\,l}$)")
  figure.colorbar(image, ax=panels, label=r"$|f - f_{true}|$ (units of $m, l, g$)")
  figure.suptitle(f"damping c = {damping:g}; one seed", fontsize=9)
  return figure


def error_by_damping(results: Sequence[Summary]) -> Figure:
  """Draws the test error of every constraint's model against the damping.

  Points of one damping stand side by side. The colour is the constraint; projections are hollow.

  Args:
    results: Of every training.
  """
  figure, grid = style.panels(1, 1, 6.8, 4.8)
  axes = grid[0, 0]
  dampings = sorted({row["damping"] for row in results})
  models = [
    (constraint, predictor)
    for constraint in dict.fromkeys(row["constraint"] for row in results)
    for predictor in ("projection", "relaxed")
    if (constraint, predictor) != ("strict", "relaxed")
  ]
  offsets = np.linspace(-0.25, 0.25, len(models)) if len(models) > 1 else [0.0]
  handles = []
  for offset, (constraint, predictor) in zip(offsets, models, strict=True):
    look = style.look(constraint)
    key = "projection_test_mse" if predictor == "projection" else "relaxed_test_mse"
    by_damping = {r["damping"]: r[key] for r in results if r["constraint"] == constraint}
    x = [dampings.index(c) + offset for c in by_damping]
    hollow = predictor == "projection" and constraint != "strict"
    face = "white" if hollow else look.color
    axes.plot(x, list(by_damping.values()), look.marker, color=look.color, mfc=face, ms=7)
    label = "strict" if constraint == "strict" else f"{constraint}, {predictor}"
    handles.append(style.handle(label, look, ls="", mfc=face, ms=6))
  axes.set_xticks(range(len(dampings)), [f"{c:g}" for c in dampings])
  for edge in range(1, len(dampings)):
    axes.axvline(edge - 0.5, color="0.85", lw=0.8)
  axes.grid(False, axis="x")
  axes.set(xlabel=r"damping $c$ (units of $\sqrt{g/l}$)")
  axes.set_ylabel("test MSE of the vector field (units of $m, l, g$)")
  style.logarithmic(axes, "y")
  style.legend(figure, handles, "one seed a point", ncols=3)
  return figure
