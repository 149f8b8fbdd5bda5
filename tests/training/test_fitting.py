"""What `fit` takes: optimizers, metrics to be high, callbacks, and names that it does not know."""

import dataclasses
import inspect
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ace_jax
from ace_jax.errors import ConfigurationError
from ace_jax.optimizers import primal_optimizer
from ace_jax.training import arguments, make_mesh

X = jax.random.normal(jax.random.key(0), (24, 3))
Y = jnp.linalg.norm(X, axis=-1, keepdims=True) + 0.3 * X[:, :1]


class Radial(nn.Module):
  @nn.compact
  def __call__(self, x):
    h = nn.Dense(4, name="hidden")(jnp.linalg.norm(x, axis=-1, keepdims=True))
    return ace_jax.Homotopic(nn.Dense, name="layer")(nn.Dense(1, name="out")(nn.tanh(h)), x)


def squared_error(prediction, batch):
  return jnp.square(prediction - batch[1])


def fit(epochs=2, **options):
  options = {"batch_size": 12, "mesh": make_mesh(devices=jax.devices()[:1]), **options}
  return ace_jax.fit(
    Radial(), squared_error, (X, Y), (X, Y), epochs=epochs, progress=None, **options
  )


def assert_same(tree, other, **tolerance):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, **{"rtol": 0, "atol": 0, **tolerance})


@pytest.mark.parametrize(
  ("name", "says"),
  [
    ("epoch", "fit takes no argument epoch; did you mean epochs?"),
    ("batchsize", "fit takes no argument batchsize; did you mean batch_size?"),
    ("constrain", "fit takes no argument constrain; did you mean constraint?"),
    ("callback", "fit takes no argument callback; did you mean callbacks?"),
    ("learning_rate", "fit takes no argument learning_rate; did you mean lr?"),
    ("Logger", "fit takes no argument Logger; did you mean callbacks?"),
    ("verbose", "fit takes no argument verbose; did you mean progress?"),
    ("key", "fit takes no argument key; did you mean seed?"),
    ("early_stopping", "fit takes no argument early_stopping; did you mean patience?"),
    ("xyz", "fit takes no argument xyz; it takes epochs, batch_size, "),
  ],
)
def test_unknown_keywords_are_refused_at_once(name, says):
  with pytest.raises(ConfigurationError) as error:
    ace_jax.fit(None, None, None, None, **{name: 3})  # nothing else is looked at
  assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_what_arguments_are_called_elsewhere_names_arguments_that_there_are():
  known = {*inspect.signature(ace_jax.fit).parameters}
  known |= {field.name for field in dataclasses.fields(ace_jax.training.Settings)}
  assert known >= {*arguments._OTHERS_NAMES.values()} and not known & {*arguments._OTHERS_NAMES}


def hits(prediction, batch):
  """Whether the sign of y - 1.5 is right: an accuracy."""
  return jnp.float32((prediction > 1.5) == (batch[1] > 1.5))


def test_a_metric_that_should_be_high_selects_its_highest_epoch():
  trained = fit(8, lr=0.05, metric=hits, mode="max")
  for name, best in trained.state.best.items():
    curve = [record[f"valid/{name}"] for record in trained.history]
    assert min(curve) < max(curve) == float(best.error)
    assert int(best.epoch) == 1 + int(np.argmax(curve))
    accuracy = float(jnp.mean(hits(Radial().apply(best.variables, X), (X, Y))))
    assert accuracy == pytest.approx(max(curve))
  lowest = fit(8, lr=0.05, metric=hits)
  curve = [record["valid/projection"] for record in lowest.history]
  assert int(lowest.state.best["projection"].epoch) == 1 + int(np.argmin(curve))


def test_patience_counts_from_the_highest_metric():
  trained = fit(30, lr=0.0, gamma_lr=0.0, metric=hits, mode="max", patience=3)
  assert len(trained.history) == 4 and int(trained.state.best["projection"].epoch) == 1


def test_a_mode_that_is_neither():
  with pytest.raises(ConfigurationError, match="mode is 'maximum'; it must be 'min' or 'max'"):
    fit(mode="maximum")


class Keeps:
  def __init__(self):
    self.records, self.closed = [], 0

  def log(self, record):
    self.records.append(record)

  def close(self):
    self.closed += 1


def test_callbacks_get_every_record():
  records, keeps = [], Keeps()

  def callback(record):
    records.append(dict(record))
    record.clear()  # which changes no other's

  trained = fit(3, eval_every=2, callbacks=[callback, keeps])
  assert records == keeps.records == trained.history
  assert [record["epoch"] for record in records] == [1, 2, 3]
  assert ["valid/projection" in record for record in records] == [True, False, True]
  assert keeps.closed == 1
  with pytest.raises(ConfigurationError, match="a str takes no records; give a function"):
    fit(callbacks=["wandb"])


