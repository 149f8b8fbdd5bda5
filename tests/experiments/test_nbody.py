import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import rivals_table, table

ROOT = Path(__file__).parent.parent.parent
TINY = ["--epochs=2", "--batch_size=10", "--hidden_features=6", "--layers=1", "--eval_every=1"]


_SLOW = pytest.mark.slow
ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}


def run(*arguments):
  return run_module("nbody", *arguments)


def run_module(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
    cwd=ROOT,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=300,
  )


def refuses(done, code, *says):
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ")
  for text in says:
    assert text in last


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--constrant=equality"], "constrant"),
    (["--constraint=soft"], "soft"),
    (["--rho=1"], "--rho has no meaning with --constraint=equality"),
    (["--constraint=strict", "--dual_lr=1"], "--dual_lr has no meaning"),
    (["--constraint=none", "--epsilon=1"], "--epsilon has no meaning"),
    (["--lr=0"], "--lr=0 must be positive"),
    (["--dual_lr=-1"], "--dual_lr=-1 must be positive"),
    (["--lr=nan"], "--lr=nan must be positive"),
    (["--augmented=-1"], "must not be negative"),
    (["--epochs=0"], "epochs"),
    (["--train_samples=a,3"], "positive whole numbers"),
    (["--resume"], "add --workdir"),
    (["equality"], "unexpected argument"),
    (["--constraint=strict", "--relaxation=linear"], "--relaxation has no meaning"),
    (["--data_file=a.npz", "--symmetry_breaking=wind:1"], "for simulated data"),
    (["--breaking_from=start"], "needs --symmetry_breaking"),
    (["--particles=1"], "particles"),
    (["--neighbours=0"], "neighbours"),
    (["--neighbours=5"], "a particle of 5 has 4 others"),
    (["--particles=20", "--neighbours=20"], "a particle of 20 has 19 others"),
    (["--data_file=a.npz", "--particles=10"], "--particles is for simulated data"),
    (["--model=transformer", "--constraint=strict", "--neighbours=2"], "attends to all particles"),
    (["--seeds=0,x"], "--seeds=0,x must be different whole numbers"),
    (["--seeds=0,1", "--seed=2"], "--seed and --seeds contradict"),
    (["--grid=layers=1,2"], "'layers' cannot be gridded"),
    (["--grid=dual_lr=1e-3,1e-3"], "must be different numbers"),
    (["--grid=dual_lr=1e-3", "--grid=dual_lr=1e-2"], "is there twice"),
    (["--grid=dual_lr=1e-3,-1"], "--dual_lr=-1 must be positive"),
    (["--grid=rho=1,2"], "--rho has no meaning with --constraint=equality"),
    (["--lr=1e-3", "--grid=lr=1e-3,1e-2"], "--lr and --grid=lr=... contradict"),
    (["--beta=2"], "--beta has no meaning with --constraint=equality"),
    (["--constraint=remul", "--beta=2", "--weighting=gradnorm"], "--weighting=gradnorm contradict"),
    (["--constraint=schedule", "--epochs=5", "--schedule_epochs=6"], "is longer than the run of 5"),
    (["--epochs=5", "--decay_epochs=4"], "is shorter than the run of 5 epochs"),
    (["--constraint=schedule", "--relaxation=mlp"], "for a linear branch"),
    (["--constraint=schedule", "--gamma_lr=1"], "--gamma_lr has no meaning"),
    (["--model=mpnn"], "has nothing to relax"),
    (["--model=mpnn", "--constraint=functional", "--gamma_lr=1"], "which has no branches"),
    (["--model=transformer", "--constraint=strict", "--lmax=2"], "--lmax is for --model=segnn"),
    (["--mesh=4"], "must be written as replica:2,data:4"),
  ],
)
def test_usage_errors(flags, says):
  refuses(run(*flags), 2, says)


