import json
import math

import pytest

from data.errors import DataError
from experiments.harness import tables
from experiments.table import __main__ as table
from experiments.table import rivals as rivals_table


def result(seed, test, constraint="equality"):
  metrics = {"test_mse": test, "valid_mse": test, "final_equivariance_error": 1e-7}
  return {
    "experiment": "nbody",
    "model": "segnn",
    "constraint": constraint,
    "data": {},
    "curve": [],
    "differs_from_published": {},
    "settings": {
      **{"seed": seed, "constraint": constraint, "preset": "quick"},
      **{"dual_lr": 1e-3, "augmented": 0.0},
      **{"hidden_features": 8, "layers": 1, "batch_size": 10},
    },
    "predictors": {"projection": metrics},
    "train_samples": 3000,
    "epochs": 5,
    "seconds": 3.0,
    "seeds": [seed],
  }


def test_seeds_are_joined_and_constraints_are_not(tmp_path):
  for i, r in enumerate([result(0, 0.004), result(1, 0.006), result(0, 0.01, "strict")]):
    (tmp_path / str(i)).mkdir()
    (tmp_path / str(i) / "result.json").write_text(json.dumps(r))
  rows = table.nbody_rows(table.read([str(tmp_path)]))
  assert [row[4] for row in rows] == ["5.00 +- 1.41", "10.00"]
  assert rows[0][3] == "0,1"
  shown = tables.table(table.NBODY_HEADER, rows).splitlines()
  assert len({len(line) for line in shown}) == 1
  assert tables.markdown(["a", "b"], [["1", "2"]]).splitlines()[2] == "| 1 | 2 |"


def test_runs_that_differ_in_model_or_data_have_labels_of_their_own():
  gravity, plain = result(0, 0.004), result(0, 0.006)
  gravity["model"] = gravity["settings"]["model"] = "mpnn"
  gravity["settings"]["symmetry_breaking"] = "gravity:1"
  plain["settings"]["model"] = "segnn"
  assert [row[0] for row in table.nbody_rows([gravity, plain])] == [
    "equality, quick, 3000 samples, mpnn, gravity:1",
    "equality, quick, 3000 samples, segnn",
  ]
  wide, deep, other_rate = result(0, 0.004), result(0, 0.005), result(0, 0.006)
  wide["settings"]["hidden_features"] = 64
  deep["settings"]["layers"] = 3
  other_rate["settings"]["dual_lr"] = 1e-2
  names = [
    row[0].removeprefix("equality, quick, 3000 samples, ")
    for row in table.nbody_rows([wide, deep, result(0, 0.004), other_rate])
  ]
  assert names == [
    "64 features, 1 layers",
    "8 features, 1 layers, dual_lr=0.001",
    "8 features, 1 layers, dual_lr=0.01",
    "8 features, 3 layers",
  ]
  # What does not differ is not named.
  assert table.nbody_rows([plain])[0][0] == "equality, quick, 3000 samples"


def test_nothing_to_read(tmp_path):
  with pytest.raises(DataError, match=r"no result\.json"):
    table.read([str(tmp_path)])


@pytest.mark.parametrize(
  ("changed", "says"),
  [
    ({"experiment": 3}, "names no experiment"),
    ({"seeds": 0}, "seeds is missing or no result"),
    ({"seeds": []}, "seeds is missing or no result"),
    ({"seeds": [math.nan]}, "seeds is missing or no result"),
    ({"settings": {"constraint": "equality", "lr": math.nan}}, "settings/lr is missing"),
    ({"predictors": {"relaxed": {}}}, "predictors is missing"),
    ({"predictors": {"projection": {"test_mse": 1.0}}}, "predictors/projection is missing"),
    ({"seconds": "3"}, "seconds is missing"),
    ({"seconds": -3.0}, "seconds is missing"),
    ({"epochs": 0}, "epochs is missing"),
    ({"train_samples": -3000}, "train_samples is missing"),
    ({"predictors": {"projection": {"test_mse": -5, "valid_mse": 1.0}}}, "predictors/projection"),
    ({"curve": [{"epoch": -1}]}, r"curve\[0\] is missing"),
    ({"curve": [{"epoch": 1, "test/projection": -1e-3}]}, r"curve\[0\]/test/projection is missing"),
    ({"settings": {**result(0, 1.0)["settings"], "augmented": 1.0, "rho": -5}}, "settings/rho is"),
    ({"replicas": 0}, "replicas is missing"),
    ({"linear_mse": math.nan}, "linear_mse is missing"),
    ({"metric": 5}, "metric is missing"),
    ({"settings": {"constraint": "equality", "preset": "quick"}}, "settings/hidden_features is"),
    ({"functional": {"asked": 1e-3}}, "functional is missing"),
    ({"functional": {"asked": 1e-3, "final": {"test_gap": None}}}, "functional/final is missing"),
  ],
)
def test_damaged_results_are_named(tmp_path, changed, says):
  (tmp_path / "result.json").write_text(json.dumps({**result(0, 0.004), **changed}))
  with pytest.raises(DataError, match=says):
    table.read([str(tmp_path)])


