import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import Homotopic, homotopy, symmetry
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP
from ace_jax.symmetry import actions, groups

BIAS = jnp.array([3.0, 4.0, 12.0])


def shifted_identity(x):
  return x + BIAS


def test_errors_in_closed_form():
  # f(x) = x + b under rotations: f(R x) - R f(x) = b - R b.
  x = jax.random.normal(jax.random.key(0), (6, 3))
  elements = groups.so3().sample(jax.random.key(1), 5)
  statistics = symmetry.equivariance_statistics(
    shifted_identity, x, elements, actions.vector, actions.vector
  )
  each = np.linalg.norm(BIAS - elements.matrix @ BIAS, axis=1)
  assert statistics.mean == pytest.approx(each.mean(), rel=1e-5)
  assert statistics.largest == pytest.approx(each.max(), rel=1e-5)
  assert statistics.quantiles[2] == pytest.approx(np.median(each), rel=1e-5)
  norms = np.linalg.norm(x + BIAS, axis=1)
  assert statistics.relative == pytest.approx(each.mean() / norms.mean(), rel=1e-5)


def test_lie_derivatives_in_closed_form():
  # d/dt R(-t) (R(t) x + b) = -A b: the distance of b from the axis.
  x = jax.random.normal(jax.random.key(0), (6, 3))
  derivatives = symmetry.lie_derivatives(
    shifted_identity, x, groups.so3().generators, actions.vector, actions.vector
  )
  for axis, length in {"x": 160.0, "y": 153.0, "z": 25.0}.items():
    np.testing.assert_allclose(derivatives[f"rotation_{axis}"], np.full(6, length**0.5), rtol=1e-5)
  # Of f(x) = 2 x as a map of positions to positions under translations: d/dt (2 (x + t e) - t e).
  derivatives = symmetry.lie_derivatives(
    lambda x: 2 * x, x, groups.translations().generators, actions.position, actions.position
  )
  np.testing.assert_allclose(derivatives["translation_y"], np.ones(6), rtol=1e-6)


def test_lie_derivatives_are_limits_of_differences():
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), (4, 3), float)
    model = MLP(3, (5,))
    variables = model.init(jax.random.key(1), x)
    variables = jax.tree.map(lambda a: a.astype(float), variables)
    curves = groups.se3().generators

    def function(x):
      return model.apply(variables, x)

    derivatives = symmetry.lie_derivatives(function, x, curves, actions.position, actions.vector)
    step = jnp.float64(1e-5)
    for name, curve in curves.items():
      ends = [
        actions.vector(curve(-t), function(actions.position(curve(t), x))) for t in (step, -step)
      ]
      expected = jnp.linalg.norm((ends[0] - ends[1]) / (2 * step), axis=1)
      np.testing.assert_allclose(derivatives[name], expected, rtol=1e-7)


class Vectors(nn.Module):
  """Two layers on vectors, equivariant but for their homotopic branches."""

  @nn.compact
  def __call__(self, x):
    for i in range(2):
      x = Homotopic(MLP, name=f"layer_{i}")(x * (1 + jnp.linalg.norm(x, axis=-1, keepdims=True)), x)
    return x


def test_layers_are_measured_by_name():
  x = jax.random.normal(jax.random.key(0), (4, 3))
  variables = Vectors().init(jax.random.key(1), x)
  elements = groups.so3().sample(jax.random.key(2), 3)

  def measure(variables):
    names = homotopy.names(variables["gamma"]) if "gamma" in variables else ["layer_0", "layer_1"]
    return symmetry.equivariance_statistics(
      lambda x: symmetry.layer_outputs(Vectors(), variables, x),
      x,
      elements,
      actions.vector,
      dict.fromkeys(names, actions.vector),
    )

  relaxed, strict = measure(variables), measure(homotopy.project(variables))
  assert set(relaxed) == {"layer_0", "layer_1"}
  assert min(error.relative for error in relaxed.values()) > 1e-2
  assert max(error.relative for error in strict.values()) < 1e-6
  with pytest.raises(ConfigurationError, match="no homotopic layer"):
    symmetry.layer_outputs(nn.Dense(3), {"params": {"kernel": jnp.eye(3), "bias": BIAS}}, x)


def test_the_fit_of_symmetric_data_loses_by_a_broken_model_alone():
  x = jax.random.normal(jax.random.key(0), (50, 3))
  batch = {"x": x, "y": 2 * x}
  act = actions.act_on({"x": actions.vector, "y": actions.vector})
  times = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
  curve = groups.so3().generators["rotation_z"]

  def lost(function):
    def loss(batch):
      return jnp.sum(jnp.square(function(batch["x"]) - batch["y"]), -1)

    return symmetry.data_fit_loss(loss, batch, curve, act, times)

  np.testing.assert_allclose(lost(lambda x: 1.5 * x), np.zeros(50), atol=1e-4)
  # This one fits where x_0 > 0 alone; turned by a uniform angle, a point is there half the time.
  losses = lost(lambda x: 2 * x * (x[:, :1] > 0))
  square = 4 * jnp.sum(jnp.square(x), -1)
  half = np.mean(jnp.cos(times[:, None] + jnp.arctan2(x[:, 1], x[:, 0])) <= 0, axis=0)
  np.testing.assert_allclose(losses, square * (half - (x[:, 0] <= 0)), rtol=1e-4, atol=1e-4)