def test_adam_by_hand_is_the_default():
  adam = fit(3, lr=5e-3, gamma_lr=2e-3)
  blocks = {"theta": optax.adam(5e-3), "gamma": optax.adam(2e-3)}
  assert_same(fit(3, optimizer=blocks).state.primal, adam.state.primal, rtol=2e-5, atol=1e-6)
  alone = fit(3, optimizer=optax.adam(5e-3), gamma_lr=2e-3)
  assert_same(alone.state.primal, adam.state.primal, rtol=2e-5, atol=1e-6)
  assert alone.settings.lr is None and alone.settings.gamma_lr == 2e-3
  assert adam.settings.lr == 5e-3 and fit(1).settings.lr == 1e-3


def one_step(optimizer, **options):
  """Returns theta before and after the only step, and the gradient of its loss."""
  begin = Radial().init(jax.random.key(3), X)
  trained = fit(
    1, optimizer=optimizer, variables=begin, batch_size=24, constraint=ace_jax.Unconstrained(),
    **options,
  )  # fmt: skip

  def loss(theta):
    return jnp.mean(squared_error(Radial().apply({**begin, "params": theta}, X), (X, Y)))

  value, gradient = jax.value_and_grad(loss)(begin["params"])
  return begin["params"], trained.state.primal.theta, gradient, value


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.sgd(0.1),
    optax.adamw(optax.cosine_decay_schedule(0.1, 10), weight_decay=0.5),
    optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    optax.polyak_sgd(max_learning_rate=10.0),  # divides by the gradient's norm: takes the loss
    optax.contrib.muon(0.1),
  ],
  ids=["sgd", "adamw", "clipped", "polyak", "muon"],
)
def test_any_transformation_moves_theta(optimizer):
  before, after, gradient, value = one_step(optimizer)
  optimizer = optax.with_extra_args_support(optimizer)
  updates, _ = optimizer.update(gradient, optimizer.init(before), before, value=value)
  expected = optax.apply_updates(before, updates)
  assert_same(after, expected, rtol=2e-4, atol=2e-5)
  assert max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(updates)) > 1e-3


def test_layers_are_frozen_by_their_names():
  def labels(theta):
    return {name: "frozen" if name == "hidden" else "moved" for name in theta}

  moves = {"moved": optax.sgd(0.1), "frozen": optax.set_to_zero()}
  before, after, gradient, _ = one_step(optax.partition(moves, labels))
  assert_same(after["hidden"], before["hidden"])
  expected = before["out"]["bias"] - 0.1 * gradient["out"]["bias"]
  np.testing.assert_allclose(after["out"]["bias"], expected, rtol=1e-5)


def test_several_steps_resume_with_their_own_state(tmp_path):
  optimizer = {"theta": optax.chain(optax.adamw(1e-2), optax.clip(1.0)),
               "gamma": optax.sgd(1e-2, momentum=0.9), "slack": optax.sgd(0.1)}  # fmt: skip
  options = {"optimizer": optimizer, "constraint": ace_jax.Resilient(rho=0.5), "clip_norm": 1.0}
  whole = fit(4, **options)
  fit(2, **options, workdir=tmp_path)
  again = fit(4, **options, workdir=tmp_path, resume=True)
  assert_same(again.state, whole.state)


def test_an_optimizer_may_branch():
  plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=1.0)  # never improves
  trained = fit(4, optimizer=optax.chain(optax.sgd(0.1), plateau), batch_size=24)
  assert float(trained.state.primal_state.theta[1].scale) < 1


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"optimizer": optax.sgd(0.1), "lr": 0.1}, "lr is a step size of Adam, but theta has an"),
    (
      {"optimizer": {"gamma": optax.sgd(0.1)}, "gamma_lr": 0.1},
      "gamma_lr is a step size of Adam, but gamma has an optimizer; leave one out",
    ),
    ({"optimizer": {"weights": optax.sgd(0.1)}}, "optimizer has 'weights'; it moves theta, gamma"),
    ({"optimizer": "adamw"}, "the optimizer of theta is a str; give a transformation"),
    (
      {"optimizer": optax.masked(optax.sgd(0.1), {"other": True})},
      "the optimizer cannot move these parameters",
    ),
    (
      {"optimizer": optax.scale_by_backtracking_linesearch(5)},
      "the optimizer cannot move these parameters .*the training loss as `value`",
    ),
  ],
)
def test_optimizers_that_do_not_fit(options, says):
  with pytest.raises(ConfigurationError, match=says) as error:
    fit(**options)
  assert "\n" not in str(error.value)


def test_blocks_without_an_optimizer_keep_adam():
  transformation = primal_optimizer({"slack": optax.sgd(0.5)}, lr=1e-2)
  primal = ace_jax.Primal(jnp.ones(2), jnp.ones(1), jnp.ones(1))
  state = transformation.init(primal)
  updates, _ = transformation.update(primal, state, primal)
  np.testing.assert_allclose(updates.theta, -1e-2, rtol=1e-5)
  np.testing.assert_allclose(updates.gamma, -1e-2, rtol=1e-5)
  np.testing.assert_allclose(updates.slack, -0.5)


