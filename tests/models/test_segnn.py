import json
import re
from functools import partial

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from flax import traverse_util

from ace_jax import graphs, homotopy
from ace_jax.models import steerable
from ace_jax.models.segnn import SEGNN
from ace_jax.symmetry import random_rotations
from experiments.nbody.models import NBodySEGNN
from tests.values import drawn


def published_variables(arrays):
  """Maps the published parameters to ours; every one must be used.

  A tensor product's weight is a list of blocks [inputs, 1, outputs], one a path. Ours is a matrix
  for each degree l3 of the output, whose rows are ordered by the degree of the input, then that
  of the attribute, then as published; the factor sqrt(2 l3 + 1) is applied by the model. Linears
  of the relaxations are transposed, and their ends on flat features permuted from [channel,
  component] to [component, channel] in each block of irreps.
  """
  config = json.loads(str(arrays["config"]))
  # Masks are buffers that select all outputs; the gates' products have no weights.
  unused = {
    name.removeprefix("param/")
    for name in arrays.files
    if name.startswith("param/") and not name.endswith("output_mask") and arrays[name].size
  }

  def take(name):
    unused.discard(name)
    return arrays[f"param/{name}"]

  params, gamma = {}, {}
  for name, product in config["tensor_products"].items():
    path = name.replace("layers.", "layers_").split(".")
    params[tuple(path)] = _kernels(take(f"{name}.tp.weight"), product, arrays, name)
    if f"param/{name}.biases" in arrays.files:
      params[tuple(path)]["bias"] = take(f"{name}.biases")
  hidden = e3nn.Irreps(config["hidden"])
  ends = {1: (hidden + hidden, hidden), 2: (hidden, hidden)}
  for i in range(config["layers"]):
    for k, (inputs, outputs) in ends.items():
      branch = {}
      for j, index in enumerate((0, 2, 4)):
        prefix = f"layers.{i}.lin_noneq{k}.{index}"
        weight, bias = take(f"{prefix}.weight"), take(f"{prefix}.bias")
        if j == 0:
          weight = weight[:, _component_major(inputs)]
        if j == 2:
          weight, bias = weight[_component_major(outputs)], bias[_component_major(outputs)]
        branch[f"linear_{j}"] = {"kernel": weight.T, "bias": bias}
      params[(f"layers_{i}", f"update_{k}", "relaxation")] = branch
      gamma[(f"layers_{i}", f"update_{k}")] = {
        "gamma": take(f"layers.{i}.gammas.{k - 1}").reshape(())
      }
  assert not unused
  return {
    "params": traverse_util.unflatten_dict(params),
    "gamma": traverse_util.unflatten_dict(gamma),
  }


def _kernels(weight, product, arrays, name):
  inputs, attributes, outputs = (
    e3nn.Irreps(product[key]) for key in ("irreps_in1", "irreps_in2", "irreps_out")
  )
  correction = arrays[f"in/sqrt_k_correction/{name}"]
  starts = [s.start for s in outputs.slices()]
  blocks, at = {}, 0
  for path in product["paths"]:
    shape = path["weight_shape"]
    block = weight[at : at + np.prod(shape)].reshape(shape)[:, 0]
    at += np.prod(shape)
    l1, l2, l3 = (irreps[path[key]].ir.l for irreps, key in _roles(inputs, attributes, outputs))
    scale = path["path_weight"] / correction[starts[path["out"]]] / np.sqrt(2 * l3 + 1)
    blocks.setdefault((l3, l1, l2), []).append(block * scale)
  assert at == len(weight)
  rows = {}
  for l3, l1, l2 in sorted(blocks):
    rows.setdefault(f"kernel_{l3}", []).extend(blocks[l3, l1, l2])
  return {key: np.concatenate(value) for key, value in rows.items()}


def _roles(inputs, attributes, outputs):
  return (inputs, "i1"), (attributes, "i2"), (outputs, "out")


def _component_major(irreps):
  index, at = [], 0
  for mul, ir in irreps:
    index += list(at + np.arange(mul * ir.dim).reshape(mul, ir.dim).T.ravel())
    at += mul * ir.dim
  return np.array(index)


def published_model(arrays):
  config = json.loads(str(arrays["config"]))
  network = SEGNN(
    hidden_irreps=config["hidden"],
    lmax_hidden=config["lmax"],
    lmax_attributes=config["lmax"],
    num_layers=config["layers"],
  )
  return NBodySEGNN(network), config


def dense(arrays, config, dtype):
  shape = (config["B"], config["nodes"])
  inputs = [
    arrays["in/positions"].reshape(*shape, 3),
    arrays["in/velocities"].reshape(*shape, 3),
    arrays["in/charges"].reshape(shape),
  ]
  return [jnp.asarray(array, dtype) for array in inputs]


