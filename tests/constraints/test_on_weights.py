"""Penalties on weights: the projection of linear maps, both rules, their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ace_jax import relaxations, task
from ace_jax.constraints.on_weights import ProjectionRegulariser, ResidualPathway
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Homotopic, Irreps
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import Primal
from ace_jax.symmetry import actions, groups, reynolds

# Two blocks of one irrep, an irrep of another parity, a degree that the outputs lack.
INPUTS, OUTPUTS = "2x0e+1x1o+2x1o+1x1e+1x2e", "1x0e+2x1o+1x2e+1x3o"
SHAPE = (2 + 3 + 6 + 3 + 5, 1 + 6 + 5 + 7)


def rotations(count, key=0):
  """Elements of O(3), orthogonal to the last bit of float64."""
  matrix = groups.o3().sample(jax.random.key(key), count).matrix.astype(jnp.float64)
  q, r = jnp.linalg.qr(matrix)
  matrix = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
  return groups.Motion(matrix, jnp.zeros((count, 3), jnp.float64))


def moved(kernel, element):
  """rho_in(g)^T W rho_out(g), by the representations that the models' errors are measured with."""
  inputs, outputs = (actions.irreps(layout, component_major=True) for layout in (INPUTS, OUTPUTS))
  inverse = groups.Motion(element.matrix.T, element.shift)
  return outputs(inverse, inputs(inverse, kernel.T).T)


def test_the_projection_is_the_mean_over_the_group():
  with jax.enable_x64(True):
    kernel = jax.random.normal(jax.random.key(0), SHAPE, jnp.float64)
    project = jax.jit(lambda w: reynolds.project(w, INPUTS, OUTPUTS))
    projected = project(kernel)
    # 0e to 0e: 2 numbers, 1o to 1o: 3 x 2, 2e to 2e: 1; nothing maps 1e, or to 3o.
    basis = np.eye(np.prod(SHAPE)).reshape(-1, *SHAPE)
    rank = np.linalg.matrix_rank([np.ravel(project(w)) for w in basis])
    assert rank == 2 + 3 * 2 + 1
    np.testing.assert_allclose(project(projected), projected, atol=1e-14)
    turned = jax.jit(jax.vmap(moved, (None, 0)))(projected, rotations(20))
    np.testing.assert_allclose(turned, jnp.broadcast_to(projected, turned.shape), atol=1e-12)
    count = 4000
    drawn = jax.jit(lambda g: jax.vmap(moved, (None, 0))(kernel, g))(rotations(count, 1))
    assert np.std(drawn) > 0.5
    error = np.max(np.abs(np.mean(drawn, 0) - projected))
    assert error < 6 * np.max(np.std(drawn, 0)) / np.sqrt(count)
    # W - P W stands at right angles on all equivariant maps: W^T W = |P W|^2 + |W - P W|^2.
    np.testing.assert_allclose(jnp.sum(projected * (kernel - projected)), 0, atol=1e-12)


def test_the_projection_by_hand():
  kernel = jnp.diag(jnp.array([1.0, 2.0, 6.0])).at[0, 2].set(5.0)
  np.testing.assert_allclose(reynolds.project(kernel, "1x1o", "1x1o"), 3 * np.eye(3), rtol=1e-6)
  assert not np.any(reynolds.project(kernel, "1x1o", "1x1e"))
  assert not np.any(reynolds.project(kernel, "3x0e", "1x1o"))
  np.testing.assert_array_equal(reynolds.project(kernel, "3x0e", "3x0e"), kernel)


class Vectors(nn.Module):
  """x -> c x + gamma x W, two layers."""

  irreps: bool = True
  branch: type[nn.Module] = relaxations.Linear

  @nn.compact
  def __call__(self, x):
    irreps = Irreps("1x1o", "1x1o") if self.irreps else None
    for i in range(2):
      scale = self.param(f"scale_{i}", nn.initializers.constant(0.5), ())
      x = Homotopic(self.branch, irreps=irreps, name=f"layer_{i}")(scale * x, x)
    return x


def learned(network):
  return task.from_model(network, lambda y, batch: jnp.square(y - batch[1]), lambda b: b[:1])


