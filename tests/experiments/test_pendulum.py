import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import homotopy
from ace_jax.models.time_reversal import TimeReversalField
from data import pendulum
from experiments.pendulum import run as pendulum_run
from tests import commands

ROOT = Path(__file__).parent.parent.parent


def run(*flags):
  return commands.run("experiments.pendulum", *flags)


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


def judged(strict_error, relaxed_error, asymmetry, strict=None, resilient=None):
  """Returns the verdict on two made-up models, whose trainings differ from one at rest."""
  at_rest = {"error": 0.1, "baseline": 1.0, "improvement": 0.1, "gamma": 0.5, "gamma_change": 0.1}
  strict = {
    **{"constraint": "strict", "damping": 1.0, "projection_test_mse": strict_error},
    "training": {**at_rest, **(strict or {})},
  }
  relaxed = {
    **{"constraint": "resilient", "damping": 1.0, "relaxed_test_mse": relaxed_error},
    **{"equivariance_error": asymmetry, "training": {**at_rest, **(resilient or {})}},
  }
  return pendulum_run.verdict(1.0, [strict, relaxed])


def test_the_verdict_needs_models_that_have_learned():
  improves, moves = {"improvement": 0.5}, {"gamma_change": 0.4}
  assert judged(0.01, 0.01, 0.001).startswith("damping 1: the data keep time reversal (")
  assert judged(0.1, 0.01, 0.5).startswith("damping 1: the data break time reversal (")
  # A model that is better and yet equivariant has broken nothing.
  assert judged(0.1, 0.01, 0.001).startswith("damping 1: the data keep time reversal (")
  said = "damping 1: cannot tell whether the data break time reversal: "
  assert judged(0.01, 0.01, 0.001, improves) == f"{said}the model still improves (strict)."
  assert judged(0.1, 0.01, 0.5, improves) == f"{said}the model still improves (strict)."
  assert judged(0.01, 0.01, 0.001, None, moves) == f"{said}gamma still moves (resilient)."
  assert judged(0.1, 0.01, 0.5, None, moves).startswith("damping 1: the data break")


@pytest.mark.slow
def test_the_experiment_finds_damping(tmp_path):
  done = run("--damping=0,1", "--epochs=40", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  report = json.loads((tmp_path / "run" / "result.json").read_text())
  # Of an undamped one the models still improve then.
  assert "cannot tell whether the data break time reversal" in report["verdicts"]["0"]
  assert "the data break time reversal" in report["verdicts"]["1"]
  results = {(r["constraint"], r["damping"]): r for r in report["results"]}
  # The best odd part of the field misses c p: mean c^2 p^2 / 2 = 2.5^2 / 6.
  assert results["strict", 1.0]["projection_test_mse"] == pytest.approx(2.5**2 / 6, rel=0.1)
  names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
  assert {"phase_portraits.png", "error_by_damping.png", "gamma_equality_damping1.png"} <= names


@pytest.mark.slow
def test_two_epochs_tell_nothing(tmp_path):
  done = run("--damping=1", "--epochs=2", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  said = json.loads((tmp_path / "run" / "result.json").read_text())["verdicts"]["1"]
  assert said.startswith("damping 1: cannot tell whether the data break time reversal: ")
  assert "too few evaluations" in said
  done = run("--damping=1", "--epochs=2", f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 2
  assert "holds this run, finished; choose another --workdir" in done.stderr


def test_the_page_of_results_says_what_the_verdicts_are():
  stored = json.loads((ROOT / "results" / "pendulum" / "result.json").read_text())
  assert stored["rule"] == pendulum_run.RULE
  assert [*stored["verdicts"].values()] == [
    pendulum_run.verdict(c, stored["results"]) for c in stored["settings"]["damping"]
  ]
  lines = (ROOT / "results" / "README.md").read_text().splitlines()
  section = lines[lines.index("## pendulum: time reversal and damping") :]
  rows = [line.strip("| ").split(" | ") for line in section if line.startswith("| ")][1:5]
  for (damping, share, error, verdict), said in zip(rows, stored["verdicts"].values(), strict=True):
    assert said.startswith(f"damping {damping}: ")
    if verdict == "broken":
      assert "the data break time reversal" in said
      assert f"error is {share} of the strict one's, its equivariance error {error}" in said
    else:
      assert verdict == "cannot tell: the strict model still improves"
      assert said.endswith(
        "cannot tell whether the data break time reversal: the model still improves (strict)."
      )


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
