import json
import re

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import homotopy, padding
from ace_jax.models.schnet import SchNet
from ace_jax.models.segnn import SEGNN
from ace_jax.symmetry import random_rotations
from data.qm9 import TARGETS
from experiments.harness import artifacts
from experiments.qm9 import models as qm9_models
from experiments.qm9.settings import preset
from tests.marks import with_slow
from tests.values import drawn

EXPERIMENT = "qm9"
TINY = ["--epochs=1", "--layers=1", "--hidden_features=8", "--batch_size=8", "--eval_every=1"]
TINY += ["--train_samples=24", "--held_out=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Chains of 1 to 5 atoms, in the padded layout, energies in hartree."""
  random = np.random.default_rng(0)
  count, atoms = 60, 5
  counts = 1 + np.arange(count) % atoms
  exists = np.arange(atoms) < counts[:, None]
  charges = np.where(exists, random.choice([1, 6, 7, 8, 9], (count, atoms)), 0)
  steps = random.normal(size=(count, atoms, 3)) * 0.2 + [1.2, 0, 0]
  arrays = {name: random.normal(size=count) for name in TARGETS}
  path = tmp_path_factory.mktemp("qm9")
  np.savez(
    path / "all.npz",
    num_atoms=counts,
    charges=charges,
    positions=np.cumsum(steps, 1) * exists[..., None],
    **arrays | {"alpha": charges.sum(1).astype(float), "U0": -40.0 - charges.sum(1)},
  )
  return path


@pytest.mark.slow
def test_a_run_from_end_to_end(run, folder, tmp_path):
  workdir = tmp_path / "run"
  flags = [*TINY, f"--data_dir={folder}", "--constraint=resilient", f"--workdir={workdir}"]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  assert "test MAE (Bohr^3)" in done.stdout
  result = json.loads((workdir / "result.json").read_text())
  assert result["metric"] == "MAE (Bohr^3)"
  assert result["data"]["atom_references"] == "none"
  assert result["data"]["left_out"] == 1  # the 58th of the database
  assert set(result["final"]["slack"]) == {"interactions_0/stream"}
  last = result["curve"][-1]
  assert last["equivariance/projection"] < 1e-5 < last["equivariance/relaxed"]
  projection = result["predictors"]["projection"]
  assert projection["test_mse_turned"]["random_axes"] == pytest.approx(
    projection["test_mse"], rel=1e-4
  )
  assert all((workdir / name).exists() for name in artifacts.FILES)
  with np.load(workdir / "predictions.npz") as arrays:
    shown = np.abs(arrays["projection"] - arrays["truth"])
  assert len(shown) == 4
  assert shown.mean() == pytest.approx(projection["test_mse"], rel=1e-4)
  names = {path.name for path in (workdir / "figures").iterdir()}
  assert names == {"validation.png", "equivariance_error.png", "gamma.png", "predictions.png"}


@pytest.mark.parametrize(
  "flags",
  [
    pytest.param(
      ["--constraint=equality", "--lmax=1", "--lmax_attributes=1"], marks=pytest.mark.slow
    ),
    pytest.param(["--constraint=strict"], marks=pytest.mark.slow),
    pytest.param(["--constraint=schedule", "--dropout=0.1"], marks=pytest.mark.slow),
  ],
)
def test_segnn_runs(run, folder, tmp_path, flags):
  workdir = tmp_path / "run"
  references = ["--target=U0", "--atom_references=isolated"]
  done = run(
    *TINY, "--model=segnn", *references, *flags, f"--data_dir={folder}", f"--workdir={workdir}"
  )
  assert done.returncode == 0, done.stderr
  assert "less that of its atoms (isolated)" in done.stdout
  result = json.loads((workdir / "result.json").read_text())
  assert result["data"]["atom_references"] == "isolated"
  assert result["metric"] == "MAE (eV)"
  assert np.isfinite([predictor["test_mse"] for predictor in result["predictors"].values()]).all()


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--model=gpt"], "--model=gpt does not exist here; take schnet|segnn"),
    (["--target=mass"], "mass"),
    (["--lmax=1"], "--lmax is for --model=segnn"),
    (["--model=segnn", "--centring=none"], "--centring is for --model=schnet"),
    (["--relaxation=linear"], "take --model=segnn"),
    (["--constraint=schedule"], "take --model=segnn"),
    (["--dropout=0.1"], "--dropout is for --model=segnn"),
    (["--data_seed=1"], "--data_seed is for simulated data"),
    (["--train_samples=10,20"], "takes one size"),
    (["--radius=0"], "--radius=0 must be positive"),
    (["--target=mu", "--atom_references=isolated", "--data_dir=."], "mu has no references"),
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
  assert re.search(r"is no folder; name one of \.xyz or \.npz", done.stderr)
  assert "Traceback" not in done.stderr


def test_the_command_knows_every_target(run):
  # Its module is not imported, since its flags are also those of other experiments.
  assert "|".join(TARGETS) in run("--target=mass").stderr


def test_presets_differ_by_model():
  assert preset("paper", "schnet").training.batch_size == 256
  segnn = preset("paper", "segnn")
  assert (segnn.training.batch_size, segnn.model.radius) == (1024, 2.0)
  assert preset("quick", "segnn").data.train_samples == (2000,)
  assert preset("paper", "schnet").data.train_samples is None


NUMBERS = jnp.array([[6, 1, 1, 8, 7], [9, 6, 1, 0, 0], [7, 0, 0, 0, 0]])
NETWORKS = {
  "schnet": SchNet(8, num_layers=2, gaussians=8, cutoff=3.0, centring="center_of_mass"),
  "segnn": SEGNN(
    "1x0e",
    hidden_features=8,
    lmax_hidden=2,
    lmax_attributes=3,
    num_layers=2,
    norm="instance",
    task="graph",
  ),
}


def molecules():
  positions = jax.random.normal(jax.random.key(0), (3, 5, 3), float)
  return jnp.where(NUMBERS[..., None] > 0, positions, 0)


def variables_of(model, positions):
  variables = drawn(model.init)(jax.random.key(1), NUMBERS, positions)
  return jax.tree.map(lambda a: a.astype(float), variables)


@pytest.mark.parametrize("name", with_slow(NETWORKS, "segnn"))
def test_the_projection_is_invariant_and_the_relaxed_model_is_not(name):
  with jax.enable_x64(True):
    positions = molecules()
    model = qm9_models.MoleculeModel(NETWORKS[name], 4, 3.0, shift=2.0, scale=3.0)
    variables = variables_of(model, positions)
    g = jnp.linalg.qr(random_rotations(jax.random.key(2), 1)[0].astype(float))[0]
    apply = jax.jit(model.apply)
    for chosen, keeps in ((homotopy.project(variables), True), (variables, False)):
      expected = apply(chosen, NUMBERS, positions)
      assert expected.shape == (3,)
      for matrix in (g, -g):
        error = jnp.max(jnp.abs(apply(chosen, NUMBERS, positions @ matrix) - expected))
        assert (error < 1e-9) == keeps
      # No centre is known to either network.
      moved = apply(chosen, NUMBERS, positions + 5.0)
      np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("neighbours", with_slow([4, None], None))
@pytest.mark.parametrize("name", with_slow(NETWORKS, "segnn"))
def test_the_dense_model_is_that_of_packed_graphs(name, neighbours):
  with jax.enable_x64(True):
    positions = molecules()
    model = qm9_models.MoleculeModel(NETWORKS[name], neighbours, 3.0)
    variables = variables_of(model, positions)
    expected = model.apply(variables, NUMBERS, positions)
    packed = []
    for numbers, x in zip(np.asarray(NUMBERS), np.asarray(positions), strict=True):
      count = (numbers > 0).sum()
      x = x[:count]
      square = np.square(x[:, None] - x).sum(-1)
      receivers, senders = np.nonzero((square <= 9.0) & ~np.eye(count, dtype=bool))
      packed.append(
        jraph.GraphsTuple(
          {"numbers": numbers[:count], "positions": x},
          None,
          receivers,
          senders,
          None,
          np.array([count]),
          np.array([len(senders)]),
        )
      )
    (batch,) = padding.batches(packed, nodes=16, edges=40)
    batch = jax.tree.map(jnp.asarray, batch)
    seen = batch.nodes["numbers"], batch.nodes["positions"]
    if name == "segnn":
      seen = qm9_models.segnn_inputs(*seen, batch, 3)
    predicted = NETWORKS[name].apply(variables, *seen, batch)[:, 0]
    np.testing.assert_allclose(predicted[:3], expected, rtol=1e-9, atol=1e-9)