@pytest.mark.parametrize(
  "changed",
  [
    {"test_mse_turned": {"vertical": "x"}},
    {"test_mse_turned": {"vertical": -1.0}},
    {"test_mse_turned": [1.0]},
    {"test_gap_relative": math.nan},
    {"test_gap_error": -1e-3},
    {"best_epoch": "last"},
  ],
)
def test_damaged_numbers_of_a_predictor_are_named(tmp_path, changed):
  damaged = result(0, 0.004)
  damaged["predictors"]["projection"] |= changed
  (tmp_path / "result.json").write_text(json.dumps(damaged))
  with pytest.raises(DataError, match="predictors/projection is missing or no result"):
    table.read([str(tmp_path)])


def rival(seed, constraint, test, gap, model="mpnn", predictors=("projection",), **settings):
  shared = {"seed": seed, "hidden_features": 8, "layers": 1, "batch_size": 10, **settings}
  shared |= {"constraint": constraint, "dual_optimizer": "adam", "dual_lr": 0.01}
  errors = {
    name: {"test_mse": test, "test_gap": gap, "final_equivariance_error": 0.1}
    for name in predictors
  }
  asked = {}
  if "epsilon" in settings:
    asked["functional"] = {"asked": settings["epsilon"], "final": {"test_gap": gap}}
  return {
    **{"experiment": "nbody", "model": model, "constraint": constraint, "settings": shared},
    **{"predictors": errors, "seeds": [seed], "train_samples": 40, "epochs": 2},
    **{"seconds": 10.0, "replicas": 2, **asked},
  }


def test_weighted_rules_at_the_equivariance_error_of_functional(tmp_path):
  both = ("projection", "relaxed")
  results = [
    rival(0, "functional", 0.02, 0.001, epsilon=0.001),
    rival(1, "functional", 0.04, 0.002, epsilon=0.001, decay_epochs=None),
    rival(0, "remul", 0.05, 0.03, beta=1.0, weighting="constant"),
    rival(0, "remul", 0.06, 0.003, beta=10.0, weighting="constant"),
    rival(0, "remul", 0.06, 0.001, "transformer", beta=5.0, weighting="constant"),
    rival(0, "gap_penalty", 0.05, 0.002, beta=1.0, weighting="constant"),
    rival(0, "remul", 0.07, 0.0015, beta=20.0, weighting="constant", decay_epochs=2),
    rival(0, "schedule", 0.01, 1e-14, "segnn", both),
    rival(0, "equality", 0.01, 1e-14, "segnn", both),
  ]
  rows = {row[0]: row for row in rivals_table.rows(results)}
  row = rows["mpnn, functional, epsilon=0.001, adam 0.01"]
  assert row[4:8] == ["0,1", "0.03 +- 0.01", "0.0015 +- 0.0007", "0.001"]
  assert row[9] == "5"
  # Not the one at 0.0015, whose step sizes fell.
  assert rows["  beside it: mpnn, remul, beta=10"][6] == "0.003"
  assert "mpnn, remul, beta=20, decayed" in rows
  assert rows["  beside it: mpnn, gap_penalty, beta=1"][6] == "0.002"
  assert sum(label.startswith("  beside") for label in rows) == 2
  shown = [row[1] for row in rivals_table.rows(results) if row[0].startswith("segnn")]
  assert shown == ["projection", "relaxed", "projection"]
  rivals_table.draw(results, tmp_path / "rivals.png")
  assert (tmp_path / "rivals.png").exists()
  with pytest.raises(DataError, match="no run of mpnn or transformer"):
    rivals_table.draw(results[-2:], tmp_path / "none.png")


def test_a_run_that_two_folders_hold_counts_once(tmp_path):
  for seed in (0, 1):
    (tmp_path / "runs" / str(seed)).mkdir(parents=True)
    (tmp_path / "runs" / str(seed) / "result.json").write_text(json.dumps(result(seed, 0.1)))
  both = str(tmp_path / "runs")
  assert len(table.read([both, f"{both}/1", both])) == 2
