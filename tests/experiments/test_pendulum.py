import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import homotopy
from ace_jax.models.time_reversal import TimeReversalField
from data import pendulum

ROOT = Path(__file__).parent.parent.parent


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "experiments.pendulum", *map(str, flags)],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_the_field_keeps_time_reversal_without_damping_alone():
  state = np.random.default_rng(0).normal(size=(10, 2))
  flip = np.array([1.0, -1.0])
  broken = pendulum.field(state * flip, 0.0) + flip * pendulum.field(state, 0.0)
  np.testing.assert_allclose(broken, np.zeros((10, 2)), atol=1e-15)
  broken = pendulum.field(state * flip, 0.5) + flip * pendulum.field(state, 0.5)
  np.testing.assert_allclose(broken[:, 1], state[:, 1], atol=1e-15)  # 2 c p with c = 0.5


def test_the_projection_keeps_time_reversal():
  with jax.enable_x64(True):
    z = jax.random.normal(jax.random.key(0), (5, 2), float)
    variables = TimeReversalField(8).init(jax.random.key(1), z)
    variables = jax.tree.map(lambda a: a.astype(float), variables)
    flip = jnp.array([1.0, -1.0])

    def error(variables):
      f = TimeReversalField(8).apply
      return jnp.max(jnp.abs(f(variables, z * flip) + flip * f(variables, z)))

    assert error(homotopy.project(variables)) < 1e-10
    assert error(variables) > 1e-3


def test_the_experiment_tells_damped_from_undamped(tmp_path):
  done = run("--damping=0,1", "--epochs=40", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  report = json.loads((tmp_path / "run" / "result.json").read_text())
  assert "keep time reversal" in report["verdicts"]["0"]
  assert "break time reversal" in report["verdicts"]["1"]
  results = {(r["constraint"], r["damping"]): r for r in report["results"]}
  # The best odd part of the field misses c p: mean c^2 p^2 / 2 = 2.5^2 / 6.
  assert results["strict", 1.0]["projection_test_mse"] == pytest.approx(2.5**2 / 6, rel=0.1)
  names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
  assert {"phase_portraits.png", "error_by_damping.png", "gamma_equality_damping1.png"} <= names


def test_usage_errors():
  for flag, says in (
    ("--damping=a", "must be numbers"),
    ("--damping=-1", "not negative"),
    ("--rho=0", "positive"),
  ):
    done = run(flag)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
