"""How a group acts on a data set, and how far a predictor is from equivariant on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ace_jax.errors import ConfigurationError
from ace_jax.homotopy import Variables
from ace_jax.symmetry import entries
from ace_jax.symmetry.actions import act_on
from ace_jax.symmetry.groups import Group
from ace_jax.task import Batch, Scalar, Task, size


@dataclasses.dataclass(frozen=True, eq=False)
class Symmetry:
  """How a group acts on a batch and on predictions; static, and equal only to itself.

  Attributes:
    group: Whose elements are drawn.
    act_batch: rho_X on inputs and rho_Y on targets, `act_batch(element, batch) -> batch`. Written
      for any number of leading axes: it is mapped over samples.
    act_prediction: rho_Y, `act_prediction(element, prediction, batch) -> prediction`; the batch is
      the one before it was moved, for actions about a point of it.
    units: The size in which the errors of each entry of a prediction count where they are joined
      (`joined`), a tree like it, such as the deviations of the targets. A prediction that is a
      single array needs none.
  """

  group: Group
  act_batch: Callable[[Any, Batch], Batch]
  act_prediction: Callable[[Any, Any, Batch], Any]
  units: Any = None

  def __post_init__(self):
    for name in ("act_batch", "act_prediction"):
      if not callable(getattr(self, name)):
        raise ConfigurationError(
          f"Symmetry.{name} is a {type(getattr(self, name)).__name__}, and must be a function; "
          "Symmetry.by_entry takes representations of each entry."
        )

  @classmethod
  def by_entry(cls, group: Group, batch: Any, prediction: Any, units: Any = None) -> "Symmetry":
    """Makes a symmetry of the representations of every entry (`ace_jax.symmetry.actions`).

    Example, of batches (positions, targets) and predictions like the targets:

        forces = {"energy": actions.invariant, "forces": actions.vector}
        Symmetry.by_entry(groups.so3(), (actions.vector, forces), forces)

    No entry is taken for invariant by default: one that is not named is refused when it is met.

    Args:
      group: Whose elements are drawn.
      batch: A prefix of the batches: one representation for every subtree.
      prediction: A prefix of the predictions.
      units: As of `Symmetry`.
    """
    act = act_on(prediction)
    return cls(group, act_on(batch), lambda element, y, batch: act(element, y), units)

  def move(self, key: PRNGKeyArray, batch: Batch) -> Batch:
    """Moves every sample of a batch, inputs and targets, by an element of its own."""
    return jax.vmap(self.act_batch)(self.group.sample(key, size(batch)), batch)

  def move_together(self, key: PRNGKeyArray, batch: Batch) -> Batch:
    """Moves all samples of a batch, inputs and targets, by one element."""
    return self.act_batch(jax.tree.map(lambda x: x[0], self.group.sample(key, 1)), batch)

  def gaps(
    self, predict: Callable[[Batch], Any], prediction: Any, batch: Batch, key: PRNGKeyArray
  ) -> Any:
    """Returns the mean square of f(rho_X(g) x) - rho_Y(g) f(x) of every sample, for one g each.

    Args:
      predict: f, from a batch to predictions.
      prediction: f(x).
      batch: x.
      key: Draws the elements.

    Returns:
      A tree like the prediction of one array [samples] for each entry; of a prediction that is an
      array, one array.

    Raises:
      ConfigurationError: an entry is not one for each sample, or the action has others.
    """
    return self.gaps_at(self.group.sample(key, size(batch)), predict, prediction, batch)

  def gaps_at(
    self, elements: Any, predict: Callable[[Batch], Any], prediction: Any, batch: Batch
  ) -> Any:
    """Returns `gaps` for given elements, a leading axis of one for each sample."""
    count = size(batch)
    entries.check_samples(prediction, count)
    moved = predict(jax.vmap(self.act_batch)(elements, batch))
    expected = jax.vmap(self.act_prediction)(elements, prediction, batch)
    return jax.tree.map(
      lambda difference: jnp.mean(jnp.square(difference).reshape(count, -1), axis=1),
      entries.differences(moved, expected),
    )

  def joined(self, gaps: Any) -> Float[Array, " samples"]:
    """Returns the gap of every sample as one number, for training rules.

    .. math:: \\frac{1}{K} \\sum_k \\mathrm{gap}_k / \\mathrm{units}_k^2

    over K entries; of a single array without units its gap, in the units of the MSE.

    Args:
      gaps: What `gaps` returned.

    Raises:
      ConfigurationError: there are several entries, and their units are not known.
    """
    if self.units is None and len(jax.tree.leaves(gaps)) == 1:
      return jax.tree.leaves(gaps)[0]
    sizes, named = entries.by_name(self.units), entries.by_name(gaps)
    if set(sizes) != set(named):
      raise ConfigurationError(
        f"the errors of {', '.join(named)} are in different units, and Symmetry.units names "
        f"{', '.join(sizes) or 'none'}; give the size of each, such as its targets' deviation."
      )
    return jnp.mean(jnp.stack([named[name] / sizes[name] ** 2 for name in named]), axis=0)


def measure(
  task: Task,
  symmetry: Symmetry,
  variables: Variables,
  data: Batch,
  key: PRNGKeyArray,
  elements: int = 4,
  batch_size: int = 100,
) -> tuple[Any, Any, Scalar]:
  """Measures the gap of a predictor on held-out data.

  Args:
    task: The model.
    symmetry: The group and its action.
    variables: Of the predictor, such as `AceState.relaxed`.
    data: The samples.
    key: Draws the group elements.
    elements: Of the group, for every sample.
    batch_size: Samples measured at once.

  Returns:
    (gap, its standard error over samples, its root over the root mean square of the prediction):
    the error is what of the gap that many samples can resolve. Of a prediction with several entries
    the first two are trees like it, and the third joins the entries (`entries.combined`):

    .. math:: \\sqrt{ \\tfrac{1}{K} \\sum_k E |f_k(gx) - g f_k(x)|^2 / E |f_k(x)|^2 }
  """

  def predict(batch):
    return task.predict(variables, batch)

  def draw(key):
    return jax.tree.map(lambda element: element[0], symmetry.group.sample(key, 1))

  def chunk(samples, keys):
    # The network sees whole batches. Mapped over single samples, its products have an axis more,
    # which is slower, and ends jaxlib 0.10.2 with a segmentation fault on some CPUs.
    prediction = predict(samples)

    def gaps(keys):
      return symmetry.gaps_at(jax.vmap(draw)(keys), predict, prediction, samples)

    draws = jax.vmap(lambda key: jax.random.split(key, elements), out_axes=1)(keys)
    squares = jax.tree.map(
      lambda y: jnp.mean(jnp.square(y).reshape(size(samples), -1), 1), prediction
    )
    return jax.tree.map(lambda x: jnp.mean(x, 0), jax.lax.map(gaps, draws)), squares

  count = size(data)
  keys = jax.random.split(key, count)
  whole = count // batch_size * batch_size
  parts = []
  if whole:
    shape = (whole // batch_size, batch_size)
    head = jax.tree.map(lambda x: x[:whole].reshape(*shape, *x.shape[1:]), (data, keys))
    chunks = jax.lax.map(lambda part: chunk(*part), head)
    parts.append(jax.tree.map(lambda x: x.reshape(-1), chunks))
  if whole < count:
    parts.append(chunk(*jax.tree.map(lambda x: x[whole:], (data, keys))))
  gaps, squares = jax.tree.map(lambda *values: jnp.concatenate(values), *parts)
  gap = jax.tree.map(jnp.mean, gaps)
  error = jax.tree.map(lambda x: jnp.std(x) / jnp.sqrt(count), gaps)
  relative = jax.tree.map(lambda x, square: jnp.sqrt(x / jnp.mean(square)), gap, squares)
  return gap, error, entries.combined(relative)
