"""Models of other packages, relaxed without editing them; needs the extra `models`.

And nequix without its requirements, which bring CUDA: `pip install --no-deps nequix==0.4.5`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax.graphs import fully_connected
from ace_jax.relaxations import MLP

pytestmark = pytest.mark.slow

ATOMS = 3
POSITIONS = 2 * jax.random.normal(jax.random.key(0), (16, ATOMS, 3))
SPECIES = np.array([0, 1, 1])
EDGES = fully_connected(ATOMS)
SENDERS, RECEIVERS = np.array(EDGES.receivers), np.array(EDGES.senders)  # ordered by sender


def squared(prediction, batch):
  return jnp.square(prediction - batch[1])


def train(model, data, loss=squared):
  options = {"epochs": 3, "batch_size": 8, "lr": 0.01, "progress": None}
  run = ace_jax.fit(model, loss, data, data, **options)
  assert run.history[-1]["loss"] < run.history[0]["loss"]
  assert all(jnp.abs(gamma - 1).max() > 1e-4 for gamma in run.gamma.values())
  return run


def through_a_file(variables, path):
  ace_jax.export.save_parameters(path, variables)
  return ace_jax.export.load_parameters(path)


def assert_the_published_model_computes_the_projection(model, run, data, path):
  loaded = through_a_file(run.projection, path)
  plain = model.init(jax.random.key(0), data[0])
  assert jax.tree.structure(loaded) == jax.tree.structure(plain)
  expected = run.method.task.predict(run.projection, data)
  np.testing.assert_allclose(model.apply(loaded, data[0]), expected, rtol=1e-4, atol=1e-5)


def test_e3x(tmp_path):
  e3x = pytest.importorskip("e3x")

  class Published(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = e3x.nn.TensorDense(4, max_degree=1)(e3x.nn.Dense(4)(x))
      return e3x.nn.Dense(1)(y)

  data = jax.random.normal(jax.random.key(0), (16, 1, 4, 2)), jnp.ones((16, 2, 4, 1))
  model = Published()
  relaxed = ace_jax.relax(model, lambda m: isinstance(m, e3x.nn.Dense), MLP, axes=3)
  run = train(relaxed, data)
  assert list(run.gamma) == ["Dense_0", "Dense_1", "TensorDense_0/dense"]
  assert_the_published_model_computes_the_projection(model, run, data, tmp_path / "model.npz")


def test_e3nn_flax(tmp_path):
  import e3nn_jax as e3nn
  import e3nn_jax.flax

  class Published(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = e3nn.IrrepsArray("2x0e + 1x1o", x)
      y = e3nn.gate(e3nn.flax.Linear("8x0e + 4x0e + 4x1o")(x))
      return e3nn.flax.Linear("0e")(e3nn.tensor_square(y)).array

  x = jax.random.normal(jax.random.key(0), (16, 5))
  data = x, jnp.sum(x[:, 2:] ** 2, axis=-1, keepdims=True) + x[:, 4:]
  model = Published()
  relaxed = ace_jax.relax(model, lambda m: isinstance(m, e3nn.flax.Linear), MLP)
  run = train(relaxed, data)
  assert list(run.gamma) == ["Linear_0", "Linear_1"]
  assert_the_published_model_computes_the_projection(model, run, data, tmp_path / "model.npz")


def energies(positions):
  """Sums of distances, and of heights, which break the symmetry; [samples]."""
  lengths = jnp.linalg.norm(positions[:, SENDERS] - positions[:, RECEIVERS], axis=-1)
  return jnp.sum(lengths, axis=1) + jnp.sum(positions[..., 2], axis=1)


def test_nequip_of_mlip(tmp_path):
  pytest.importorskip("mlip")
  from e3j.linen import LinearIndexwise
  from mlip.data.dataset_info import DatasetInfo
  from mlip.graph import graph as mlip_graph
  from mlip.graph.edge_ordering import EdgeOrdering
  from mlip.models.nequip.network import Nequip

  info = DatasetInfo(
    atomic_energies_map={1: 0.0, 8: 0.0}, graph_cutoff_angstrom=8.0, avg_num_neighbors=2.0
  )
  config = Nequip.Config(
    num_layers=2, target_irreps="4x0e + 4x1o", l_max=1, num_rbf=4, radial_mlp_hidden=[8]
  )

  class Energies(nn.Module):
    """The energy of every sample, all of them as one graph."""

    nequip: Nequip

    def __call__(self, positions):
      samples = positions.shape[0]
      offsets = ATOMS * jnp.arange(samples)[:, None]
      graph = mlip_graph.Graph(
        nodes=mlip_graph.GraphNodes(
          positions=positions.reshape(-1, 3),
          atomic_numbers=jnp.tile(jnp.array([1, 8])[SPECIES], samples),
        ),
        edges=mlip_graph.GraphEdges(),
        globals=mlip_graph.GraphGlobals(jnp.zeros((samples, 3, 3)), jnp.ones(samples)),
        n_node=jnp.full(samples, ATOMS),
        n_edge=jnp.full(samples, len(SENDERS)),
        senders=(SENDERS + offsets).ravel(),
        receivers=(RECEIVERS + offsets).ravel(),
        ordering=EdgeOrdering.SENDER,
      )
      energy = self.nequip(graph).nodes.features["energy"]
      return jnp.sum(energy.reshape(samples, ATOMS), axis=1)

  data = POSITIONS, energies(POSITIONS)
  model = Energies(Nequip(config, info))
  relaxed = ace_jax.relax(model, lambda m: isinstance(m, LinearIndexwise), MLP)
  run = train(relaxed, data)
  assert list(run.gamma) == [f"nequip/NequipLayer_{i}/residual_block" for i in range(2)]
  assert_the_published_model_computes_the_projection(model, run, data, tmp_path / "model.npz")


def test_nequix(tmp_path):
  eqx = pytest.importorskip("equinox")
  nequix = pytest.importorskip("nequix.model")
  import e3nn_jax as e3nn
  import e3nn_jax.equinox

  class Energy(eqx.Module):
    """The energy of one sample."""

    model: eqx.Module

    def __call__(self, positions):
      shifts = positions[SENDERS] - positions[RECEIVERS]
      return jnp.sum(self.model.node_energies(shifts, SPECIES, SENDERS, RECEIVERS))

  published = nequix.Nequix(
    jax.random.key(0),
    n_species=2,
    lmax=1,
    cutoff=8.0,
    hidden_irreps="4x0e + 4x1o",
    n_layers=2,
    radial_mlp_size=8,
    radial_mlp_layers=1,
    avg_n_neighbors=2.0,
  )
  keys = iter(jax.random.split(jax.random.key(1), 100))

  def is_linear(module):
    return isinstance(module, e3nn.equinox.Linear) and module.linear_type == "vanilla"

  def branch(linear):
    sizes = linear.irreps_in.dim, 8, linear.irreps_out.dim
    return nequix.MLP(sizes, use_bias=True, key=next(keys))

  data = POSITIONS, energies(POSITIONS)
  relaxed = ace_jax.relax(Energy(published), is_linear, branch)
  run = train(relaxed, data)
  layers = [f"model/layers_{i}/linear_{j}" for i in range(2) for j in (1, 2)]
  assert list(run.gamma) == [*layers, "model/readout"]
  loaded = through_a_file(run.projection, tmp_path / "model.npz")
  trained = ace_jax.equinox.prune(ace_jax.equinox.update(relaxed, loaded)).model
  assert jax.tree.structure(trained) == jax.tree.structure(published)
  expected = run.method.task.predict(run.projection, data)
  np.testing.assert_allclose(jax.vmap(Energy(trained))(POSITIONS), expected, rtol=1e-4, atol=1e-5)
