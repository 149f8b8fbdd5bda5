from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import ace_jax
from ace_jax import optimizers, state, task
from ace_jax.homotopy import Homotopic
from ace_jax.optimizers import dual_optimizer
from ace_jax.primal_dual import PrimalDual
from ace_jax.relaxations import MLP
from ace_jax.training import checkpoints, epochs, parallel
from tests.marks import with_slow


class LinearHomotopy(nn.Module):
  """y = X W + (X V) * gamma."""

  outputs: int
  gamma_shape: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    dense = partial(nn.Dense, use_bias=False)
    y = dense(self.outputs, name="w")(x)
    return Homotopic(dense, gamma_shape=self.gamma_shape, name="layer")(y, x)


def squared_error(prediction, batch):
  return jnp.square(prediction - batch[1])


def test_published_trajectory(primal_dual_fixture):
  arrays = np.load(primal_dual_fixture)
  _, _, problem, dual, *_ = (*primal_dual_fixture.stem.split("_"), "")
  constants = {name: float(arrays[name]) for name in ("rho", "eps", "c") if name in arrays.files}
  augmented = constants.get("c", 0.0) if "augmented" in primal_dual_fixture.stem else 0.0
  constraint = {
    "equality": lambda: ace_jax.Equality(augmented=augmented),
    "inequality": lambda: ace_jax.Inequality(constants["eps"], augmented=augmented),
    "resilient": lambda: ace_jax.Resilient(constants["rho"], augmented=augmented),
  }[problem]()
  with jax.enable_x64(True):
    x, y, w, v = (jnp.asarray(arrays[name]) for name in ("X", "Y", "W0", "V0"))
    gamma = jnp.asarray(arrays["gamma"][0])
    model = LinearHomotopy(y.shape[1], gamma.shape)
    variables = {
      "params": {"w": {"kernel": w}, "layer": {"relaxation": {"kernel": v}}},
      "gamma": {"layer": {"gamma": gamma}},
    }
    learned = task.from_model(model, squared_error)
    method = PrimalDual(learned, optimizers.primal_adam(1e-2), dual_optimizer(dual, 0.05))
    run = method.init(variables, constraint, jax.random.key(0))

    def body(run, _):
      gradients = method.gradients(run, (x, y))
      seen = {
        "loss": gradients.loss,
        "lagrangian": gradients.lagrangian,
        "gamma": run.primal.gamma,
        "slack": run.primal.slack,
        "multiplier": run.multipliers,
        "violation": gradients.violation,
      }
      return method.apply_gradients(run, gradients)[0], seen

    run, seen = jax.lax.scan(body, run, length=len(arrays["loss"]))
    final = {
      "final_W": run.primal.theta["w"]["kernel"],
      "final_V": run.primal.theta["layer"]["relaxation"]["kernel"],
      "final_gamma": run.primal.gamma,
      "final_slack": run.primal.slack,
      "final_multiplier": run.multipliers,
    }
    compared = 0
    for name, value in {**seen, **final}.items():
      leaves = jax.tree.leaves(value)
      if leaves and name in arrays.files:
        np.testing.assert_allclose(leaves[0], arrays[name], rtol=1e-9, atol=1e-12, err_msg=name)
        compared += 1
    assert compared >= 9 + 2 * (problem == "resilient")


class Small(nn.Module):
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x):
    y = nn.tanh(nn.Dense(5)(x))
    y = Homotopic(MLP, "fixed", self.axis_name, name="layer_0")(y, x)
    return Homotopic(MLP, name="layer_1")(nn.Dense(2)(y), y)


def small_run(axis_name=None, constraint=None):
  x = jax.random.normal(jax.random.key(1), (48, 3))
  data = (x, jnp.stack([x[:, 0] * x[:, 1], jnp.sin(x[:, 2])], axis=1))
  variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), Small().init(jax.random.key(0), x))
  # Multipliers that are not 0, so that their share in the gradients is tested.
  method = PrimalDual(
    task.from_model(Small(axis_name), squared_error),
    optimizers.primal_adam(1e-2, gamma_lr=3e-2, clip_norm=1.0),
    dual_optimizer("adam", 2e-2),
  )
  constraint = constraint or ace_jax.Resilient(augmented=0.3, rho=2.0)
  run = method.init(variables, constraint, jax.random.key(2))
  multipliers = jax.tree.map(lambda m: m + 0.7, run.multipliers)
  return method, run.replace(multipliers=multipliers), data


