"""Loaders: what `fit` makes of batches that come one after the other, and what it refuses."""

import itertools
import json
import logging
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
import pytest

import ace_jax
from ace_jax import graphs
from ace_jax.errors import ConfigurationError, NonFiniteError
from ace_jax.training import loaders, make_mesh, streaming
from tests.training.test_fitting import Radial, squared_error

grain = pytest.importorskip("grain.python")

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype(np.float32)
Y = np.linalg.norm(X, axis=1, keepdims=True) + 0.3 * X[:, :1]
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]


def devices(count):
  return make_mesh(devices=jax.devices()[:count])


def fit(train, valid=BATCHES, epochs=3, **options):
  options = {"mesh": devices(1), "progress": None, "lr": 1e-2, **options}
  return ace_jax.fit(Radial(), squared_error, train, valid, epochs=epochs, **options)


def losses(trained):
  return [record["loss"] for record in trained.history]


def assert_same(a, b, **tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, **{"rtol": 0, "atol": 0, **tolerance})


def by_hand(batches, epochs, trained):
  """Returns the loss of every step and the state, by a loop over `PrimalDual.step`."""
  key, run = jax.random.split(jax.random.key(0))
  begun = jax.jit(Radial().init)(key, X[:2])
  state = trained.method.init(begun, ace_jax.Equality(), run)
  step = jax.jit(trained.method.step)
  seen = []
  for _ in range(epochs):
    for batch in batches:
      state, output = step(state, batch)
      seen.append(float(output.loss))
    state = state.replace(epoch=state.epoch + 1)
  return np.array(seen), state


def test_a_list_of_batches_is_the_loop_by_hand():
  short = [*BATCHES[:4], (X[32:37], Y[32:37])]
  trained = fit(short, valid=short)
  seen, state = by_hand(short, 3, trained)
  np.testing.assert_allclose(losses(trained), seen.reshape(3, 5).mean(1), rtol=2e-6)
  assert_same(trained.state.primal, state.primal, rtol=2e-5, atol=1e-6)
  # A short last batch weighs as its samples do, in training's validation and in the test.
  memory = fit((X[:37], Y[:37]), (X[:37], Y[:37]), epochs=1, batch_size=37)
  loader = fit([(X[:37], Y[:37])], short, epochs=1, test=short)
  for name in ("projection", "relaxed"):
    assert loader.history[0][f"valid/{name}"] == pytest.approx(memory.history[0][f"valid/{name}"])
    assert loader.test[name] == pytest.approx(loader.history[0][f"valid/{name}"])
  uneven = np.mean([np.mean((Radial().apply(loader.projection, x) - y) ** 2) for x, y in short])
  assert abs(uneven - loader.test["projection"]) > 1e-3 * uneven


def with_nan(batch, row, entry=0):
  batch = [np.array(array) for array in BATCHES[batch]]
  batch[entry][row, 0] = np.nan
  return tuple(batch)


@pytest.mark.parametrize("seeds", [None, (0, 1)])
def test_a_batch_that_is_not_finite_is_named(seeds):
  bad = [*BATCHES[:2], with_nan(2, 5), BATCHES[3]]
  says = r"batch 3 of train\[0\] holds 1 values that are not finite, first at sample 5; mend"
  with pytest.raises(ConfigurationError, match=says):
    fit(bad, seeds=seeds)
  says = r"batch 2 of valid\[1\] holds 1 values that are not finite, first at sample 3; mend"
  with pytest.raises(ConfigurationError, match=says):
    fit(BATCHES[:2], [BATCHES[0], with_nan(1, 3, 1)], seeds=seeds)


def test_a_loss_that_is_not_finite_for_other_reasons_is_said_as_such():
  # A label is missing in batch 3, which the loss leaves out; the first step's overflow shows in 2.
  def loss(prediction, batch):
    return jnp.square(prediction - jnp.where(jnp.isnan(batch[1]), prediction, batch[1]))

  def train(**options):
    batches = [*BATCHES[:2], with_nan(2, 3, 1)]
    options = {"mesh": devices(1), "progress": None, "epochs": 1, **options}
    return ace_jax.fit(Radial(), loss, batches, BATCHES, **options)

  assert np.isfinite(train().history[0]["loss"])
  with pytest.raises(NonFiniteError, match="epoch 1, step 2 of 3"):
    train(optimizer=optax.sgd(1e38), gamma_lr=1e-3)


