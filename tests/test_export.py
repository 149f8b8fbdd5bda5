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