@pytest.mark.parametrize("devices", with_slow([2, 4], 2))
def test_gradients_do_not_depend_on_the_device_count_under_shard_map_and_pmap(devices):
  # "fixed" couples the samples of a batch, so the mean square must be averaged over devices.
  method, run, data = small_run()
  expected = jax.jit(method.gradients)(run, data)
  method, run, data = small_run("data")
  mesh = parallel.make_mesh(devices)
  specs = (PartitionSpec(), PartitionSpec("data"))
  sharded = jax.jit(
    jax.shard_map(
      lambda run, batch: method.gradients(run, batch, "data"),
      mesh=mesh,
      in_specs=specs,
      out_specs=PartitionSpec(),
    )
  )(run, data)
  batches = tuple(a.reshape(devices, -1, *a.shape[1:]) for a in data)
  mapped = jax.pmap(
    lambda run, batch: method.gradients(run, batch, "data"),
    axis_name="data",
    in_axes=(None, 0),
    devices=jax.devices()[:devices],
  )(run, batches)
  mapped = jax.tree.map(lambda a: a[0], mapped)
  for result in (sharded, mapped):
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, result, expected)


@pytest.mark.slow
def test_parameters_after_20_steps_do_not_depend_on_the_device_count():
  with jax.enable_x64(True):
    results = []
    for devices in (1, 2, 4):
      method, run, data = small_run("data")
      mesh = parallel.make_mesh(devices)
      run_epoch = epochs.compile_epoch(method, mesh, 8)
      run = parallel.shard_replicas(parallel.stack([run]), mesh)
      for _ in range(4):
        run, _ = run_epoch(run, data)
      assert run.step.tolist() == [24]
      results.append(jax.device_get((run.primal, run.multipliers)))
  for other in results[1:]:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), other, results[0])


def published_resilient_in_numpy(gamma, w, lr, dual_lr, passes, steps):
  """The published rule on mean((w + gamma a - y)^2); gamma and lambda after each step, and L."""
  bias, seen = 1e-3, []
  multiplier = np.zeros_like(gamma)
  moments = {name: [np.zeros_like(gamma), np.zeros_like(gamma)] for name in ("w", "gamma", "dual")}

  def adam(name, gradient, count, eps):
    first, second = moments[name]
    first[:] = 0.9 * first + 0.1 * gradient
    second[:] = (1 - bias) * second + bias * gradient**2
    return first / (1 - 0.9**count) / (np.sqrt(second / (1 - (1 - bias) ** count)) + eps)

  for epoch in range(passes):
    frozen = multiplier.copy()
    for step in range(steps):
      count = epoch * steps + step + 1
      residual = w + gamma * SLOPE - GOAL
      violation = np.abs(gamma) - frozen
      value = np.mean(residual**2) + multiplier @ violation + 0.5 * frozen @ frozen
      slope = 2 * residual / len(gamma)
      w = w - lr * adam("w", slope, count, 1e-8)
      moved = slope * SLOPE + multiplier * np.sign(gamma)
      new_gamma = gamma - lr * adam("gamma", moved, count, 1e-8)
      multiplier = np.maximum(multiplier + dual_lr * adam("dual", violation, count, 1e-4), 0)
      gamma = new_gamma
      seen.append((gamma, multiplier, value))
  return [np.array(values) for values in zip(*seen, strict=True)]


SLOPE, GOAL = np.array([1.0, -0.5, 2.0]), np.array([2.0, 1.0, -1.5])


def line(variables, batch, key):
  prediction = variables["params"]["w"] + variables["gamma"]["layer"]["gamma"] * SLOPE
  return jnp.broadcast_to(prediction, batch[1].shape), {}


LINE = PrimalDual(
  task.Task(line, squared_error),
  optimizers.primal_adam(0.03),
  dual_optimizer("adam", 0.1, eps=1e-4),
)


def resilient_line(gamma):
  variables = {"params": {"w": jnp.zeros(3)}, "gamma": {"layer": {"gamma": jnp.asarray(gamma)}}}
  return LINE.init(variables, ace_jax.PublishedResilient(), jax.random.key(0))


