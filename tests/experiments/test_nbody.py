import json
import shutil

import jax
import numpy as np
import pytest

from ace_jax import export
from experiments.harness import artifacts
from experiments.nbody import run as nbody_run
from experiments.nbody.settings import Settings
from experiments.table import __main__ as table
from experiments.table import rivals as rivals_table
from tests.experiments.nbody_commands import TINY, refuses, run, run_module

_SLOW = pytest.mark.slow


def test_a_run_from_end_to_end(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = [*TINY, "--log_test", f"--data_file={data_file}", f"--workdir={folder}"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  assert "equality, projection" in done.stdout
  result = json.loads((folder / "result.json").read_text())
  assert [record["loss"] for record in result["curve"]] == pytest.approx(
    [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()], rel=1e-5
  )
  for name, predictor in result["predictors"].items():
    best = result["curve"][predictor["best_epoch"] - 1]
    assert best[f"test/{name}"] == pytest.approx(predictor["test_mse"], rel=1e-4)
  assert set(result["predictors"]) == {"projection", "relaxed"}
  assert result["steps"] == 8
  needs = result["memory"]
  assert needs["peak"] == needs["state"] + needs["data"] + max(needs["buffers"].values())
  assert needs["data"] == 4 * 5 * (4 * 3 - 2) * (40 + 10)  # positions, velocities, targets, charges
  assert {*needs["buffers"]} == {"epoch", "evaluation", "checkpoint"}
  assert "Memory: " in done.stdout
  assert result["predictors"]["projection"]["final_equivariance_error"] < 1e-5
  assert result["predictors"]["relaxed"]["final_equivariance_error"] > 1e-4
  assert set(result["final"]["gamma"]) == {"layers_0/update_1", "layers_0/update_2"}
  figures = {path.name for path in (folder / "figures").iterdir()}
  assert figures == {"validation.png", "gamma.png", "equivariance_error.png", "trajectories.png"}
  assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
  assert all((folder / name).stat().st_size < 5e6 for name in artifacts.FILES)
  check_artifacts(folder, result, data_file)
  assert list((folder / "tensorboard").iterdir())
  refuses(run(*flags), 2, "already holds this run", "--resume")
  refuses(run(*flags, "--resume", "--lr=0.5"), 2, "another configuration", "lr")


@_SLOW  # tests/symmetry/test_report.py and tests/training/test_resuming.py assert it in one process
def test_a_run_is_reported_and_resumed(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = [*TINY, f"--data_file={data_file}", f"--workdir={folder}"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  result = json.loads((folder / "result.json").read_text())
  done = run_module("report", f"--runs={folder}", "--samples=10", "--angles=4", "--suggest")
  assert done.returncode == 0, done.stderr
  # Ten samples are too few to tell; what is suggested otherwise, test_suggestion says.
  assert "Nothing can be told of rotation_" in done.stdout
  said = (folder / "report.md").read_text()
  assert "rotation_x" in said
  assert "layers_0/update_1" in said

  again = run(*flags, "--resume")
  assert again.returncode == 0, again.stderr
  repeated = json.loads((folder / "result.json").read_text())
  assert repeated["predictors"] == result["predictors"]


def check_artifacts(folder, result, data_file):
  records = artifacts.read_records(folder)
  assert [record["epoch"] for record in records] == [1, 2]
  assert {"loss", "gamma/layers_0/update_1", "multiplier/layers_0/update_2"} <= {*records[0]}
  with np.load(data_file) as file:
    test = {name.removeprefix("test_"): file[name] for name in file.files if "test_" in name}
  turned = artifacts.turned(nbody_run.ROTATIONS, test)
  for name, predictor in result["predictors"].items():
    variables = export.load_parameters(folder / artifacts.VARIABLES[name])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert ("gamma" in variables) == (name == "relaxed")
    predict = jax.jit(nbody_run.make_model(Settings.from_json(result["settings"])).apply)

    def error(data, predict=predict, variables=variables):
      y = predict(variables, *nbody_run.model_inputs(data))
      return float(np.mean(nbody_run.squared_error(y, data)))

    assert error(test) == pytest.approx(predictor["test_mse"], rel=1e-4)
    for rotations, moved in turned.items():
      assert error(moved) == pytest.approx(predictor["test_mse_turned"][rotations], rel=1e-4)
    with np.load(folder / artifacts.PREDICTIONS) as file:
      assert file[name].shape == file["truth"].shape == (4, 5, 3)
      predicted = predict(variables, file["start"], file["velocities"], file["charges"])
      np.testing.assert_allclose(file[name], predicted, rtol=1e-4, atol=1e-5)
  errors = result["predictors"]["projection"]
  for error in errors["test_mse_turned"].values():  # the projection keeps rotations
    assert error == pytest.approx(errors["test_mse"], rel=1e-4)


def test_settings_are_recorded_only_where_asked_for():
  def settings(*flags):
    done = run("--dry_run", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]["settings"]

  plain = settings("--weight_decay=0", "--dropout=0", "--finish_epochs=0")
  new = ("weight_decay", "dropout", "finish", "swing", "homotopy")
  assert not [name for name in plain if name.startswith(new)]
  assert settings() == plain
  swing = settings("--constraint=swing", "--swing_amplitude=0.8", "--finish_epochs=20")
  assert {name: swing[name] for name in swing if name.startswith(new)} == {
    **{"finish_epochs": 20, "finish_from": "best", "swing_amplitude": 0.8, "swing_initial": 1.0},
    **{"swing_period": 2000.0, "swing_time_constant": 900.0, "swing_phase": 0.0, "swing_start": 0},
  }


@_SLOW  # tests/training/test_finishing.py and tests/models/test_segnn.py assert it in one process
def test_a_run_with_dropout_decay_and_a_finish_resumes_bit_for_bit(tmp_path, data_file):
  whole, cut = tmp_path / "run", tmp_path / "cut"
  regularised = ["--weight_decay=0.1", "--dropout=0.2", "--finish_epochs=2"]
  flags = [*TINY, "--epochs=4", "--checkpoint_every=1", "--keep_period=1", *regularised]
  flags += ["--constraint=swing", f"--data_file={data_file}"]
  done = run(*flags, f"--workdir={whole}")
  assert done.returncode == 0, done.stderr
  result = json.loads((whole / "result.json").read_text())
  assert result["finish"]["after_epoch"] == 2
  assert result["finish"]["from"] == "best"
  assert result["steps"] == 16
  for predictor in result["predictors"].values():
    assert predictor["phase"] == ("finish" if predictor["best_epoch"] > 2 else "constrained")
    assert predictor["final_equivariance_error"] is not None
  assert result["predictors"]["relaxed"]["phase"] == "constrained"
  assert set(result["final"]["gamma"]) == {"layers_0/update_1", "layers_0/update_2"}
  assert "gamma" not in result["curve"][-1]
  refuses(run(*flags, f"--workdir={whole}", "--resume", "--epochs=5"), 2, "epochs: 4 there, 5")
  for epoch in (1, 3):
    shutil.copytree(whole, cut)
    for folder in (cut / "checkpoints").iterdir():
      if int(folder.name) > epoch:
        shutil.rmtree(folder)
    done = run(*flags, f"--workdir={cut}", "--resume")
    assert done.returncode == 0, done.stderr
    again = json.loads((cut / "result.json").read_text())
    assert again["predictors"] == result["predictors"]
    shutil.rmtree(cut)
  done = run_module("table", f"--folders={whole}")
  assert "swing, amplitude 0.4, period 2000, weight decay 0.1, dropout 0.2, finish 2 from best" in (
    done.stdout
  )
  refuses(run_module("landscape", f"--run={whole}"), 2, "without gamma")


@_SLOW  # what each replica finds, tests/test_replicas.py asserts without the command line
def test_replicas_of_one_program_are_runs_of_their_own(tmp_path, data_file):
  shared = [*TINY, f"--data_file={data_file}", "--constraint=resilient"]
  together = tmp_path / "together"
  flags = [*shared, f"--workdir={together}", "--seeds=3,4", "--grid=rho=0.5,2"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  assert "resilient, relaxed, rho2_seed4" in done.stdout
  names = {path.parent.name for path in together.glob("*/result.json")}
  assert names == {"rho0.5_seed3", "rho0.5_seed4", "rho2_seed3", "rho2_seed4"}
  alone = tmp_path / "alone"
  assert run(*shared, f"--workdir={alone}", "--seed=4", "--rho=2").returncode == 0
  separate, joined = (
    json.loads((folder / "result.json").read_text()) for folder in (alone, together / "rho2_seed4")
  )
  assert joined["settings"] == separate["settings"]
  for name, predictor in separate["predictors"].items():
    assert joined["predictors"][name]["test_mse"] == pytest.approx(predictor["test_mse"], rel=1e-4)
  assert joined["final"]["slack"] == pytest.approx(separate["final"]["slack"], rel=1e-3)
  runs = f"--runs={together / 'rho2_seed3'},{together / 'rho2_seed4'}"
  done = run_module("report", runs, "--samples=10", "--angles=4", f"--out={tmp_path}")
  assert done.returncode == 0, done.stderr
  refuses(run(*flags[:-1], "--grid=rho=0.5,3", "--resume"), 2, "another configuration (grid")
  refuses(run(*shared, "--mesh=replica:2,data:4"), 2, "takes 8 devices, but")


@pytest.mark.slow
def test_landscape_of_a_run(tmp_path, data_file):
  folder, other = tmp_path / "run", tmp_path / "strict"
  flags = [*TINY, f"--data_file={data_file}"]
  kept = ("--epochs=6", "--checkpoint_every=1", "--keep_period=2")
  assert run(*flags, *kept, f"--workdir={folder}").returncode == 0
  assert {p.name for p in (folder / "checkpoints").iterdir()} == {
    "000002",
    "000004",
    "000005",
    "000006",
  }
  assert run(*flags, "--constraint=strict", f"--workdir={other}").returncode == 0
  small = ("--grid=3", "--animation_grid=3", "--frames=2", "--samples=20", f"--strict={other}")
  done = run_module("landscape", f"--run={folder}", *small)
  assert done.returncode == 0, done.stderr
  names = {path.name for path in (folder / "landscape").iterdir()}
  assert {"contours.png", "surface_gamma0.png", "gamma.gif", "plane.png"} <= names
  assert {"training.png", "sharpness.png", "trajectory.png"} <= names
  drawn = json.loads((folder / "landscape" / "landscape.json").read_text())
  assert [point["epoch"] for point in drawn["training"]] == [2, 4, 5, 6]
  done = run_module("equivariance", f"--run={folder}", "--samples=10", "--elements=3")
  assert done.returncode == 0, done.stderr
  measured = json.loads((folder / "equivariance" / "equivariance.json").read_text())
  rotations, swaps = measured["by_group"]["SO(3)"], measured["by_group"]["S(5)"]
  assert rotations["projection"] < 1e-5 < 1e-3 < rotations["relaxed"]
  assert max(swaps.values()) < 1e-5
  for name, slope in measured["slopes"].items():
    assert abs(slope - 1) < 0.2, name
  limits = measured["bounds"]
  assert np.all(np.array(limits["largest error"]) <= limits["estimate"])
  assert np.all(np.array(limits["estimate"]) <= limits["certificate"])
  done = run_module("equivariance", f"--run={other}")
  assert done.returncode == 2
  assert "ended without gamma" in done.stderr


@_SLOW  # tests/test_neighbours.py asserts what the models make of them
@pytest.mark.parametrize("model", ["segnn", "mpnn"])
def test_a_run_among_the_nearest_of_more_particles(tmp_path, data_file, model):
  folder = tmp_path / "run"
  shared = ["--constraint=strict", f"--model={model}", f"--workdir={folder}"]
  flags = [*TINY, *shared, f"--data_file={data_file}", "--neighbours=2"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  result = json.loads((folder / "result.json").read_text())
  assert result["settings"]["neighbours"] == 2
  assert (result["data"]["particles"], result["data"]["neighbours"]) == (5, 2)
  assert result["differs_from_published"]["neighbours"] == [2, None]
  (row,) = table.nbody_rows([result])
  assert row[0] == "strict, quick, 40 samples, 2 nearest"
  refuses(run(*flags[:-1], "--neighbours=3", "--resume"), 2, "neighbours: 2 there, 3 asked for")
  too_many = [*flags[:-1], "--neighbours=5", f"--workdir={tmp_path / 'too_many'}"]
  refuses(run(*too_many), 2, "a particle of 5 has 1 to 4 others")


def test_particles_and_neighbours_are_null_where_they_are_the_default():
  def settings(*flags):
    (entry,) = json.loads(run("--dry_run", *flags).stdout)
    return entry["settings"]

  assert settings("--particles=5", "--neighbours=4") == settings()
  nearest = settings("--particles=20", "--neighbours=16")
  assert nearest == {**settings(), "particles": 20, "neighbours": 16}


@pytest.mark.slow
def test_a_network_that_keeps_one_axis(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = ["--constraint=strict", "--keep=axis:z", f"--data_file={data_file}"]
  done = run(*TINY, *flags, f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  result = json.loads((folder / "result.json").read_text())
  assert result["settings"]["keep"] == "axis:z"
  assert json.loads((folder / "config.json").read_text())["settings"]["keep"] == "axis:z"
  assert "keep" in result["differs_from_published"]
  measured = result["predictors"]["projection"]
  # What is measured is about the axis; turned samples say what became of the other rotations.
  assert measured["test_gap"] < 1e-10
  turned = measured["test_mse_turned"]
  assert turned["vertical"] == pytest.approx(measured["test_mse"], rel=1e-4)
  assert abs(turned["random_axes"] / measured["test_mse"] - 1) > 1e-3
  (row,) = table.nbody_rows([result])
  assert row[0].startswith("strict, keeps axis:z, quick")
  (rival,) = rivals_table.rows([result])
  assert rival[0] == "segnn, strict, keeps axis:z"
