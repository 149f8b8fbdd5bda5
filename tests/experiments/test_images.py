import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import homotopy
from ace_jax.symmetry import report, verdicts
from experiments.images import bias as images_bias
from experiments.images import shifts as images_shifts
from experiments.images import training as images_training

EXPERIMENT = "images"


def rolled_batch(count=8):
  """Images whose label says in which half along x their one bright pixel is."""
  columns = jnp.arange(count) * 3 % 24
  image = jnp.zeros((count, 24, 24, 1)).at[jnp.arange(count), 5, columns].set(1.0)
  return {"image": image, "label": (columns >= 12).astype(int)}


def test_the_networks_are_those_of_the_flags_and_of_one_size(run):
  # The flags' module is not imported, since its flags are also those of other experiments.
  assert f"take some of {','.join(images_shifts.NETWORKS)}." in run("--networks=a").stderr
  sizes = set()
  for network in images_shifts.NETWORKS.values():
    x = jnp.zeros((1, 24, 24, 1))
    shapes = jax.eval_shape(homotopy.strict(network.init), jax.random.key(0), x)
    sizes.add(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
  assert len(sizes) == 1
  strides = [images_shifts.stride_of(images_shifts.NETWORKS["pooled"], i) for i in range(3)]
  assert strides == [1, 2, 4]


def test_shifts_act_on_images_and_not_on_labels():
  batch = rolled_batch()
  moved = images_training.SYMMETRY.act_batch(jnp.array([2, 1]), batch)
  np.testing.assert_array_equal(moved["image"], jnp.roll(batch["image"], (2, 1), (1, 2)))
  np.testing.assert_array_equal(moved["label"], batch["label"])


def test_seeds_are_joined_and_a_bias_along_x_is_named():
  random = np.random.default_rng(0)
  lost = {"shift_y": random.normal(0, 0.5, 300), "shift_x": random.normal(1, 0.5, 300)}
  measured = report.Measured({"shift_y": 0.1, "shift_x": 0.3}, lost, 0.5)
  training = verdicts.Training(error=0.1, baseline=1.0, improvement=0.1)
  reports = {r.name: r for r in report.generator_reports([measured] * 2, [training] * 2)}
  assert {name for name, r in reports.items() if r.broken} == images_bias.BROKEN["x"]
  assert reports["shift_x"].loss == pytest.approx(2, abs=0.2)
  assert reports["shift_x"].lie_error == pytest.approx(0.3)
  assert reports["shift_x"].seeds == 2


@pytest.mark.slow
def test_both_parts_end_to_end(run, tmp_path):
  flags = ["--networks=strided", "--constraint=resilient", "--bias=x", "--epochs=1"]
  done = run(*flags, f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  assert "bias x, resilient: " in done.stdout
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  (row,) = result["networks"]
  assert len(row["flips_along_x"]) == 24
  assert row["flips_along_x"][0] == 0
  # Strides of 2, three times: shifts by 8 pixels are exact.
  assert row["flips_along_x"][8] == row["flips_along_x"][16] == 0
  assert row["equivariance_error"]["layers_0"] < 1e-5 < row["equivariance_error"]["layers_1"]
  (resilient,) = result["constraints"]
  assert set(resilient["gamma"]) == {"layers_0", "layers_1", "layers_2"}
  assert set(resilient["multipliers"]) == set(resilient["slack"]) == set(resilient["gamma"])
  (entry,) = result["reports"]
  assert {generator["name"] for generator in entry["generators"]} == {"shift_x", "shift_y"}
  names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
  assert names == {
    "flips.png",
    "accuracy.png",
    "gamma_resilient_bias_x.png",
    "report_resilient_bias_x.png",
  }
  # The trainings of networks are read back; one whose folder is gone is repeated.
  (training,) = (tmp_path / "run" / "trainings").glob("resilient_bias_x_*")
  shutil.rmtree(training)
  assert run(*flags, f"--workdir={tmp_path / 'run'}").returncode == 0
  again = json.loads((tmp_path / "run" / "result.json").read_text())
  assert again["reports"] == result["reports"]
  # What a training needs is known where it was compiled.
  assert again["networks"] == [{**row, "memory": None}]


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--networks=resnet"], "--networks=resnet does not exist"),
    (["--constraint=functional"], "--constraint=functional does not exist"),
    (["--bias=z"], "--bias=z does not exist; take some of none,x,y"),
    (["--bias="], "--bias is empty"),
    (["--rho=0"], "--rho=0 must be positive"),
    (["--seeds=1,1"], "different whole numbers"),
    (["--networks=", "--constraint="], "nothing to do"),
  ],
)
def test_usage_errors(run, flags, says):
  done = run(*flags)
  assert done.returncode == 2
  assert says in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_report_finds_the_bias_and_raises_no_alarm_without(run, tmp_path):
  flags = ["--networks=", "--constraint=resilient", f"--workdir={tmp_path / 'run'}"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / "run" / "result.json").read_text())["constraints"]
  called = {row["bias"]: row["called_broken"] for row in rows}
  assert called == {"none": [], "x": ["shift_x"]}
