import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from ace_jax import graphs, homotopy, padding
from ace_jax.models.schnet import SchNet
from ace_jax.relaxations import Relaxation
from ace_jax.symmetry import random_rotations
from tests.marks import with_slow
from tests.values import drawn


def published_variables(arrays):
  """Maps the published parameters to ours; each must be used."""
  config = json.loads(str(arrays["config"]))
  unused = {name.removeprefix("param/") for name in arrays.files if name.startswith("param/")}
  # A counter, the centres of the Gaussians, and the filter network under its second name.
  ignored = ("num_batches_tracked", "distance_expansion.offset", ".conv.nn.")
  unused = {name for name in unused if not any(part in name for part in ignored)}

  def take(name):
    unused.discard(name)
    return arrays[f"param/{name}"]

  def dense(name, bias=True):
    return {
      "kernel": take(f"{name}.weight").T,
      **({"bias": take(f"{name}.bias")} if bias else {}),
    }

  params = {
    "embedding": take("embedding.weight"),
    "readout_0": dense("lin1"),
    "readout_1": dense("lin2"),
  }
  stats, gamma = {}, {}
  for i in range(config["interactions"]):
    inner, carry = f"interactions.{i}", f"pos_interactions.{i}"
    branch = {
      "norm": {"scale": take(f"{carry}.0.weight"), "bias": take(f"{carry}.0.bias")},
      "linear": dense(f"{carry}.1"),
    }
    if i == 0:
      branch["start"] = dense("pos_linear")
    params[f"interactions_{i}"] = {
      "convolution": {
        "filter_0": dense(f"{inner}.mlp.0"),
        "filter_1": dense(f"{inner}.mlp.2"),
        "senders": dense(f"{inner}.conv.lin1", bias=False),
        "received": dense(f"{inner}.conv.lin2"),
        "output": dense(f"{inner}.lin"),
      },
      "stream": {"relaxation": branch},
    }
    running = {
      "mean": take(f"{carry}.0.running_mean"),
      "var": take(f"{carry}.0.running_var"),
    }
    stats[f"interactions_{i}"] = {"stream": {"relaxation": {"norm": running}}}
    gamma[f"interactions_{i}"] = {"stream": {"gamma": take(f"gammas.{i}")}}
  assert not unused
  return {"params": params, "batch_stats": stats, "gamma": gamma}


def model_of(config, **options):
  return SchNet(
    config["hidden"],
    config["filters"],
    config["interactions"],
    config["gaussians"],
    config["cutoff"],
    **options,
  )


def sparse(arrays, config, dtype):
  senders, receivers = arrays["in/edge_index"]
  samples = config["B"]
  graph = jraph.GraphsTuple(
    nodes=None,
    edges=None,
    globals=None,
    senders=jnp.asarray(senders),
    receivers=jnp.asarray(receivers),
    n_node=jnp.asarray(np.bincount(arrays["in/graph_index"])),
    n_edge=jnp.full(samples, len(senders) // samples),
  )
  return [jnp.asarray(arrays["in/positions"], dtype), arrays["in/atomic_numbers"], graph]


def all_pairs(arrays, config, dtype):
  """The same edges as a mask over all pairs of a graph's nodes."""
  samples, nodes = config["B"], config["nodes"]
  senders, receivers = arrays["in/edge_index"]
  mask = np.zeros((samples, nodes, nodes), bool)
  mask[receivers // nodes, receivers % nodes, senders % nodes] = True
  assert mask.sum() == len(senders)
  assert (mask == mask.swapaxes(1, 2)).all()
  positions = jnp.asarray(arrays["in/positions"], dtype).reshape(samples, nodes, 3)
  graph = graphs.Neighbours(None, edge_mask=jnp.asarray(mask))
  return [positions, arrays["in/atomic_numbers"].reshape(samples, nodes), graph]


def neighbours(arrays, config, dtype):
  """The same edges as a mask over senders that are named."""
  positions, numbers, graph = all_pairs(arrays, config, dtype)
  senders = jnp.broadcast_to(jnp.arange(config["nodes"]), graph.edge_mask.shape)
  return [positions, numbers, dataclasses.replace(graph, senders=senders)]


@pytest.mark.parametrize("layout", [sparse, all_pairs, neighbours])
@pytest.mark.parametrize("bits", with_slow([64, 32], 32))
def test_published_outputs_and_gradients(schnet_fixture, layout, bits):
  arrays = np.load(schnet_fixture)
  config = json.loads(str(arrays["config"]))
  model = model_of(config)
  dtype, close = {64: (np.float64, 1e-9), 32: (np.float32, 2e-5)}[bits]
  with jax.enable_x64(bits == 64):
    variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), published_variables(arrays))
    positions, numbers, graph = layout(arrays, config, dtype)

    def energies(variables, positions):
      return model.apply(variables, numbers, positions, graph)

    def square(gamma, positions):
      relaxed = energies({**variables, "gamma": gamma}, positions)
      return jnp.mean(jnp.square(relaxed)), relaxed

    gradient = jax.jit(jax.grad(square, (0, 1), has_aux=True))
    gradients, relaxed = gradient(variables["gamma"], positions)
    outputs = {
      "out/energy_projection": jax.jit(energies)(homotopy.project(variables), positions),
      "out/energy_relaxed": relaxed,
      "grad/positions": gradients[1],
      "grad/gammas": jnp.stack(list(homotopy.by_name(gradients[0]).values())),
    }
    for name, value in outputs.items():
      expected = arrays[name]
      np.testing.assert_allclose(
        np.reshape(value, expected.shape),
        expected,
        rtol=close,
        atol=close * np.abs(expected).max(),
        err_msg=name,
      )


