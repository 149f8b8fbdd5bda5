"""The folder of a run: one process at a time, ~, and systems without what Linux has."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

import ace_jax
from ace_jax import export, files
from ace_jax.errors import CheckpointError, ConfigurationError
from ace_jax.training import checkpoints, history, locks
from data import paths as data_paths
from data.errors import DataError
from experiments.harness import paths, programs
from experiments.harness.usage import UsageError

X = jax.random.normal(jax.random.key(0), (24, 3))
HOLDER = """
import sys
from ace_jax.training import locks
with locks.locked(sys.argv[1]):
  print("locked", flush=True)
  sys.stdin.read()
"""


class Radial(nn.Module):
  @nn.compact
  def __call__(self, x):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1)(r), x)


def fit(workdir, epochs=1, **options):
  return ace_jax.fit(
    Radial(),
    lambda prediction, batch: jnp.square(prediction - batch),
    X,
    X,
    inputs=lambda batch: (batch,),
    epochs=epochs,
    batch_size=12,
    workdir=workdir,
    progress=None,
    **options,
  )


@pytest.fixture
def holder(tmp_path):
  """Another process that has locked a folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  with process:
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()


def test_a_second_process_in_a_workdir_is_refused_in_one_line(tmp_path, holder):
  workdir = tmp_path / "run"
  with pytest.raises(ConfigurationError) as error:
    fit(workdir)
  assert str(error.value) == (
    f"another process is running in {workdir}; wait for it, or choose another workdir."
  )
  assert {path.name for path in workdir.iterdir()} == {locks.LOCK}
  with pytest.raises(ConfigurationError, match="choose another --workdir"):
    locks.locked(workdir, "--workdir").__enter__()
  with locks.locked(tmp_path / "other"):
    pass
  holder.kill()  # the lock of a process ends with it
  holder.wait()
  assert len(fit(workdir).history) == 1
  assert len(fit(workdir, 2, resume=True).history) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(CheckpointError, match=r"cannot write to workdir .*; choose another workdir"):
    locks.locked(tmp_path / "file" / "run").__enter__()


def test_the_home_folder_in_paths_of_the_library(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  trained = fit("~/run", 2)
  assert [path.name for path in tmp_path.iterdir()] == ["run"]
  assert history.read("~/run/metrics.jsonl") == trained.history
  restored = checkpoints.restore(
    "~/run/checkpoints", jax.tree.map(lambda a: a[None], trained.state)
  )
  np.testing.assert_array_equal(
    jax.tree.leaves(restored.primal.theta)[0][0], jax.tree.leaves(trained.state.primal.theta)[0]
  )
  export.save_variables("~/model.npz", trained.relaxed)
  assert (tmp_path / "model.npz").is_file()
  np.testing.assert_array_equal(
    Radial().apply(export.load_parameters("~/model.npz"), X), Radial().apply(trained.relaxed, X)
  )
  files.write_text("~/a.txt", "text")
  assert (tmp_path / "a.txt").read_text() == "text"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "model.npz", "run"]


@pytest.mark.parametrize(
  ("expanded", "error"),
  [(files.expanded, ConfigurationError), (data_paths.expanded, DataError)],
)
def test_a_home_folder_that_is_not_there(expanded, error):
  with pytest.raises(error, match=r"~nobody_of_this_name/a: .*write the whole path\.$"):
    expanded("~nobody_of_this_name/a")


def test_the_home_folder_in_flags(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  values = flags.FlagValues()
  paths.DEFINE_path("workdir", None, "Where.", flag_values=values)
  monkeypatch.setattr(flags, "FLAGS", values)
  values(["program", "--workdir=~/runs/a"])
  assert values.workdir == "/home/me/runs/a"
  values(["program", "--workdir=runs/~a"])
  assert values.workdir == "runs/~a"
  with pytest.raises(flags.IllegalFlagValueError, match="home folder of ~nobody_here/a"):
    values(["program", "--workdir=~nobody_here/a"])
  parser = paths._PathsParser()
  assert parser.parse("~/a,b,~/c") == ["/home/me/a", "b", "/home/me/c"]


def test_a_flag_that_is_no_path_is_refused():
  for parser, words in (
    (paths._PathParser(), [""]),
    (paths._PathsParser(), ["", "a,", ",", "a,,b"]),
  ):
    for word in words:
      with pytest.raises(ValueError, match=r"a path is empty; write one, or leave the flag out\."):
        parser.parse(word)


def test_checkpoints_where_nothing_allocates(tmp_path, monkeypatch):
  expected = fit(tmp_path / "a", 2)
  monkeypatch.delattr(os, "posix_fallocate")
  trained = fit(tmp_path / "b", 2)
  for state in (
    trained.state,
    checkpoints.restore(tmp_path / "b" / "checkpoints", _stacked(trained)),
  ):
    for leaf, other in zip(
      jax.tree.leaves(state.primal), jax.tree.leaves(expected.state.primal), strict=True
    ):
      np.testing.assert_array_equal(np.reshape(leaf, np.shape(other)), other)
  full = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
  with pytest.raises(CheckpointError, match="No space left on device"):
    fit(tmp_path / "c", 1)


def _stacked(trained):
  return jax.tree.map(lambda leaf: leaf[None], trained.state)


def test_no_alarm_clock(monkeypatch):
  monkeypatch.delattr(signal, "SIGALRM")
  with programs.ended_by_signal():
    pass
  with pytest.raises(UsageError, match="--minutes needs an alarm clock"):
    programs.ended_by_signal(1.0).__enter__()


def test_a_run_on_a_system_without_fcntl_alarms_and_allocation(tmp_path):
  program = """
  import os, signal, sys
  sys.modules["fcntl"] = None
  del os.posix_fallocate, signal.SIGALRM, signal.setitimer
  import jax.numpy as jnp
  from tests.training.test_workdirs import fit
  from ace_jax.errors import ConfigurationError
  from ace_jax.training import locks
  from experiments.harness import workdirs
  assert len(fit("run").history) == 1
  resumed = fit("run", 2, resume=True)
  assert len(resumed.history) == 2 and [r["epoch"] for r in resumed.history] == [1, 2]
  with workdirs.locked("other"):
    try:
      locks.locked("other").__enter__()
    except ConfigurationError as error:
      print(error)
  """
  root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": root},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == (
    "another process is running in other; wait for it, or choose another workdir.\n"
  )