def test_published_resilient_freezes_its_bound_at_the_start_of_an_epoch(tmp_path):
  begin = np.array([1.0, -0.3, 0.05])
  with jax.enable_x64(True):
    data = (jnp.zeros((15, 3)), jnp.broadcast_to(jnp.asarray(GOAL), (15, 3)))  # 5 steps an epoch
    run_epoch = epochs.compile_epoch(LINE, parallel.make_mesh(1), 3)
    run, history = parallel.stack([resilient_line(begin)]), []
    for epoch in range(8):
      if epoch == 4:
        checkpoints.save(tmp_path, run)
      run, outputs = run_epoch(run, data)
      end = (run.primal.gamma, run.multipliers)
      history.append([jax.device_get(jax.tree.leaves(tree)[0][0]) for tree in end])
      history[-1].append(jax.device_get(outputs.lagrangian[0]))
    gammas, multipliers, values = zip(*history, strict=True)
    expected = published_resilient_in_numpy(begin, np.zeros(3), 0.03, 0.1, 8, 5)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    close(gammas, expected[0][4::5])
    close(multipliers, expected[1][4::5])
    close(np.concatenate(values), expected[2])
    # The projection acts, and a gamma crosses 0.
    assert np.sum(expected[1] == 0) > 10
    assert np.max(np.abs(np.diff(np.sign(expected[0]), axis=0))) == 2

    again = checkpoints.restore(tmp_path, parallel.stack([resilient_line(begin)]))
    for _ in range(4):
      again, _ = run_epoch(again, data)
    jax.tree.map(np.testing.assert_array_equal, again.multipliers, run.multipliers)
    jax.tree.map(np.testing.assert_array_equal, again.primal, run.primal)


def test_gradient_of_gamma_is_loss_gradient_plus_multiplier():
  method, run, data = small_run(constraint=ace_jax.Equality())
  gradients = jax.jit(method.gradients)
  with_multipliers = gradients(run, data).primal.gamma
  zero = run.replace(multipliers=jax.tree.map(jnp.zeros_like, run.multipliers))
  without = gradients(zero, data).primal.gamma
  for a, b in zip(jax.tree.leaves(with_multipliers), jax.tree.leaves(without), strict=True):
    np.testing.assert_allclose(a - b, 0.7, rtol=1e-5)


def test_clip_covers_theta_and_gamma_together():
  transform = optimizers.primal_adam(1.0, clip_norm=1.0)
  sgd = optax.chain(optax.masked(optax.clip_by_global_norm(1.0), state.Primal(True, True, False)))
  big = state.Primal({"a": jnp.array([3.0])}, {"b": jnp.array([4.0])}, {"b": jnp.array([9.0])})
  clipped, _ = sgd.update(big, sgd.init(big))
  np.testing.assert_allclose([clipped.theta["a"][0], clipped.gamma["b"][0]], [0.6, 0.8])
  np.testing.assert_allclose(clipped.slack["b"], [9.0])
  moved, _ = transform.update(big, transform.init(big), big)
  np.testing.assert_allclose(moved.slack["b"], [-1.0], rtol=1e-5)


def test_block_step_sizes():
  transform = optimizers.primal_adam(0.1, gamma_lr=0.2, slack_lr=0.3)
  ones = state.Primal({"a": jnp.ones(1)}, {"b": jnp.ones(1)}, {"b": jnp.ones(1)})
  moved, _ = transform.update(ones, transform.init(ones), ones)
  np.testing.assert_allclose(
    [moved.theta["a"][0], moved.gamma["b"][0], moved.slack["b"][0]], [-0.1, -0.2, -0.3], rtol=1e-5
  )


@pytest.mark.parametrize("decay", [None, 0.5])
def test_theta_by_sgd_and_the_others_by_adam(decay):
  transform = optimizers.primal_adam(0.1, theta_optimizer="sgd", weight_decay=decay)
  point = state.Primal({"a": jnp.array([2.0])}, {"b": jnp.ones(1)}, {"b": jnp.ones(1)})
  slopes = state.Primal({"a": jnp.array([3.0])}, {"b": jnp.array([3.0])}, {"b": jnp.array([3.0])})
  kept = transform.init(point)
  for _ in range(2):  # without momentum: the second step is the first
    moved, kept = transform.update(slopes, kept, point)
    expected = [-0.1 * (3.0 + (decay or 0.0) * 2.0), -0.1, -0.1]
    steps = [moved.theta["a"][0], moved.gamma["b"][0], moved.slack["b"][0]]
    np.testing.assert_allclose(steps, expected, rtol=1e-5)
  with pytest.raises(ValueError, match="'lion' of theta is unknown"):
    optimizers.primal_adam(0.1, theta_optimizer="lion")


