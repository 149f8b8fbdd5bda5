import subprocess
import sys

import numpy as np
import pytest

from benchmarks import accelerator_stages as stages
from benchmarks import packages
from experiments.harness import app


def test_a_stand_in_says_what_is_missing_where_it_is_used():
  name = "no_such_package_of_ours"
  assert packages.allow_absent(["json", name]) == [name]
  try:
    import no_such_package_of_ours as absent  # pyright: ignore[reportMissingImports]

    assert isinstance(1, int | absent.Graph)
    for use in (lambda: absent.Graph(), lambda: absent.Graph.of(1)):
      with pytest.raises(ModuleNotFoundError, match=f"needs {name}"):
        use()
  finally:
    del sys.modules[name]


def test_differences_are_relative_norms():
  expected = np.array([2.0, 1.0]), {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
  actual = np.array([2.2, 1.0]), {"a": np.array([3.0, 4.5]), "b": np.array([0.0, 0.0])}
  assert stages.differences(actual, expected) == {
    "loss": [0.1, 0.0],
    "gradient": 0.1,
    "gradient_of_the_worst_parameter": 0.1,
  }


def test_precisions_have_the_names_of_jax():
  assert app.matmul_precision("float32", "gpu") == "highest"
  assert app.matmul_precision("tf32", "gpu") == "tensorfloat32"
  assert app.matmul_precision("bfloat16", "gpu") == "BF16_BF16_F32"
  assert app.matmul_precision("bfloat16", "tpu") == "bfloat16"


def test_what_does_not_run_is_said_and_the_rest_goes_on(tmp_path, monkeypatch):
  suite = stages.Suite("small", deadline=float("inf"))

  def broken(suite):
    yield "a", 1
    raise ValueError("no such device\nmore")

  def starved(suite):
    suite.stage_deadline = 0.0
    yield stages._attempt(suite, "b", lambda: 2)

  def whole(suite):
    yield stages._attempt(suite, "c", lambda: 3)
    yield stages._attempt(suite, "d", lambda: 1 / 0)

  monkeypatch.setattr(
    stages, "_STAGES", {"machine": broken, "correctness": starved, "steps": whole}
  )
  names = ["machine", "correctness", "steps"]
  report = stages.run(names, suite, ["jraph"], tmp_path / "a" / "r.json")
  assert report["finished"] == ["correctness", "steps"]
  assert report["not_done"] == {
    "machine": "ValueError: no such device",
    "correctness/b": "no time left",
    "steps/d": "ZeroDivisionError: division by zero",
  }
  assert report["stages"]["machine"]["a"] == 1
  assert report["stages"]["steps"]["c"] == 3
  assert (tmp_path / "a" / "r.json").exists()


@pytest.mark.slow
def test_the_suite_runs_on_a_cpu(tmp_path):
  out = tmp_path / "cpu.json"
  command = [sys.executable, "-m", "benchmarks.accelerator", "--minutes=2", f"--out={out}"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  import json

  report = json.loads(out.read_text())
  assert report["sizes"] == "small"
  assert json.loads(done.stdout.splitlines()[-1])["finished"] == report["finished"]
  checked = report["stages"]["correctness"]["segnn/float32"]
  assert max(checked["loss"]) < 1e-5
  assert checked["gradient"] < 1e-4
  assert report["stages"]["training"]["nbody"]["epochs"] >= 1
