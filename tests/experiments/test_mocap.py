import json

import numpy as np
import pytest

from experiments.harness import artifacts
from experiments.table import mocap as mocap_table
from tests import commands

TINY = ["--source=synthetic", "--epochs=1", "--layers=1", "--hidden_features=8", "--eval_every=1"]
TINY += ["--train_samples=24"]


def run(module, *arguments):
  return commands.run(f"experiments.{module}", *arguments)


@pytest.mark.slow
def test_a_run_and_its_figures_from_end_to_end(tmp_path):
  workdir = tmp_path / "run"
  done = run("mocap", *TINY, "--constraint=resilient", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert "SYNTHETIC DATA" in done.stdout
  result = json.loads((workdir / "result.json").read_text())
  assert set(result["final"]["slack"]) == {"layers_0/features", "layers_0/positions"}
  last = result["curve"][-1]
  assert last["equivariance/projection"] < 1e-5
  # The height feature, computed anew, knows what is up.
  assert last["equivariance_recomputed/projection"] > 20 * last["equivariance/projection"]
  assert all((workdir / name).exists() for name in artifacts.FILES)
  relaxed = result["predictors"]["relaxed"]
  assert relaxed["final_equivariance_error_about_origin"] == pytest.approx(
    last["equivariance/relaxed"], rel=1e-5
  )
  assert "final_equivariance_error" not in relaxed
  assert "equiv. error (origin)" in done.stdout
  turned = relaxed["test_mse_turned"]
  assert {*turned} == {"vertical", "random_axes", "random_axes_recomputed"}
  assert turned["random_axes"] != turned["random_axes_recomputed"]
  names = {path.name for path in (workdir / "figures").iterdir()}
  assert names == {"validation.png", "equivariance_error.png", "gamma.png", "poses.png"}
  out = tmp_path / "figures"
  done = run("mocap_figures", f"--runs={workdir}", f"--out={out}")
  assert done.returncode == 0, done.stderr
  assert {path.name for path in out.iterdir()} == {"poses_run.png", "poses_run.gif"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--model=egnn", "--constraint=equality"],
    ["--model=mpnn", "--constraint=strict", "--subject=walk"],
    ["--model=mpnn", "--constraint=functional"],
    ["--model=egnn", "--constraint=schedule"],
    ["--model=radial_field", "--constraint=equality"],
    ["--model=tfn", "--constraint=strict"],
    ["--model=se3_transformer", "--constraint=none"],
    ["--model=egno", "--constraint=one_sided", "--noheight", "--centring=center_of_mass"],
  ],
)
def test_every_model_runs(tmp_path, flags):
  workdir = tmp_path / "run"
  done = run("mocap", *TINY, *flags, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  result = json.loads((workdir / "result.json").read_text())
  assert np.isfinite([metrics["test_mse"] for metrics in result["predictors"].values()]).all()


def test_turning_about_the_mean_joint_keeps_it_and_all_lengths():
  from ace_jax.symmetry import groups
  from experiments.mocap import run as mocap_run

  random = np.random.default_rng(0)
  shapes = {"positions": (2, 4, 3), "velocities": (2, 4, 3), "targets": (2, 4, 5, 3)}
  shapes["heights"] = (2, 4, 1)
  batch = {name: random.normal(5, 1, size).astype(np.float32) for name, size in shapes.items()}
  element = groups.Motion(groups.rotation("z", np.pi / 2), np.zeros(3))
  turned = mocap_run.turn(element, batch)
  centre = batch["positions"].mean(1)
  np.testing.assert_allclose(turned["positions"].mean(1), centre, rtol=1e-5)
  np.testing.assert_array_equal(turned["heights"], batch["heights"])
  x, y, z = np.moveaxis(batch["targets"] - centre[:, None, None], -1, 0)
  expected = np.stack([-y, x, z], -1) + centre[:, None, None]
  np.testing.assert_allclose(turned["targets"], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(turned["velocities"][..., 2], batch["velocities"][..., 2], rtol=1e-5)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--model=gpt"], "--model=gpt does not exist"),
    (["--model=mpnn"], "--constraint=strict"),
    (["--constraint=schedule"], "take --model=egnn"),
    (["--constraint=projection_regulariser"], "without any; take --model=egnn"),
    (["--constraint=residual_pathway"], "EGNO's branches divide by it; take --model=egnn"),
    (["--model=radial_field", "--keep=axis:y"], "--keep is for --model=egno|egnn|tfn|se3_tr"),
    (["--model=egnn", "--modes=2"], "--modes is for --model=egno"),
    (["--source=acclaim"], "--data_dir"),
    (["--source=synthetic", "--data_dir=a"], "leave out one"),
    (["--subject=swim"], "swim"),
  ],
)
def test_usage_errors(flags, says):
  done = run("mocap", *flags)
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  assert says in done.stderr.strip().splitlines()[-1]


