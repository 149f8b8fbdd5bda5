"""Models of other packages, relaxed without editing them; needs the extra `models`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax.relaxations import MLP

pytestmark = pytest.mark.slow


def test_e3x(tmp_path):
  e3x = pytest.importorskip("e3x")

  class Published(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = e3x.nn.TensorDense(4, max_degree=1)(e3x.nn.Dense(4)(x))
      return e3x.nn.Dense(1)(y)

  def loss(prediction, batch):
    return jnp.mean((prediction - batch[1]) ** 2, axis=(1, 2, 3))

  x = jax.random.normal(jax.random.key(0), (16, 1, 4, 2))
  data = x, jnp.ones((16, 2, 4, 1))
  model = Published()
  relaxed = ace_jax.relax(model, lambda m: isinstance(m, e3x.nn.Dense), MLP, axes=3)
  options = {"epochs": 3, "batch_size": 8, "progress": None}
  run = ace_jax.fit(relaxed, loss, data, data, lr=0.01, **options)
  assert list(run.gamma) == ["Dense_0", "Dense_1", "TensorDense_0/dense"]
  assert run.history[-1]["loss"] < run.history[0]["loss"]
  plain = model.init(jax.random.key(0), x)
  ace_jax.export.save_parameters(tmp_path / "model.npz", run.projection)
  loaded = ace_jax.export.load_parameters(tmp_path / "model.npz")
  assert jax.tree.structure(loaded) == jax.tree.structure(plain)
  expected = run.method.task.predict(run.projection, data)
  np.testing.assert_allclose(model.apply(loaded, x), expected, rtol=1e-4, atol=1e-6)