def sparse(arrays, config, dtype):
  senders, receivers = arrays["in/edge_index"]
  samples, nodes = config["B"], config["nodes"]
  graph = jraph.GraphsTuple(
    nodes=None,
    edges=None,
    globals=None,
    senders=jnp.asarray(senders),
    receivers=jnp.asarray(receivers),
    n_node=jnp.full(samples, nodes),
    n_edge=jnp.full(samples, len(senders) // samples),
  )
  inputs = [arrays["in/positions"], arrays["in/velocities"], arrays["in/charges"][:, 0]]
  return [*(jnp.asarray(array, dtype) for array in inputs), graph]


# The others of layout and bits are slow; that layouts agree, tests/test_neighbours.py asserts.
@pytest.mark.parametrize(
  ("layout", "bits"),
  [
    (dense, 64),
    pytest.param(sparse, 32, marks=pytest.mark.slow),
    pytest.param(dense, 32, marks=pytest.mark.slow),
    pytest.param(sparse, 64, marks=pytest.mark.slow),
  ],
)
def test_published_outputs_and_gradients(segnn_fixture, layout, bits):
  arrays = np.load(segnn_fixture)
  model, config = published_model(arrays)
  dtype, close = {64: (np.float64, 1e-9), 32: (np.float32, 2e-5)}[bits]
  with jax.enable_x64(bits == 64):
    variables = published_variables(arrays)
    variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)
    positions, *rest = layout(arrays, config, dtype)

    def energy(gamma, positions):
      relaxed = model.apply({**variables, "gamma": gamma}, positions, *rest)
      return jnp.mean(jnp.square(relaxed)), relaxed

    projection = jax.jit(model.apply)(homotopy.project(variables), positions, *rest)
    gradient = jax.jit(jax.grad(energy, (0, 1), has_aux=True))
    gradients, relaxed = gradient(variables["gamma"], positions)
    outputs = {
      "out/positions_projection": projection,
      "out/positions_relaxed": relaxed,
      "grad/positions": gradients[1],
      "grad/gammas": jnp.stack(list(homotopy.by_name(gradients[0]).values())),
    }
    for name, value in outputs.items():
      expected = arrays[name]
      scale = np.abs(expected).max()
      np.testing.assert_allclose(
        np.reshape(value, expected.shape), expected, rtol=close, atol=close * scale, err_msg=name
      )


@pytest.mark.slow
def test_gamma_names_and_strict_parameters():
  model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=2))
  inputs = random_particles()
  variables = model.init(jax.random.key(1), *inputs)
  assert homotopy.names(variables["gamma"]) == [
    f"layers_{i}/update_{k}" for i in range(2) for k in (1, 2)
  ]
  strict = homotopy.strict(model.init)(jax.random.key(1), *inputs)
  pruned = homotopy.prune(variables)
  assert jax.tree.structure(strict) == jax.tree.structure(pruned)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, strict, pruned)))


def random_particles(batch=3, nodes=4, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  positions, velocities = (jax.random.normal(k, (batch, nodes, 3), dtype) for k in keys[:2])
  return positions, velocities, jax.random.rademacher(keys[2], (batch, nodes), dtype)


@pytest.mark.parametrize(
  "options",
  [
    {},
    pytest.param({"norm": "instance"}, marks=pytest.mark.slow),
    pytest.param({"lmax_hidden": 2, "lmax_attributes": 2}, marks=pytest.mark.slow),
    {"formulation": "general"},
  ],
)
def test_the_projection_is_equivariant_and_the_relaxed_model_is_not(options):
  with jax.enable_x64(True):
    positions, velocities, charges = random_particles(dtype=jnp.float64)
    model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=2, **options))
    variables = drawn(model.init)(jax.random.key(1), positions, velocities, charges)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    apply = jax.jit(model.apply)
    errors = {}
    for name, chosen in {"relaxed": variables, "strict": homotopy.project(variables)}.items():
      expected = apply(chosen, positions, velocities, charges)
      errors[name] = 0.0
      for rotation in random_rotations(jax.random.key(2), 2):
        for g in (rotation.T, -rotation.T):
          outputs = apply(chosen, positions @ g, velocities @ g, charges)
          errors[name] = max(errors[name], float(jnp.max(jnp.abs(outputs - expected @ g))))
  assert errors["strict"] < 1e-9
  assert errors["relaxed"] > 1e-3


@pytest.mark.parametrize(("centring", "keeps"), [("none", False), ("center_of_mass", True)])
def test_translations(centring, keeps):
  with jax.enable_x64(True):
    positions, velocities, charges = random_particles(dtype=jnp.float64)
    model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=1), centring=centring)
    variables = drawn(homotopy.strict(model.init))(
      jax.random.key(1), positions, velocities, charges
    )
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    apply = jax.jit(model.apply)
    expected = apply(variables, positions, velocities, charges)
    outputs = apply(variables, positions + 3.0, velocities, charges) - 3.0
    error = float(jnp.max(jnp.abs(outputs - expected)))
  assert (error < 1e-9) == keeps


