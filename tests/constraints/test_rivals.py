"""Rival training rules against closed forms, on linear maps x -> x W of vectors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import ace_jax
from ace_jax import relaxations, task
from ace_jax.constraints import on_error, rivals
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Homotopic, Irreps
from ace_jax.models.segnn import SEGNN
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.primal_dual import PrimalDual
from ace_jax.state import Primal
from ace_jax.symmetry import actions, groups
from ace_jax.symmetry.data import Symmetry, measure
from ace_jax.training import parallel
from experiments.nbody.models import NBodySEGNN
from tests.marks import with_slow

VECTORS = Symmetry(
  groups.so3(),
  actions.act_on((actions.vector, actions.vector)),
  lambda element, prediction, batch: actions.vector(element, prediction),
)
QUARTER = groups.rotation("z", jnp.pi / 2)


def one_element(count):
  """A "group" that always draws the same rotation, so that every mean is exact."""
  matrix = jnp.broadcast_to(QUARTER, (count, 3, 3))
  return groups.Motion(matrix, jnp.zeros((count, 3)))


FIXED = Symmetry(
  groups.Group("one", lambda key, count: one_element(count)),
  VECTORS.act_batch,
  VECTORS.act_prediction,
)
LINEAR = ace_jax.Task(
  lambda variables, batch, key: (batch[0] @ variables["params"]["w"], {}),
  lambda prediction, batch: jnp.square(prediction - batch[1]),
)

TARGET = jnp.diag(jnp.array([1.0, 2.0, 3.0])).at[0, 1].set(0.5)


def batch_of(count, key=0):
  x = jax.random.normal(jax.random.key(key), (count, 3))
  return x, x @ TARGET


def terms_of(constraint, w, batch, constraint_state=None):
  primal = Primal({"w": w}, {}, constraint.init_slack({}))
  state = constraint.init_state({}) if constraint_state is None else constraint_state
  return constraint.terms(LINEAR, primal, {}, batch, jax.random.key(1), state)


def gap_of(w, x):
  moved = x @ QUARTER.T @ w
  return float(np.mean(np.square(moved - x @ w @ QUARTER.T)))


def moved_loss_of(w, x, y):
  """loss(f(R x), R y): anchored on the target, not on the prediction at x."""
  return float(np.mean(np.square(x @ QUARTER.T @ w - y @ QUARTER.T)))


def test_what_remul_and_the_rules_of_the_gap_add():
  w = jax.random.normal(jax.random.key(2), (3, 3))
  x, y = batch = batch_of(7)
  loss, gap, moved = float(np.mean(np.square(x @ w - y))), gap_of(w, x), moved_loss_of(w, x, y)
  assert abs(gap - moved) > 0.1 * gap
  terms = terms_of(rivals.Remul(beta=3.0, symmetry=FIXED), w, batch)
  np.testing.assert_allclose([terms.loss, terms.cost], [loss, 3 * moved], rtol=1e-5)
  terms = terms_of(rivals.GapPenalty(beta=3.0, symmetry=FIXED), w, batch)
  np.testing.assert_allclose([terms.loss, terms.cost], [loss, 3 * gap], rtol=1e-5)
  terms = terms_of(on_error.Functional(symmetry=FIXED, epsilon=0.25), w, batch)
  np.testing.assert_allclose(terms.violation["equivariance"], gap - 0.25, rtol=1e-5)
  # At the target's own map turned samples fit nothing new where it commutes with R, and only there.
  assert moved_loss_of(2 * np.eye(3), x, 2 * np.asarray(x)) < 1e-10
  assert terms_of(rivals.Remul(symmetry=FIXED), TARGET, batch).cost > 0.1


@pytest.mark.parametrize(
  ("objectives", "second_of"),
  [
    (rivals.loss_and_moved_loss, moved_loss_of),
    (on_error.loss_and_gap, lambda w, x, y: gap_of(w, x)),
  ],
)
def test_gradnorm_weighs_either_second_loss(objectives, second_of):
  w = jax.random.normal(jax.random.key(2), (3, 3))
  x, y = batch = batch_of(7)
  loss, second = float(np.mean(np.square(x @ w - y))), second_of(w, x, y)
  constraint_state = {"weights": jnp.array([0.5, 1.5])}
  rule = rivals.GradNorm(symmetry=FIXED, objectives=objectives)
  terms = terms_of(rule, w, batch, constraint_state)
  np.testing.assert_allclose(terms.loss + terms.cost, 0.5 * loss + 1.5 * second, rtol=1e-5)
  losses, norms = terms.aux
  np.testing.assert_allclose(losses, [loss, second], rtol=1e-5)
  slope = 2 * np.asarray(x).T @ (np.asarray(x @ w - y)) / x.size
  np.testing.assert_allclose(norms[0], np.linalg.norm(slope), rtol=1e-5)


def test_augmentation_turns_inputs_and_targets_alike():
  # R W = W R for a multiple of the identity, and only there: the loss is that of unmoved samples.
  batch = batch_of(5)
  terms = terms_of(rivals.Augment(symmetry=FIXED), 2 * jnp.eye(3), batch)
  np.testing.assert_allclose(terms.loss, np.mean(np.square(2 * batch[0] - batch[1])), rtol=1e-5)
  w = TARGET
  turned = [part @ QUARTER.T for part in batch]
  terms = terms_of(rivals.Augment(symmetry=FIXED), w, batch)
  np.testing.assert_allclose(terms.loss, np.mean(np.square(turned[0] @ w - turned[1])), rtol=1e-5)
  assert terms.loss > 0.1


def test_gradnorm_balances_two_quadratic_tasks():
  # Gradients of norms 4 and 1 that stay in step: w_1 4 = w_2, w_1 + w_2 = 2.
  rule = rivals.GradNorm(weight_lr=0.01, symmetry=FIXED)
  primal, constraint_state = Primal({}, {}, {}), rule.init_state({})

  @jax.jit
  def step(state, i):
    aux = (jnp.array([8.0, 0.5]), jnp.array([4.0, 1.0]))
    return rule.update(primal, {}, state, aux, i)[2], None

  constraint_state, _ = jax.lax.scan(step, constraint_state, jnp.arange(600))
  np.testing.assert_allclose(constraint_state["weights"], [0.4, 1.6], atol=0.05)
  np.testing.assert_allclose(constraint_state["initial"], [8.0, 0.5])

  # The second loss fell to a half: its pace is 2/3 of the mean, with a = 1 so are its gradients.
  rule = rivals.GradNorm(1.0, 0.003, symmetry=FIXED)
  constraint_state = {**rule.init_state({}), "initial": jnp.ones(2)}
  aux = (jnp.array([1.0, 0.5]), jnp.ones(2))
  step = jax.jit(lambda state, i: (rule.update(primal, {}, state, aux, i + 1)[2], None))
  constraint_state, _ = jax.lax.scan(step, constraint_state, jnp.arange(1000))
  np.testing.assert_allclose(constraint_state["weights"], [4 / 3, 2 / 3], atol=0.05)


def test_schedule_rises_to_one_and_falls_to_zero():
  rule = rivals.Schedule(10, symmetry=FIXED)
  levels = [float(rule.level(jnp.int32(t))) for t in (0, 1, 5, 7, 10, 11)]
  np.testing.assert_allclose(levels, [0, 0.2, 1, 0.6, 0, 0], atol=1e-6)
  primal = Primal({}, {"a": jnp.ones(3)}, {})
  after, _, constraint_state = rule.update(primal, {}, rule.init_state({}), None, jnp.int32(2))
  np.testing.assert_allclose(after.gamma["a"], [0.6] * 3, rtol=1e-6)
  np.testing.assert_allclose(constraint_state["level"], 0.6, rtol=1e-6)


def penalties(kernel, layout, x, irreps=True, branch=relaxations.Linear):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = Homotopic(branch, irreps=Irreps(*layout) if irreps else None, name="layer")
      return layer(jnp.zeros((*x.shape[:-1], kernel.shape[1])), x)

  net = Net()
  variables = net.init(jax.random.key(0), x)
  theta = {"layer": {"relaxation": {"linear": {"kernel": kernel}}}}
  if branch is not relaxations.Linear:
    theta = variables["params"]
  current = {"params": theta, "gamma": variables["gamma"]}
  _, kept = net.apply(current, x, mutable=["intermediates"])
  layers = traverse_util.flatten_dict(kept["intermediates"])
  return rivals.penalties(theta, variables["gamma"], layers, VECTORS)


def test_lie_bracket_penalty():
  x = jax.random.normal(jax.random.key(0), (4, 8))
  layout = ("2x0e+2x1o", "1x0e+1x1o")
  # Equivariant: mixes scalars with scalars, vectors with vectors, [component, channel].
  kernel = jnp.zeros((8, 4)).at[0, 0].set(2.0).at[1, 0].set(-1.0)
  for i in range(3):
    kernel = kernel.at[2 + 2 * i, 1 + i].set(3.0).at[3 + 2 * i, 1 + i].set(0.5)
  bracket, total = penalties(kernel, layout, x)
  np.testing.assert_allclose(bracket, 0, atol=1e-9)
  np.testing.assert_allclose(total, np.sum(np.square(x @ kernel)), rtol=1e-5)
  # W takes a vector's x component to a scalar: A W x = 0, and W A x is (A x)_x, which is 0 for
  # rotations about x, z for those about y and -y for those about z.
  kernel = jnp.zeros((3, 1)).at[0, 0].set(1.0)
  bracket, _ = penalties(kernel, ("1x1o", "1x0e"), x[:, :3])
  np.testing.assert_allclose(bracket, np.sum(np.square(x[:, 1:3])), rtol=1e-5)
  # W = diag(1, 0, 0) on a vector: [A, W] x summed over the three generators is 2 x^2 + y^2 + z^2.
  kernel = jnp.diag(jnp.array([1.0, 0.0, 0.0]))
  bracket, _ = penalties(kernel, ("1x1o", "1x1o"), x[:, :3])
  expected = np.sum(np.square(x[:, :3]) @ jnp.array([2.0, 1.0, 1.0]))
  np.testing.assert_allclose(bracket, expected, rtol=1e-5)


def test_what_the_schedule_cannot_penalise():
  x = jnp.ones((2, 3))
  with pytest.raises(ConfigurationError, match="linear without bias; take"):
    penalties(jnp.eye(3), ("1x1o", "1x1o"), x, branch=relaxations.MLP)
  with pytest.raises(ConfigurationError, match="name them by Homotopic"):
    penalties(jnp.eye(3), ("1x1o", "1x1o"), x, irreps=False)


@pytest.mark.slow
def test_the_schedule_has_the_last_word_on_gamma_and_shrinks_the_branches():
  network = SEGNN(
    hidden_features=4,
    num_layers=1,
    relaxation=relaxations.Relaxation(
      functools.partial(relaxations.Linear, kernel_init=jax.nn.initializers.normal(1e-4))
    ),
  )
  keys = jax.random.split(jax.random.key(0), 3)
  x, v, y = (jax.random.normal(k, (6, 3, 3)) for k in keys)
  batch = {"x": x, "v": v, "q": jnp.ones((6, 3)), "y": y}
  action = actions.act_on(
    {"x": actions.vector, "v": actions.vector, "q": actions.invariant, "y": actions.vector}
  )
  symmetry = Symmetry(groups.so3(), action, lambda g, f, batch: actions.vector(g, f))
  learned = task.from_model(
    NBodySEGNN(network),
    lambda prediction, batch: jnp.square(prediction - batch["y"]),
    lambda batch: (batch["x"], batch["v"], batch["q"]),
  )
  variables = jax.jit(NBodySEGNN(network).init)(keys[0], x, v, batch["q"])
  rule = rivals.Schedule(steps=4, symmetry=symmetry)
  method = PrimalDual(learned, primal_adam(1e-3), dual_optimizer("sgd", 1.0))
  state, step = method.init(variables, rule, keys[1]), jax.jit(method.step)
  levels, costs = [], []
  for _ in range(4):
    state, output = step(state, batch)
    levels.append(float(state.primal.gamma["layers_0"]["update_1"]["gamma"]))
    costs.append(float(output.lagrangian - output.loss))
  np.testing.assert_allclose(levels, [0.5, 1, 0.5, 0], atol=1e-6)
  assert 0 < costs[0] < 1e-3  # branches start at 1e-4
  # The loss of the first step is that at gamma = 0: every rotation leaves it as it is.
  first = method.init(variables, rule, keys[1])
  strict = jax.jit(learned.errors)(first.projection, batch).mean()
  np.testing.assert_allclose(step(first, batch)[1].loss, strict, rtol=1e-5)


EPSILON = 0.05


def train(constraint, steps, dual_lr):
  method = PrimalDual(LINEAR, primal_adam(3e-3, slack_lr=3e-3), dual_optimizer("sgd", dual_lr))
  state = method.init({"params": {"w": TARGET}}, constraint, jax.random.key(0))
  # Samples with unit covariance, exactly: the gap is that of a whitened batch.
  x = np.random.default_rng(0).normal(size=(256, 3))
  x = np.linalg.qr(x)[0] * np.sqrt(256)
  batch = (jnp.asarray(x, jnp.float32), jnp.asarray(x, jnp.float32) @ TARGET)

  def body(state, _):
    state, output = method.step(state, batch)
    return state, (state.multipliers["equivariance"], output.violation["equivariance"])

  return jax.jit(lambda s: jax.lax.scan(body, s, length=steps))(state)


def true_gap(w):
  """E_R norm(R W - W R)^2 / 3 = 2/3 norm(W - tr(W)/3)^2 over Haar, for x of unit covariance."""
  return 2 / 3 * np.sum(np.square(w - np.trace(w) / 3 * np.eye(3)))


def test_the_functional_constraint_is_met_at_the_known_solution():
  # min |W - A|^2 / 3 s.t. 2/3 |dev W|^2 <= eps: dev W = s dev A, lambda = (1 - s) / (2 s).
  deviation = TARGET - 2 * jnp.eye(3)
  shrink = np.sqrt(EPSILON / true_gap(np.asarray(TARGET)))
  rule = on_error.Functional(symmetry=VECTORS, epsilon=EPSILON, augmented=1.0)
  state, (multipliers, violations) = train(rule, 3000, 0.02)
  early = violations[:50]
  assert np.all(np.diff(multipliers[:50]) > 0)
  assert np.min(early) > 0
  w = np.asarray(state.primal.theta["w"])
  np.testing.assert_allclose(w - 2 * np.eye(3), shrink * deviation, atol=0.05)
  np.testing.assert_allclose(true_gap(w), EPSILON, rtol=0.15)
  np.testing.assert_allclose(np.mean(multipliers[-300:]), (1 - shrink) / (2 * shrink), rtol=0.1)


def test_the_resilient_one_settles_where_slack_is_multiplier_over_rho():
  rule = on_error.ResilientFunctional(symmetry=VECTORS, rho=2.0, augmented=1.0)
  state, (multipliers, _) = train(rule, 3000, 0.02)
  slack = float(state.primal.slack["equivariance"])
  np.testing.assert_allclose(slack, np.mean(multipliers[-300:]) / 2, rtol=0.1)
  np.testing.assert_allclose(true_gap(np.asarray(state.primal.theta["w"])), slack, rtol=0.15)


def test_measure_gives_the_gap_and_its_error():
  samples, variables = batch_of(4000, key=5), {"params": {"w": TARGET}}
  gap, error, _ = measure(LINEAR, VECTORS, variables, samples, jax.random.key(0), elements=2)
  assert abs(gap - true_gap(np.asarray(TARGET))) < 4 * error
  assert error < 0.05 * gap


@pytest.mark.parametrize(
  "rule",
  [
    on_error.Functional,
    on_error.ResilientFunctional,
    rivals.Augment,
    rivals.Remul,
    rivals.GapPenalty,
    rivals.GradNorm,
    rivals.Schedule,
  ],
)
def test_without_a_group_action(rule):
  with pytest.raises(TypeError, match="symmetry"):
    rule()
  message = rf"{rule.__name__}.symmetry is None; .* how the group acts on these data"
  with pytest.raises(ConfigurationError, match=message):
    rule(symmetry=None)


class Vectors(nn.Module):
  """x -> x W for a multiple of the identity, with a linear branch."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, ())
    irreps = Irreps("1x1o", "1x1o")
    return Homotopic(relaxations.Linear, irreps=irreps, name="layer")(scale * x, x)


@pytest.mark.parametrize("rule", with_slow([rivals.Schedule, rivals.GradNorm], rivals.Schedule))
def test_devices_that_share_a_batch_change_nothing(rule):
  data = batch_of(16)
  states = []
  for devices in (1, 2):
    fit = ace_jax.fit(
      Vectors(),
      lambda prediction, batch: jnp.square(prediction - batch[1]),
      data,
      data,
      constraint=rule(symmetry=FIXED, axis_name="data"),
      lr=0.05,
      epochs=3,
      batch_size=8,
      mesh=parallel.make_mesh(data=devices, devices=jax.devices()[:devices]),
    )
    states.append((fit.state.primal, fit.state.constraint_state))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *states)
  if rule is rivals.GradNorm:
    assert abs(states[0][1]["weights"][0] - 1) > 0.02
