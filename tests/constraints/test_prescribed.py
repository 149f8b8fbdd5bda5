"""Gammas that nobody learns, against numpy and the distribution they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import ace_jax
from ace_jax.constraints.prescribed import RandomHomotopy, Swing
from ace_jax.errors import ConfigurationError
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.primal_dual import PrimalDual
from ace_jax.training import parallel

GAMMA = {"a": {"gamma": jnp.ones(())}, "b": {"gamma": jnp.ones(3)}, "c": {"gamma": jnp.ones(())}}
# The loss is the mean of gamma (c's counts twice), and its gradient in w is 1.
SUM = ace_jax.Task(
  lambda variables, batch, key: (
    batch * (variables["gamma"]["a"]["gamma"] + 2 * variables["gamma"]["c"]["gamma"])
    + variables["params"]["w"],
    {},
  ),
  lambda prediction, batch: prediction,
)


METHOD = PrimalDual(SUM, primal_adam(1e-2), dual_optimizer("sgd", 1.0))


def begin(constraint):
  variables = {"params": {"w": jnp.zeros(())}, "gamma": GAMMA}
  return METHOD.init(variables, constraint, jax.random.key(0))


def by_numpy(t, layer, a, a0, tau, period, phase, start, end):
  t = t - start
  if t < 0:
    return 0.0
  amplitude = (a + (a0 - a) * np.exp(-t / tau)) * max(1 - t / end, 0)
  return amplitude * np.cos(2 * np.pi * (t / period + layer * phase))


def test_the_swing_of_the_issue_s_table():
  # A period of 2000 steps, the amplitude falls from 1 to 0.4 with a time constant of 900.
  rule = Swing()
  for t in (0, 1, 500, 900, 1000, 2000, 8999, 59_999):
    expected = by_numpy(t, 0, 0.4, 1, 900, 2000, 0, 0, np.inf)
    np.testing.assert_allclose(rule.levels(t, 8), np.full(8, expected), atol=2e-5)
  # Half a period on it is at its other end; and after six time constants near 0.4.
  np.testing.assert_allclose(rule.levels(1000, 1), -(0.4 + 0.6 * np.exp(-10 / 9)), rtol=1e-6)
  np.testing.assert_allclose(rule.levels(6000, 1), 0.4 + 0.6 * np.exp(-60 / 9), rtol=1e-4)


def test_phase_start_and_end_of_a_swing():
  numbers = {"a": 0.3, "a0": 0.7, "tau": 20.0, "period": 16.0, "phase": 0.25}
  rule = Swing(
    **{"amplitude": 0.3, "period": 16.0, "time_constant": 20.0, "phase": 0.25},
    **{"initial": 0.7, "start": 5.0, "steps": 40.0},
  )
  for t in (0, 4, 5, 6, 9, 25, 44, 45, 60):
    expected = [by_numpy(t, layer, **numbers, start=5, end=40) for layer in range(3)]
    np.testing.assert_allclose(rule.levels(t, 3), expected, atol=1e-6)
  assert rule.levels(4, 3).tolist() == rule.levels(45, 3).tolist() == [0, 0, 0]


def test_every_step_of_a_swing_takes_the_gamma_of_its_moment():
  rule = Swing(amplitude=0.5, period=7.0, time_constant=10.0, phase=0.1)
  state, step = begin(rule), jax.jit(METHOD.step)
  for t in range(6):
    w = float(state.primal.theta["w"])
    state, output = step(state, jnp.ones(4))
    expected = [by_numpy(t, layer, 0.5, 1, 10, 7, 0.1, 0, np.inf) for layer in range(3)]
    np.testing.assert_allclose(output.loss - w, expected[0] + 2 * expected[2], rtol=2e-5)
    assert float(output.gamma_norm) == 0
    after = [by_numpy(t + 1, layer, 0.5, 1, 10, 7, 0.1, 0, np.inf) for layer in range(3)]
    for layer, name in enumerate("abc"):  # the relaxed predictor has the gamma of the moment
      np.testing.assert_allclose(state.primal.gamma[name]["gamma"], after[layer], rtol=2e-5)
  assert state.primal.gamma["b"]["gamma"].shape == (3,)
  assert state.multipliers == {}


def drawn(rule, steps):
  state, step = begin(rule), jax.jit(METHOD.step)
  losses = []
  for _ in range(steps):
    w = float(state.primal.theta["w"])
    state, output = step(state, jnp.ones(4))
    losses.append(float(output.loss) - w)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.primal.gamma))
  return np.array(losses)


def test_a_random_homotopy_draws_anew_in_every_step_and_rests_at_zero():
  # gamma_a + 2 gamma_c is 3 U of one number for all layers.
  gammas = drawn(RandomHomotopy(), 200) / 3
  assert len(np.unique(gammas)) == 200
  assert 0 <= gammas.min() < 0.05
  assert 0.95 < gammas.max() < 1
  np.testing.assert_allclose(gammas.mean(), 0.5, atol=4 * np.sqrt(1 / 12 / 200))


@pytest.mark.parametrize(("draws", "variance"), [("all", 9 / 12), ("layer", 5 / 12)])
def test_one_number_for_all_layers_or_one_a_layer(draws, variance):
  keys = jax.random.split(jax.random.key(1), 4000)
  gammas = jax.vmap(lambda key: RandomHomotopy(draws=draws).draw(key, GAMMA))(keys)
  a, c = gammas["a"]["gamma"], gammas["c"]["gamma"]
  np.testing.assert_array_equal(gammas["b"]["gamma"][:, 0], gammas["b"]["gamma"][:, 2])
  np.testing.assert_allclose(np.var(a + 2 * c), variance, rtol=0.06)
  # The shares in ten equal parts of [0, 1] are 400 each, within four deviations.
  counts = np.histogram(a, 10, (0, 1))[0]
  assert np.all(np.abs(counts - 400) < 4 * np.sqrt(400 * 0.9))
  with pytest.raises(ConfigurationError, match="one of all, layer"):
    RandomHomotopy(draws="some").draw(keys[0], GAMMA)


def test_all_devices_take_the_gamma_that_one_alone_takes():
  losses = []
  for devices in (1, 4):
    rule = begin(RandomHomotopy(draws="layer", axis_name="data"))
    mesh = parallel.make_mesh(devices)
    specs = (PartitionSpec(), PartitionSpec("data"))
    call = jax.shard_map(
      lambda state, batch: METHOD.gradients(state, batch, "data").loss,
      mesh=mesh,
      in_specs=specs,
      out_specs=PartitionSpec(),
    )
    losses.append(float(jax.jit(call)(rule, jnp.ones(8))))
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)  # but for the order of a sum
  assert 0 < losses[0] < 3
