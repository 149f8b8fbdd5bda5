"""What `fit` cannot take as it is given is said in one line, and what is near is taken."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, struct

import ace_jax
from ace_jax import homotopy, paths
from ace_jax.errors import ConfigurationError
from ace_jax.training import make_mesh

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = X.sum(axis=1, keepdims=True)
NAMED = {"x": X, "y": Y}


class Net(nn.Module):
  features: int = 1
  axes: int = 1

  @nn.compact
  def __call__(self, x, train=False):
    y = ace_jax.Homotopic(nn.Dense, axes=self.axes, name="layer")(nn.Dense(self.features)(x), x)
    return nn.Dropout(0.5, deterministic=not train)(y)


class Returns(nn.Module):
  """A model whose prediction is what `make` makes of an array."""

  make: object

  @nn.compact
  def __call__(self, x):
    return self.make(Net(name="net")(x))


@dataclasses.dataclass
class Unregistered:
  y: object


def squared(prediction, batch):
  return (prediction - batch[1]) ** 2


def fit(model=None, loss=squared, train=(X, Y), valid=(X, Y), test=None, **options):
  sizes = {} if isinstance(train, list) else {"batch_size": 8}
  options = {"epochs": 1, **sizes, "progress": None, **options}
  options.setdefault("mesh", make_mesh(devices=jax.devices()[:1]))
  return ace_jax.fit(Net() if model is None else model, loss, train, valid, test, **options)


def refused(says, **given):
  with pytest.raises(ConfigurationError, match=says) as error:
    fit(**given)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("train", "says"),
  [
    (NAMED, r"a batch is a dict, no pair \(x, y\).*inputs=lambda batch: \(batch\['x'\],\)"),
    (X, r"a batch is an array, no pair \(x, y\).*inputs=lambda batch: \(batch,\)"),
    ((X, Y[:9]), r"train\[0\] has 16 samples, train\[1\] 9; all arrays must have the same"),
    ((X[:0], Y[:0]), "train has no samples"),
    ((X.tolist(), Y), r"train\[0\]\[0\]\[0\] is a float, no array with an axis of samples"),
    ((X, Y, 3), r"train\[2\] is a int, no array with an axis of samples"),
    ((X, np.arange(16) + 2**40), r"train\[1\] holds whole numbers beyond int32, which JAX would"),
    ([(X, np.full(16, -(2**40)))], r"batch 1 of train\[1\] holds whole numbers beyond int32"),
    ((X, Y, np.array(["a"] * 16)), r"train\[2\] is an array of <U1; give numbers"),
  ],
)
def test_samples_that_are_none(train, says):
  refused(says, train=train)


@pytest.mark.parametrize("called", ["valid", "test"])
def test_samples_to_evaluate_on_that_do_not_fit(called):
  refused(f"of {called}, .*compares every sample with every other", **{called: (X, Y[:, 0])})
  refused(f"{called} is not what train is, and model or metric fail", **{called: NAMED})
  refused(f"{called} is not what train is.*kernel", **{called: (X[:, :2], Y)})
  refused(f"{called} has no samples", **{called: (X[:0], Y[:0])})
  refused(rf"{called}\[0\] has 16 samples, {called}\[1\] 3", **{called: (X, Y[:3])})
  refused(f"of {called}, the metric", metric=lambda p, b: p - b[1], **{called: (X, Y[:, 0])})


def test_samples_to_evaluate_on_may_hold_more_than_those_to_train_on():
  by_width = {"loss": lambda p, b: jnp.abs(p - b[1]) * b[1].shape[-1]}
  trained = fit(valid=(X, Y, X), test=(X, np.concatenate([Y, Y], axis=1)), metric=by_width)
  expected = np.abs(Net().apply(trained.projection, X) - Y).mean()
  np.testing.assert_allclose(trained.history[-1]["loss/projection"], expected, rtol=1e-5)
  np.testing.assert_allclose(trained.test["projection"], 2 * expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ({"inputs": lambda batch: batch[0]}, "inputs returned an array; it must return a tuple"),
    ({"constraint": ace_jax.Resilient}, "constraint is Resilient; give an instance of one"),
    ({"loss": lambda p, b: None}, r"the loss returned None; it must return an array \[samples"),
    ({"loss": lambda p, b: {"mse": p}}, "the loss returned a dict; it must return"),
    ({"loss": lambda p, b: [p, p]}, "the loss returned a list"),
    ({"loss": lambda p, b: (p, None)}, "the loss returned None"),
    ({"metric": lambda p, b: None}, "the metric returned None"),
    ({"loss": lambda p, b: p > b[1]}, "the loss is of bool, which has no gradient"),
    ({"loss": lambda p, b: p * 1j}, "the loss is complex; it must be real"),
    ({"model": Returns(Unregistered)}, "the prediction of the model holds a Unregistered"),
    (
      {"model": Returns(lambda y: {"y": y, "unit": "eV"})},
      "the prediction of the model holds a str",
    ),
    ({"model": Net(axes=3)}, r"axes=3 on an array of shape \(2, 1\); give how many"),
    ({"model": Net(axes=0)}, "axes=0 on an array"),
  ],
)
def test_what_does_not_fit_is_said_in_one_line(given, says):
  refused(says, **given)


class Whole(nn.Module):
  @nn.compact
  def __call__(self, x):
    return Net(name="net")(x * self.param("times", lambda key: jnp.ones((), jnp.int32)))


def test_whole_numbers_are_no_parameters():
  refused(r"params\['times'\] is of int32, which has no gradient", model=Whole())


def test_a_prediction_may_hold_a_number_beside_arrays():
  model = Returns(lambda y: {"y": y, "none": None, "cutoff": 5})
  trained = fit(model, lambda p, b: (squared(p["y"], b), jnp.ones(len(b[1]))))
  expected = squared(model.apply(trained.projection, X)["y"], (X, Y)).mean()
  np.testing.assert_allclose(trained.history[-1]["valid/projection"], expected, rtol=1e-5)


def test_the_name_of_one_stream_is_no_list_of_letters():
  alone, listed = fit(rngs="dropout"), fit(rngs=("dropout",))
  assert alone.history[-1]["loss"] == listed.history[-1]["loss"]


def test_callbacks_that_can_be_iterated_over_once_are_called_by_all_seeds():
  seen = []
  fit(seeds=(0, 1), callbacks=iter([lambda record: seen.append(record["seed"])]))
  assert sorted(seen) == [0, 1]


def test_frozen_variables_are_dictionaries():
  class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return Net(name="net")(nn.BatchNorm(use_running_average=not train)(x), train)

  variables = Normed().init(jax.random.key(0), X)
  frozen, plain = (fit(Normed(), variables=v) for v in (core.freeze(variables), variables))
  assert jax.tree.structure(frozen.relaxed) == jax.tree.structure(plain.relaxed)
  jax.tree.map(np.testing.assert_array_equal, frozen.relaxed, plain.relaxed)


def test_several_steps_are_a_transformation():
  steps = optax.MultiSteps(optax.sgd(0.1), 2)
  given, made = (fit(optimizer=each) for each in (steps, steps.gradient_transformation()))
  jax.tree.map(np.testing.assert_array_equal, given.relaxed, made.relaxed)


@struct.dataclass
class Bounded(ace_jax.Constraint):
  """The sum of all gammas is bounded; the multipliers are a tree of any kind."""

  of: object = struct.field(pytree_node=False, default=None)

  def init_multipliers(self, gamma):
    return self.of(jnp.zeros(()))

  def violation(self, primal):
    return self.of(sum(jnp.sum(gamma) for gamma in jax.tree.leaves(primal.gamma)) - 0.2)


@pytest.mark.parametrize(
  ("of", "names"),
  [
    (lambda number: number, ["all"]),
    (lambda number: (number, number), ["0", "1"]),
    (lambda number: {"sum": {"lower": -number, "upper": number}}, ["sum/lower", "sum/upper"]),
  ],
)
def test_multipliers_are_named_by_their_paths(of, names):
  trained = fit(constraint=Bounded(of=of))
  assert sorted(trained.multipliers) == names
  assert {f"multiplier/{name}" for name in names} <= {*trained.history[-1]}


def test_names_of_layers_are_what_they_were():
  gamma = {"gamma": 1.0, "layer": {"gamma": 2.0}, "block": {"layer": {"gamma": 3.0}}}
  assert homotopy.by_name(gamma) == {"gamma": 1.0, "layer": 2.0, "block/layer": 3.0}
  assert paths.entries(()) == ()


def test_loaders_of_float64():
  with jax.enable_x64(True):
    samples = X.astype(np.float64), Y.astype(np.float64)
    trained = fit(train=[samples], valid=[samples], test=[samples])
    expected = squared(Net().apply(trained.projection, X), samples).mean()
  np.testing.assert_allclose(trained.test["projection"], expected, rtol=1e-6)


def test_a_run_that_was_given_alone_is_no_list_of_one(tmp_path):
  fit(workdir=tmp_path / "alone")
  with pytest.raises(ConfigurationError, match=r"has seed=0, not seeds=\[0\]; give that"):
    fit(workdir=tmp_path / "alone", resume=True, seeds=(0,), epochs=2)
  fit(workdir=tmp_path / "listed", seeds=(0,))
  with pytest.raises(ConfigurationError, match=r"has seeds=\[0\], not seed=0; give that"):
    fit(workdir=tmp_path / "listed", resume=True, epochs=2)
  (again,) = fit(workdir=tmp_path / "listed", resume=True, seeds=(0,), epochs=2)
  assert [record["epoch"] for record in again.history] == [1, 2]


def test_what_is_no_model_is_said():
  with pytest.raises(ConfigurationError, match="the class Net is no model; give an instance"):
    ace_jax.fit(Net, squared, (X, Y), (X, Y))
  with pytest.raises(ConfigurationError, match="function is no model; give an instance"):
    ace_jax.fit(squared, squared, (X, Y), (X, Y))
