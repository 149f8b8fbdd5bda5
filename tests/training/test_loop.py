import gc
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import errors, homotopy
from ace_jax.homotopy import Homotopic
from ace_jax.training import checkpoints, history, loop, parallel
from tests.marks import with_slow
from tests.values import drawn

X = jax.random.normal(jax.random.key(0), (60, 3))
RADIUS = jnp.linalg.norm(X, axis=-1, keepdims=True)


class Radial(nn.Module):
  """Invariant under rotations at gamma = 0."""

  @nn.compact
  def __call__(self, x):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return Homotopic(nn.Dense, name="layer")(nn.Dense(1)(nn.tanh(nn.Dense(8)(r))), x)


def squared_error(prediction, batch):
  return jnp.square(prediction - batch[1])


def fit(target, epochs=3, model=None, **options):
  data = (X, target)
  options = {"batch_size": 12, "lr": 1e-2, **options}
  train, valid = (jax.tree.map(lambda a: a[:48], data), jax.tree.map(lambda a: a[48:], data))
  return ace_jax.fit(
    model or Radial(), squared_error, train, valid, valid, epochs=epochs, **options
  )


def assert_same(state, other):
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_run_may_end_by_what_it_is_asked_after_every_epoch(tmp_path):
  asked = []

  def until(epoch):
    asked.append(epoch)
    return epoch == 2

  ended = fit(RADIUS, 5, eval_every=4, workdir=tmp_path, until=until)
  assert asked == [1, 2]
  # The second epoch is evaluated, as the last of two is, and saved.
  assert ["valid/projection" in record for record in ended.history] == [True, True]
  whole = fit(RADIUS, 2, eval_every=4)
  assert_same(ended.state.primal, whole.state.primal)
  assert ended.test == whole.test
  resumed = fit(RADIUS, 3, eval_every=4, workdir=tmp_path, resume=True)
  assert [record["epoch"] for record in resumed.history] == [1, 2, 3]


def test_a_decay_to_zero_stands_still(capfd):
  begin = jax.jit(Radial().init)(jax.random.key(3), X[:2])
  result = fit(RADIUS, 2, variables=begin, decay=lambda count: 0.0 * count, progress=None)
  assert_same(result.state.primal.theta, begin["params"])
  assert result.multipliers["layer"] > 0
  assert capfd.readouterr().err == ""


def test_equality_drives_gamma_to_zero_and_keeps_the_fit():
  result = fit(RADIUS**2 / 4, 300, constraint=ace_jax.Equality(augmented=1.0), gamma_lr=5e-3)
  assert abs(result.gamma["layer"]) < 0.05
  assert result.test["projection"] < 0.1 * float(jnp.var(RADIUS**2 / 4))
  assert result.test == {
    name: pytest.approx(float(best.error)) for name, best in result.state.best.items()
  }


@pytest.mark.slow
def test_resilient_keeps_gamma_and_meets_its_stationarity_where_data_break_the_symmetry():
  result = fit(
    RADIUS**2 / 4 + X[:, :1],
    400,
    constraint=ace_jax.Resilient(rho=0.5, augmented=1.0),
    gamma_lr=5e-3,
    dual="sgd",
    dual_lr=0.05,
  )
  gamma, multiplier = float(result.gamma["layer"]), float(result.multipliers["layer"])
  slack = float(jax.tree.leaves(result.state.primal.slack)[0])
  assert gamma > 0.05
  np.testing.assert_allclose(abs(gamma), slack, atol=0.02)
  np.testing.assert_allclose(slack, multiplier / 0.5, rtol=0.1)
  assert result.test["relaxed"] < 0.5 * result.test["projection"]


def test_strict_variables_train_one_predictor():
  strict = homotopy.strict(Radial().init)(jax.random.key(0), X)
  result = fit(RADIUS, variables=strict, constraint=ace_jax.Unconstrained())
  assert set(result.test) == {"projection"}
  assert result.gamma == {}


def test_returned_variables_reproduce_the_test_error():
  result = fit(RADIUS, 5)
  for name in ("projection", "relaxed"):
    prediction = Radial().apply(getattr(result, name), X[48:])
    error = float(jnp.mean(jnp.square(prediction - RADIUS[48:])))
    assert error == pytest.approx(result.test[name], rel=1e-5)


def test_best_is_the_lowest_validation_error_of_each_predictor():
  result = fit(RADIUS, 12, lr=0.3)
  for name, best in result.state.best.items():
    curve = [record[f"valid/{name}"] for record in result.history]
    assert float(best.error) == pytest.approx(min(curve))
    assert int(best.epoch) == 1 + int(np.argmin(curve))


def test_early_stopping_waits_for_both_predictors():
  result = fit(RADIUS, 200, lr=0.3, patience=4)
  last = {name: int(best.epoch) for name, best in result.state.best.items()}
  assert len(result.history) == max(last.values()) + 4 < 200


