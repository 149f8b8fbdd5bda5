import subprocess
import sys

import pytest

from tests.commands import ENVIRONMENT, ROOT
from tests.experiments.nbody_commands import TINY, refuses, run


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
    (["--constraint=augment", "--beta=2"], "take --constraint=gap_penalty|remul"),
    (["--constraint=schedule", "--epochs=5", "--schedule_epochs=6"], "is longer than the run of 5"),
    (["--epochs=5", "--decay_epochs=4"], "is shorter than the run of 5 epochs"),
    (["--constraint=schedule", "--relaxation=mlp"], "for a linear branch"),
    (["--constraint=schedule", "--gamma_lr=1"], "--gamma_lr has no meaning"),
    (["--constraint=strict", "--gamma_optimizer=sgd"], "--gamma_optimizer has no meaning"),
    (["--constraint=published_resilient", "--rho=2"], "--rho has no meaning"),
    (["--model=mpnn"], "has nothing to relax"),
    (["--model=mpnn", "--constraint=functional", "--gamma_lr=1"], "which has no branches"),
    (["--model=transformer", "--constraint=strict", "--lmax=2"], "--lmax is for --model=segnn"),
    (["--mesh=4"], "must be written as replica:2,data:4"),
    (["--weight_decay=-1"], "--weight_decay=-1 must not be negative"),
    (["--dropout=1"], "--dropout=1 must be at least 0, and below 1"),
    (["--model=mpnn", "--constraint=strict", "--dropout=0.1"], "--dropout is for --model=segnn"),
    (["--constraint=strict", "--finish_epochs=1"], "--finish_epochs has no meaning"),
    (["--constraint=functional", "--finish_epochs=1"], "--finish_epochs has no meaning"),
    (["--epochs=5", "--finish_epochs=5"], "must be below the run's 5 epochs"),
    (["--finish_epochs=1", "--patience=3"], "--patience and --finish_epochs contradict"),
    (["--finish_from=last"], "--finish_from needs --finish_epochs"),
    (["--swing_period=9"], "--swing_period has no meaning with --constraint=equality"),
    (["--constraint=swing", "--swing_period=0"], "--swing_period=0 must be positive"),
    (["--constraint=swing", "--gamma_lr=1"], "--gamma_lr has no meaning"),
    (["--constraint=swing", "--epochs=5", "--swing_epochs=6"], "longer than the 5 epochs"),
    (["--constraint=random_homotopy", "--dual_lr=1"], "--dual_lr has no meaning"),
    (["--keep=axis:w"], "axis:w"),
    (["--model=mpnn", "--constraint=strict", "--keep=axis:z"], "--keep is for --model=segnn"),
    (["--free_l2=1"], "--free_l2 has no meaning with --constraint=equality"),
    (["--constraint=residual_pathway", "--free_l2=-1"], "--free_l2=-1 must not be negative"),
    (["--constraint=residual_pathway", "--relaxation_scale=fixed"], "scale has no meaning"),
    (["--constraint=residual_pathway", "--relaxation=spectral_mlp"], "binds nothing; take"),
    (["--constraint=projection_regulariser", "--relaxation=mlp"], "for a linear branch"),
    (["--constraint=projection_regulariser", "--model=mpnn"], "has nothing to relax"),
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


@pytest.mark.slow
def test_what_the_data_cannot_give(tmp_path, data_file):
  workdir = f"--workdir={tmp_path / 'run'}"
  refuses(run(workdir, f"--data_file={tmp_path / 'no.npz'}"), 2, "is no file")
  refuses(
    run(*TINY, workdir, f"--data_file={data_file}", "--train_samples=41"), 2, "41", "there are 40"
  )
  refuses(run(workdir, "--symmetry_breaking=magnet:1"), 2, "gravity:G")
  done = run(*TINY, workdir, f"--data_file={data_file}", "--batch_size=41")
  refuses(done, 2, "batch of 41 is larger than the 40 training samples")


@pytest.mark.slow  # tests/training/test_replicas.py asserts it in one process
def test_non_finite_loss(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = [*TINY, "--lr=1e18", f"--data_file={data_file}", f"--workdir={folder}"]
  refuses(run(*flags), 1, "not finite in epoch 1, step", "lower the step sizes")


def test_a_workdir_that_cannot_be_written(tmp_path, data_file):
  blocker = tmp_path / "file"
  blocker.write_text("")
  done = run(*TINY, f"--data_file={data_file}", f"--workdir={blocker / 'run'}")
  refuses(done, 2, "cannot write to workdir", "--workdir")


@pytest.mark.slow
def test_a_full_disk(tmp_path, data_file):
  folder = tmp_path / "run"
  flags = [*TINY, f"--data_file={data_file}", f"--workdir={folder}"]
  command = [sys.executable, "-m", "experiments.nbody", *flags]
  limited = ["bash", "-c", 'ulimit -f 15; exec "$@"', "bash", *command]
  done = subprocess.run(limited, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
  refuses(done, 1, "cannot write", "File too large")
  done = run(*flags, "--resume")
  assert done.returncode == 0, done.stderr