def test_gamma_by_sgd_and_the_others_by_adam():
  transform = optimizers.primal_adam(0.1, gamma_lr=0.2, gamma_optimizer="sgd")
  gradient = state.Primal({"a": jnp.array([5.0])}, {"b": jnp.array([0.5])}, {})
  kept = transform.init(gradient)
  for _ in range(2):
    moved, kept = transform.update(gradient, kept, gradient)
    np.testing.assert_allclose([moved.theta["a"][0], moved.gamma["b"][0]], [-0.1, -0.1], rtol=1e-5)
  with pytest.raises(ValueError, match="of gamma is unknown; choose adam or sgd"):
    optimizers.primal_adam(0.1, gamma_optimizer="newton")


def test_decay_scales_every_block():
  decay = optax.cosine_decay_schedule(1.0, 4)
  transform = optimizers.primal_adam(0.1, gamma_lr=0.2, slack_lr=0.3, clip_norm=1.0, decay=decay)
  ones = state.Primal({"a": jnp.ones(1)}, {"b": jnp.ones(1)}, {"b": jnp.ones(1)})
  kept, steps = transform.init(ones), []
  for _ in range(5):
    moved, kept = transform.update(ones, kept, ones)
    steps.append([moved.theta["a"][0], moved.gamma["b"][0], moved.slack["b"][0]])
  factors = [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0]
  np.testing.assert_allclose(steps, np.outer(factors, [-0.1, -0.2, -0.3]), rtol=1e-4, atol=1e-8)


def test_an_inactive_state_is_frozen():
  method, run, data = small_run("data")
  before = jax.device_get(run.primal)
  run_epoch = epochs.compile_epoch(method, parallel.make_mesh(1), 8)
  states, _ = run_epoch(parallel.stack([run.replace(active=jnp.array(False))]), data)
  frozen = parallel.select(states, 0)
  jax.tree.map(np.testing.assert_array_equal, frozen.primal, before)
  assert int(frozen.epoch) == 0


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ace_jax.AceError, match="take a batch size of 8 or 12"):
    epochs.compile_epoch(LINE, parallel.make_mesh(4), 10)


def test_weight_decay_is_adamw_of_theta_alone():
  transform = optimizers.primal_adam(0.1, gamma_lr=0.2, weight_decay=0.3)
  plain, adamw = optax.adam(0.2), optax.adamw(0.1, weight_decay=0.3)
  point = state.Primal({"a": jnp.array([1.0, -2.0])}, {"b": jnp.array([3.0])}, {})
  kept, of_theta, of_gamma = transform.init(point), adamw.init(point.theta), plain.init(point.gamma)
  theta, gamma = point.theta, point.gamma
  for t in range(4):
    gradients = jax.tree.map(lambda x, t=t: jnp.cos(x + t), point)
    moved, kept = transform.update(gradients, kept, point)
    expected, of_theta = adamw.update(
      jax.tree.map(lambda x, t=t: jnp.cos(x + t), theta), of_theta, theta
    )
    theta = optax.apply_updates(theta, expected)
    expected, of_gamma = plain.update(jax.tree.map(lambda x, t=t: jnp.cos(x + t), gamma), of_gamma)
    gamma = optax.apply_updates(gamma, expected)
    point = optax.apply_updates(point, moved)
  np.testing.assert_allclose(point.theta["a"], theta["a"], rtol=1e-6)
  np.testing.assert_allclose(point.gamma["b"], gamma["b"], rtol=1e-6)
  # Decoupled: a gradient of 0 still moves theta, by -step size w theta, and leaves gamma.
  still, _ = transform.update(jax.tree.map(jnp.zeros_like, point), transform.init(point), point)
  np.testing.assert_allclose(still.theta["a"], -0.03 * point.theta["a"], rtol=1e-6)
  assert still.gamma["b"] == 0
