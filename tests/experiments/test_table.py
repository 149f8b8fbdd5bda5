import json

import pytest

from data.errors import DataError
from experiments.harness import tables
from experiments.reference import __main__ as reference
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


def test_nothing_to_read(tmp_path):
  with pytest.raises(DataError, match=r"no result\.json"):
    table.read([str(tmp_path)])


@pytest.mark.parametrize(
  ("changed", "says"),
  [
    ({"experiment": 3}, "names no experiment"),
    ({"seeds": 0}, "seeds is missing or no result"),
    ({"predictors": {"relaxed": {}}}, "predictors is missing"),
    ({"predictors": {"projection": {"test_mse": 1.0}}}, "predictors/projection is missing"),
    ({"seconds": "3"}, "seconds is missing"),
    ({"replicas": 0}, "replicas is missing"),
    ({"settings": {"constraint": "equality", "preset": "quick"}}, "settings/hidden_features is"),
    ({"functional": {"asked": 1e-3}}, "functional is missing"),
    ({"functional": {"asked": 1e-3, "final": {"test_gap": None}}}, "functional/final is missing"),
  ],
)
def test_damaged_results_are_named(tmp_path, changed, says):
  (tmp_path / "result.json").write_text(json.dumps({**result(0, 0.004), **changed}))
  with pytest.raises(DataError, match=says):
    table.read([str(tmp_path)])


def test_matching_is_against_mean_minus_two_deviations():
  seeds = [{1: 1.0, 2: 1.0}, {1: 3.0, 2: 1.0}]
  comparison = reference.compare(seeds, {1: 0.0, 2: 0.5, 3: 9.0}, last=1)
  # At epoch 1: 2 - 2 sqrt(2) = -0.83 <= 0; at epoch 2: 1 > 0.5.
  assert comparison["share_matched"] == 0.5
  assert comparison["epochs"] == [1, 2]
  assert comparison["ours_at_the_end"] == [1.0, 1.0]
  assert comparison["reference_at_the_end"] == 0.5


def test_reference_epochs_count_finished_ones(tmp_path):
  path = tmp_path / "curve.csv"
  path.write_text(
    "run,epoch,valid_mse_projection,test_mse_projection,valid_mse_relaxed,test_mse_relaxed\n"
    "strict,0,0.5,0.6,,\n"
  )
  assert reference.read_reference(path)["strict", "test", "projection"] == {1: 0.6}
  with pytest.raises(DataError, match="name the CSV"):
    reference.read_reference(tmp_path / "none.csv")
  path.write_text(path.read_text().replace("0.5", "nan", 1))
  with pytest.raises(DataError, match="an error of nan"):
    reference.read_reference(path)


def test_only_runs_of_the_reference_model_are_held_against_it():
  result = {
    "experiment": "mocap",
    "model": "egno",
    "constraint": "equality",
    "settings": {"preset": "paper", "dual_lr": 2e-4},
    "data": {"split": "published"},
    "differs_from_published": {"epochs": [300, 3000]},
  }
  assert reference.comparable(result)
  assert not reference.comparable({**result, "model": "egnn"})
  other_rate = {**result, "settings": {"preset": "paper", "dual_lr": 5e-4}}
  assert not reference.comparable(other_rate)
  assert reference.comparable({**other_rate, "constraint": "strict"})
  assert not reference.comparable({**result, "differs_from_published": {"lr": [1e-3, 5e-4]}})


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
