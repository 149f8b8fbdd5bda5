import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ace_jax import relaxations
from ace_jax.training import parallel

X = jax.random.normal(jax.random.key(1), (5, 6))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ("branch", "parameters"),
  [
    (relaxations.Linear(4), 6 * 4),
    (relaxations.LowRank(4, rank=2), 6 * 2 + 2 * 4),
    (relaxations.MLP(4), 6 * 8 + 8 + 8 * 4 + 4 + 4 * 4 + 4),
    (relaxations.SpectralMLP(4), 6 * 8 + 8 + 8 * 4 + 4 + 4 * 4 + 4),
  ],
)
def test_shapes_and_parameter_counts(branch, parameters):
  variables = branch.init(KEY, X)
  assert branch.apply(variables, X).shape == (5, 4)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters


def test_a_relaxation_gives_layers_its_branch_or_the_default():
  relaxation = relaxations.Relaxation(scale="fixed", axis_name="data")
  assert hash(relaxation) == hash(relaxations.Relaxation(None, "fixed", "data"))
  layer = relaxation.layer(name="layer", initial_gamma=0.5)
  assert (layer.branch, layer.scale, layer.axis_name) == (relaxations.MLP, "fixed", "data")
  assert (layer.name, layer.initial_gamma) == ("layer", 0.5)
  assert relaxation.layer(relaxations.Linear).branch is relaxations.Linear
  chosen = dataclasses.replace(relaxation, branch=relaxations.LowRank)
  assert chosen.layer(relaxations.Linear).branch is relaxations.LowRank


def test_spectral_norm_and_its_gradient():
  kernel = jax.random.normal(KEY, (7, 5))
  u, s, vt = np.linalg.svd(kernel)
  value, gradient = jax.value_and_grad(relaxations.spectral_norm)(kernel, 100)
  np.testing.assert_allclose(value, s[0], rtol=1e-5)
  np.testing.assert_allclose(gradient, np.outer(u[:, 0], vt[0]), atol=1e-4)


def test_spectral_norm_on_a_mesh():
  kernels = jax.random.normal(KEY, (2, 7, 5))
  norm = functools.partial(relaxations.spectral_norm, iterations=100)
  values = parallel.over_replicas(norm, parallel.make_mesh(replica=2))(kernels)
  np.testing.assert_allclose(values, np.linalg.norm(kernels, 2, axis=(1, 2)), rtol=1e-5)


def test_spectral_mlp_is_lipschitz():
  branch = relaxations.SpectralMLP(4, bound=0.5, iterations=100)
  variables = branch.init(KEY, X)
  jacobian = jax.vmap(jax.jacobian(lambda x: branch.apply(variables, x)))(X)
  assert np.linalg.norm(jacobian, 2, axis=(1, 2)).max() <= 0.5**3 * 1.001


@pytest.mark.parametrize("gelu", [relaxations.gelu, relaxations.exact_gelu])
def test_gelu_is_the_exact_one(gelu):
  np.testing.assert_allclose(gelu(jnp.float32(1.0)), 0.8413447, rtol=1e-6)
  with jax.enable_x64(True):
    x, density = np.linspace(-6, 6, 49), lambda x: np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    phi = 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14)
    close(jax.vmap(gelu)(x), x * phi)
    close(jax.vmap(jax.grad(gelu))(x), phi + x * density(x))
    close(jax.vmap(jax.grad(jax.grad(gelu)))(x), (2 - x**2) * density(x))


def test_gelu_has_derivatives_under_shard_map():
  # Of something that varies over the mesh; refused by jax.nn.gelu from JAX 0.12 on.
  def second(x):
    slope = jax.grad(lambda x: jnp.sum(relaxations.gelu(x)))
    return slope(x), jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]

  x = jnp.linspace(-3, 3, 8)
  mesh = parallel.make_mesh(4)
  specs = PartitionSpec("data")
  derivatives = jax.jit(jax.shard_map(second, mesh=mesh, in_specs=specs, out_specs=specs))(x)
  for a, b in zip(derivatives, second(x), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