@pytest.mark.slow
def test_replicas_share_the_batches():
  alone = [fit(BATCHES, epochs=2, seed=seed) for seed in (3, 4)]
  both = fit(BATCHES, epochs=2, seeds=(3, 4), mesh=make_mesh(2, 2, jax.devices()[:4]))
  for one_seed, replica in zip(alone, both, strict=True):
    assert_same(replica.state.primal, one_seed.state.primal, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses(replica), losses(one_seed), rtol=1e-5)


def test_devices_share_the_batches():
  alone, shared = (fit(BATCHES, epochs=2, mesh=devices(count)) for count in (1, 4))
  assert_same(shared.state.primal, alone.state.primal, rtol=1e-5, atol=1e-6)
  says = "a batch of 10 does not divide over 4 devices; take a batch size of 8 or 12, or"
  with pytest.raises(ConfigurationError, match=says):
    fit([(X[:10], Y[:10])], mesh=devices(4))
  with pytest.raises(ConfigurationError, match=r"train has a batch of 5 samples, which does not"):
    fit([BATCHES[0], (X[:5], Y[:5])], mesh=devices(4))


class Tensor:
  """As much of torch's as a loader yields."""

  def __init__(self, array):
    self._array, self.shape = array, array.shape

  def detach(self):
    return self

  cpu = detach

  def numpy(self):
    return self._array


class Torch:
  """A DataLoader of lists of tensors that shuffles anew in every pass."""

  def __init__(self):
    self.order = np.random.default_rng(7)

  def __len__(self):
    return len(BATCHES)

  def __iter__(self):
    for i in self.order.permutation(len(BATCHES)):
      yield [Tensor(array) for array in BATCHES[i]]


class Stateful(Torch):
  """Its state is what torchdata's is: that of the sampler, arrays among it."""

  def state_dict(self):
    return {"generator": self.order.bit_generator.state, 3: (np.arange(2), b"x", None)}

  def load_state_dict(self, state):
    np.testing.assert_array_equal(state[3][0], np.arange(2))
    assert state[3][1:] == (b"x", None)
    self.order.bit_generator.state = state["generator"]


def test_generator_functions_and_torch():
  def batches():
    yield from BATCHES

  trained = fit(batches)
  assert_same(trained.state.primal, fit(BATCHES).state.primal)
  orders = np.random.default_rng(7)
  order = [BATCHES[i] for _ in range(3) for i in orders.permutation(5)]
  seen, _ = by_hand(order, 1, trained)
  np.testing.assert_allclose(losses(fit(Torch())), seen.reshape(3, 5).mean(1), rtol=2e-6)


class Indexed:
  """What Python iterates over by its indices; slices beyond the end are empty, not refused."""

  def __len__(self):
    return 5

  def __getitem__(self, i):
    return X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]


class Ending:
  """The same without a length: an IndexError ends it."""

  def __getitem__(self, i):
    return BATCHES[i]


def test_what_has_but_indices_is_a_loader():
  expected = fit(BATCHES).state.primal
  for loader in (Indexed(), Ending(), lambda: Indexed()):
    assert_same(fit(loader).state.primal, expected)


def test_an_epoch_of_some_steps_goes_on_with_the_pass():
  trained = fit(BATCHES, steps_per_epoch=2, epochs=4)  # 2 + 2, then anew for 1 + 1, ...
  order = [BATCHES[i % 5] for i in range(8)]
  seen, _ = by_hand(order, 1, trained)
  np.testing.assert_allclose(losses(trained), seen.reshape(4, 2).mean(1), rtol=2e-6)
  assert [record["step"] for record in trained.history] == [2, 4, 6, 8]


class Records:
  def __repr__(self):
    return "Records"  # by which grain knows that its state is of these data

  def __len__(self):
    return 40

  def __getitem__(self, i):
    return X[i], Y[i]


def grain_loader():
  sampler = grain.IndexSampler(40, grain.NoSharding(), shuffle=True, num_epochs=None, seed=3)
  return grain.DataLoader(
    data_source=Records(), sampler=sampler, operations=[grain.Batch(8)], worker_count=0
  )


def grain_dataset():
  dataset = grain.MapDataset.source(Records()).seed(3).shuffle().repeat().batch(8)
  return dataset.to_iter_dataset()