def test_seeds_are_replicas_each_equal_to_its_own_fit(tmp_path):
  records = []
  options = {"constraint": ace_jax.Resilient(rho=0.5), "lr": 1e-2, "batch_size": 8}
  several = fit(3, seeds=(4, 0, 2), callbacks=[records.append], workdir=tmp_path, **options)
  assert [trained.settings.seed for trained in several] == [4, 0, 2]
  for trained in (several[0], several[2]):
    alone = fit(3, seed=trained.settings.seed, **options)
    assert_same(trained.state.primal, alone.state.primal, rtol=1e-4, atol=1e-6)
    assert_same(trained.relaxed, alone.relaxed, rtol=1e-4, atol=1e-6)
    assert_same(trained.multipliers, alone.multipliers, rtol=1e-4, atol=1e-6)
    error = alone.history[2]["valid/relaxed"]
    assert trained.history[2]["valid/relaxed"] == pytest.approx(error, rel=1e-4)
    seed = trained.settings.seed
    logged = [record for record in records if record["seed"] == seed]
    assert logged == [{**record, "seed": seed} for record in trained.history]
  assert {path.name for path in tmp_path.iterdir()} >= {"seed4", "seed0", "seed2", "checkpoints"}
  kernels = [trained.state.primal.theta["hidden"]["kernel"] for trained in several]
  assert float(jnp.max(jnp.abs(kernels[0] - kernels[2]))) > 0.01
  again = fit(3, seeds=(4, 0, 2), workdir=tmp_path, resume=True, **options)
  assert_same(again[1].state, several[1].state)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"seeds": ()}, r"seeds are \[\]; give some that differ"),
    ({"seeds": (1, 1)}, r"seeds are \[1, 1\]; give some that differ"),
    ({"seeds": (0, 2**32 - 1, -1)}, r"give some that differ"),
    ({"seed": 2**32}, r"seed=4294967296 must be a whole number from -2147483648 to 4294967295"),
    ({"seeds": (1, 2), "seed": 3}, r"seed=3 and seeds=\[1, 2\] contradict each other"),
    ({"seeds": (1, 2), "callbacks": [Keeps()]}, "a Keeps cannot log several seeds"),
    ({"seeds": 3}, r"seeds is 3; give several whole numbers, such as range\(3\)"),
    ({"seeds": np.array(3)}, r"seeds is array\(3\); give several whole numbers"),
    ({"seeds": np.arange(0)}, r"seeds are \[\]; give some that differ"),
    ({"seeds": np.arange(2.0)}, r"seed=0.0 must be a whole number from"),
    ({"seed": np.float64(1)}, r"seed=1.0 must be a whole number from"),
    ({"seed": np.int64(2**40)}, r"seed=1099511627776 must be a whole number from"),
    ({"callbacks": print}, r"callbacks is a builtin_function_or_method; give a list of them"),
    ({"callbacks": Keeps()}, r"callbacks is a Keeps; give a list of them"),
    ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
    ({"batch_size": "8"}, "batch_size is '8'; it must be a whole number"),
    ({"lr": optax.constant_schedule(1e-3)}, "lr is a function; give one number .* is decay="),
    ({"dual_lr": "fast"}, "dual_lr is 'fast'; give one number"),
  ],
)
def test_seeds_that_contradict(options, says):
  with pytest.raises(ConfigurationError, match=says):
    fit(**options)


def test_numbers_of_numpy_are_those_of_python(tmp_path):
  plain = {"seed": 3, "lr": 0.5, "dual_lr": 0.25, "clip_norm": 2.0, "eval_every": 1}
  others = {"seed": np.int64(3), "lr": np.float32(0.5), "dual_lr": jnp.float32(0.25)}
  others |= {"clip_norm": np.array(2.0), "eval_every": np.uint8(1), "batch_size": np.int64(12)}
  trained = fit(np.int64(2), workdir=tmp_path, **others)
  same = fit(2, **plain)
  assert_same(trained.state, same.state)
  metric = trained.settings.metric  # which a workdir alone asks for
  assert trained.settings.content() == {**same.settings.content(), "metric": metric}
  trained.save(tmp_path / "fit.npz")
  assert ace_jax.load(tmp_path / "fit.npz", Radial()).settings == same.settings._replace(
    data=dict(same.settings.data), inputs=[[[2, 3], "float32"]], metric=metric
  )
  (kept,) = json.loads((tmp_path / "fit.json").read_text())["runs"]
  assert (kept["seed"], kept["lr"], kept["epochs"]) == (3, 0.5, 2)


@pytest.mark.parametrize("seeds", [np.arange(2), jnp.arange(2), iter((0, 1))])
def test_seeds_of_any_kind(seeds):
  runs = fit(1, seeds=seeds)
  assert [run.settings.seed for run in runs] == [0, 1]
  assert all(type(run.settings.seed) is int for run in runs)
