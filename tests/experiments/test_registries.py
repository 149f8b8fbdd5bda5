"""A constraint, a branch, a model or an experiment of elsewhere is as good as the project's own."""

import json

import numpy as np
import pytest

from experiments.harness import branches, constraints, models
from experiments.harness.usage import UsageError
from tests import commands

TINY = ["--epochs=2", "--batch_size=10", "--hidden_features=6", "--layers=1", "--eval_every=1"]


def run(module, *flags):
  environment = {**commands.ENVIRONMENT, "PYTHONPATH": str(commands.ROOT)}
  return commands.python("tests/experiments/toys.py", module, *flags, environment=environment)


def settings(*flags):
  done = run("nbody", "--dry_run", *flags)
  assert done.returncode == 0, done.stderr
  return [entry["settings"] for entry in json.loads(done.stdout)]


@pytest.mark.slow
def test_a_constraint_and_a_branch_of_one_entry_each_train_and_stand_in_the_table(
  tmp_path, data_file
):
  folder = tmp_path / "run"
  flags = ["--constraint=shrink", "--relaxation=scaled", "--grid=kappa=0.5,50"]
  done = run("nbody", *TINY, *flags, f"--data_file={data_file}", f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  gammas = {}
  for kappa in ("0.5", "50"):
    result = json.loads((folder / f"kappa{kappa}_seed0" / "result.json").read_text())
    assert result["settings"]["kappa"] == float(kappa)
    gammas[kappa] = [*result["final"]["gamma"].values()]
  # Under a price that outweighs the loss Adam moves gamma from 1 by its step size, 5e-3, 8 times.
  assert gammas["50"] == pytest.approx([0.96, 0.96], abs=1e-3)
  assert gammas["0.5"] != gammas["50"]
  done = run("table", f"--folders={folder}")
  assert done.returncode == 0, done.stderr
  assert "shrink, kappa=0.5, quick, 40 samples" in done.stdout
  assert "shrink, kappa=50, quick, 40 samples" in done.stdout


@pytest.mark.slow  # ten commands
def test_the_flags_of_an_entry():
  (plain,), (shrunk,) = settings(), settings("--constraint=shrink")
  assert "kappa" not in plain
  assert shrunk["kappa"] == 0.3
  assert [flat["kappa"] for flat in settings("--constraint=shrink", "--grid=kappa=1,2")] == [
    1,
    2,
  ]
  for flags, said in (
    (["--kappa=1"], "--kappa has no meaning with --constraint=equality; leave it out, or take"),
    (["--constraint=shrink", "--kappa=0"], "--kappa=0 must be positive and finite"),
    (["--constraint=shrink", "--dual_lr=1"], "--dual_lr has no meaning with --constraint=shrink"),
    (["--relaxation=scaled", "--rank=3"], "--rank has no meaning with --relaxation=scaled"),
    (["--model=still"], "has nothing to relax"),
  ):
    done = run("nbody", *flags)
    assert done.returncode == 2
    assert said in done.stderr
  assert "Weight of shrink." in run("nbody", "--help").stdout


def test_a_model_of_one_entry_trains(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = ["--model=still", "--constraint=strict", f"--data_file={data_file}"]
  done = run("nbody", *TINY, *flags, f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  result = json.loads((folder / "result.json").read_text())
  with np.load(data_file) as file:
    still = np.mean((file["test_positions"] - file["test_targets"]) ** 2)
  assert result["predictors"]["projection"]["test_mse"] == pytest.approx(still, rel=0.1)


def test_an_experiment_of_another_folder_trains(tmp_path):
  folder = tmp_path / "run"
  flags = ["--constraint=shrink", "--kappa=50", "--stiffness=3", f"--workdir={folder}"]
  done = run("spring", *flags)
  assert done.returncode == 0, done.stderr
  assert "no force" in done.stdout
  result = json.loads((folder / "result.json").read_text())
  assert (result["experiment"], result["model"], result["epochs"]) == ("spring", "odd", 3)
  assert result["settings"]["stiffness"] == 3
  displacements = np.random.default_rng(2).normal(size=(40, 1))  # of the test samples
  assert result["linear_mse"] == pytest.approx(9 * np.mean(displacements**2), rel=1e-5)
  # Under a price that outweighs the loss Adam moves gamma from 1 by its step size, 1e-2, 12 times.
  assert result["final"]["gamma"] == {"force": pytest.approx(0.88, abs=1e-3)}
  assert (folder / "report.html").exists()
  done = run("spring", *flags)
  assert done.returncode == 2
  assert "already holds this run; add --resume" in done.stderr
  done = run("spring", "--data_file=a")
  assert done.returncode == 2
  assert "Unknown command line flag 'data_file'" in done.stderr


def test_names_and_meanings_are_used_once():
  with pytest.raises(ValueError, match="'equality' is registered already"):
    constraints.register(constraints.Constraint("equality", "a:b"))
  other = constraints.Constant("rho", "Something else.", domain="finite")
  with pytest.raises(ValueError, match="'rho' of 'shrink' has another meaning"):
    constraints.register(constraints.Constraint("shrink", "a:b", (other,)))
  with pytest.raises(ValueError, match="'mlp' is registered already"):
    branches.register(branches.Branch("mlp", "a:b"))
  with pytest.raises(ValueError, match="'segnn' of nbody is registered already"):
    models.register(models.Model("nbody", "segnn", "a:b"))
  with pytest.raises(UsageError, match="--constraint=soft does not exist"):
    constraints.get("soft")
