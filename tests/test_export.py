import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import Homotopic, export, homotopy
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