@pytest.mark.parametrize(
  ("loader", "steps"),
  [
    pytest.param(grain_loader, 3, id="grain"),
    pytest.param(grain_dataset, 3, id="grain dataset", marks=pytest.mark.slow),
    pytest.param(Stateful, None, id="stateful passes", marks=pytest.mark.slow),
  ],
)
def test_a_loader_with_state_is_resumed_bit_for_bit(tmp_path, loader, steps):
  options = {"steps_per_epoch": steps, "checkpoint_every": 1}
  through = fit(loader(), epochs=4, **options)
  fit(loader(), epochs=2, workdir=tmp_path, **options)
  resumed = fit(loader(), epochs=4, workdir=tmp_path, resume=True, **options)
  assert losses(resumed) == losses(through)
  assert len({*losses(through)}) == 4
  assert_same(resumed.state, through.state)
  saved = tmp_path / "checkpoints" / "000004" / "loader.json"
  assert "loader.json" in json.loads((saved.parent / "manifest.json").read_text())["sha256"]
  other = BATCHES if steps else [*BATCHES, BATCHES[0]]
  with pytest.raises(ConfigurationError, match=r"its checkpoint has .*; give the loader that"):
    loaders.Loader(other, "train", steps).restore({"of": "loader", "value": 3})


def test_a_loader_without_state_says_what_resuming_does(tmp_path, caplog):
  fit(BATCHES, epochs=1, workdir=tmp_path)
  with caplog.at_level(logging.WARNING, "absl"):
    resumed = fit(BATCHES, epochs=2, workdir=tmp_path, resume=True)
  said = (
    "the checkpoint has no state of train: epochs are whole passes, and the next one begins anew."
  )
  assert said in caplog.messages
  assert_same(resumed.state, fit(BATCHES, epochs=2).state)


class OfGraphs(nn.Module):
  """A number for every graph: of |x| summed over the edges into its nodes."""

  @nn.compact
  def __call__(self, graph):
    lengths = jnp.linalg.norm(graph.nodes, axis=-1, keepdims=True)
    h = nn.tanh(nn.Dense(4, name="hidden")(lengths))
    h = ace_jax.Homotopic(nn.Dense, name="layer")(h, graph.nodes)
    h = graphs.aggregate(graphs.gather_senders(h, graph), graph, h.shape[0])
    return nn.Dense(1, name="out")(graphs.pool_mean(h, graph))


def molecule(nodes):
  pairs = np.array([*itertools.permutations(range(nodes), 2)])
  return jraph.GraphsTuple(
    rng.normal(size=(nodes, 3)).astype(np.float32), None, pairs[:, 0], pairs[:, 1],
    np.float32([[nodes]]), np.array([nodes]), np.array([len(pairs)]),
  )  # fmt: skip


def error_of_graphs(prediction, graph):
  return jnp.square(prediction - graph.globals)


def train_on_graphs(loader, **options):
  options = {"mesh": devices(1), "constraint": ace_jax.Unconstrained(), "epochs": 3, **options}
  inputs = {"inputs": lambda graph: (graph,), "progress": None}
  return ace_jax.fit(OfGraphs(), error_of_graphs, loader, loader, **inputs, **options)


@pytest.mark.slow
def test_a_padded_batch_of_graphs_trains_as_one_without_padding():
  molecules = [molecule(n) for n in (3, 3, 5, 5, 3, 2, 5, 4, 2, 2, 2)]
  once = train_on_graphs([jraph.batch_np(molecules)])
  padded = train_on_graphs([*graphs.batches(molecules, nodes=60, edges=300)])
  np.testing.assert_allclose(losses(padded), losses(once), rtol=1e-5)


def test_graphs_of_two_sizes_compile_two_programs(monkeypatch):
  sizes = [3, 3, 5, 5, 3, 2, 5, 4, 2, 2, 2]
  molecules = [molecule(n) for n in sizes]
  batches = [*graphs.batches(molecules, nodes=(8, 12), edges=(30, 60), count=2)]
  assert len({loaders.shapes(batch) for batch in batches}) == 2
  made = []
  begun = streaming.Epoch.__init__
  monkeypatch.setattr(
    streaming.Epoch, "__init__", lambda self, *a: (begun(self, *a), made.append(self))[0]
  )

  trained = train_on_graphs(batches)
  assert len(made[0].run._ready) == 2
  # Padding counts nothing: a mean over real graphs, each batch by their number.
  values = [
    float(error_of_graphs(OfGraphs().apply(trained.projection, g), g)[0, 0]) for g in molecules
  ]
  assert float(trained.state.best["projection"].error) == pytest.approx(np.mean(values), rel=1e-5)
  with pytest.raises(
    ConfigurationError, match=r"batches of graphs, which are not split over 2 dev"
  ):
    train_on_graphs(batches, mesh=devices(2))


