import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ace_jax import Equality, homotopy
from ace_jax.models.vector_neurons import VNDGCNN
from ace_jax.symmetry import random_rotations
from experiments.harness import artifacts
from experiments.modelnet40 import figures
from experiments.modelnet40 import models as modelnet_models
from experiments.modelnet40 import run as modelnet_run
from experiments.modelnet40.settings import GAMMAS, preset
from tests.values import drawn

EXPERIMENT = "modelnet40"
TINY = ["--epochs=1", "--hidden_features=6", "--batch_size=11", "--eval_every=1", "--points=16"]
TINY += ["--neighbours=4", "--train_samples=22", "--held_out=11"]


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("modelnet40") / "run"
  flags = ["--rotations=none", "--dropout=0.5", "--constraint=resilient", f"--workdir={folder}"]
  done = run(*TINY, *flags)
  assert done.returncode == 0, done.stderr
  return folder, done.stdout


@pytest.mark.slow
def test_a_run_from_end_to_end(finished):
  folder, stdout = finished
  assert "made-up shapes, not ModelNet40" in stdout
  result = json.loads((folder / "result.json").read_text())
  assert result["metric"] == "error rate"
  assert result["linear_mse"] == pytest.approx(10 / 11)
  assert len(result["final"]["gamma"]) == len(result["final"]["slack"]) == GAMMAS
  last = result["curve"][-1]
  assert last["equivariance/projection"] < 1e-4 < last["equivariance/relaxed"]
  projection = result["predictors"]["projection"]
  assert set(projection["test_mse_turned"]) == {"vertical", "random_axes"}
  assert result["differs_from_published"]["rotations"] == ["none", "so3"]
  assert "dropout" not in result["differs_from_published"]
  assert result["settings"]["dropout"] == 0.5
  assert all((folder / name).exists() for name in artifacts.FILES)
  with np.load(folder / "predictions.npz") as arrays:
    assert len(arrays["truth"]) == 11
    for suffix, error in (
      ("", projection["test_mse"]),
      ("_random_axes", projection["test_mse_turned"]["random_axes"]),
    ):
      assert np.mean(arrays[f"projection{suffix}"] != arrays["truth"]) == pytest.approx(error)
  names = {path.name for path in (folder / "figures").iterdir()}
  assert names == {"accuracy.png", "equivariance_error.png", "gamma.png", "confusion.png"}


@pytest.mark.slow
def test_the_report_of_a_run(finished):
  folder, _ = finished
  command = [sys.executable, "-m", "experiments.report", f"--runs={folder}", "--angles=2"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr
  said = (folder / "report.md").read_text()
  assert all(f"rotation_{axis}" in said for axis in "xyz")
  assert "conv_0/features" in said


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--model=segnn"], "--model=segnn does not exist here; take vn_dgcnn"),
    (["--rotations=x"], "none|z|so3"),
    (["--points=9"], "--points=9 are fewer than --neighbours=10"),
    (["--layers=3"], "--layers: the network has four edge convolutions; leave it out"),
    (["--centring=none"], "--centring: the mean of a shape's points is at 0"),
    (["--relaxation=linear"], "branches are of one published form; leave it out."),
    (["--constraint=schedule"], "take another constraint"),
    (["--dropout=1"], "--dropout=1 must be at least 0, and below 1"),
    (["--train_samples=10,20"], "takes one size"),
    (["--optimizer=lion"], "adam|sgd"),
  ],
)
def test_usage_errors(run, flags, says):
  done = run(*flags)
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr
  assert says in done.stderr.strip().splitlines()[-1]


def test_a_folder_that_is_not_there(run, tmp_path):
  done = run(f"--data_dir={tmp_path / 'none'}")
  assert done.returncode == 2
  assert "is no folder; name one of ModelNet40" in done.stderr
  assert "Traceback" not in done.stderr


def test_the_published_preset():
  paper = preset("paper")
  assert (paper.primal.optimizer, paper.primal.gamma_optimizer) == ("sgd", "sgd")
  assert (paper.data.points, paper.data.rotations, paper.training.epochs) == (300, "so3", 250)
  network = modelnet_models.vn_dgcnn(paper, 40)
  assert (network.widths, network.hidden) == (VNDGCNN.widths, VNDGCNN.hidden)
  small = VNDGCNN(classes=2, k=2, widths=(1, 1, 1, 1, 4), hidden=(2, 2))
  variables = jax.eval_shape(small.init, jax.random.key(0), jnp.zeros((1, 4, 3)))
  assert len(homotopy.names(variables[homotopy.GAMMA])) == GAMMAS


