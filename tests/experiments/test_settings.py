import dataclasses
import json
from pathlib import Path

import pytest

from experiments.harness import result_files, workdirs
from experiments.harness.settings import Branch, PrimalOptimizer
from experiments.harness.usage import UsageError
from experiments.mocap import settings as mocap
from experiments.nbody import settings as nbody

RESULTS = Path(__file__).parent.parent.parent / "results"
KINDS = {"nbody": nbody.Settings, "mocap": mocap.Settings}


def test_settings_of_stored_results_are_read_and_written_back():
  read = [result_files.read_json(path, "") for path in RESULTS.rglob("result.json")]
  trainings = [result for result in read if result["experiment"] in KINDS]
  assert {result["experiment"] for result in trainings} == {*KINDS}
  for result in trainings:
    stored = result["settings"]
    written = KINDS[result["experiment"]].from_json(stored).to_json()
    # What is left out is null; older runs do not name what there was no choice of.
    differing = workdirs.differences(stored, written)
    assert {name for name in differing if name in stored} == set()
    assert {written[name] for name in differing} <= {"segnn", "none", "component", 1, 64, 4, False}


def test_flat_keys_and_what_is_left_out():
  plain = nbody.preset("quick")
  flat = plain.to_json()
  assert nbody.Settings.from_json(json.loads(json.dumps(flat))) == plain
  assert (flat["constraint"], flat["lr"], flat["gamma_lr"], flat["rank"]) == (
    *("equality", 9e-4, 5e-3),
    None,
  )
  absent = {"precision", "gamma_optimizer", "weight_decay", "dropout", "finish_epochs"}
  assert not absent & {*flat}
  asked = plain.replace(weight_decay=0.1, gamma_optimizer="sgd", train_samples=[10, 20])
  saved = asked.to_json()
  assert {**flat, "weight_decay": 0.1, "gamma_optimizer": "sgd", "train_samples": [10, 20]} == saved
  assert asked.data.train_samples == (10, 20)
  swing = plain.replace(constraint="swing", swing_period=10.0)
  assert swing.constraint.constants == {"swing_period": 10.0}
  low_rank = plain.replace(relaxation="low_rank", rank=3)
  assert low_rank.branch == Branch("low_rank", 3)
  assert (low_rank.to_json()["rank"], low_rank.to_json()["relaxation_features"]) == (3, None)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"lr": 0.0}, "--lr=0 must be positive and finite."),
    ({"dual_lr": float("nan")}, "--dual_lr=nan must be positive"),
    ({"augmented": -1.0}, "--augmented=-1 must not be negative"),
    ({"rho": -1.0}, "--rho=-1 must be positive"),
    ({"weight_decay": -1.0}, "--weight_decay=-1 must not be negative"),
    ({"dropout": 1.0}, "--dropout=1 must be at least 0, and below 1."),
  ],
)
def test_numbers_are_checked_when_settings_are_made(change, says):
  with pytest.raises(UsageError, match=says.replace(".", r"\.")):
    nbody.preset("quick", **change)
  with pytest.raises(dataclasses.FrozenInstanceError):
    nbody.preset("quick").primal.lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_key_without_a_default_is_missed():
  with pytest.raises(UsageError, match="the settings name no lr"):
    PrimalOptimizer.from_json({})