def result(constraint, seed, valid, test, **settings):
  both = {name: {"valid_mse": valid, "test_mse": test} for name in ("projection", "relaxed")}
  return {
    "experiment": "mocap",
    "epochs": 300,
    "data": {"subject": "run", "source": "prepared"},
    "differs_from_published": {name: [settings[name], None] for name in settings},
    "predictors": both,
    "settings": {
      **{"model": "egno", "constraint": constraint, "preset": "paper", "seed": seed},
      **{"augmented": 1.0, **settings},
    },
  }


def test_rows_of_the_table():
  results = [
    result("strict", 1, 0.3, 0.35),
    result("strict", 2, 0.3, 0.37),
    result("resilient", 1, 0.5, 0.40, rho=1.0),
    result("resilient", 1, 0.3, 0.45, rho=10.0),
    result("equality", 1, 0.3, 9.0, augmented=0.0, dual_lr=2e-4),
    result("equality", 2, 0.3, 7.0, augmented=0.0, dual_lr=5e-4),
  ]
  rows = {row[0]: row[1:] for row in mocap_table.rows(results)}
  assert rows["EGNO (reproduced)"][0] == "36.0 +- 1.4 (2 seeds, 300 epochs)"
  assert rows["EGNO (reproduced)"][1] == "35.3 +- 3.2"
  assert rows["EGNO (reproduced)"][2:] == ["not kept", "not run", "8.5 +- 1.0", ""]
  assert rows["EGNO, resilient, f_eq + f_neq"][0] == "40.0 (1 seed, 300 epochs)"
  chosen = rows["EGNO, resilient, rho by validation, f_eq + f_neq"][0]
  assert chosen == "45.0 (1 seed, 300 epochs, rho=10)"
  assert rows["EGNO, equality, f_eq"][0] == "not run"
  assert rows["EGNO, equality, published rates, f_eq"][0] == "900.0 (1 seed, 300 epochs)"


def test_rows_of_networks_that_keep_one_axis_are_rows_of_their_own():
  turned = {"vertical": 0.30, "random_axes": 0.90}
  results = [
    result("strict", 1, 0.3, 0.35),
    result("strict", 1, 0.3, 0.31, keep="axis:y"),
    result("strict", 2, 0.3, 0.33, keep="axis:y"),
    result("strict", 1, 0.3, 0.50, height=False),
    result("strict", 1, 0.3, 0.40, keep="axis:y", height=False),
    result("strict", 1, 0.3, 0.60, keep="axis:y", model="tfn"),
  ]
  for seed in (1, 2):
    results[seed]["predictors"]["projection"]["test_mse_turned"] = turned
  rows = {row[0]: row[1:4] for row in mocap_table.rows(results)}
  assert rows["EGNO (reproduced)"][0] == "35.0 (1 seed, 300 epochs)"
  assert rows["EGNO, keeps axis:y"] == ["32.0 +- 1.4 (2 seeds, 300 epochs)", "", "30.0, 90.0"]
  assert rows["EGNO, without the height"] == ["50.0 (1 seed, 300 epochs)", "", "not kept"]
  assert rows["EGNO, keeps axis:y, without the height"][0] == "40.0 (1 seed, 300 epochs)"
  assert rows["TFN, keeps axis:y"][0] == "60.0 (1 seed, 300 epochs)"
  assert rows["TFN"][0] == "not run"
