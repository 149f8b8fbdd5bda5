import dataclasses
import json
from pathlib import Path

import pytest

from data import machine
from experiments.harness import replicas, result_files, tables, workdirs
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


def test_numbers_that_differ_name_different_replicas():
  values = (0.1, 0.1000001, 0.10000011, 1e-4, 1.0000001e-4, 2.0)
  plan = replicas.Plan((1, 2), (("rho", values),))
  names = [name for name, _ in plan.points(seed=0)]
  assert len({*names}) == 12
  assert names[:3] == ["rho0.1_seed1", "rho0.1_seed2", "rho0.1000001_seed1"]
  assert [names[i] for i in (6, 8, 10)] == [
    "rho0.0001_seed1",
    "rho0.00010000001_seed1",
    "rho2_seed1",
  ]
  for number in (0.3, 1e-5, 2.5e-7, 1 / 3, 1e300):
    assert float(replicas.exact(number)) == number


def test_cores_are_those_that_the_process_may_use(monkeypatch):
  monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
  monkeypatch.setattr("os.cpu_count", lambda: 64)
  assert machine.cores() == workdirs.environment()["cores"] == 3
  monkeypatch.delattr("os.sched_getaffinity")
  assert machine.cores() == 64


def test_a_mean_over_seeds_is_written_with_its_deviation():
  assert tables.spread([]) == ""
  assert tables.spread([2.0]) == "2"
  assert tables.spread([1.0, 2.0, 3.0]) == "2 +- 1"
  assert tables.spread([1.0, 2.5], ".2f", ".1f") == "1.75 +- 1.1"
  assert tables.spread([1.0, 2.5], deviation=None) == "1.75"