@pytest.mark.slow
def test_the_fast_formulation_is_the_general_one():
  fast = NBodySEGNN(SEGNN(num_layers=2, formulation="fast"))
  general = NBodySEGNN(SEGNN(num_layers=2, formulation="general"))
  with jax.enable_x64(True):
    inputs = random_particles(nodes=5, dtype=jnp.float64)
    variables = drawn(fast.init)(jax.random.key(1), *inputs)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)

    def energy(model, variables):
      return jnp.mean(jnp.square(model.apply(variables, *inputs)))

    actual, expected = (
      jax.jit(jax.value_and_grad(partial(energy, model)))(variables) for model in (fast, general)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), actual, expected)


@pytest.mark.slow
def test_gradients_are_finite_where_particles_rest_or_coincide():
  _, _, charges = random_particles()
  zero = jnp.zeros((3, 4, 3))
  model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=1))
  variables = drawn(model.init)(jax.random.key(1), zero, zero, charges)

  def energy(variables, positions, velocities):
    return jnp.sum(jnp.square(model.apply(variables, positions, velocities, charges)))

  gradients = jax.jit(jax.grad(energy, argnums=(0, 1, 2)))(variables, zero, zero)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_graph_task_is_invariant():
  positions, velocities, charges = random_particles(nodes=4)

  class Energy(nn.Module):
    @nn.compact
    def __call__(self, positions, velocities):
      from experiments.nbody.models import nbody_inputs

      inputs = nbody_inputs(positions, velocities, charges, graphs.fully_connected(4))
      return SEGNN("1x0e", hidden_features=8, num_layers=1, task="graph")(**inputs)

  variables = drawn(homotopy.strict(Energy().init))(jax.random.key(1), positions, velocities)
  g = random_rotations(jax.random.key(2), 1)[0].T
  apply = jax.jit(Energy().apply)
  expected = apply(variables, positions, velocities)
  assert expected.shape == (3, 1)
  turned = apply(variables, positions @ g, velocities @ g)
  np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("features", "lmax", "lmax_attributes", "channels"),
  [(64, 1, 1, (32, 32)), (64, 0, 0, (64,)), (8, 1, 1, (4, 4)), (9, 1, 1, (5, 5))],
)
def test_weight_balanced(features, lmax, lmax_attributes, channels):
  assert steerable.weight_balanced(features, lmax, lmax_attributes) == channels


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"norm": "batch"}, "none, instance"),
    ({"task": "edge"}, "node, graph"),
    ({"formulation": "fast", "lmax_hidden": 2}, "lmax_hidden = lmax_attributes = 1"),
  ],
)
def test_settings_that_do_not_exist(options, says):
  with pytest.raises(ValueError, match=re.escape(says)):
    NBodySEGNN(SEGNN(**options)).init(jax.random.key(0), *random_particles())


def test_dropout_drops_whole_channels_of_every_node_alone():
  rate = 0.3
  parts = (jnp.ones((50, 5, 1, 12)), jnp.ones((50, 5, 3, 12)))
  module = steerable.ChannelDropout(rate)
  dropped = module.apply({}, parts, True, rngs={"dropout": jax.random.key(0)})
  for part in dropped:
    np.testing.assert_array_equal(part, part[..., :1, :] + jnp.zeros_like(part))
    assert np.isin(part, np.float32([0, 1 / (1 - rate)])).all()
    kept = np.mean(part[..., 0, :] > 0)  # of 3000, within four deviations
    np.testing.assert_allclose(kept, 1 - rate, atol=4 * np.sqrt(rate * (1 - rate) / 3000))
    assert len(np.unique(np.asarray(part[..., 0, :]).reshape(250, -1), axis=0)) > 200
  assert not np.array_equal(dropped[0][..., 0, :], dropped[1][..., 0, :])
  jax.tree.map(np.testing.assert_array_equal, module.apply({}, parts, False), parts)


@pytest.mark.slow
def test_with_its_mask_given_dropout_keeps_the_symmetry_and_evaluation_is_without():
  with jax.enable_x64(True):
    positions, velocities, charges = random_particles(dtype=jnp.float64)
    plain = NBodySEGNN(SEGNN(hidden_features=8, num_layers=2))
    model = NBodySEGNN(SEGNN(hidden_features=8, num_layers=2, dropout=0.4))
    variables = drawn(homotopy.strict(model.init))(
      jax.random.key(1), positions, velocities, charges
    )
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)

    @jax.jit
    def train(key, positions, velocities):
      rngs = {"dropout": key}
      return model.apply(variables, positions, velocities, charges, train=True, rngs=rngs)

    key = jax.random.key(3)
    expected = train(key, positions, velocities)
    for rotation in random_rotations(jax.random.key(2), 2):
      for g in (rotation.T, -rotation.T):
        outputs = train(key, positions @ g, velocities @ g)
        assert float(jnp.max(jnp.abs(outputs - expected @ g))) < 1e-9
    np.testing.assert_array_equal(train(key, positions, velocities), expected)
    other = train(jax.random.key(4), positions, velocities)
    assert float(jnp.max(jnp.abs(other - expected))) > 1e-3
    inputs = (variables, positions, velocities, charges)
    np.testing.assert_array_equal(model.apply(*inputs), plain.apply(*inputs))
