"""The equivariance error of a function, by sampling group elements."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def equivariance_error(
  function: Callable[[Any], Float[Array, "samples ..."]],
  x: Any,
  elements: Any,
  act_input: Callable[[Any, Any], Any],
  act_output: Callable[[Any, Array], Array],
) -> Float[Array, ""]:
  """Returns the relative equivariance error, averaged over samples and group elements.

  .. math:: E_{g,x} \\|f(\\rho_X(g) x) - \\rho_Y(g) f(x)\\| \\; / \\; E_x \\|f(x)\\|

  Args:
    function: f, from a batch of inputs to predictions.
    x: A batch of inputs.
    elements: Group elements, stacked along a leading axis.
    act_input: rho_X, `act_input(g, x) -> x`.
    act_output: rho_Y, `act_output(g, y) -> y`.

  Reference: Manolache et al., NeurIPS 2025, Sec. 5 (equivariance error).
  """
  y = function(x)

  def error(g):
    return jnp.mean(_norms(function(act_input(g, x)) - act_output(g, y)))

  return jnp.mean(jax.lax.map(error, elements)) / jnp.mean(_norms(y))


def _norms(y: Float[Array, "samples ..."]) -> Float[Array, " samples"]:
  return jnp.linalg.norm(y.reshape(y.shape[0], -1), axis=1)
