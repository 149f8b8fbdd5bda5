"""How far a function, its layers and the data are from a symmetry."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from ace_jax import homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.model import as_model
from ace_jax.recording import LayerCall
from ace_jax.symmetry import entries
from ace_jax.symmetry.actions import act_on

Action = Callable[[Any, Any], Any]
"""`act(element, x) -> x`, see `ace_jax.symmetry.actions`."""
Curve = Callable[[Float[Array, ""]], Any]
"""t -> exp(t A), see `Group.generators`."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class ErrorStatistics(NamedTuple):
  """Equivariance errors over samples and group elements.

  Attributes:
    mean: Mean of norm(f(g x) - g f(x)).
    largest: Its maximum.
    quantiles: Its quantiles at `QUANTILES`.
    relative: The mean over the mean of norm(f(x)).
  """

  mean: Float[Array, ""]
  largest: Float[Array, ""]
  quantiles: Float[Array, " quantiles"]
  relative: Float[Array, ""]


def equivariance_statistics(
  function: Callable[[Any], Any],
  x: Any,
  elements: Any,
  act_input: Action,
  act_output: Any,
) -> Any:
  """Measures norm(f(rho_X(g) x) - rho_Y(g) f(x)) over samples and elements.

  Args:
    function: f, from a batch of inputs to a prediction [samples, ...], or to a tree of several,
      such as energy and forces, or the features of every layer (`layer_outputs`).
    x: A batch of inputs.
    elements: Group elements, stacked along a leading axis.
    act_input: rho_X.
    act_output: rho_Y of the whole prediction, or a tree of one for each of its entries.

  Returns:
    `ErrorStatistics`, or a tree of them, one for each entry.

  Raises:
    ConfigurationError: `act_output` says nothing of an entry.

  Reference: Manolache et al., NeurIPS 2025, Sec. 5 (equivariance error).
  """
  y, act = function(x), _action(act_output)

  def error(g):
    return entries.norms(entries.differences(function(act_input(g, x)), act(g, y)))

  def statistics(values, sizes):
    return ErrorStatistics(
      mean=jnp.mean(values),
      largest=jnp.max(values),
      quantiles=jnp.quantile(values, jnp.array(QUANTILES)),
      relative=jnp.mean(values) / jnp.mean(sizes),
    )

  return jax.tree.map(statistics, jax.lax.map(error, elements), entries.norms(y))


def equivariance_error(
  function: Callable[[Any], Any],
  x: Any,
  elements: Any,
  act_input: Action,
  act_output: Any,
) -> Float[Array, ""]:
  """Returns the relative equivariance error, averaged over samples and group elements.

  .. math:: E_{g,x} \\|f(\\rho_X(g) x) - \\rho_Y(g) f(x)\\| \\; / \\; E_x \\|f(x)\\|

  Of a prediction with several entries it is the root mean square over them of this quotient
  (`entries.combined`). Arguments as of `equivariance_statistics`.
  """
  statistics = equivariance_statistics(function, x, elements, act_input, act_output)
  of_entries = jax.tree.leaves(statistics, is_leaf=lambda node: isinstance(node, ErrorStatistics))
  return entries.combined([of_entry.relative for of_entry in of_entries])


def lie_derivatives(
  function: Callable[[Any], Any],
  x: Any,
  curves: Mapping[str, Curve],
  act_input: Action,
  act_output: Any,
) -> dict[str, Any]:
  """Returns the local equivariance error of every generator, exactly, by forward differentiation.

  .. math:: \\Big\\| \\frac{d}{dt}\\Big|_{0} \\rho_Y(e^{-tA}) f(\\rho_X(e^{tA}) x) \\Big\\|

  Args:
    function: f, from a batch of inputs to predictions.
    x: A batch of inputs.
    curves: t -> exp(t A) by name of the generator, such as `so3().generators`.
    act_input: rho_X.
    act_output: rho_Y of the whole prediction, or a tree of one for each of its entries.

  Returns:
    For each generator the norm for every sample, [samples], or a tree of one for each entry.

  Reference: Gruver, Finzi, Goldblum, Wilson, "The Lie Derivative for Measuring Learned
  Equivariance", ICLR 2023.
  """

  act = _action(act_output)

  def derivative(curve):
    def turned(t):
      return act(curve(-t), function(act_input(curve(t), x)))

    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(x), jnp.float32))
    return entries.norms(jax.jvp(turned, (zero,), (jnp.ones_like(zero),))[1])

  return {name: derivative(curve) for name, curve in curves.items()}


