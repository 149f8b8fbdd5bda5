import json

import pytest

from experiments.detection import run as detection_run

EXPERIMENT = "detection"


def campaign(**changes):
  strengths = {"gravity": [0.0, 1.0]}
  fields = {"seeds": 2, "data_sets": 1, "first_data_seed": 7, "epochs": 1, "rho": 0.1}
  return detection_run.Campaign(strengths, **{**fields, **changes}, breaking_from="input")


def row(strength, called):
  truth = set(detection_run.BROKEN["gravity"]) if strength else set()
  names = ("rotation_x", "rotation_y", "rotation_z")
  return {
    "kind": "gravity",
    "strength": strength,
    "called_broken": sorted(called),
    "right": set(called) == truth,
    "generators": {name: {} for name in names},
  }


def test_strength_zero_has_twice_the_data_sets():
  assert campaign().programs() == [("gravity", 0.0, 7), ("gravity", 0.0, 8), ("gravity", 1.0, 7)]


def test_right_verdicts_are_counted(tmp_path, capsys):
  both = ("rotation_x", "rotation_y")
  rows = [row(0.0, ()), row(0.0, ("rotation_z",)), row(1.0, both), row(1.0, ("rotation_x",))]
  detection_run.write(tmp_path, campaign(), [*rows, row(1.0, both)])
  counts = json.loads((tmp_path / "result.json").read_text())["counts"]
  assert [(c["right"], c["runs"]) for c in counts] == [(1, 2), (2, 3)]
  assert counts[1]["called"] == {"rotation_x": 3, "rotation_y": 2, "rotation_z": 0}
  assert "2 of 3  rotation_x 3, rotation_y 2" in capsys.readouterr().out
  assert (tmp_path / "detection.png").exists()


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--gravity=a"], "--gravity=a must be numbers"),
    (["--wind=-1"], "--wind needs numbers"),
    (["--rho=0"], "--rho=0 must be positive"),
    (["--gravity=", "--wind=", "--anisotropy="], "nothing to do"),
  ],
)
def test_usage_errors(run, flags, says):
  done = run(*flags)
  assert done.returncode == 2
  assert says in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_strong_gravity_is_found_and_nothing_is_repeated(run, tmp_path):
  flags = ["--gravity=3", "--wind=", "--anisotropy=", "--seeds=2", "--data_sets=1"]
  done = run(*flags, "--epochs=20", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert "2 of 2  rotation_x 2, rotation_y 2" in done.stdout
  finished = (tmp_path / "gravity3_data0.json").stat().st_mtime_ns
  assert run(*flags, "--epochs=20", f"--workdir={tmp_path}").returncode == 0
  assert (tmp_path / "gravity3_data0.json").stat().st_mtime_ns == finished
