"""Files of earlier formats: committed results of before `format`, when gap_penalty was remul."""

import json
from pathlib import Path

import pytest

from ace_jax.errors import ConfigurationError
from data.errors import DataError
from experiments.harness import result_files, workdirs
from experiments.sweep import run as sweep_run
from experiments.table import rivals as rivals_table

RIVALS = Path(__file__).parent.parent.parent / "results" / "rivals"


@pytest.mark.parametrize(
  "name", ["mpnn_gap_penalty_beta1_seed1", "mpnn_gap_penalty_gradnorm_seed1"]
)
def test_remul_of_a_file_without_a_format_is_the_gap_penalty(name):
  path = RIVALS / name / "result.json"
  written = json.loads(path.read_text())
  assert "format" not in written
  assert written["constraint"] == written["settings"]["constraint"] == "remul"
  result = result_files.read_result(path)
  assert result["constraint"] == result["settings"]["constraint"] == "gap_penalty"
  others = ("predictors", "curve", "environment")
  assert all(result[other] == written[other] for other in others)
  assert result["settings"] == {**written["settings"], "constraint": "gap_penalty"}
  trial = sweep_run.Trial(path.parent, "", {}, 1, result["settings"])
  assert trial.result() == result


def test_remul_of_format_2_is_remul(tmp_path):
  path = tmp_path / "result.json"
  written = json.loads((RIVALS / "mpnn_gap_penalty_beta1_seed1" / "result.json").read_text())
  path.write_text(json.dumps({"format": 2, **written}))
  assert result_files.read_result(path)["constraint"] == "remul"
  path.write_text(json.dumps({"format": 3, **written}))
  with pytest.raises(DataError, match="its format is not 2, that of this version"):
    result_files.read_result(path)


def test_resuming_a_run_of_before_says_what_it_is(tmp_path, capsys):
  written = json.loads((RIVALS / "mpnn_gap_penalty_beta1_seed1" / "result.json").read_text())
  asked = {**written["settings"], "constraint": "remul"}
  (tmp_path / "config.json").write_text(json.dumps({"settings": written["settings"]}))
  says = r"an earlier version, whose remul is called gap_penalty .*\(constraint: gap_penalty there"
  with pytest.raises(ConfigurationError, match=says), workdirs.opened(tmp_path, asked, True):
    pass
  asked["constraint"] = "gap_penalty"
  with workdirs.opened(tmp_path, asked, resume=True):
    pass
  said = capsys.readouterr().out
  assert said.count("\n") == 1
  assert "whose remul is called gap_penalty since then" in said
  # From now on it is a run of today.
  config = json.loads((tmp_path / "config.json").read_text())
  assert (config["format"], config["settings"]["constraint"]) == (2, "gap_penalty")
  with workdirs.opened(tmp_path, asked, resume=True):
    pass
  assert not capsys.readouterr().out


def test_a_sweep_of_before_goes_on(tmp_path):
  there = {
    "given": ["--constraint=remul", "--lr=1e-3"],
    "grid": {"constraint": ["strict", "remul"]},
  }
  (tmp_path / "config.json").write_text(json.dumps({"settings": there}))
  assert workdirs.read_settings(tmp_path) == {
    "given": ["--constraint=gap_penalty", "--lr=1e-3"],
    "grid": {"constraint": ["strict", "gap_penalty"]},
  }


def test_the_error_about_the_origin_of_motion_capture_has_a_name_of_its_own():
  path = RIVALS.parent / "mocap" / "run_equality_published_seed1" / "result.json"
  written = json.loads(path.read_text())["predictors"]["relaxed"]["final_equivariance_error"]
  relaxed = result_files.read_result(path)["predictors"]["relaxed"]
  assert "final_equivariance_error" not in relaxed
  assert relaxed["final_equivariance_error_about_origin"] == written > 0
  assert result_files.equivariance_error(relaxed) == written
  molecules = {"final_equivariance_error": 0.5}
  assert result_files.equivariance_error(molecules) == 0.5
  assert result_files.about_origin(relaxed) and not result_files.about_origin(molecules)


def test_a_table_says_which_error_is_about_the_origin():
  names = ("strict_seed2", "equality_published_seed1")
  paths = [RIVALS.parent / "mocap" / f"run_{name}" / "result.json" for name in names]
  paths.append(RIVALS / "mpnn_gap_penalty_beta1_seed1" / "result.json")
  rows = rivals_table.rows([result_files.read_result(path) for path in paths])
  errors = {row[0]: row[rivals_table.HEADER.index("equiv. error")] for row in rows}
  assert {label.split(",")[0]: error.endswith(" (origin)") for label, error in errors.items()} == {
    "egno": True,
    "mpnn": False,
  }
