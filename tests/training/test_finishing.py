"""The last epochs of a run, without gamma: what they begin with, what stays, and resuming."""

import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ace_jax
from ace_jax import homotopy, task
from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Homotopic
from ace_jax.optimizers import dual_optimizer, primal_adam
from ace_jax.primal_dual import PrimalDual
from ace_jax.training import epochs, finishing, history, loop, measuring, parallel
from tests.marks import with_slow

X = jax.random.normal(jax.random.key(0), (60, 3))
RADIUS = jnp.linalg.norm(X, axis=-1, keepdims=True)
TRAIN, VALID = (X[:48], RADIUS[:48]), (X[48:], RADIUS[48:])
AFTER, LENGTH = 3, 6


class Radial(nn.Module):
  """Invariant under rotations at gamma = 0; its branch has a running scale, which is pruned."""

  @nn.compact
  def __call__(self, x, train=False):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    y = nn.BatchNorm(use_running_average=not train, axis_name="data")(nn.tanh(nn.Dense(8)(r)))
    return Homotopic(nn.Dense, "fixed", "data", name="layer")(nn.Dense(1)(y), x)


LEARNED = task.from_model(Radial(), lambda prediction, batch: jnp.square(prediction - batch[1]))
RATES = (1e-2, 2e-2)
DUAL = dual_optimizer("adam", 1e-2)


def begin(constraint, init):
  """Two replicas, of different seeds and step sizes."""
  states = []
  for seed, rate in enumerate(RATES):
    keys = jax.random.split(jax.random.key(seed))
    variables = init(keys[0], X[:2])
    method = PrimalDual(LEARNED, primal_adam(rate), DUAL)
    states.append(method.init(variables, constraint, keys[1]))
  return parallel.stack(states)


METHOD = PrimalDual(LEARNED, primal_adam(RATES[0]), DUAL)
RULES = {
  "equality": ace_jax.Equality(augmented=1.0),
  "resilient": ace_jax.Resilient(augmented=1.0, rho=0.5),
}


def run(rule="equality", length=LENGTH, after=AFTER, source="best", **options):
  finish = None
  if after is not None:
    fresh = begin(ace_jax.Unconstrained(), homotopy.strict(Radial().init))
    finish = finishing.Finish(after, METHOD, fresh, source)
  settings = loop.Settings(length, 12, checkpoint_every=1, keep_period=1)
  return loop.train(
    METHOD,
    begin(RULES[rule], Radial().init),
    TRAIN,
    VALID,
    settings,
    names=("a", "b"),
    finish=finish,
    **options,
  )


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b)


def numbers(records):
  timed = ("time", "seconds", "steps_per_second")
  return [
    {k: v for k, v in r.items() if k not in timed} for run_records in records for r in run_records
  ]


@pytest.mark.parametrize("source", with_slow(["best", "last"], "last"))
def test_the_finish_is_a_strict_run_from_the_weights_it_begins_with(source):
  before, old_records = run(length=AFTER, after=None)
  end, records = run(source=source)
  best = before.best["projection"]
  chosen = best.variables if source == "best" else before.projection
  strict = begin(ace_jax.Unconstrained(), homotopy.strict(Radial().init))
  theta, _, model_state = homotopy.split(homotopy.prune(chosen))
  strict = strict.replace(
    primal=strict.primal._replace(theta=theta),
    model_state=model_state,
    **{name: getattr(before, name) for name in ("key", "step", "epoch")},
  )
  mesh = parallel.default_mesh(2)
  go = epochs.compile_epoch(METHOD, mesh, 12)
  strict = parallel.shard_replicas(strict, mesh)
  losses = []
  for _ in range(LENGTH - AFTER):
    strict, outputs = go(strict, TRAIN)
    losses.append(np.mean(outputs.loss, axis=1))
  assert_same(end.primal.theta, strict.primal.theta)
  assert_same(end.primal_state, strict.primal_state)
  assert end.primal.gamma == end.multipliers == {}
  # The step size that each replica had.
  rates = optax.tree.get(end.primal_state.inner_states["theta"], "learning_rate")
  np.testing.assert_allclose(rates, RATES, rtol=1e-6)
  # What was before stays as it was.
  assert_same(end.best["relaxed"], before.best["relaxed"])
  assert numbers([run_records[:AFTER] for run_records in records]) == [
    {**record, "finish": 0} for record in numbers(old_records)
  ]
  for i, run_records in enumerate(records):
    assert [record["finish"] for record in run_records] == [0, 0, 0, 1, 1, 1]
    assert [record["epoch"] for record in run_records] == [1, 2, 3, 4, 5, 6]
    assert "gamma/layer" in run_records[AFTER - 1]
    assert not {"gamma/layer", "multiplier/layer", "valid/relaxed"} & {*run_records[AFTER]}
    np.testing.assert_allclose(
      [r["loss"] for r in run_records[AFTER:]], np.array(losses)[:, i], rtol=1e-6
    )


def test_the_projection_keeps_its_best_until_the_finish_beats_it():
  before, _ = run(length=AFTER, after=None)
  end, records = run()
  for i, run_records in enumerate(records):
    errors = [record["valid/projection"] for record in run_records]
    best = parallel.select(end.best["projection"], i)
    assert float(best.error) == pytest.approx(min(errors))
    assert int(best.epoch) == 1 + int(np.argmin(errors))
    assert "layer" not in best.variables["params"]
  assert np.all(end.best["projection"].error <= before.best["projection"].error)
  tests = measuring.test_errors(LEARNED, end, VALID)
  for i, test_errors in enumerate(tests):
    assert set(test_errors) == {"projection", "relaxed"}
    for name, error in test_errors.items():
      assert error == pytest.approx(float(end.best[name].error[i]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["equality", "resilient"])
def test_a_run_killed_before_at_or_after_the_switch_resumes_bit_for_bit(tmp_path, rule):
  whole = tmp_path / "whole"
  end, records = run(rule, workdir=whole)
  for epoch in (AFTER - 1, AFTER, AFTER + 1, LENGTH):
    workdir = tmp_path / str(epoch)
    shutil.copytree(whole, workdir)
    for folder in (workdir / loop.CHECKPOINTS).iterdir():
      if int(folder.name) > epoch:
        shutil.rmtree(folder)
    resumed, again = run(rule, workdir=workdir, resume=True)
    assert_same(resumed, end)
    assert numbers(again) == numbers(records)
    for i, name in enumerate("ab"):
      assert numbers([history.read(workdir / name / history.FILE)]) == numbers([records[i]])


def test_what_a_finish_refuses():
  with pytest.raises(ConfigurationError, match="one of best, last"):
    run(source="first")
  with pytest.raises(ConfigurationError, match="must be at least 1"):
    run(after=0)
  with pytest.raises(ConfigurationError, match="a finish after 6 epochs needs a run of more"):
    run(after=LENGTH)