def point(network, batch):
  variables = network.init(jax.random.key(0), batch[0])
  return Primal(variables["params"], jax.tree.map(lambda g: 0.3 * g, variables["gamma"]), {})


def batch_of(count):
  x = jax.random.normal(jax.random.key(3), (count, 3))
  return x, 2 * x


def terms_of(rule, primal, batch, network):
  return rule.terms(learned(network), primal, {}, batch, jax.random.key(1), rule.init_state({}))


def kernels(theta):
  return [np.asarray(theta[f"layer_{i}"]["relaxation"]["linear"]["kernel"]) for i in range(2)]


def test_what_both_rules_add_and_its_gradient():
  network, batch = Vectors(), batch_of(5)
  primal = point(network, batch)
  expected = network.apply(
    {"params": primal.theta, "gamma": jax.tree.map(jnp.ones_like, primal.gamma)}, batch[0]
  )
  loss = np.mean(np.square(expected - batch[1]))
  weights = kernels(primal.theta)
  free = sum(np.sum(np.square(w)) for w in weights)
  rest = [w - np.trace(w) / 3 * np.eye(3) for w in weights]
  cases = (
    (ResidualPathway(3.0, 0.7), 3.0 * 2 * 0.5**2 + 0.7 * free, [1.4 * w for w in weights], 3.0),
    (
      ProjectionRegulariser(0.7),
      0.7 * sum(np.sum(np.square(r)) for r in rest),
      [1.4 * r for r in rest],
      0.0,
    ),
  )
  for rule, cost, slopes, scale_slope in cases:
    terms = terms_of(rule, primal, batch, network)
    np.testing.assert_allclose([terms.loss, terms.cost], [loss, cost], rtol=1e-5)
    assert terms.model_state == {}

    def price(theta, rule=rule):
      return terms_of(rule, primal._replace(theta=theta), batch, network).cost

    gradient = jax.grad(price)(primal.theta)
    for slope, known in zip(kernels(gradient), slopes, strict=True):
      np.testing.assert_allclose(slope, known, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient["scale_0"], scale_slope, rtol=1e-6)


def test_equivariant_branches_cost_nothing():
  network, batch = Vectors(), batch_of(4)
  primal = point(network, batch)
  theta = traverse_util.flatten_dict(primal.theta)
  theta = {
    path: -2.0 * jnp.eye(3) if path[-1] == "kernel" else leaf for path, leaf in theta.items()
  }
  primal = primal._replace(theta=traverse_util.unflatten_dict(theta))
  assert terms_of(ProjectionRegulariser(0.7), primal, batch, network).cost < 1e-12
  assert terms_of(ResidualPathway(0.0, 1.0), primal, batch, network).cost == pytest.approx(24)


def test_gamma_is_one_after_a_step_and_the_penalty_trains():
  network, batch = Vectors(), batch_of(8)
  method = PrimalDual(learned(network), primal_adam(0.05), dual_optimizer("sgd", 0.1))
  variables = network.init(jax.random.key(0), batch[0])
  variables = {**variables, "gamma": jax.tree.map(lambda g: 0.3 * g, variables["gamma"])}
  left = {}
  for weight in (0.0, 10.0):
    state = method.init(variables, ProjectionRegulariser(weight), jax.random.key(0))
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: method.step(s, batch), s, length=150))(
      state
    )
    assert {float(g) for g in jax.tree.leaves(state.primal.gamma)} == {1.0}
    left[weight] = max(
      np.abs(w - np.trace(w) / 3 * np.eye(3)).max() for w in kernels(state.primal.theta)
    )
  assert left[10.0] < 0.01 < left[0.0]


def test_what_has_no_projection():
  batch = batch_of(2)
  for network, said in (
    (Vectors(branch=relaxations.MLP), "layer_0: the penalty needs a branch that is linear"),
    (Vectors(irreps=False), "layer_0: the penalty needs the representations"),
  ):
    with pytest.raises(ConfigurationError, match=said):
      terms_of(ProjectionRegulariser(), point(network, batch), batch, network)
  terms = terms_of(ResidualPathway(), point(network, batch), batch, network)
  assert terms.cost > 0
