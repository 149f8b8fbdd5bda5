import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ace_jax
from ace_jax.constraints import on_gamma as constraints
from ace_jax.constraints.base import Terms
from ace_jax.optimizers import dual_optimizer, nu_pi
from ace_jax.primal_dual import ascend, lagrangian
from ace_jax.state import Primal

GAMMA = {"a": jnp.array([0.5, -2.0, 0.0])}
SLACK = {"a": jnp.array([1.0, 0.5, 0.0])}
PRIMAL = Primal({}, GAMMA, SLACK)


@pytest.mark.parametrize(
  ("constraint", "violation", "cost"),
  [
    (ace_jax.Equality(), [0.5, -2.0, 0.0], 0),
    (ace_jax.OneSided(), [0.5, -2.0, 0.0], 0),
    (ace_jax.Inequality(epsilon=0.3), [0.2, 1.7, -0.3], 0),
    (ace_jax.Resilient(rho=4.0), [-0.5, 1.5, 0.0], 2 * 1.25),
    (ace_jax.Ridge(rho=4.0), None, 2 * 4.25),
    (ace_jax.Unconstrained(), None, 0),
  ],
)
def test_violation_and_cost(constraint, violation, cost):
  violations = constraint.violation(PRIMAL)
  assert (violations == {}) if violation is None else True
  if violation is not None:
    np.testing.assert_allclose(violations["a"], violation, rtol=1e-6)
  np.testing.assert_allclose(constraint.cost(PRIMAL), cost, rtol=1e-6)


def test_projections():
  negative = {"a": jnp.array([-1.0, 2.0, 0.0])}
  primal = Primal({}, GAMMA, negative)
  for constraint, multipliers, slack in (
    (ace_jax.Equality(), [-1, 2, 0], [-1, 2, 0]),
    (ace_jax.Inequality(), [0, 2, 0], [-1, 2, 0]),
    (ace_jax.Resilient(), [0, 2, 0], [0, 2, 0]),
    (ace_jax.PublishedResilient(), [0, 2, 0], [-1, 2, 0]),
  ):
    after, updated, _ = constraint.update(primal, negative, {}, None, jnp.int32(0))
    np.testing.assert_array_equal(updated["a"], multipliers)
    np.testing.assert_array_equal(after.slack["a"], slack)
    np.testing.assert_array_equal(after.gamma["a"], GAMMA["a"])


def test_gradient_of_magnitude_is_sign_and_zero_at_zero():
  gradient = jax.grad(lambda g: jnp.sum(constraints.magnitude(g)))(GAMMA["a"])
  np.testing.assert_array_equal(gradient, [1, -1, 0])


@pytest.mark.parametrize(
  ("constraint", "penalty"),
  [
    (ace_jax.Equality(augmented=3.0), 0.25 + 4),
    (ace_jax.Inequality(0.3, augmented=3.0), 0.04 + 2.89),
  ],
)
def test_lagrangian_value(constraint, penalty):
  violation = constraint.violation(PRIMAL)
  multipliers = {"a": jnp.array([1.0, 2.0, 3.0])}
  terms = Terms(jnp.float32(10), jnp.float32(0.5), violation, {})
  expected = 10.5 + np.dot([1, 2, 3], violation["a"]) + 1.5 * penalty
  np.testing.assert_allclose(lagrangian(constraint, terms, multipliers), expected, rtol=1e-6)


def test_sgd_is_textbook_dual_ascent():
  multipliers, _ = ascend(
    optax.sgd(0.1), {"a": jnp.array([2.0])}, {"a": jnp.array([1.0])}, optax.sgd(0.1).init({})
  )
  np.testing.assert_allclose(multipliers["a"], [1.2])


def test_nu_pi_follows_its_recurrence():
  rule = nu_pi(0.1, proportional=2.0, nu=0.5)
  value, state = jnp.array(0.0), rule.init(jnp.array(0.0))
  # xi: 0.5, 1.25, 0.125; lambda += 0.1 v + 2 (change of xi).
  for violation, expected in ((1.0, 1.1), (2.0, 1.1 + 0.2 + 1.5), (-1.0, 2.8 - 0.1 - 2.25)):
    value, state = ascend(rule, jnp.array(violation), value, state)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_unknown_dual_optimizer():
  with pytest.raises(ValueError, match="choose one of sgd, adam, nu_pi"):
    dual_optimizer("newton", 0.1)