def test_evaluation_interval_and_padding_do_not_change_errors():
  reference = fit(RADIUS, 6)
  result = fit(RADIUS, 6, eval_every=4, eval_batch_size=5)
  evaluated = [r for r in result.history if "valid/projection" in r]
  assert [r["epoch"] for r in evaluated] == [1, 5, 6]
  for record in evaluated:
    expected = reference.history[int(record["epoch"]) - 1]["valid/relaxed"]
    assert record["valid/relaxed"] == pytest.approx(expected, rel=1e-5)


def test_batch_norm_and_dropout_reach_the_model():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      y = nn.BatchNorm(use_running_average=not train, axis_name="data")(nn.Dense(4)(x))
      y = nn.Dropout(0.5, deterministic=not train)(y)
      return Homotopic(nn.Dense, "fixed", "data", name="layer")(nn.Dense(1)(y), x)

  data = (X, RADIUS)
  variables = drawn(Noisy().init)(jax.random.key(0), X, train=False)
  result = fit(RADIUS, 3, Noisy(), variables=variables)
  mean = result.state.model_state["batch_stats"]["BatchNorm_0"]["mean"]
  assert not np.allclose(mean, variables["batch_stats"]["BatchNorm_0"]["mean"])
  prediction = Noisy().apply(result.relaxed, data[0][48:], train=False)
  error = float(jnp.mean(jnp.square(prediction - RADIUS[48:])))
  assert error == pytest.approx(result.test["relaxed"], rel=1e-4)


def test_non_finite_loss_names_epoch_and_step_and_keeps_the_checkpoint(tmp_path):
  # The logarithm of a parameter that about ten steps bring below 0.
  class Breaks(nn.Module):
    @nn.compact
    def __call__(self, x):
      scale = self.param("scale", nn.initializers.ones, ())
      return Homotopic(nn.Dense, name="layer")(jnp.log(scale) * x[:, :1], x)

  with pytest.raises(errors.NonFiniteError, match=r"in epoch 3, step \d of 4; .*000002"):
    fit(-100 * X[:, :1], 50, Breaks(), lr=0.11, workdir=tmp_path, checkpoint_every=1)
  assert checkpoints.newest(tmp_path / "checkpoints").name == "000002"
  assert [r["epoch"] for r in history.read(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path):
  whole = fit(RADIUS, 6, workdir=tmp_path / "whole")
  fit(RADIUS, 3, workdir=tmp_path / "parts")
  resumed = fit(RADIUS, 6, workdir=tmp_path / "parts", resume=True)
  assert len(resumed.history) == 6
  assert_same(resumed.state, whole.state)


def test_a_workdir_that_holds_a_run_is_not_overwritten(tmp_path):
  fit(RADIUS, 2, workdir=tmp_path)
  with pytest.raises(errors.ConfigurationError, match="already holds a run"):
    fit(RADIUS, 2, workdir=tmp_path)


@pytest.mark.parametrize(
  "damage", with_slow(["truncate", "flip", "remove", "manifest", "unsealed"], "flip")
)
def test_a_damaged_newest_checkpoint_falls_back_and_names_the_file(tmp_path, damage, caplog):
  fit(RADIUS, 3, workdir=tmp_path, checkpoint_every=1)
  newest = checkpoints.newest(tmp_path / "checkpoints")
  victim = max((p for p in (newest / "state").rglob("*") if p.is_file()), key=os.path.getsize)
  if damage == "truncate":
    victim.write_bytes(victim.read_bytes()[:-7])
  elif damage == "flip":
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
  elif damage == "remove":
    victim.unlink()
  elif damage == "manifest":
    victim = newest / "manifest.json"
    victim.write_text("{")
  else:
    (newest / "manifest.json").unlink()
    victim = newest
  resumed = fit(RADIUS, 3, workdir=tmp_path, resume=True)
  assert str(victim) in caplog.text
  assert "falling back" in caplog.text
  assert [record["epoch"] for record in resumed.history] == [1, 2, 3]


def test_what_was_cut_short_is_removed_by_the_next_save(tmp_path):
  fit(RADIUS, 2, workdir=tmp_path, checkpoint_every=1)
  (tmp_path / "checkpoints" / "000002" / "manifest.json").unlink()
  fit(RADIUS, 4, workdir=tmp_path, resume=True, checkpoint_every=3)  # from 1, saves 4
  assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000001", "000004"]


@pytest.mark.parametrize("damage", ["digit", "line", "cut", "missing"])
def test_damaged_records_fall_back_to_where_they_are_whole(tmp_path, damage, caplog):
  whole = fit(RADIUS, 3, workdir=tmp_path, checkpoint_every=1)
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  if damage == "digit":
    lines[1] = lines[1].replace("1", "2", 1)
  elif damage == "line":
    lines[1] = "{\n"
  path.write_text("".join(lines[:2] if damage == "cut" else lines))
  if damage == "missing":
    path.unlink()
    with pytest.raises(errors.CheckpointError, match="no whole checkpoint"):
      fit(RADIUS, 3, workdir=tmp_path, resume=True)
    return
  resumed = fit(RADIUS, 3, workdir=tmp_path, resume=True)
  assert f"{path} is damaged before its end" in caplog.text
  assert_same(resumed.state, whole.state)
  assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]
  assert [r["loss"] for r in history.read(path)] == [r["loss"] for r in whole.history]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_orbax_failing_half_way_raises_one_error_and_prints_nothing(tmp_path, monkeypatch, capfd):
  state = parallel.stack([fit(RADIUS, 1).state])
  capfd.readouterr()
  monkeypatch.setattr(checkpoints, "_check_space", lambda *_: None)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
  try:
    with pytest.raises(errors.CheckpointError, match=r"cannot write checkpoint .*File too large"):
      checkpoints.save(tmp_path, state)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  gc.collect()
  assert capfd.readouterr().err == ""
  checkpoints.save(tmp_path, state)
  assert_same(checkpoints.restore(tmp_path, state), state)


