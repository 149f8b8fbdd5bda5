import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import homotopy
from ace_jax.models import cnn
from ace_jax.symmetry import actions, equivariance_error, groups, lie_derivatives
from tests.values import drawn

SIDE = 8
SHIFTS = groups.cyclic_shifts(SIDE, SIDE)
act = actions.shifted((-3, -2))


def images(count=3):
  return jax.random.normal(jax.random.key(0), (count, SIDE, SIDE, 1), float)


def small(**changes):
  return cnn.ConvNet(**{"widths": (4, 4), "dilations": (1, 2), "classes": 3, **changes})


def made(network, x):
  variables = drawn(network.init)(jax.random.key(1), x)
  return jax.tree.map(lambda a: a.astype(float), variables)


def invariance(network, variables, x):
  elements = SHIFTS.sample(jax.random.key(2), 5)
  return equivariance_error(
    lambda x: network.apply(variables, x), x, elements, act, actions.invariant
  )


def test_the_projection_is_invariant_under_shifts_and_branches_are_not():
  with jax.enable_x64(True):
    x = images()
    variables = made(small(), x)
    assert set(homotopy.by_name(variables["gamma"])) == {"layers_0", "layers_1"}
    assert invariance(small(), homotopy.project(variables), x) < 1e-12
    assert invariance(small(), variables, x) > 1e-2


@pytest.mark.parametrize(
  "changes",
  [{"padding": "SAME"}, *({"downsample": d} for d in (cnn.subsample, cnn.max_pool, cnn.blur_pool))],
)
def test_padding_and_subsampling_take_the_invariance(changes):
  with jax.enable_x64(True):
    x = images()
    network = small(**changes)
    assert invariance(network, homotopy.project(made(network, x)), x) > 1e-3


def test_a_trous_is_the_strided_network_at_every_pixel():
  with jax.enable_x64(True):
    x = images()
    strided = small(dilations=(1, 1), downsample=cnn.subsample)
    variables = homotopy.prune(made(strided, x))

    def maps(network, x):
      _, kept = network.apply(variables, x, mutable=["intermediates"])
      return kept["intermediates"]["layers_1"]["output"][0]

    dense = maps(small(), x)
    for shift in ([0, 0], [1, 0], [0, 1]):
      outputs = maps(strided, act(jnp.array(shift), x))
      expected = act(jnp.array(shift), dense)[:, ::2, ::2]
      np.testing.assert_allclose(outputs, expected, atol=1e-12)


def test_waves_are_orthonormal_and_have_no_mean():
  waves = np.asarray(cnn.torus_waves(8, 6, 2), np.float64).reshape(48, -1)
  assert waves.shape[1] == 5 * 5 - 1
  np.testing.assert_allclose(waves.T @ waves / 48, np.eye(24), atol=1e-6)
  np.testing.assert_allclose(waves.mean(0), 0, atol=1e-6)


def test_downsampling_is_what_it_is_called():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(16.0)
  assert cnn.subsample(x).sum() == 0
  np.testing.assert_array_equal(cnn.max_pool(x)[0, :, :, 0], [[16, 0], [0, 0]])
  # The largest of 2 x 2 puts 16 at rows and columns 0 and 1; blurred, 12 = 16 (2 + 1) / 4 each way.
  np.testing.assert_array_equal(cnn.blur_pool(x)[0, :, :, 0], [[9, 3], [3, 1]])


def test_translations_by_whole_pixels_are_shifts_and_others_interpolate():
  with jax.enable_x64(True):
    x = images()
    move = actions.translated((1, 2))
    np.testing.assert_allclose(move(jnp.array([3, 5]), x), act(jnp.array([3, 5]), x), atol=1e-12)
    # A wave of period 8 along the rows, seen at every second pixel and moved by one.
    rows = jnp.arange(SIDE)[:, None]
    wave = jnp.cos(2 * jnp.pi * rows / SIDE) * jnp.ones((1, SIDE))
    moved = jnp.cos(2 * jnp.pi * (rows - 1) / SIDE) * jnp.ones((1, SIDE))
    shifted = actions.translated((0, 1), stride=2)(jnp.array([1.0, 0.0]), wave[::2, ::2])
    np.testing.assert_allclose(shifted, moved[::2, ::2], atol=1e-12)


def test_generators_of_shifts_move_one_axis():
  curves = SHIFTS.generators
  assert list(curves["shift_y"](jnp.array(3))) == [3, 0]
  assert list(curves["shift_x"](jnp.array(3))) == [0, 3]
  with jax.enable_x64(True):
    x = images()
    # d/dt of sum_p w_p x_p(t), for w = sin along the columns, is that of the interpolation.
    columns = 2 * jnp.pi * jnp.arange(SIDE) / SIDE
    wave = jnp.cos(columns)[None, None, :, None] * jnp.ones_like(x)

    def project(x):
      return jnp.sum(x * jnp.sin(columns)[:, None], (1, 2))

    move = actions.translated((1, 2))
    derivatives = lie_derivatives(project, wave, curves, move, actions.invariant)
    # The wave is moved to cos(columns - 2 pi t / 8): the sum becomes 32 sin(2 pi t / 8).
    np.testing.assert_allclose(derivatives["shift_x"], 32 * 2 * np.pi / SIDE, rtol=1e-12)
    np.testing.assert_allclose(derivatives["shift_y"], 0, atol=1e-10)
