"""Rival training rules, in the form of the constraints.

==========  ==========================================================================
Schedule    gamma follows a schedule; Lie bracket and size of the branches are penalised
Remul       loss + beta moved loss, constant weights
GapPenalty  loss + beta gap, constant weights
GradNorm    w_1 loss + w_2 moved loss (or gap), weights by GradNorm
Augment     moved loss alone
==========  ==========================================================================

The moved loss is that of samples and targets moved by random elements, gap the mean squared
equivariance error (`symmetry.data`). gamma is learned without a constraint in all but the
first.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, PRNGKeyArray

from ace_jax import homotopy
from ace_jax.constraints import linear_branches, on_error
from ace_jax.constraints.base import Terms, UnderSymmetry
from ace_jax.state import Primal
from ace_jax.symmetry import actions
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch, Scalar, Task

Objectives = Callable[..., tuple[Scalar, Scalar, dict[str, Any]]]
"""Two losses of a batch and the new model state, with the arguments of `loss_and_moved_loss`."""


def loss_and_moved_loss(
  symmetry: Symmetry,
  task: Task,
  primal: Primal,
  model_state: dict[str, Any],
  batch: Batch,
  key: PRNGKeyArray,
) -> tuple[Scalar, Scalar, dict[str, Any]]:
  """Returns loss(f(x), y), loss(f(rho_X(g) x), rho_Y(g) y) and the new model state.

  Both are means over the batch, the second with one g a sample.

  Args:
    symmetry: How samples are moved.
    task: The model and its loss.
    primal: The point.
    model_state: `batch_stats` and the like; only the unmoved batch changes it.
    batch: The samples of this device.
    key: Draws group elements, and whatever is random in the model (the same for both calls).
  """
  variables = homotopy.merge(primal.theta, primal.gamma, model_state)
  draw, model_key = jax.random.split(key)
  moved = symmetry.move(draw, batch)
  prediction, updated = task.apply(variables, batch, model_key)
  moved_prediction, _ = task.apply(variables, moved, model_key)
  loss = jnp.mean(task.loss(prediction, batch))
  return loss, jnp.mean(task.loss(moved_prediction, moved)), updated


@struct.dataclass
class Augment(UnderSymmetry):
  """min E_g loss(rho_X(g) x, rho_Y(g) y), one g a sample and step: augmentation alone.

  Attributes:
    symmetry: The group and its action.
  """

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    draw, model_key = jax.random.split(key)
    moved = self.symmetry.move(draw, batch)
    return super().terms(task, primal, model_state, moved, model_key, constraint_state)


@struct.dataclass
class Remul(UnderSymmetry):
  """min loss(f(x), y) + beta E_g loss(f(rho_X(g) x), rho_Y(g) y), one g a sample and step.

  Both terms are anchored on the target. The equivariance error, which the authors measure, is no
  term of their loss; as one it is `GapPenalty`.

  Attributes:
    beta: Weight of the moved loss; that of the loss is 1.
    symmetry: The group and its action.

  Reference: Elhag, Rusch, Di Giovanni, Bronstein, "Relaxed Equivariance via Multitask Learning",
  2024 (arXiv:2410.17878), with constant weights; by GradNorm: `GradNorm`.
  """

  beta: float | Scalar = 1.0

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    loss, moved, updated = loss_and_moved_loss(self.symmetry, task, primal, model_state, batch, key)
    return Terms(loss, self.beta * moved, {}, updated)


@struct.dataclass
class GapPenalty(UnderSymmetry):
  """min loss + beta gap: the penalty form of `on_error.Functional`.

  Attributes:
    beta: Weight of the gap; that of the loss is 1.
    symmetry: The group and its action.
  """

  beta: float | Scalar = 1.0

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    loss, gap, updated = on_error.loss_and_gap(self.symmetry, task, primal, model_state, batch, key)
    return Terms(loss, self.beta * gap, {}, updated)


@struct.dataclass
class GradNorm(UnderSymmetry):
  """min w_1 L_1 + w_2 L_2, the weights moved so that both losses train at one pace.

  With G_i = w_i norm(grad_theta L_i), r_i the share of L_i(t) / L_i(0) in their mean, the weights
  descend

  .. math:: \\sum_i | G_i - \\bar G \\, r_i^a |, \\qquad w_1 + w_2 = 2

  by Adam, the right-hand terms taken as constants. All of theta is shared by the two tasks, so
  that norms are over all of it. The state holds `weights`, the `initial` losses and Adam's own.

  Attributes:
    asymmetry: a; 0 asks for equal gradients.
    weight_lr: Adam step size of the weights.
    symmetry: The group and its action.
    objectives: L_1, L_2: `loss_and_moved_loss` (REMUL), or `on_error.loss_and_gap`.
    axis_name: Mapped axis that shares the batch; None on one device.

  Reference: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm", ICML 2018, Algorithm 1; for
  equivariance: Elhag et al., 2024.
  """

  asymmetry: float | Scalar = 1.5
  weight_lr: float | Scalar = 0.01
  objectives: Objectives = struct.field(
    pytree_node=False, default=loss_and_moved_loss, kw_only=True
  )
  axis_name: str | None = struct.field(pytree_node=False, default=None, kw_only=True)

  def init_state(self, gamma):
    del gamma
    adam = _ADAM.init(jnp.ones(2))
    return {"weights": jnp.ones(2), "initial": jnp.zeros(2), "adam": adam}

  def terms(self, task, primal, model_state, batch, key, constraint_state):

    def losses(theta):
      point = primal._replace(theta=theta)
      first, second, updated = self.objectives(self.symmetry, task, point, model_state, batch, key)
      return jnp.stack([first, second]), updated

    def mean_losses(theta):  # see `primal_dual.gradients` for why the mean comes first
      return _mean(losses(theta)[0], self.axis_name)

    slopes = jax.jacrev(mean_losses)(jax.lax.stop_gradient(primal.theta))
    slopes = _mean(slopes, self.axis_name)
    norms = jax.vmap(optax.tree.norm)(slopes)
    task_losses, updated = losses(primal.theta)
    first, second = constraint_state["weights"]
    cost = (first - 1) * task_losses[0] + second * task_losses[1]
    return Terms(task_losses[0], cost, {}, updated, jax.lax.stop_gradient((task_losses, norms)))

  def update(self, primal, multipliers, constraint_state, aux, step):
    losses, norms = aux
    initial = jnp.where(step == 0, losses, constraint_state["initial"])
    pace = losses / jnp.maximum(initial, _TINY)
    pace = pace / jnp.maximum(jnp.mean(pace), _TINY)
    weighted = constraint_state["weights"] * norms
    target = jnp.mean(weighted) * pace**self.asymmetry
    gradient = jnp.sign(weighted - target) * norms
    direction: Any
    direction, adam = _ADAM.update(gradient, constraint_state["adam"])
    weights = jnp.maximum(
      constraint_state["weights"] - self.weight_lr * direction, _SMALLEST_WEIGHT
    )
    weights = 2 * weights / jnp.sum(weights)
    return primal, multipliers, {"weights": weights, "initial": initial, "adam": adam}


_ADAM = optax.scale_by_adam()
_TINY, _SMALLEST_WEIGHT = 1e-12, 1e-4


@struct.dataclass
class Schedule(UnderSymmetry):
  """gamma rises from 0 to 1 and falls back to 0; the branches are held near equivariant maps.

  With t steps done of T, gamma = min(2 t / T, 2 - 2 t / T), and 0 after them. One random element a
  batch moves inputs and targets, and to the loss is added

  .. math:: w \\Big( \\sqrt{\\sum_{l, A} \\|d\\rho_{out}(A) W_l x_l - W_l d\\rho_{in}(A) x_l\\|^2}
    + \\sqrt{\\sum_l \\|W_l x_l\\|^2} \\Big)

  over layers l, generators A, and the samples and nodes of the batch, x_l taken as constants. What
  it trains is the projection. The branches must be `relaxations.Linear` of a free scale, in layers
  that name their `Homotopic.irreps`. The state holds the `level`, gamma's one value.

  Attributes:
    steps: T.
    penalty: w.
    symmetry: The group and its action; its generators are those of the penalty.
    axis_name: Mapped axis that shares the batch; None on one device.

  Raises:
    ConfigurationError: (in the first step) a layer has another branch, or does not name its irreps.

  Reference: Pertigkiozoglou, Chatzipantazis, Trivedi, Daniilidis, "Improving Equivariant Model
  Training via Constraint Relaxation", NeurIPS 2024.
  """

  steps: int | float | Scalar = 1000
  penalty: float | Scalar = 0.01
  axis_name: str | None = struct.field(pytree_node=False, default=None, kw_only=True)

  def level(self, step: Scalar) -> Scalar:
    """Returns gamma after so many steps."""
    share = jnp.asarray(step, jnp.float32) / self.steps
    return jnp.maximum(jnp.minimum(2 * share, 2 - 2 * share), 0)

  def init_state(self, gamma):
    del gamma
    return {"level": jnp.zeros(())}

  def terms(self, task, primal, model_state, batch, key, constraint_state):
    draw, model_key = jax.random.split(key)
    batch = self.symmetry.move_together(draw, batch)
    # Not primal.gamma, which is still as the model initialised it in the first step.
    gamma = _constant(primal.gamma, constraint_state["level"])
    # A collection that is there is one that the model may write to: it sows what layers see.
    state = {**model_state, "intermediates": {}}
    variables = homotopy.merge(primal.theta, gamma, state)
    prediction, updated = task.apply(variables, batch, model_key)
    layers = traverse_util.flatten_dict(updated.pop("intermediates"))
    bracket, size = penalties(primal.theta, primal.gamma, layers, self.symmetry)
    if self.axis_name is not None:
      bracket, size = jax.lax.psum((bracket, size), self.axis_name)
    loss = jnp.mean(task.loss(prediction, batch))
    return Terms(loss, self.penalty * (_root(bracket) + _root(size)), {}, updated)

  def update(self, primal, multipliers, constraint_state, aux, step):
    level = self.level(step + 1)
    primal = primal._replace(gamma=_constant(primal.gamma, level))
    return primal, multipliers, {"level": level}


def penalties(
  theta: Any, gamma: Any, layers: dict[tuple[str, ...], Any], symmetry: Symmetry
) -> tuple[Scalar, Scalar]:
  """Returns the squared Lie bracket and the squared size of all linear branches, at their inputs.

  Args:
    theta: Weights.
    gamma: The collection `gamma`, which names the layers.
    layers: What the layers sowed, by path.
    symmetry: The group, for its generators.

  Returns:
    (sum of norm(d rho_out(A) W x - W d rho_in(A) x)^2 over layers and generators, sum of
    norm(W x)^2 over layers), both summed over samples and nodes.

  Raises:
    ConfigurationError: a layer's branch is not linear, or its representations are not known.
  """
  bracket, total = jnp.zeros(()), jnp.zeros(())
  for kernel, irreps, x in linear_branches.of_layers(theta, gamma, layers):
    inputs, outputs = (
      actions.irreps(layout, component_major=True) for layout in (irreps.x, irreps.y)
    )
    x = jax.lax.stop_gradient(x)
    mapped = x @ kernel
    total = total + jnp.sum(jnp.square(mapped))
    for curve in symmetry.group.generators.values():
      difference = _moved(outputs, curve, mapped) - _moved(inputs, curve, x) @ kernel
      bracket = bracket + jnp.sum(jnp.square(difference))
  return bracket, total


def _moved(representation: actions.Representation, curve: Any, x: Array) -> Array:
  """Returns d rho(A) x."""
  zero = jnp.zeros((), x.dtype)
  return jax.jvp(lambda t: representation(curve(t), x), (zero,), (jnp.ones_like(zero),))[1]


def _root(square: Scalar) -> Scalar:
  """Returns the square root, with gradient 0 at 0."""
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _constant(tree: Any, value: Scalar) -> Any:
  return jax.tree.map(lambda leaf: jnp.broadcast_to(value, leaf.shape).astype(leaf.dtype), tree)


def _mean(tree: Any, axis_name: str | None) -> Any:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
