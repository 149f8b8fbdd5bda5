"""Is the loss of a sample of that sample alone?"""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
import pytest

from ace_jax.sample_losses import mixes_samples

X = jax.random.normal(jax.random.key(0), (2, 3))
P = jax.random.normal(jax.random.key(1), (2, 1))
Y = X[:, 0]
LABELS = jnp.array([1, 1])


def mean_square(p, b):
  return jnp.mean((p - b[1]) ** 2, axis=-1)


def of_tree(p, b):
  return jnp.square(p["a"][:, 0] - b["y"]) + jnp.sum(p["b"]["c"] ** 2, axis=(1, 2))


MIXING = {
  "mean": (mean_square, P, (X, Y)),
  "jitted": (jax.jit(mean_square), P, (X, Y)),
  "no mean": (lambda p, b: (p - b[1]) ** 2, P, (X, Y)),
  "other axis": (lambda p, b: jnp.mean((b[1] - p) ** 2, axis=0), P, (X, Y)),
  "equal targets": (mean_square, P, (X, jnp.ones(2))),
  "equal predictions": (mean_square, jnp.ones((2, 1)), (X, Y)),
  "equal samples": (mean_square, jnp.ones((2, 1)), (X, jnp.ones(2))),
  "mean of a batch": (lambda p, b: mean_square(p, b) / jnp.mean(b[1] ** 2), P, (X, Y[:, None])),
  "tree": (
    lambda p, b: jnp.mean((p["a"] - b["y"]) ** 2, axis=-1),
    {"a": P},
    {"x": X, "y": Y},
  ),
  "three": (mean_square, jnp.ones((3, 1)), (jnp.ones((3, 3)), jnp.array([1.0, 1.0, 2.0]))),
  "ints": (lambda p, b: jnp.mean((p - b[1]) ** 2, axis=-1), P, (X, jnp.array([0, 1]))),
}
ALONE = {
  "square": (mean_square, P, (X, Y[:, None])),
  "entries": (lambda p, b: (p - b[1]) ** 2, P, (X, Y[:, None])),
  "large": (mean_square, 1e6 * P, (X, 1e6 * Y[:, None])),
  "half": (mean_square, P.astype(jnp.bfloat16), (X, Y[:, None].astype(jnp.bfloat16))),
  "labels": (
    lambda p, b: optax.softmax_cross_entropy_with_integer_labels(p, b[1]),
    X,
    (X, LABELS),
  ),
  "norm": (lambda p, b: jnp.linalg.norm(p - b[1], axis=-1), X, (X, jnp.roll(X, 1))),
  "nan": (lambda p, b: jnp.log(p[:, 0] * b[1]), P, (X, Y)),
  "missing": (
    lambda p, b: jnp.where(jnp.isnan(b[1]), 0, p[:, 0] - jnp.nan_to_num(b[1])),
    P,
    (X, Y.at[0].set(jnp.nan)),
  ),
  "tree": (of_tree, {"a": P, "b": {"c": jnp.ones((2, 2, 2))}}, {"x": X, "y": Y, "n": LABELS}),
  "complex": (lambda p, b: jnp.abs(p[:, 0] - b[1]) ** 2, P * (1 + 1j), (X, Y)),
  "numpy": (lambda p, b: np.square(p[:, 0] - b[1]), np.asarray(P), (X, np.asarray(Y))),
  "keys": (lambda p, b: p[:, 0] ** 2, P, (X, jax.random.split(jax.random.key(0), 2))),
  "one sample": (mean_square, P[:1], (X[:1], Y[:1])),
}


@pytest.mark.parametrize("name", MIXING)
def test_losses_that_mix_samples(name):
  assert mixes_samples(*MIXING[name])


@pytest.mark.parametrize("name", ALONE)
def test_losses_of_samples_alone(name):
  assert not mixes_samples(*ALONE[name])


def test_graphs_are_not_asked():
  graph = jraph.GraphsTuple(
    jnp.ones((2, 3)), None, jnp.array([0]), jnp.array([1]), P, jnp.array([1, 1]), jnp.array([1, 0])
  )
  mixing = lambda p, b: jnp.mean((p - p.T) ** 2, axis=-1)  # noqa: E731
  assert mixes_samples(mixing, P, (X, Y))
  assert not mixes_samples(mixing, P, graph)
  assert not mixes_samples(mixing, P, {"nodes": jnp.ones((5, 3)), "y": Y})
