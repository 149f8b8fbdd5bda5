from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import Homotopic, export, homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP


class Radial(nn.Module):
  @nn.compact
  def __call__(self, x):
    h = nn.Dense(4, name="linear")(jnp.linalg.norm(x, axis=-1, keepdims=True))
    return Homotopic(MLP, name="layer")(h, x)


def start():
  x = jax.random.normal(jax.random.key(0), (5, 3))
  return Radial(), Radial().init(jax.random.key(1), x), x


def test_saved_parameters_are_those_of_the_strict_model(tmp_path):
  model, variables, x = start()
  export.save_parameters(tmp_path / "model.npz", homotopy.project(variables))
  with np.load(tmp_path / "model.npz") as file:
    assert set(file.files) == {"params/linear/kernel", "params/linear/bias"}
  output = model.apply(export.load_parameters(tmp_path / "model.npz"), x)
  np.testing.assert_array_equal(output, model.apply(homotopy.project(variables), x))


def test_exported_functions_take_batches_of_any_size():
  model, variables, x = start()
  for chosen in (variables, homotopy.project(variables)):
    call = export.load_function(export.export_function(model.apply, chosen, x))
    for batch in (x, x[:2], jnp.concatenate([x, x])):
      np.testing.assert_allclose(call(batch), model.apply(chosen, batch), rtol=1e-6, atol=1e-6)


def test_exported_functions_take_dictionaries_and_lists():
  x = jnp.arange(12.0).reshape(4, 3)

  def apply(variables, batch, scales):
    first, second = scales
    energy = variables["params"]["w"] * jnp.sum(batch["positions"] * first, axis=1)
    return {"energy": energy, "forces": [batch["positions"] * second[:, None]]}

  inputs = {"positions": x, "unused": jnp.arange(4)}, [2 * jnp.ones((4, 3)), jnp.arange(4.0)]
  variables = {"params": {"w": jnp.float32(0.5)}}
  call = export.load_function(export.export_function(apply, variables, *inputs))
  for count in (4, 2):
    few = jax.tree.map(lambda a, count=count: a[:count], inputs)
    outputs = call(*few)
    np.testing.assert_allclose(outputs["energy"], np.sum(x[:count], axis=1), rtol=1e-6)
    np.testing.assert_allclose(outputs["forces"][0], x[:count] * np.arange(count)[:, None])


class Pair(NamedTuple):
  x: Any
  y: Any


def test_what_cannot_be_exported_is_said():
  model, variables, x = start()
  for apply, inputs, says in (
    (lambda v, x: Pair(x, model.apply(v, x)), (x,), "let it take and return arrays, in tuples"),
    (lambda v, pair: model.apply(v, pair.x), (Pair(x, x),), "let it take and return arrays"),
    (
      lambda v, x, by: model.apply(v, x) * by,
      (x, 2.0),
      r"inputs\[1\] of shape \(\) have no common",
    ),
    (lambda v, x, y: model.apply(v, x), (x, x[:2]), "no common axis of samples; let `apply` hold"),
  ):
    with pytest.raises(ConfigurationError, match=says) as error:
      export.export_function(apply, variables, *inputs)
    assert "\n" not in str(error.value)
