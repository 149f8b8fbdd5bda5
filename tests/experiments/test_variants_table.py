"""The comparison of ways to train f_eq: labels, spreads and Welch's test, on made-up results."""

import numpy as np
import pytest
from scipy import stats

from data.errors import DataError
from experiments.table import __main__ as table
from experiments.table import variants as variants_table


def result(
  constraint, seed, test, relaxed=None, epochs=300, seconds=100.0, differs=None, **changes
):
  settings = {"constraint": constraint, "preset": "paper", "seed": seed, "epochs": epochs}
  settings |= {"hidden_features": 64, "layers": 4, "batch_size": 100, **changes}
  errors = {"projection": test} | ({} if relaxed is None else {"relaxed": relaxed})
  return {
    **{"experiment": "nbody", "model": "segnn", "constraint": constraint, "settings": settings},
    **{"seeds": [seed], "epochs": epochs, "steps": 30 * epochs, "train_samples": 3000},
    **{"seconds": seconds, "data": {}, "differs_from_published": differs or {}},
    "predictors": {
      name: {"test_mse": error, "valid_mse": error - 1e-3, "final_equivariance_error": 1e-7}
      for name, error in errors.items()
    },
  }


SWING = {
  **{"swing_amplitude": 0.4, "swing_period": 2000.0, "swing_time_constant": 900.0},
  **{"swing_initial": 1.0, "swing_phase": 0.0, "swing_start": 0},
}
STRICT, LONG, OURS = (5.6e-3, 5.5e-3, 5.8e-3), (5.1e-3, 5.2e-3), (4.7e-3, 5.0e-3, 4.8e-3)
RESULTS = [
  *(result("strict", i, error) for i, error in enumerate(STRICT)),
  *(result("strict", i, error, epochs=600, seconds=200.0) for i, error in enumerate(LONG)),
  *(
    result("swing", i, error, 5.2e-3, seconds=210.0, **SWING, differs={"dual_lr": [None, 8e-4]})
    for i, error in enumerate(OURS)
  ),
  result("swing", 1, 5e-3, 6e-3, seconds=210.0, **{**SWING, "swing_phase": 0.125}),
  result("strict", 1, 5.4e-3, weight_decay=0.1),
  result("equality", 1, 5e-3, 5e-3, differs={"gamma_lr": [5e-3, None], "epochs": [300, 2000]}),
  result("equality", 1, 5e-3, 5e-3, finish_epochs=100, finish_from="last", patience=None),
  result("random_homotopy", 1, 5.7e-3, 5.7e-3, homotopy_draw="layer", dropout=0.1),
]


def test_rows_are_told_apart_and_held_against_strict_at_equal_steps_and_time():
  rows = {(row[0], row[3]): row for row in variants_table.rows(RESULTS)}
  assert [label for label, epochs in rows if epochs == "300"] == [
    "strict",
    "equality, finish 100 from last",
    "equality, gamma_lr=0.005",
    "random_homotopy, gamma of each layer, dropout 0.1",
    "strict, weight decay 0.1",
    "swing, amplitude 0.4, period 2000",
    "swing, amplitude 0.4, period 2000, phase 0.125",
  ]
  row = dict(
    zip(variants_table.HEADER, rows["swing, amplitude 0.4, period 2000", "300"], strict=True)
  )
  assert (row["seeds"], row["steps"], row["seconds a run"]) == ("0,1,2", "9000", "210")
  assert row["f_eq x 10^-3"] == "4.83 +- 0.2"
  assert row["f_eq valid"] == "3.83 +- 0.2"
  assert row["relaxed x 10^-3"].startswith("5.2 +-")

  def welch(a, b):
    # From its definition, not from scipy's own test.
    (m, v, n), (k, w, l) = ((np.mean(x), np.var(x, ddof=1), len(x)) for x in (a, b))
    square = v / n + w / l
    degrees = square**2 / ((v / n) ** 2 / (n - 1) + (w / l) ** 2 / (l - 1))
    return 2 * stats.t.sf(abs(m - k) / np.sqrt(square), degrees)

  assert row["against strict"] == f"-14.2 %, p = {welch(OURS, STRICT):.2g}"
  assert row["at equal time"] == f"-6.1 %, p = {welch(OURS, LONG):.2g} (600 epochs)"
  # One seed has no test; the strict row is held against nothing; drawn gammas leave one predictor.
  assert rows["strict, weight decay 0.1", "300"][7] == "-4.1 %"
  assert rows["strict", "300"][7:9] == ["", ""]
  assert rows["random_homotopy, gamma of each layer, dropout 0.1", "300"][6] == ""


def test_the_other_tables_tell_them_apart_too():
  labels = [row[0] for row in table.nbody_rows(RESULTS)]
  assert "swing, amplitude 0.4, period 2000, phase 0.125, paper, 3000 samples" in labels
  assert "equality, finish 100 from last, paper, 3000 samples" in labels


def test_the_figure_of_the_variants(tmp_path):
  variants_table.draw(RESULTS, tmp_path / "variants.png")
  assert (tmp_path / "variants.png").stat().st_size > 10_000
  with pytest.raises(DataError, match="nothing to draw"):
    variants_table.draw([], tmp_path / "none.png")
