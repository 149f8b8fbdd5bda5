import json

import pytest

from data.errors import DataError
from experiments import reference, table, text


def result(seed, test, constraint="equality"):
  found = {"test_mse": test, "final_equivariance_error": 1e-7}
  return {
    "experiment": "nbody",
    "settings": {"seed": seed, "constraint": constraint, "preset": "quick"},
    "predictors": {"projection": found},
    "train_samples": 3000,
    "epochs": 5,
    "seeds": [seed],
  }


def test_seeds_are_joined_and_constraints_are_not(tmp_path):
  for i, r in enumerate([result(0, 0.004), result(1, 0.006), result(0, 0.01, "strict")]):
    (tmp_path / str(i)).mkdir()
    (tmp_path / str(i) / "result.json").write_text(json.dumps(r))
  rows = table.nbody_rows(table.read([str(tmp_path)]))
  assert [row[4] for row in rows] == ["5.00 +- 1.41", "10.00"]
  assert rows[0][3] == "0,1"
  shown = text.table(table.NBODY_HEADER, rows).splitlines()
  assert len({len(line) for line in shown}) == 1
  assert table.markdown(["a", "b"], [["1", "2"]]).splitlines()[2] == "| 1 | 2 |"


def test_nothing_to_read(tmp_path):
  with pytest.raises(DataError, match=r"no result\.json"):
    table.read([str(tmp_path)])


def test_matching_is_against_mean_minus_two_deviations():
  seeds = [{1: 1.0, 2: 1.0}, {1: 3.0, 2: 1.0}]
  found = reference.compare(seeds, {1: 0.0, 2: 0.5, 3: 9.0}, last=1)
  # At epoch 1: 2 - 2 sqrt(2) = -0.83 <= 0; at epoch 2: 1 > 0.5.
  assert found["share_matched"] == 0.5
  assert found["epochs"] == [1, 2]
  assert found["ours_at_the_end"] == [1.0, 1.0]
  assert found["reference_at_the_end"] == 0.5


def test_reference_epochs_count_finished_ones(tmp_path):
  path = tmp_path / "curve.csv"
  path.write_text(
    "run,epoch,valid_mse_projection,test_mse_projection,valid_mse_relaxed,test_mse_relaxed\n"
    "strict,0,0.5,0.6,,\n"
  )
  assert reference.read_reference(path)["strict", "test", "projection"] == {1: 0.6}
  with pytest.raises(DataError, match="name the CSV"):
    reference.read_reference(tmp_path / "none.csv")


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
