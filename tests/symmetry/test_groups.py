import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import actions, groups

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ("group", "determinants"),
  [
    (groups.so2("x"), {1}),
    (groups.so3(), {1}),
    (groups.o3(), {-1, 1}),
    (groups.se3(2.0), {1}),
    (groups.e3(2.0), {-1, 1}),
    (groups.translations(2.0), {1}),
  ],
)
def test_motions_are_orthogonal_and_bounded(group, determinants):
  motions = group.sample(KEY, 64)
  matrix = np.asarray(motions.matrix, np.float64)
  np.testing.assert_allclose(
    matrix @ matrix.swapaxes(1, 2), np.broadcast_to(np.eye(3), (64, 3, 3)), atol=1e-6
  )
  assert set(np.round(np.linalg.det(matrix)).astype(int)) == determinants
  assert np.linalg.norm(motions.shift, axis=1).max() <= 2.0
  for curve in group.generators.values():
    start = curve(jnp.zeros(()))
    np.testing.assert_allclose(start.matrix, np.eye(3))
    np.testing.assert_allclose(start.shift, np.zeros(3))


def test_rotations_are_uniform():
  # Under the Haar measure E[R] = 0 and E[trace(R)^2] = 1.
  matrices = groups.so3().sample(KEY, 20_000).matrix
  np.testing.assert_allclose(matrices.mean(0), np.zeros((3, 3)), atol=0.02)
  assert np.mean(np.trace(matrices, axis1=1, axis2=2) ** 2) == pytest.approx(1, abs=0.03)


def test_rotation_about_an_axis_follows_the_right_hand():
  turn = groups.rotation("z", jnp.pi / 2)
  np.testing.assert_allclose(turn @ jnp.array([1.0, 0, 0]), [0, 1, 0], atol=1e-6)
  turn = groups.rotation("y", jnp.pi / 2)
  np.testing.assert_allclose(turn @ jnp.array([0, 0, 1.0]), [1, 0, 0], atol=1e-6)
  with pytest.raises(ValueError, match="does not exist"):
    groups.rotation("w", jnp.zeros(()))


def test_permutations_shifts_and_time_reversal_act():
  order = groups.permutations(4).sample(KEY, 3)
  assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(4), (3, 1)))
  x = jnp.arange(8.0).reshape(2, 4)
  np.testing.assert_array_equal(actions.permuted(1)(order[0], x), x[:, order[0]])
  move = groups.cyclic_shifts(3, 5).sample(KEY, 50)
  assert move.min() >= 0
  assert np.array_equal(move.max(0), [2, 4])
  image = jnp.arange(15.0).reshape(1, 3, 5)
  moved = actions.shifted((1, 2))(jnp.array([1, 2]), image)
  assert moved[0, 1, 2] == image[0, 0, 0]
  signs = groups.time_reversal().sample(KEY, 20)
  assert set(np.asarray(signs)) == {-1.0, 1.0}
  act = actions.act_on({"q": actions.invariant, "p": actions.odd})
  reversed_state = act(jnp.float32(-1), {"q": x, "p": x})
  np.testing.assert_array_equal(reversed_state["q"], x)
  np.testing.assert_array_equal(reversed_state["p"], -x)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("parity", [-1, 1])
def test_irreps_turn_as_e3nn_says(degree, parity):
  for matrix in groups.o3().sample(KEY, 4).matrix:
    wigner = actions.wigner(degree, parity, matrix)
    expected = e3nn.Irrep(degree, parity).D_from_matrix(matrix)
    np.testing.assert_allclose(wigner, expected, atol=2e-5)


def test_harmonics_are_equivariant_under_the_action():
  layout = e3nn.Irreps.spherical_harmonics(2)
  x = jax.random.normal(KEY, (5, 3))
  element = jax.tree.map(lambda a: a[1], groups.o3().sample(KEY, 2))

  def harmonics(x):
    return e3nn.spherical_harmonics(layout, x, normalize=True).array

  turned = actions.irreps(str(layout))(element, harmonics(x))
  np.testing.assert_allclose(turned, harmonics(actions.vector(element, x)), atol=1e-5)


def test_component_major_irreps():
  x = jax.random.normal(KEY, (7, 3, 2))  # component, channel
  element = jax.tree.map(lambda a: a[0], groups.so3().sample(KEY, 1))
  turned = actions.irreps("2x1o", component_major=True)(element, x.reshape(7, 6))
  expected = jnp.einsum("ij,nju->niu", element.matrix, x).reshape(7, 6)
  np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_actions_that_do_not_fit():
  element = jax.tree.map(lambda a: a[0], groups.so3().sample(KEY, 1))
  with pytest.raises(ConfigurationError, match="acts on a last axis of 3"):
    actions.vector(element, jnp.zeros((2, 4)))
  with pytest.raises(ConfigurationError, match="acts on a last axis of 9"):
    actions.irreps("3x1o")(element, jnp.zeros((2, 4)))
  act = actions.act_on({"positions": actions.position})
  with pytest.raises(ConfigurationError, match="does not fit the data"):
    act(element, {"positions": jnp.zeros((2, 3)), "velocities": jnp.zeros((2, 3))})
  with pytest.raises(ConfigurationError, match="permutation of 3 cannot act"):
    actions.permuted(0)(jnp.arange(3), jnp.zeros((4,)))
