import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ace_jax.relaxations import MLP
from ace_jax.symmetry import bounds, groups

CHANNELS, LAYERS = 2, 3
BRANCH = MLP(3 * CHANNELS, (4,), jnp.tanh)


def random_model(seed):
  """Equivariant channel mixings [3, channels] -> [3, channels], and a perceptron beside each."""
  keys = jax.random.split(jax.random.key(seed), 2 * LAYERS)
  mixings = [jax.random.normal(k, (CHANNELS, CHANNELS)) / 1.5 for k in keys[:LAYERS]]
  branches = [BRANCH.init(k, jnp.zeros(3 * CHANNELS)) for k in keys[LAYERS:]]
  return mixings, branches


def apply(model, gammas, x):
  for mixing, branch, gamma in zip(*model, gammas, strict=True):
    x = x @ mixing + gamma * BRANCH.apply(branch, x.reshape(-1)).reshape(3, CHANNELS)
  return x


def constants(model, gammas, radius):
  layers = []
  for mixing, branch, gamma in zip(*model, gammas, strict=True):
    lipschitz = bounds.perceptron_lipschitz(branch["params"], "tanh")
    at_zero = jnp.linalg.norm(BRANCH.apply(branch, jnp.zeros(3 * CHANNELS)))
    size = bounds.ball_size(at_zero, lipschitz, radius)
    layer = bounds.LayerConstants(gamma, bounds.operator_norm(mixing), lipschitz, size, True)
    layers.append(layer)
    radius = bounds.output_radius(layer, radius)
  return layers


def inputs(key, radius=2.0, count=20):
  x = jax.random.normal(key, (count, 3, CHANNELS))
  return radius * x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True)


@jax.jit
def measured(model, gammas, x, rotations):
  def error(x, g):
    return jnp.linalg.norm(apply(model, gammas, g @ x) - g @ apply(model, gammas, x))

  return jax.vmap(lambda x: jax.vmap(lambda g: error(x, g))(rotations))(x)


@settings(max_examples=40, deadline=None)
@given(
  seed=st.integers(0, 10_000),
  gammas=st.lists(st.floats(-1.5, 1.5, width=32), min_size=LAYERS, max_size=LAYERS),
)
def test_measured_errors_are_below_the_certificate(seed, gammas):
  model, x = random_model(seed), inputs(jax.random.key(seed + 1))
  gammas = jnp.array(gammas)
  rotations = groups.random_rotations(jax.random.key(seed + 2), 8)
  layers = constants(model, gammas, 2.0)
  bound = bounds.equivariance_bound(layers)
  assert bound.certified
  errors = jax.jit(measured)(model, gammas, x, rotations)
  assert errors.max() <= bound.value * (1 + 1e-5) + 1e-5
  moved = jax.vmap(lambda x: apply(model, gammas, x) - apply(model, jnp.zeros(LAYERS), x))(x)
  limit = bounds.projection_bound(layers).value
  assert jnp.linalg.norm(moved, axis=(1, 2)).max() <= limit * (1 + 1e-5) + 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_errors_grow_linearly_in_a_small_gamma(seed):
  with jax.enable_x64(True):
    model = jax.tree.map(lambda a: a.astype(float), random_model(seed))
    x = inputs(jax.random.key(1)).astype(float)
    rotations = groups.random_rotations(jax.random.key(2), 8).astype(float)
    rotations = jnp.linalg.qr(rotations)[0]
    sizes = np.geomspace(1e-5, 1e-3, 5)
    direction = jnp.array([1.0, -0.5, 0.25])
    errors = [float(measured(model, s * direction, x, rotations).mean()) for s in sizes]
    limits = [
      float(bounds.equivariance_bound(constants(model, s * direction, 2.0)).value) for s in sizes
    ]
  for values in (errors, limits):
    slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    assert slope == pytest.approx(1, abs=0.05)


def test_the_bound_in_numbers():
  first = bounds.LayerConstants(0.5, 2.0, 3.0, 4.0, True)
  second = bounds.LayerConstants(jnp.array([0.1, -0.2]), 1.0, 5.0, 6.0, False)
  # 0.5 * 4 * (1 + 0.2 * 5) + 0.2 * 6 = 5.2
  bound = bounds.projection_bound([first, second])
  assert bound.value == pytest.approx(5.2)
  assert not bound.certified
  assert bounds.equivariance_bound([first, second]).value == pytest.approx(10.4)
  assert bounds.output_radius(first, 3.0) == pytest.approx(8.0)


def test_estimates_of_a_linear_map_are_exact():
  matrix = jax.random.normal(jax.random.key(0), (4, 3))
  points = jax.random.normal(jax.random.key(1), (3, 4))
  estimate = bounds.estimate_lipschitz(lambda x: x @ matrix, points, jax.random.key(2), 100)
  assert estimate == pytest.approx(float(bounds.operator_norm(matrix)), rel=1e-4)
  estimate = bounds.estimate_size(lambda x: x @ matrix, points)
  assert estimate == pytest.approx(float(jnp.linalg.norm(points @ matrix, axis=1).max()), rel=1e-5)


@pytest.mark.parametrize("name", bounds.ACTIVATION_LIPSCHITZ)
def test_slopes_of_activations(name):
  function = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  }[name]
  slopes = jnp.abs(jax.vmap(jax.grad(function))(jnp.linspace(-6, 6, 20_001)))
  assert slopes.max() <= bounds.ACTIVATION_LIPSCHITZ[name]
  assert slopes.max() == pytest.approx(bounds.ACTIVATION_LIPSCHITZ[name], abs=1e-3)
