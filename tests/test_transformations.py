"""Layers within a jax.grad, a scan, a checkpoint or a vmap of the model's own, in any framework."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax.errors import ConfigurationError

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 3))
NODES = jax.random.normal(jax.random.key(2), (16, 5, 3))


def act(rotation, x):
  return jnp.einsum("ij,...j->...i", rotation.matrix, x)


ROTATIONS = ace_jax.symmetry.Symmetry(
  ace_jax.symmetry.groups.so3(),
  lambda g, batch: tuple(act(g, x) for x in batch),
  lambda g, y, batch: act(g, y),
)


def fit(model, x=X, **options):
  def squared(prediction, batch):
    return (prediction - batch[1]) ** 2

  options = {"epochs": 2, "batch_size": 8, "lr": 0.01, "progress": None, **options}
  return ace_jax.fit(model, squared, (x, x), (x, x), **options)


def losses(run):
  return [record["loss"] for record in run.history]


class Step(eqx.Module):
  linear: eqx.nn.Linear
  layer: ace_jax.equinox.Homotopic

  def __init__(self, key, scale="free"):
    first, second = jax.random.split(key)
    self.linear = eqx.nn.Linear(3, 3, key=first)
    self.layer = ace_jax.equinox.Homotopic(eqx.nn.Linear(3, 3, key=second), scale=scale)

  def __call__(self, x):
    return jnp.tanh(self.layer(self.linear(x), x))


class Potential(eqx.Module):
  step: Step
  by_hand: bool = eqx.field(static=True)

  def __call__(self, x):
    if not self.by_hand:
      return -jax.grad(lambda x: jnp.sum(self.step(x)))(x)
    layer = self.step.layer
    branch = 0 if layer.gamma is None else layer.gamma * layer.relaxation.weight
    return -(self.step.linear.weight + branch).T @ (1 - self.step(x) ** 2)


class Stacked(eqx.Module):
  steps: Step

  def __call__(self, x):
    arrays, static = eqx.partition(self.steps, eqx.is_array)
    return jax.lax.scan(lambda x, step: (eqx.combine(step, static)(x), None), x, arrays)[0]


class Listed(eqx.Module):
  steps: list[Step]
  wrap: str = eqx.field(static=True)

  def __call__(self, x):
    wrap = {"": lambda step: step, "remat": eqx.filter_checkpoint, "jit": eqx.filter_jit}[self.wrap]
    for step in self.steps:
      x = wrap(step)(x)
    return x


KEYS = jax.random.split(KEY, 2)


def listed(wrap="", scale="free"):
  return Listed([Step(key, scale) for key in KEYS], wrap)


def stacked(scale="free"):
  return Stacked(eqx.filter_vmap(lambda key: Step(key, scale))(KEYS))


def test_equinox_gradients_train_as_those_by_hand():
  run, by_hand = (fit(Potential(Step(KEY), flag)) for flag in (False, True))
  np.testing.assert_allclose(losses(run), losses(by_hand), rtol=1e-5)
  np.testing.assert_allclose(run.gamma["step/layer"], by_hand.gamma["step/layer"], rtol=1e-5)
  assert abs(run.gamma["step/layer"] - 1) > 1e-3


@pytest.mark.slow
def test_equinox_scans_checkpoints_and_jits_train_as_the_layers_do():
  expected = fit(listed())
  gammas = [float(expected.gamma[f"steps_{i}/layer"]) for i in range(2)]
  scanned = fit(stacked())
  np.testing.assert_allclose(losses(scanned), losses(expected), rtol=1e-5)
  np.testing.assert_allclose(scanned.gamma["steps/layer"], gammas, rtol=1e-5)
  for wrap in ("remat", "jit"):
    run = fit(listed(wrap))
    np.testing.assert_allclose(losses(run), losses(expected), rtol=1e-5)
    np.testing.assert_allclose([*run.gamma.values()], gammas, rtol=1e-5)


@pytest.mark.parametrize(
  "model",
  [
    Potential(Step(KEY, "fixed"), False),
    stacked("fixed"),
    listed("remat", "fixed"),
    listed("jit", "fixed"),
  ],
)
def test_equinox_says_where_a_running_scale_cannot_be_kept(model):
  with pytest.raises(
    ConfigurationError, match=r"layer: its running scale .* scale='free'"
  ) as error:
    fit(model)
  assert "\n" not in str(error.value)


class OnNodes(eqx.Module):
  step: Step

  def __call__(self, x):
    return jax.vmap(self.step)(x)


def test_equinox_layers_on_the_nodes_of_a_sample():
  step = Step(KEY, "fixed")
  model = ace_jax.model.as_model(OnNodes(step))
  variables = model.init(KEY)
  branch = NODES @ step.layer.relaxation.weight.T + step.layer.relaxation.bias
  _, state = model.apply(variables, NODES, key=KEY)
  moved = state["batch_stats"]["step"]["layer"]["mean_square"]
  np.testing.assert_allclose(moved, 0.99 + 0.01 * jnp.mean(branch**2), rtol=1e-6)
  # Reports see all nodes of all samples.
  call = model.calls(variables, NODES)["step/layer"]
  np.testing.assert_allclose(call.f_neq, branch, rtol=1e-5, atol=1e-6)
  assert call.y.shape == (16, 5, 3)
  run = fit(OnNodes(step), NODES)
  (layer,) = run.report((NODES, NODES), ROTATIONS).layers
  assert layer.name == "step/layer"
  assert layer.gamma == pytest.approx(float(run.gamma["step/layer"]))


class NnxStep(nnx.Module):
  def __init__(self, rngs, scale="free"):
    self.linear = nnx.Linear(3, 3, rngs=rngs)
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 3, rngs=rngs), scale=scale)

  def __call__(self, x):
    return jnp.tanh(self.layer(self.linear(x), x))


class NnxPotential(nnx.Module):
  def __init__(self, scale, lifted=False):
    self.step = NnxStep(nnx.Rngs(0), scale)
    self.lifted = lifted

  def __call__(self, x):
    if self.lifted:
      return -nnx.grad(lambda step, x: jnp.sum(step(x)), argnums=1)(self.step, x)
    return -jax.grad(lambda x: jnp.sum(self.step(x)))(x)


class NnxStacked(nnx.Module):
  def __init__(self):
    make = nnx.vmap(NnxStep, in_axes=0, out_axes=0)
    self.steps = nnx.split_rngs(splits=2)(make)(nnx.Rngs(0))

  def __call__(self, x):
    return nnx.scan(lambda x, step: step(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
      x, self.steps
    )


@pytest.mark.parametrize(
  "model", [NnxPotential("free"), NnxStacked(), Potential(Step(KEY), False), stacked()]
)
def test_generators_are_told_where_layers_cannot_be_read(model, capsys):
  report = fit(model).report((X, X), ROTATIONS)
  assert report.layers == ()
  assert {generator.name[:8] for generator in report.generators} == {"rotation"}
  said = [line for line in capsys.readouterr().err.splitlines() if "not reported" in line]
  assert len(said) == 1
  assert "layer: its features cannot be read through a jax.grad" in said[0]


def test_nnx_says_what_keeps_a_running_scale():
  with pytest.raises(ConfigurationError, match=r"layer: its running scale .* nnx.grad") as error:
    fit(NnxPotential("fixed"))
  assert "\n" not in str(error.value)
  run = fit(NnxPotential("fixed", lifted=True))
  assert run.projection["batch_stats"]["step"]["layer"]["mean_square"] != 1


def test_a_loader_is_not_reported_on():
  run = fit(Step(KEY))
  for loader in ([(X, X)], iter([(X, X)])):
    with pytest.raises(ConfigurationError, match=r"data are a loader of batches .* \(x, y\)"):
      run.report(loader, ROTATIONS)