SMALL = {"hidden": 8, "filters": 6, "interactions": 2, "gaussians": 8, "cutoff": 5.0}


def molecules(dtype=jnp.float32):
  """Molecules of 5 and 3 atoms, padded to 6, some pairs beyond the cutoff."""
  positions = 2 * jax.random.normal(jax.random.key(0), (2, 6, 3), dtype)
  numbers = jnp.array([[6, 1, 1, 8, 7, 0], [9, 6, 1, 0, 0, 0]])
  return numbers, positions


def apply(model, variables, numbers, positions, **options):
  graph = padding.nearest(positions, numbers > 0, model.cutoff)
  return model.apply(variables, numbers, positions, graph, **options)


def variables_of(model, numbers, positions):
  graph = padding.nearest(positions, numbers > 0, model.cutoff)
  variables = drawn(model.init)(jax.random.key(1), numbers, positions, graph)
  return jax.tree.map(lambda a: a.astype(positions.dtype), variables)


@pytest.mark.parametrize("centring", with_slow(["none", "center_of_mass"], "center_of_mass"))
def test_symmetries(centring):
  with jax.enable_x64(True):
    numbers, positions = molecules(jnp.float64)
    model = model_of(SMALL, centring=centring)
    variables = variables_of(model, numbers, positions)
    assert homotopy.names(variables["gamma"]) == [f"interactions_{i}/stream" for i in range(2)]
    strict = homotopy.project(variables)
    g = jnp.linalg.qr(random_rotations(jax.random.key(2), 1)[0].astype(jnp.float64))[0]

    run = jax.jit(partial(apply, model))

    def error(variables, moved):
      difference = run(variables, numbers, moved) - run(variables, numbers, positions)
      return float(jnp.max(jnp.abs(difference)))

    for matrix in (g, -g):
      assert error(strict, positions @ matrix) < 1e-9
      assert error(variables, positions @ matrix) > 1e-3
    assert error(strict, positions + 7.0) < 1e-9
    assert (error(variables, positions + 7.0) < 1e-9) == (centring == "center_of_mass")
    order = jnp.array([3, 1, 4, 0, 2, 5])
    for chosen in (strict, variables):
      permuted = run(chosen, numbers[:1, order], positions[:1, order])
      expected = run(chosen, numbers, positions)[:1]
      np.testing.assert_allclose(permuted, expected, rtol=1e-9, atol=1e-9)


def test_the_strict_model_neither_creates_nor_computes_the_stream():
  numbers, positions = molecules()
  model = model_of(SMALL)
  graph = padding.nearest(positions, numbers > 0, model.cutoff)
  arguments = (jax.random.key(1), numbers, positions, graph)
  relaxed, strict = model.init(*arguments), homotopy.strict(model.init)(*arguments)
  pruned = homotopy.prune(relaxed)
  assert jax.tree.structure(strict) == jax.tree.structure(pruned)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, strict, pruned)))


