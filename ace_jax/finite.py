"""Numbers of samples that are not finite: which, and whether a loss leaves them out."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import compiling, homotopy, task
from ace_jax.errors import ConfigurationError
from ace_jax.task import Batch, Task

_MOST_TRIED = 256
"""Samples that hold numbers which are not finite, of which the loss is asked for."""


def require_finite(learned: Task, variables: homotopy.Variables, data: Mapping[str, Batch]) -> None:
  """Refuses samples with numbers that are not finite, unless the loss leaves them out.

  A label that is missing may be NaN where the loss of its sample is finite all the same, and in
  training its gradient too. Of many such samples the first are tried.

  Args:
    learned: Model and loss.
    variables: Initial ones.
    data: Samples, by what they are called; those to train on "train".

  Raises:
    ConfigurationError: names the array, how many of its numbers are not finite, and a sample.
  """
  tried = compiling.Jitted(
    functools.partial(_losses_and_gradient, learned),
    compiler_options={"xla_backend_optimization_level": 0},  # it runs once
  )
  for called, samples in data.items():
    leaves, structure = jax.tree_util.tree_flatten_with_path(samples)
    for i, (path, leaf) in enumerate(leaves):
      held = _not_finite_rows(leaf)
      if not held:
        continue
      name = f"{called}{jax.tree_util.keystr(path)}"
      count, rows = held
      rows = np.resize(rows[:_MOST_TRIED], max(2, min(len(rows), _MOST_TRIED)))
      some = task.take(samples, rows)
      losses, gradient = tried(variables, some)
      bad = np.flatnonzero(~np.isfinite(losses))
      if bad.size and bad[0]:
        raise ConfigurationError(
          f"{name} holds {count} values that are not finite, and the loss does not leave out those "
          f"of sample {rows[bad[0]]}; mend or leave out these samples."
        )
      if bad.size:
        raise ConfigurationError(_mend(name, count, "sample", rows[0]))
      if called != "train" or bool(gradient):
        continue
      filled = jax.tree.leaves(some)
      filled[i] = jnp.where(jnp.isfinite(filled[i]), filled[i], 0)
      if bool(tried(variables, jax.tree.unflatten(structure, filled))[1]):  # it is these numbers
        raise ConfigurationError(
          f"{_held(name, count, 'sample', rows[0])}, which the loss leaves out, but not its "
          "gradient: put a number in their place before the arithmetic, such as "
          "jnp.where(mask, target, 0), and mask what comes of it."
        )


def _losses_and_gradient(
  learned: Task, variables: homotopy.Variables, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of every sample, and whether the gradient of their mean is finite."""
  theta, gamma, state = homotopy.split(variables)

  def mean(theta: Any, gamma: Any) -> tuple[jax.Array, jax.Array]:
    losses = learned.losses(homotopy.merge(theta, gamma, state), batch)
    return jnp.mean(losses), losses

  gradients, losses = jax.grad(mean, argnums=(0, 1), has_aux=True)(theta, gamma)
  finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients)]
  return losses, jnp.all(jnp.array(finite, bool))


def not_finite(called: str, array: Any, unit: str = "sample") -> tuple[int, str] | None:
  """Returns the first sample with a number that is not finite, and what to say; None if all are.

  Args:
    called: What messages call the array.
    array: Of samples, in its first axis.
    unit: What that axis has, where not samples.
  """
  held = _not_finite_rows(array)
  if not held:
    return None
  count, rows = held
  return int(rows[0]), _mend(called, count, unit, rows[0])


def require_kept(where: str, array: Any) -> None:
  """Refuses whole numbers beyond the type that JAX gives them: it would change them silently.

  Args:
    where: What messages call the array.
    array: Of NumPy; those of JAX have their type already.

  Raises:
    ConfigurationError: some are beyond it.
  """
  if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or not array.size:
    return
  kept = jax.dtypes.canonicalize_dtype(array.dtype)
  limits = np.iinfo(kept)
  if kept != array.dtype and (array.min() < limits.min or array.max() > limits.max):
    raise ConfigurationError(
      f"{where} holds whole numbers beyond {kept}, which JAX would change; scale them, or enable "
      "jax_enable_x64."
    )


def first_not_finite(called: str, samples: Batch) -> str:
  """Returns which array of samples holds numbers that are not finite, in words; "" if none does.

  Args:
    called: What messages call the samples.
    samples: Arrays with one leading axis.
  """
  for path, leaf in jax.tree_util.tree_flatten_with_path(samples)[0]:
    held = _not_finite_rows(leaf)
    if held:
      count, rows = held
      return _held(f"{called}{jax.tree_util.keystr(path)}", count, "sample", rows[0])
  return ""


def _mend(called: str, count: int, unit: str, first: int) -> str:
  return f"{_held(called, count, unit, first)}; mend or leave out these samples."


def _held(called: str, count: int, unit: str, first: int) -> str:
  return f"{called} holds {count} values that are not finite, first at {unit} {first}"


def _not_finite_rows(array: Any) -> tuple[int, np.ndarray] | None:
  """Returns how many numbers are not finite, and in which rows; None if all are."""
  if not jnp.issubdtype(jnp.result_type(array), jnp.inexact):
    return None
  library = jnp if isinstance(array, jax.Array) else np
  count = int(library.sum(~library.isfinite(array)))
  if not count:
    return None
  rows = np.asarray(array).reshape(len(array), -1)
  return count, np.flatnonzero(np.any(~np.isfinite(rows), axis=1))