def test_when_every_checkpoint_is_damaged_the_error_says_so(tmp_path):
  fit(RADIUS, 1, workdir=tmp_path)
  for manifest in tmp_path.glob("checkpoints/*/manifest.json"):
    manifest.write_text("{}")
  with pytest.raises(errors.CheckpointError, match="no whole checkpoint"):
    fit(RADIUS, 1, workdir=tmp_path, resume=True)


def test_a_checkpoint_of_before_is_refused_with_the_commit_that_resumes_it(tmp_path):
  fit(RADIUS, 1, workdir=tmp_path)
  manifest = tmp_path / "checkpoints" / "000001" / "manifest.json"
  content = json.loads(manifest.read_text())
  del content["format"]
  manifest.write_text(json.dumps(content))
  with pytest.raises(errors.CheckpointError, match="commit a5f5617 is the last that resumes it"):
    fit(RADIUS, 2, workdir=tmp_path, resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
  class Other(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Homotopic(nn.Dense, name="layer")(nn.Dense(1)(x), x)

  fit(RADIUS, 1, workdir=tmp_path)
  with pytest.raises(errors.CheckpointError, match="does not fit this model"):
    fit(RADIUS, 2, Other(), workdir=tmp_path, resume=True)


def test_sigterm_saves_and_resuming_completes(tmp_path):
  reference = fit(RADIUS, 120)
  done = threading.Event()

  def ask():  # again and again, since one signal may come after the last epoch, and change nothing
    while not done.wait(0.5):
      os.kill(os.getpid(), signal.SIGTERM)

  before = signal.signal(signal.SIGTERM, lambda *_: None)  # between two trainings
  asking = threading.Thread(target=ask)
  asking.start()
  try:
    with pytest.raises(errors.Interrupted, match="saved in"):
      while True:  # until a signal arrives, however fast this machine is
        folder = tmp_path / str(time.monotonic_ns())
        fit(RADIUS, 120, workdir=folder, checkpoint_every=1000)
  finally:
    done.set()
    asking.join()
    signal.signal(signal.SIGTERM, before)
  resumed = fit(RADIUS, 120, workdir=folder, resume=True)
  assert_same(resumed.state.primal, reference.state.primal)


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import test_loop as t
run = t.fit(t.RADIUS, 40, workdir=sys.argv[1], resume=True, checkpoint_every=1)
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_nothing(tmp_path):
  root = Path(__file__).parent.parent.parent
  program = textwrap.dedent(PROGRAM.format(paths=[str(root), str(Path(__file__).parent)]))
  environment = {**os.environ, "PYTHONPATH": str(root)}

  def start(folder):
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(
      command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )

  whole = start(tmp_path / "whole")
  rng = np.random.default_rng(0)
  for _ in range(4):
    process = start(tmp_path / "killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    deadline = time.monotonic() + 60
    # Killed some moments after it has got further than the last time.
    while process.poll() is None and time.monotonic() < deadline:
      if metrics.exists() and metrics.stat().st_size > before:
        break
      time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  last = start(tmp_path / "killed")
  assert last.wait(120) == 0, last.stderr.read().decode()
  assert whole.wait(120) == 0

  def outcome(folder):
    records = history.read(tmp_path / folder / "metrics.jsonl")
    wall = ("time", "seconds", "steps_per_second")
    return [{k: v for k, v in r.items() if k not in wall} for r in records]

  assert len(outcome("whole")) == 40
  assert outcome("killed") == outcome("whole")
  template = parallel.stack([fit(RADIUS, 1).state])
  states = [
    checkpoints.restore(tmp_path / folder / "checkpoints", template)
    for folder in ("whole", "killed")
  ]
  assert_same(*states)


def test_settings_are_checked():
  with pytest.raises(errors.ConfigurationError, match="epochs is 0"):
    loop.Settings(epochs=0)
  with pytest.raises(errors.ConfigurationError, match="larger than the 48 training samples"):
    fit(RADIUS, 1, batch_size=64)


def test_record_takes_the_largest_entry_with_its_sign():
  result = fit(RADIUS, 1, constraint=ace_jax.Resilient())
  record = result.history[0]
  assert {"gamma/layer", "multiplier/layer", "slack/layer", "violation/layer"} <= set(record)
  outputs = ace_jax.primal_dual.StepOutput(
    np.ones(3), np.array([1, np.nan, 1]), {}, np.ones(3), np.array([1.0, 1, np.inf])
  )
  assert history.first_non_finite(outputs) == (1, "Lagrangian")
