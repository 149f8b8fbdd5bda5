"""Replicas of one program against runs of their own, on every mesh of four devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import errors, optimizers, task
from ace_jax.homotopy import Homotopic
from ace_jax.training import history, loop, parallel
from tests.marks import with_slow

SEEDS = (0, 1, 2)
RHOS = (0.3, 1.0, 3.0)


class Radial(nn.Module):
  """Invariant at gamma = 0; "fixed" couples the samples of a batch."""

  @nn.compact
  def __call__(self, x, train):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    # No bias before the BatchNorm: its gradient is rounding alone, which Adam makes a full step.
    y = nn.Dense(1, use_bias=False)(nn.tanh(nn.Dense(6)(r)))
    y = nn.BatchNorm(use_running_average=not train, axis_name="data")(y)
    return Homotopic(nn.Dense, "fixed", "data", name="layer")(y, x)


def squared_error(prediction, batch):
  return jnp.square(prediction - batch[1])


def data():
  x = jax.random.normal(jax.random.key(0), (64, 3), jnp.result_type(float))
  y = jnp.sum(x * x, -1, keepdims=True) + x[:, :1]
  return (x[:48], y[:48]), (x[48:], y[48:])


def make_method():
  adam = optimizers.primal_adam(1e-2)
  learned = task.from_model(Radial(), squared_error)
  return ace_jax.PrimalDual(learned, adam, optimizers.dual_optimizer("adam", 1e-2))


def begin(seed, rho, method):
  def create(key):
    init_key, run_key = jax.random.split(key)
    variables = Radial().init(init_key, data()[0][0], train=False)
    return method.init(variables, ace_jax.Resilient(augmented=1.0, rho=rho), run_key)

  begun = create(jax.random.key(seed))
  wide = jnp.result_type(float)
  return jax.tree.map(
    lambda a: a.astype(wide) if jnp.issubdtype(a.dtype, jnp.floating) else a, begun
  )


def trained(replicas, mesh, epochs=9, **options):
  train, valid = data()
  method = make_method()
  starts = [begin(*pair, method) for pair in replicas]
  settings = loop.Settings(epochs=epochs, batch_size=8, **options)
  names = [f"r{i}" for i in range(len(starts))]
  return loop.train(method, parallel.stack(starts), train, valid, settings, mesh=mesh, names=names)


@pytest.mark.parametrize(
  "shape", with_slow([(1, 1), (1, 4), (2, 2), (4, 1), (2, 1)], (1, 1), (1, 4), (2, 2), (2, 1))
)
def test_every_mesh_gives_each_replica_what_it_finds_alone(shape):
  # 54 steps; three replicas do not divide over 2 or 4 rows, so copies fill up.
  with jax.enable_x64(True):
    mesh = parallel.make_mesh(replica=shape[0], data=shape[1])
    together, records = trained(list(zip(SEEDS, RHOS, strict=True)), mesh)
    assert together.step.tolist() == [54, 54, 54]
    for i, pair in enumerate(zip(SEEDS, RHOS, strict=True)):
      alone, alone_records = trained([pair], parallel.make_mesh(1))
      close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
      for name in ("primal", "multipliers", "model_state", "best"):
        tree = parallel.select(getattr(together, name), i)
        jax.tree.map(close, tree, parallel.select(getattr(alone, name), 0))
      for record, other in zip(records[i], alone_records[0], strict=True):
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert record["slack/layer"] == pytest.approx(other["slack/layer"], rel=1e-8, abs=1e-12)


@pytest.mark.slow
def test_accelerators_vmap_their_replicas_to_the_same_end(monkeypatch):
  monkeypatch.setattr(parallel, "_MAPS", {})
  test_every_mesh_gives_each_replica_what_it_finds_alone((2, 2))


def test_a_replica_that_stops_early_is_frozen_while_the_others_go_on():
  replicas = [(0, 1.0), (1, 1.0), (2, 1.0)]
  mesh = parallel.make_mesh(1)
  with jax.enable_x64(True):
    together, records = trained(replicas, mesh, 60, patience=3)
    lengths = [len(run_records) for run_records in records]
    assert len({*lengths}) > 1
    for i, pair in enumerate(replicas):
      alone, alone_records = trained([pair], mesh, 60, patience=3)
      assert lengths[i] == len(alone_records[0]) == int(together.epoch[i])
      close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
      jax.tree.map(close, parallel.select(together.primal, i), parallel.select(alone.primal, 0))


def test_a_replica_with_nan_is_left_behind_as_it_was_and_named(caplog):
  train, valid = data()
  method = make_method()
  starts = [begin(seed, 1.0, method) for seed in (0, 1)]
  spoiled = starts[1].primal.gamma["layer"]["gamma"] * jnp.nan
  primal = starts[1].primal._replace(gamma={"layer": {"gamma": spoiled}})
  starts[1] = starts[1].replace(primal=primal)
  settings = loop.Settings(epochs=3, batch_size=8)
  end, records = loop.train(
    method, parallel.stack(starts), train, valid, settings, names=["sound", "spoiled"]
  )
  assert end.failed.tolist() == [0, 1]
  assert end.step.tolist() == [18, 0]
  assert [len(run_records) for run_records in records] == [3, 0]
  assert "replica spoiled: the loss is not finite in epoch 1, step 1 of 6" in caplog.text
  with pytest.raises(errors.NonFiniteError, match="in epoch 1, step 1 of 6"):
    loop.train(method, parallel.stack(starts[1:]), train, valid, settings)


def test_resumed_replicas_are_bit_for_bit_the_uninterrupted_ones(tmp_path):
  train, valid = data()
  method = make_method()

  def run(folder, epochs, resume=False):
    starts = parallel.stack([begin(seed, 1.0, method) for seed in (0, 1)])
    settings = loop.Settings(epochs=epochs, batch_size=8)
    names = ("a", "b")
    return loop.train(
      method, starts, train, valid, settings, workdir=tmp_path / folder, names=names, resume=resume
    )[0]

  whole = run("whole", 6)
  run("parts", 3)
  resumed = run("parts", 6, resume=True)
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  assert [r["epoch"] for r in history.read(tmp_path / "parts" / "b" / "metrics.jsonl")] == [
    *range(1, 7)
  ]


def test_devices_go_to_replicas_first():
  shapes = {n: tuple(parallel.default_mesh(n).shape.values()) for n in (1, 2, 3, 5)}
  assert shapes == {1: (1, 4), 2: (2, 2), 3: (2, 2), 5: (4, 1)}
  with pytest.raises(errors.ConfigurationError, match="takes 6 devices, but 4 are there"):
    parallel.make_mesh(replica=3, data=2)
  with pytest.raises(errors.ConfigurationError, match="or 1, 2, 5, 10 devices along data"):
    parallel.check_divides(10, parallel.make_mesh(4))