@pytest.mark.parametrize("scale", ["free", "fixed"])
def test_atoms_that_do_not_exist_change_nothing(scale):
  """Predictions, gradients and statistics in training are those of the molecules themselves."""
  with jax.enable_x64(True):
    numbers, positions = molecules(jnp.float64)
    model = model_of(SMALL, relaxation=Relaxation(scale=scale))
    variables = variables_of(model, numbers, positions)
    held = {k: v for k, v in variables.items() if k != "batch_stats"}

    def train(held, numbers, positions):
      stats = {"batch_stats": variables["batch_stats"]}
      energy, moved = apply(
        model, {**held, **stats}, numbers, positions, train=True, mutable=["batch_stats"]
      )
      return jnp.sum(jnp.sin(energy)), (energy, moved)

    step = jax.jit(jax.value_and_grad(train, has_aux=True))
    (_, (energy, moved)), gradients = step(held, numbers, positions)
    wide = [(0, 0), (0, 4)]
    junk = jnp.pad(positions, [*wide, (0, 0)], constant_values=1e3)
    junk = jnp.where(jnp.pad(numbers > 0, wide)[..., None], junk, 1e3)
    (_, (expected, others)), slopes = step(held, jnp.pad(numbers, wide), junk)
    for a, b in ((energy, expected), (moved, others), (gradients, slopes)):
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["free", "fixed"])
def test_statistics_of_devices_with_different_numbers_of_atoms(scale):
  """Two devices with a molecule each have the statistics of both molecules together."""
  with jax.enable_x64(True):
    numbers, positions = molecules(jnp.float64)
    model = model_of(SMALL, relaxation=Relaxation(scale=scale, axis_name="data"))
    variables = variables_of(model, numbers, positions)

    def train(numbers, positions):
      return apply(model, variables, numbers, positions, train=True, mutable=["batch_stats"])

    single = jax.vmap(train, axis_name="data")(numbers[None], positions[None])
    two = jax.vmap(train, axis_name="data")(numbers[:, None], positions[:, None])
    np.testing.assert_allclose(two[0].ravel(), single[0].ravel(), rtol=1e-9)
    for k in range(2):
      device = jax.tree.map(lambda a, k=k: a[k], two[1])
      alone = jax.tree.map(lambda a: a[0], single[1])
      jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9), device, alone)


@pytest.mark.slow
def test_gradients_are_finite_for_one_atom_and_where_atoms_coincide():
  model = model_of(SMALL)
  numbers, positions = jnp.array([[6, 0], [1, 1]]), jnp.zeros((2, 2, 3))
  variables = variables_of(model, numbers, positions)

  def energy(variables, positions):
    return jnp.sum(jnp.square(apply(model, variables, numbers, positions)))

  gradients = jax.grad(energy, argnums=(0, 1))(variables, positions)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_a_centring_that_does_not_exist():
  numbers, positions = molecules()
  with pytest.raises(ValueError, match="must be one of"):
    variables_of(model_of(SMALL, centring="mass"), numbers, positions)


def test_filters_of_all_pairs_are_computed_once_for_both_directions():
  count, random = 4, np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, 10, 3)))
  graph = graphs.Neighbours(None, edge_mask=jnp.ones((2, count, count), bool))
  both = graphs.both_directions(x, graph).reshape(2, count, count, 3)
  np.testing.assert_array_equal(both, jnp.swapaxes(both, 1, 2))
  np.testing.assert_array_equal(both[:, 0, 1], x[:, 1])  # (0, 0), (0, 1), ...
  np.testing.assert_array_equal(graphs.one_direction(both.reshape(2, 16, 3), graph), x)
  # A pair's gradient is the sum over its directions, a node's with itself counts once.
  weights = jnp.asarray(random.normal(size=both.shape), x.dtype)
  gradient = jax.grad(
    lambda x: jnp.sum(weights.reshape(2, 16, 3) * graphs.both_directions(x, graph))
  )(x)
  i, j = np.triu_indices(count)
  expected = weights[:, i, j] + jnp.where((i != j)[:, None], weights[:, j, i], 0)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)
  _, moved = jax.jvp(lambda x: graphs.both_directions(x, graph), (x,), (x,))
  np.testing.assert_array_equal(moved, both.reshape(2, 16, 3))
  topology = graphs.fully_connected(3)
  assert graphs.one_direction(x, topology) is graphs.both_directions(x, topology) is x