def test_help_lists_the_flags_without_jax():
  done = run("--help")
  assert "--constraint" in done.stdout
  assert "--symmetry_breaking" in done.stdout
  code = "import sys, experiments.nbody; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_run_from_end_to_end_and_what_its_workdir_refuses(tmp_path, data_file):
  place = tmp_path / "run"
  flags = [*TINY, "--log_test", f"--data_file={data_file}", f"--workdir={place}"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  assert "equality, projection" in done.stdout
  result = json.loads((place / "result.json").read_text())
  for name, found in result["predictors"].items():
    best = result["curve"][found["best_epoch"] - 1]
    assert best[f"test/{name}"] == pytest.approx(found["test_mse"], rel=1e-4)
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
  figures = {path.name for path in (place / "figures").iterdir()}
  assert figures == {"validation.png", "gamma.png", "equivariance_error.png", "trajectories.png"}
  assert len((place / "metrics.jsonl").read_text().splitlines()) == 2
  assert list((place / "tensorboard").iterdir())

  done = run_module("report", f"--runs={place}", "--samples=10", "--angles=4")
  assert done.returncode == 0, done.stderr
  said = (place / "report.md").read_text()
  assert "rotation_x" in said
  assert "layers_0/update_1" in said

  refuses(run(*flags), 2, "already holds this run", "--resume")
  refuses(run(*flags, "--resume", "--lr=0.5"), 2, "another configuration", "lr")
  again = run(*flags, "--resume")
  assert again.returncode == 0, again.stderr
  repeated = json.loads((place / "result.json").read_text())
  assert repeated["predictors"] == result["predictors"]


@_SLOW  # what each replica finds, tests/test_replicas.py asserts without the command line
def test_replicas_of_one_program_are_runs_of_their_own(tmp_path, data_file):
  shared = [*TINY, f"--data_file={data_file}", "--constraint=resilient"]
  place = tmp_path / "together"
  flags = [*shared, f"--workdir={place}", "--seeds=3,4", "--grid=rho=0.5,2"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  assert "resilient, relaxed, rho2_seed4" in done.stdout
  names = {path.parent.name for path in place.glob("*/result.json")}
  assert names == {"rho0.5_seed3", "rho0.5_seed4", "rho2_seed3", "rho2_seed4"}
  alone = tmp_path / "alone"
  assert run(*shared, f"--workdir={alone}", "--seed=4", "--rho=2").returncode == 0
  own, joined = (
    json.loads((folder / "result.json").read_text()) for folder in (alone, place / "rho2_seed4")
  )
  assert joined["settings"] == own["settings"]
  for name, found in own["predictors"].items():
    assert joined["predictors"][name]["test_mse"] == pytest.approx(found["test_mse"], rel=1e-4)
  assert joined["final"]["slack"] == pytest.approx(own["final"]["slack"], rel=1e-3)
  runs = f"--runs={place / 'rho2_seed3'},{place / 'rho2_seed4'}"
  done = run_module("report", runs, "--samples=10", "--angles=4", f"--out={tmp_path}")
  assert done.returncode == 0, done.stderr
  refuses(run(*flags[:-1], "--grid=rho=0.5,3", "--resume"), 2, "another configuration (grid")
  refuses(run(*shared, "--mesh=replica:2,data:4"), 2, "takes 8 devices, but")


@pytest.mark.slow
def test_landscape_of_a_run(tmp_path, data_file):
  place, other = tmp_path / "run", tmp_path / "strict"
  flags = [*TINY, f"--data_file={data_file}"]
  kept = ("--epochs=6", "--checkpoint_every=1", "--keep_period=2")
  assert run(*flags, *kept, f"--workdir={place}").returncode == 0
  assert {p.name for p in (place / "checkpoints").iterdir()} == {
    "000002",
    "000004",
    "000005",
    "000006",
  }
  assert run(*flags, "--constraint=strict", f"--workdir={other}").returncode == 0
  small = ("--grid=3", "--animation_grid=3", "--frames=2", "--samples=20", f"--strict={other}")
  done = run_module("landscape", f"--run={place}", *small)
  assert done.returncode == 0, done.stderr
  names = {path.name for path in (place / "landscape").iterdir()}
  assert {"contours.png", "surface_gamma0.png", "gamma.gif", "plane.png"} <= names
  assert {"training.png", "sharpness.png", "trajectory.png"} <= names
  found = json.loads((place / "landscape" / "landscape.json").read_text())
  assert [one["epoch"] for one in found["training"]] == [2, 4, 5, 6]
  done = run_module("equivariance", f"--run={place}", "--samples=10", "--elements=3")
  assert done.returncode == 0, done.stderr
  measured = json.loads((place / "equivariance" / "equivariance.json").read_text())
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
  assert "strict model" in done.stderr


@pytest.mark.parametrize("model", ["segnn", pytest.param("mpnn", marks=_SLOW)])
def test_a_run_among_the_nearest_of_more_particles(tmp_path, data_file, model):
  place = tmp_path / "run"
  shared = ["--constraint=strict", f"--model={model}", f"--workdir={place}"]
  flags = [*TINY, *shared, f"--data_file={data_file}", "--neighbours=2"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  result = json.loads((place / "result.json").read_text())
  assert result["settings"]["neighbours"] == 2
  assert (result["data"]["particles"], result["data"]["neighbours"]) == (5, 2)
  assert result["differs_from_published"]["neighbours"] == [2, None]
  (row,) = table.nbody_rows([result])
  assert row[0] == "strict, quick, 40 samples, 2 nearest"
  refuses(run(*flags[:-1], "--neighbours=3", "--resume"), 2, "neighbours: 2 there, 3 asked for")
  refuses(run(*flags[:-1], "--neighbours=5", "--resume"), 2, "a particle of 5 has 1 to 4 others")


def test_particles_and_neighbours_are_null_where_they_are_the_default():
  def settings(*flags):
    (found,) = json.loads(run("--dry_run", *flags).stdout)
    return found["settings"]

  assert settings("--particles=5", "--neighbours=4") == settings()
  found = settings("--particles=20", "--neighbours=16")
  assert found == {**settings(), "particles": 20, "neighbours": 16}


@pytest.mark.parametrize(
  "flags",
  [
    ["--constraint=strict"],
    pytest.param(["--constraint=none", "--relaxation=linear"], marks=_SLOW),
    pytest.param(["--constraint=inequality", "--epsilon=0.2"], marks=_SLOW),
    ["--constraint=resilient", "--rho=0.5", "--centring=center_of_mass"],
  ],
)
def test_every_constraint_runs(tmp_path, data_file, flags):
  place = tmp_path / "run"
  done = run(*TINY, *flags, f"--data_file={data_file}", f"--workdir={place}")
  assert done.returncode == 0, done.stderr
  result = json.loads((place / "result.json").read_text())
  assert np.isfinite([found["test_mse"] for found in result["predictors"].values()]).all()


@pytest.mark.parametrize(
  "flags",
  [
    ["--constraint=schedule", "--schedule_epochs=1"],
    ["--constraint=functional", "--model=mpnn", "--epsilon=1e-9"],
    pytest.param(["--constraint=augment", "--model=mpnn"], marks=_SLOW),
    pytest.param(["--constraint=remul", "--model=mpnn", "--grid=beta=0.5,2"], marks=_SLOW),
    pytest.param(["--constraint=functional_resilient", "--model=transformer"], marks=_SLOW),
    pytest.param(["--constraint=remul", "--weighting=gradnorm"], marks=_SLOW),
    pytest.param(["--constraint=functional"], marks=_SLOW),
  ],
)
def test_every_rival_runs(tmp_path, data_file, flags):
  place = tmp_path / "run"
  done = run(*TINY, *flags, f"--data_file={data_file}", f"--workdir={place}")
  assert done.returncode == 0, done.stderr
  results = [json.loads(path.read_text()) for path in place.rglob("result.json")]
  for result in results:
    for found in result["predictors"].values():
      assert np.isfinite([found["test_mse"], found["test_gap"], found["test_gap_error"]]).all()
  if "--epsilon=1e-9" in flags:
    reached = results[0]["functional"]["final"]
    assert results[0]["functional"]["asked"] == 1e-9
    assert (place / "figures" / "gamma.png").exists()
    settings = results[0]["settings"]
    assert (settings["dual_lr"], settings["decay_epochs"], settings["epochs"]) == (0.1, 2, 2)
    assert reached["test_gap"] > 1e-3
    assert reached["train_gap"] == pytest.approx(reached["test_gap"], rel=0.9)
    assert reached["train_gap"] != reached["test_gap"]
    assert results[0]["final"]["multiplier"]["equivariance"] > 0
    warned = f"is below its standard error {reached['test_gap_error']:.1e} on 10 test samples"
    assert warned in done.stderr
  if "--constraint=schedule" in flags:
    assert results[0]["predictors"]["projection"]["test_gap"] < 1e-10
    assert set(results[0]["final"]["gamma"].values()) == {0}
    assert results[0]["settings"]["relaxation"] == "linear"
  rows = rivals_table.rows(results)
  assert all(float(row[6].split()[0]) >= 0 for row in rows)


def test_sample_efficiency_curve(tmp_path, data_file):
  place = tmp_path / "curve"
  flags = [*TINY, f"--data_file={data_file}", f"--workdir={place}", "--constraint=strict"]
  flags.append("--decay_epochs=2")
  done = run(*flags, "--train_samples=10,40")
  assert done.returncode == 0, done.stderr
  assert (place / "figures" / "sample_efficiency.png").exists()
  found = [json.loads((place / f"strict_{n}/result.json").read_text()) for n in (10, 40)]
  assert [result["steps"] for result in found] == [8, 8]
  assert [result["settings"]["decay_epochs"] for result in found] == [8, 2]
  assert found[0]["differs_from_published"]["decay_epochs"] == [8, None]
  again = run(*flags, "--train_samples=10,40", "--resume")
  assert again.returncode == 0, again.stderr


def test_what_the_data_cannot_give(tmp_path, data_file):
  place = f"--workdir={tmp_path / 'run'}"
  refuses(run(place, f"--data_file={tmp_path / 'no.npz'}"), 1, "no such file")
  refuses(run(place, f"--data_file={data_file}", "--train_samples=41"), 2, "41", "there are 40")
  refuses(run(place, "--symmetry_breaking=magnet:1"), 2, "gravity:G")
  done = run(*TINY, place, f"--data_file={data_file}", "--batch_size=41")
  refuses(done, 2, "batch of 41 is larger than the 40 training samples")


def test_non_finite_loss(tmp_path, data_file):
  place = tmp_path / "run"
  flags = [*TINY, "--lr=1e18", f"--data_file={data_file}", f"--workdir={place}"]
  refuses(run(*flags), 1, "not finite in epoch 1, step", "lower the step sizes")


def test_a_workdir_that_cannot_be_written(tmp_path, data_file):
  blocker = tmp_path / "file"
  blocker.write_text("")
  done = run(*TINY, f"--data_file={data_file}", f"--workdir={blocker / 'run'}")
  refuses(done, 1, "cannot write to workdir", "--workdir")


def test_a_full_disk(tmp_path, data_file):
  place = tmp_path / "run"
  flags = [*TINY, f"--data_file={data_file}", f"--workdir={place}"]
  command = [sys.executable, "-m", "experiments.nbody", *flags]
  limited = ["bash", "-c", 'ulimit -f 15; exec "$@"', "bash", *command]
  done = subprocess.run(limited, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
  refuses(done, 1, "cannot write", "File too large")
  done = run(*flags, "--resume")
  assert done.returncode == 0, done.stderr