def test_a_mean_of_constraints_is_a_smaller_step_of_the_multipliers():
  # min (g - 1)^2 / 2 + mean_i(lambda_i g_i), the published way, and with its sum at dual_lr / n.
  n = GAMMAS
  target = np.linspace(-1, 2, n)

  def path(weight, dual_lr):
    dual = optax.adam(dual_lr, eps=1e-12)
    gamma, multipliers = jnp.zeros(n), jnp.zeros(n)
    kept, gammas = dual.init(multipliers), []
    for _ in range(20):
      violation = jax.tree.leaves(Equality().violation(_Primal({"g": gamma})))[0]
      gradient = gamma - target + weight * multipliers
      update, kept = dual.update(-weight * violation, kept)
      gamma, multipliers = gamma - 0.1 * gradient, multipliers + update
      gammas.append(gamma)
    return jnp.stack(gammas), multipliers

  with jax.enable_x64(True):
    published, multipliers = path(1 / n, 0.7)
    ours, smaller = path(1.0, 0.7 / n)
    np.testing.assert_allclose(ours, published, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(smaller, multipliers / n, rtol=1e-5, atol=1e-7)


class _Primal:
  def __init__(self, gamma):
    self.gamma = gamma


def test_labels_are_smoothed_as_in_dgcnn():
  logits = jax.random.normal(jax.random.key(0), (3, 5))
  labels = jnp.array([0, 4, 2])
  target = jnp.full((3, 5), 0.05).at[jnp.arange(3), labels].set(0.8)
  expected = -jnp.sum(target * jax.nn.log_softmax(logits), -1)
  losses = modelnet_run.smoothed_cross_entropy(logits, {"label": labels})
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  assert modelnet_run.wrong(logits, {"label": jnp.argmax(logits, -1)}).tolist() == [0, 0, 0]


def test_shapes_are_turned_about_the_vertical_or_in_any_way():
  points = jax.random.normal(jax.random.key(0), (4, 9, 3))
  key = jax.random.key(1)
  np.testing.assert_array_equal(modelnet_models.turn(key, points, "none", "z"), points)
  for rotations, vertical, kept in (("z", "z", 2), ("z", "y", 1), ("so3", "z", None)):
    turned = modelnet_models.turn(key, points, rotations, vertical)
    products = jnp.einsum("bic,bjc->bij", turned, turned)
    np.testing.assert_allclose(products, jnp.einsum("bic,bjc->bij", points, points), atol=1e-4)
    for axis in range(3):
      same = bool(jnp.allclose(turned[..., axis], points[..., axis], atol=1e-5))
      assert same == (axis == kept)
  # Every shape by an element of its own.
  alike = modelnet_models.turn(key, jnp.broadcast_to(points[:1], points.shape), "so3", "z")
  assert float(jnp.abs(alike[0] - alike[1]).max()) > 0.1


def test_dropped_points_are_moved_to_the_first():
  points = jax.random.normal(jax.random.key(0), (200, 50, 3))
  thin = modelnet_models.drop_points(jax.random.key(1), points, 0.8)
  moved = np.asarray((thin != points).any(-1))
  first = np.broadcast_to(points[:, :1], points.shape)
  np.testing.assert_array_equal(np.asarray(thin)[moved], first[moved])
  # The share is uniform in [0, 0.8] by shape: mean 0.4, standard deviation 0.23.
  shares = moved.mean(1)
  assert shares.mean() == pytest.approx(0.4, abs=0.05)
  assert shares.std() == pytest.approx(0.24, abs=0.05)
  assert modelnet_models.drop_points(jax.random.key(1), points, 0.0) is points


@pytest.mark.slow
def test_in_training_alone_shapes_are_turned_anew():
  network = VNDGCNN(classes=3, k=3, widths=(2, 2, 2, 2, 4), hidden=(3, 3), dropout=0.0)
  model = modelnet_models.ShapeModel(network, "so3", "z")
  points = jax.random.normal(jax.random.key(0), (4, 8, 3))
  variables = drawn(model.init)(jax.random.key(1), points)

  @jax.jit
  def train(variables, key):
    return model.apply(variables, points, True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

  first, second = (train(variables, jax.random.key(i)) for i in (2, 3))
  assert float(jnp.abs(first - second).max()) > 1e-3  # f_neq sees how a shape is turned
  kept = homotopy.project(variables)
  first, second = (train(kept, jax.random.key(i)) for i in (2, 3))
  np.testing.assert_allclose(first, second, atol=1e-3)
  rotation = random_rotations(jax.random.key(4), 1)[0]
  evaluate = jax.jit(lambda points: model.apply(kept, points))
  np.testing.assert_allclose(evaluate(points @ rotation), evaluate(points), atol=1e-3)


def test_the_confusion_matrix():
  truth, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
  expected = [[1 / 2, 1 / 2, 0], [1 / 3, 2 / 3, 0], [0, 0, 0]]
  np.testing.assert_allclose(figures.shares(truth, predicted, 3), expected)
