import json
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest

from ace_jax.state import Primal
from experiments.harness import app, build, workdirs
from experiments.harness.settings import DualOptimizer, PrimalOptimizer


def test_step_sizes_fall_to_zero_over_the_steps_of_the_decay():
  # 40 samples in batches of 10, 3 epochs: 12 steps, of which the first is whole and the 7th half.
  primal, dual = PrimalOptimizer(lr=0.1, decay_epochs=3), DualOptimizer("sgd", dual_lr=1.0)
  optimizer, _ = build.optimizers(primal, dual, steps_an_epoch=4)
  ones = Primal({"w": jnp.ones(1)}, {}, {})
  kept, moved = optimizer.init(ones), []
  for _ in range(13):
    update, kept = optimizer.update(ones, kept, ones)
    moved.append(-float(update.theta["w"][0]))
  assert [moved[0], moved[6], moved[12]] == pytest.approx([0.1, 0.05, 0.0], rel=1e-4)


@pytest.fixture
def precision():
  """Puts JAX's setting back."""
  before = jax.config.jax_default_matmul_precision
  yield
  jax.config.update("jax_default_matmul_precision", before)


def test_a_cpu_warns_that_it_has_float32_alone(precision):
  factors = jax.random.normal(jax.random.key(0), (2, 300, 300))
  expected = jnp.dot(*factors)
  with pytest.warns(UserWarning, match="--precision=tf32 changes nothing on a CPU"):
    app.set_precision("tf32")
  assert jax.config.jax_default_matmul_precision is None
  assert workdirs.environment()["matmul_precision"] == "the device's"
  assert jnp.array_equal(jnp.dot(*factors), expected)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    app.set_precision("float32")


@pytest.mark.parametrize(
  ("name", "says"),
  [("float32", "HIGHEST"), ("tf32", "HIGH,"), ("bfloat16", "lhs_precision_type = bf16")],
)
def test_what_a_gpu_is_told_of_a_precision(name, says):
  with jax.default_matmul_precision(app.matmul_precision(name, "gpu")):
    product = jax.jit(jnp.dot).trace(jnp.ones((2, 2)), jnp.ones((2, 2)))
    assert says in product.lower(lowering_platforms=("cuda",)).as_text()


def test_precision_is_a_setting_unless_it_is_that_of_earlier_versions():
  settings = {}
  for name in ("float32", "tf32"):
    command = [sys.executable, "-m", "experiments.nbody", "--dry_run", f"--precision={name}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings[name] = json.loads(said)[0]["settings"]
  assert workdirs.differences(settings["float32"], settings["tf32"]) == ["precision"]
  assert "precision" not in settings["float32"]


def test_portable_results_name_no_folder_of_this_machine():
  value = {"command": "python -m x --workdir=/a/b/run --data_file=/c/d.npz", "n": [1, "/e/f"]}
  portable = workdirs.portable(value)
  assert portable == {"command": "python -m x --workdir=run --data_file=d.npz", "n": [1, "f"]}
  assert workdirs.portable("../data/x.npz 1e-3/2") == "../data/x.npz 1e-3/2"