class Endless:
  def __len__(self):
    return sys.maxsize

  def __iter__(self):
    return itertools.cycle(BATCHES)


class Once:
  """Iterable, but exhausted after the first pass."""

  def __init__(self):
    self.batches = iter(BATCHES)

  def __iter__(self):
    return (batch for batch in self.batches)  # the second time of none


def generated():
  yield from BATCHES


def bad(batch):
  return [BATCHES[0], batch]


@pytest.mark.parametrize(
  ("train", "says"),
  [
    (generated(), r"train \(generated\) can be iterated over once only; give the generator funct"),
    (iter(BATCHES), r"train \(list_iterator\) can be iterated over once only; give the generator"),
    (Once(), "train has no batches left in a further epoch; give what can be iterated over again"),
    (Endless(), "train is an infinite loader; give steps_per_epoch=."),
    (lambda: iter(()), "train has no batches; its first epoch is empty."),
    (lambda: 3, "train is a function; it must be arrays with one leading axis, batches that can"),
    (object(), "train is a object; it must be arrays with one leading axis, batches that can"),
    (bad({"x": X}), r"batch 2 of train is PyTreeDef.*, but the first one PyTreeDef"),
    (bad((X[:8].astype(int), Y[:8])), r"batch 2 of train\[0\] is int32 of 2 axes, .* float32 of 2"),
    (bad((X[:8], Y[:7])), r"batch 2 of train has arrays with leading axes \[7, 8\]; all must have"),
    (bad((X[:0], Y[:0])), "batch 2 of train has no samples; let the loader leave it out."),
    ([(X, "label")], r"batch 1 of train\[1\] is 'label', no array with an axis of samples; leave"),
    ([(X, np.array(["a"] * 40))], r"batch 1 of train\[1\] is an array of <U1; give numbers, or"),
    ([(X, 3.0)], r"batch 1 of train\[1\] is 3.0, no array with an axis of samples"),
    ([(X[:n], Y[:n]) for n in range(1, 12)], "train has batches of more than 8 shapes, of which"),
  ],
  ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_refusals(train, says):
  with pytest.raises(ConfigurationError, match=says) as error:
    loader = loaders.Loader(train, "train", None)
    for _ in range(3):
      list(loader.epoch())
  assert "\n" not in str(error.value)


def test_arguments_that_do_not_go_together():
  with pytest.raises(ConfigurationError, match=r"steps_per_epoch is 3, but train is arrays in mem"):
    fit((X, Y), (X, Y), steps_per_epoch=3)
  with pytest.raises(ConfigurationError, match=r"steps_per_epoch is 0; it must be at least 1"):
    fit(BATCHES, steps_per_epoch=0)
  with pytest.raises(ConfigurationError, match=r"steps_per_epoch is 1.5; it must be a whole numb"):
    fit(BATCHES, steps_per_epoch=1.5)
  with pytest.raises(ConfigurationError, match=r"train is a loader, whose .* leave batch_size out"):
    fit(BATCHES, batch_size=8)
  with pytest.raises(ConfigurationError, match=r"valid is a loader, .* leave eval_batch_size out"):
    fit((X, Y), BATCHES, eval_batch_size=8)
  with pytest.raises(ConfigurationError, match=r"train ended after 5 batches, but steps_per_epoch"):
    fit(BATCHES, steps_per_epoch=7)


def test_what_is_a_loader():
  pair = [jnp.ones((4, 3)), np.ones((4, 1))]
  for data in (pair, tuple(pair), {"x": pair[0]}, ((pair[0], pair[0]), pair[1]), pair[0], [*X]):
    assert not loaders.is_loader(data)
  for data in (BATCHES, [{"x": X}], Torch(), generated, generated(), iter(BATCHES), range(3)):
    assert loaders.is_loader(data)


def test_an_error_of_the_loader_is_its_own():
  def broken():
    yield BATCHES[0]
    raise OSError("the disk is gone")

  with pytest.raises(OSError, match=r"the disk is gone"):
    fit(broken)