def data_fit_loss(
  loss: Callable[[Any], Float[Array, " samples"]],
  batch: Any,
  curve: Curve,
  act_batch: Action,
  times: Float[Array, " times"],
) -> Float[Array, " samples"]:
  """Returns what a model's fit loses when inputs and targets are moved along a generator.

  .. math:: \\Delta_A = E_t [\\ell(f(\\rho_X(e^{tA}) x), \\rho_Y(e^{tA}) y)] - \\ell(f(x), y)

  It is 0 for a strictly equivariant model whatever the data: read it on the relaxed model. Where
  the model has learned that the data break the symmetry, it is positive.

  Args:
    loss: Loss of every sample of a batch of inputs and targets.
    batch: Held-out samples.
    curve: t -> exp(t A).
    act_batch: Acts on inputs and targets.
    times: Where to evaluate: uniform on the circle for rotations; within the root mean square
      radius for translations, so that generators can be compared.
  """
  moved = jax.lax.map(lambda t: loss(act_batch(curve(t), batch)), times)
  return jnp.mean(moved, axis=0) - loss(batch)


def layer_calls(model: Any, variables: homotopy.Variables, *inputs: Any) -> dict[str, LayerCall]:
  """Returns what every homotopic layer computes in evaluation, by layer.

  Args:
    model: A model of any framework, as of `fit`.
    variables: Of either predictor.
    *inputs: Of the model.

  Raises:
    ConfigurationError: the model is a `Model` that does not say.
  """
  functions = as_model(model)
  if functions.calls is None:
    raise ConfigurationError("what layers compute is not known; give ace_jax.Model its `calls`.")
  return functions.calls(variables, *inputs)


def layer_outputs(model: Any, variables: homotopy.Variables, *inputs: Any) -> dict[str, Array]:
  """Returns the output of every homotopic layer, {"layers_0/update_1": features}.

  Args:
    model: A model with `Homotopic` layers.
    variables: Of either predictor.
    *inputs: Of the model.

  Raises:
    ConfigurationError: the model has no homotopic layer.
  """
  if isinstance(model, nn.Module):
    outputs = _sown(homotopy.OUTPUT, model, variables, *inputs)
  else:
    outputs = {name: call.y for name, call in layer_calls(model, variables, *inputs).items()}
  if not outputs:
    raise ConfigurationError(
      "no homotopic layer is seen; put `Homotopic` after the model's maps, and under nn.scan or "
      "nn.vmap add 'intermediates': 0 to variable_axes."
    )
  return outputs


def layer_irreps(
  model: nn.Module, variables: homotopy.Variables, *inputs: Any
) -> dict[str, homotopy.Irreps]:
  """Returns the representations of every homotopic layer that names them.

  Args:
    model: A model with `Homotopic` layers.
    variables: Of the relaxed predictor: a projection names none.
    *inputs: Of the model; only their shapes matter.
  """
  return jax.eval_shape(partial(_sown, homotopy.IRREPS, model), variables, *inputs)


def _sown(
  name: str, model: nn.Module, variables: homotopy.Variables, *inputs: Any
) -> dict[str, Any]:
  """Returns what every homotopic layer sowed under a name, by layer."""
  _, kept = model.apply(variables, *inputs, mutable=["intermediates"])
  flat: Any = traverse_util.flatten_dict(kept.get("intermediates", {}))
  return {"/".join(path[:-1]): value[-1] for path, value in flat.items() if path[-1] == name}


def _action(act_output: Any) -> Action:
  return act_output if callable(act_output) else act_on(act_output)
