"""What a predictor shows on held-out data, along every generator of a group.

`report` joins it over seeds, and `verdicts` judges it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import entries
from ace_jax.symmetry.data import Symmetry
from ace_jax.symmetry.errors import Action, Curve, data_fit_loss, lie_derivatives


class Measured(NamedTuple):
  """What one predictor shows on held-out data.

  Attributes:
    local: For each generator the mean Lie-derivative error over the mean norm of the prediction;
      of a cyclic group's generator, the equivariance error of one step. Of a prediction with
      several entries their root mean square.
    lost: For each generator the `data_fit_loss` of every sample.
    loss: The mean of its loss.
    entries: For each generator `local` of each entry; {} of a prediction that is a single array.
  """

  local: Mapping[str, Any]
  lost: Mapping[str, Float[Any, " samples"]]
  loss: Any
  entries: Mapping[str, Mapping[str, Any]] = {}


def relative(errors: Mapping[str, Any], prediction: Any) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns `Measured.local` and `entries` from norms of errors by generator.

  Args:
    errors: For each generator the norm of the error of every sample, in every entry.
    prediction: f(x).
  """
  sizes = jax.tree.map(jnp.mean, entries.norms(prediction))
  shares = {
    name: jax.tree.map(lambda values, size: jnp.mean(values) / size, norms, sizes)
    for name, norms in errors.items()
  }
  local = {name: entries.combined(share) for name, share in shares.items()}
  named = {name: entries.by_name(share) for name, share in shares.items()}
  return local, {} if set(entries.by_name(prediction)) == {""} else named


def measure(
  predict: Callable[[Any], Any],
  loss: Callable[[Any], Float[Array, " samples"]],
  batch: Any,
  curves: Mapping[str, Curve],
  act_batch: Action,
  act_prediction: Any,
  times: Mapping[str, Float[Array, " times"]],
) -> Measured:
  """Measures a predictor along every generator A of a continuous group: what the report joins.

  The mean norm of `lie_derivatives` over the mean norm of the prediction, `data_fit_loss`, and the
  mean loss.

  Args:
    predict: f, from a batch to predictions.
    loss: Loss of every sample of a batch of inputs and targets.
    batch: Held-out samples.
    curves: t -> exp(t A) by name of the generator, such as `so3().generators`.
    act_batch: Acts on inputs and targets.
    act_prediction: rho_Y, or a tree of one for each entry of the prediction.
    times: For each generator where to move the samples, see `data_fit_loss`.
  """
  lie = lie_derivatives(predict, batch, curves, act_batch, act_prediction)
  lost = {
    name: data_fit_loss(loss, batch, curve, act_batch, times[name])
    for name, curve in curves.items()
  }
  local, of_entries = relative(lie, predict(batch))
  return Measured(local, lost, jnp.mean(loss(batch)), of_entries)


def measure_group(
  predict: Callable[[Any], Any],
  loss: Callable[[Any], Float[Array, " samples"]],
  batch: Any,
  symmetry: Symmetry,
) -> Measured:
  """Measures a predictor along all generators of a group, where the group says.

  Of curves the mean norm of `lie_derivatives`, and `data_fit_loss` over `Group.moves`; of steps and
  of discrete generators g the mean norm of f(rho_X(g) x) - rho_Y(g) f(x), and what the fit loses on
  data moved by all steps, or by g.

  Args:
    predict: f, from a batch to predictions.
    loss: Loss of every sample of a batch of inputs and targets.
    batch: Held-out samples.
    symmetry: The group and its action.

  Raises:
    ConfigurationError: the group has no generator, or does not say where one moves data.
  """
  group = symmetry.group
  missing = [name for name in group.generators if name not in group.moves]
  if missing or not (group.generators or group.discrete):
    remedy = "Group(generators=..., moves=...), or discrete=... for elements such as a reflection"
    what = f"where data are moved along {missing[0]}" if missing else "what its generators are"
    raise ConfigurationError(f"the group {group.name} does not say {what}; give {remedy}.")

  def act(element, batch):
    return jax.vmap(symmetry.act_batch, (None, 0))(element, batch)

  def act_on_prediction(element, moved):  # on a prediction beside the batch that it is of
    return jax.vmap(symmetry.act_prediction, (None, 0, 0))(element, *moved)

  prediction = predict(batch)
  curves = {
    name: curve for name, curve in group.generators.items() if group.moves[name].kind != "steps"
  }
  errors = lie_derivatives(lambda x: (predict(x), x), batch, curves, act, act_on_prediction)
  lost = {
    name: data_fit_loss(loss, batch, curve, act, jnp.asarray(group.moves[name].times))
    for name, curve in group.generators.items()
  }
  steps = {name: curve for name, curve in group.generators.items() if name not in curves}
  elements = {name: curve(jnp.ones((), int)) for name, curve in steps.items()}
  elements |= dict(group.discrete)
  for name, element in elements.items():
    moved = predict(act(element, batch))
    expected = act_on_prediction(element, (prediction, batch))
    errors[name] = entries.norms(entries.differences(moved, expected))
  unmoved = loss(batch)
  lost |= {name: loss(act(element, batch)) - unmoved for name, element in group.discrete.items()}
  local, of_entries = relative(errors, prediction)
  return Measured(local, lost, jnp.mean(unmoved), of_entries)
