"""Whether model, loss and symmetry fit together, tried on a few samples before training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import homotopy, task
from ace_jax.constraints.base import Constraint
from ace_jax.errors import ConfigurationError
from ace_jax.kept import kept, signature
from ace_jax.symmetry.data import Symmetry
from ace_jax.task import Batch, Task

NO_LAYER = "no Homotopic: the model has no gamma, so that nothing is constrained"
KEPT = 1e-4
"""Relative equivariance error, in float32, below which a function keeps a group."""


@dataclasses.dataclass(frozen=True)
class Check:
  """What `check` found.

  Attributes:
    problems: One line each, with the numbers; empty if there is none.
    equivariance: Relative equivariance error of f_eq ("f_eq"), and of the model with the gamma of
      one layer at 1 and all others at 0 (by layer); {} without a symmetry.
  """

  problems: tuple[str, ...]
  equivariance: dict[str, float]


def check(
  model: Any,
  variables: homotopy.Variables,
  batch: Batch,
  symmetry: Symmetry | None = None,
  *,
  loss: Callable[[Any, Batch], jax.Array] | None = None,
  inputs: Callable[[Batch], tuple[Any, ...]] = task.first,
) -> Check:
  """Tries a model on a batch: is it what a constraint on gamma takes it for?

  The model without gamma must be the model with gamma = 0; it must have a homotopic layer; the
  loss must return [samples, ...]; f_eq must keep the group, and no branch may keep it:

  .. math:: \\sqrt{E |f(gx) - g f(x)|^2 / E |f(x)|^2}

  Args:
    model: As of `fit`.
    variables: Such as `model.init` returns.
    batch: A few samples.
    symmetry: How the group acts on batches and predictions; None does not ask for it.
    loss: As of `fit`; None does not ask for it.
    inputs: As of `fit`.

  Returns:
    The problems, in words with numbers.
  """
  zero_loss = loss or (lambda prediction, batch: jnp.zeros(task.size(batch)))
  learned = task.from_model(model, zero_loss, inputs)
  variables = homotopy.without_sown(homotopy.unbox(variables))
  tried = _try(learned, signature((variables, batch)))
  problems = [*tried.layer_problems]
  if loss is not None:
    problems += tried.loss_problems
  problems += _projection_problems(tried, variables, batch)
  errors = {} if symmetry is None else _equivariance(learned, variables, batch, symmetry)
  for name, error in errors.items():
    if name == "f_eq" and error > KEPT:
      problems.append(f"f_eq does not keep the group: relative equivariance error {error:.1e}")
    elif name != "f_eq" and error < KEPT:
      problems.append(
        f"the branch of {name} keeps the group: relative equivariance error {error:.1e}; let it "
        "mix all axes of the features (axes=...)"
      )
  return Check(tuple(problems), errors)


def require(
  learned: Task,
  variables: homotopy.Variables,
  sample: Batch,
  constraint: Constraint,
  *,
  strict: bool,
) -> None:
  """Refuses what `fit` cannot train in the way it was asked to.

  Args:
    learned: Model and loss.
    variables: Initial ones.
    sample: Two samples.
    constraint: Whether it constrains gamma decides whether a homotopic layer is needed.
    strict: Whether the caller gave variables without gamma, that is asked for the strict model.

  Raises:
    ConfigurationError: names the first problem.
  """
  variables = homotopy.without_sown(variables)
  tried = _try(learned, signature((variables, sample)))
  problems = tried.loss_problems
  if not strict and not problems and _constrains_gamma(constraint):
    problems = tried.layer_problems
  problems = problems or _projection_problems(tried, variables, sample)
  if problems:
    raise ConfigurationError(f"{problems[0]}.")


def _constrains_gamma(constraint: Constraint) -> bool:
  some = {"layer": {homotopy.GAMMA: jnp.ones(())}}
  leaves = [len(jax.tree.leaves(constraint.init_multipliers(gamma))) for gamma in (some, {})]
  return leaves[0] > leaves[1]


class _Tried(NamedTuple):
  """What shapes alone say about model and loss; a program that says the rest.

  Attributes:
    loss_problems: Of loss and metric.
    layer_problems: Of the homotopic layers.
    both: `both(variables, batch) -> (projection, prediction with gamma = 0)`, compiled.
  """

  loss_problems: list[str]
  layer_problems: list[str]
  both: Callable[..., tuple[Any, Any]]


@kept
def _try(learned: Task, arguments: Any) -> _Tried:
  """Tries model and loss on samples of which only the shapes are known.

  Args:
    learned: Model and loss.
    arguments: `signature` of variables and samples.
  """
  structure, leaves = arguments
  shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
  variables, batch = jax.tree.unflatten(structure, shapes)
  # Traced once for the shapes and for `both`: most of the time is the tracing of the model.
  predict = jax.jit(lambda variables, batch: learned.predict(variables, batch))
  with homotopy.layer_calls() as calls:
    prediction = jax.eval_shape(predict, variables, batch)
  problems = _loss_problems(learned, predict, prediction, variables, batch)

  def both(variables: Any, batch: Batch) -> tuple[Any, Any]:
    zero = jax.tree.map(jnp.zeros_like, variables[homotopy.GAMMA])
    return (
      learned.predict(homotopy.project(variables), batch),
      predict({**variables, homotopy.GAMMA: zero}, batch),
    )

  # Compiled without optimisation, since it runs once.
  options = {"xla_backend_optimization_level": 0}
  return _Tried(
    problems, _layer_problems(variables, calls), jax.jit(both, compiler_options=options)
  )


def _layer_problems(
  variables: homotopy.Variables, calls: Sequence[homotopy.LayerCall]
) -> list[str]:
  gamma = homotopy.by_name(variables.get(homotopy.GAMMA, {}))
  idle = sorted({call.name for call in calls if call.gamma is None} - set(gamma))
  if idle:
    return [
      f"the homotopic layer {idle[0]} has no gamma; under nn.scan or nn.vmap add 'gamma': 0 (and "
      "'intermediates': 0) to variable_axes; for the strict model give variables=prune(variables)"
    ]
  if not gamma:
    return [
      f"{NO_LAYER}; put a Homotopic after its maps, use ace_jax.relax, or for the strict model "
      "give variables=prune(variables)"
    ]
  return []


def _loss_problems(
  learned: Task,
  predict: Callable[..., Any],
  prediction: Any,
  variables: homotopy.Variables,
  batch: Batch,
) -> list[str]:
  """Tries loss and metric at two batch sizes, by shapes alone."""
  samples = task.size(batch)
  predictions = {samples: prediction}
  for name, function in {"loss": learned.loss, "metric": learned.metric}.items():
    if function is None:
      continue
    shapes = []
    for count in (samples, samples + 1):
      few = _shapes(batch, count)
      if count not in predictions:
        predictions[count] = jax.eval_shape(predict, variables, few)
      shape = jax.eval_shape(function, predictions[count], few).shape
      if shape[:1] != (count,):
        return [
          f"the {name} of {count} samples has shape {shape}; it must be [samples, ...], one or "
          "more numbers a sample, without a mean over samples"
        ]
      shapes.append(shape)
    if shapes[0][1:] != shapes[1][1:]:
      return [
        f"the {name} of {samples} samples has shape {shapes[0]}, that of {samples + 1} "
        f"{shapes[1]}: it compares every sample with every other; give prediction and target the "
        "same shape"
      ]
  return []


def _projection_problems(tried: _Tried, variables: homotopy.Variables, batch: Batch) -> list[str]:
  if not variables.get(homotopy.GAMMA):
    return []
  plain, zeroed = tried.both(variables, batch)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(zeroed), strict=True):
    if not jnp.issubdtype(a.dtype, jnp.inexact):
      continue
    tolerance = float(jnp.finfo(a.dtype).eps) ** 0.5
    wide = np.complex128 if jnp.iscomplexobj(a) else np.float64
    a, b = np.asarray(a).astype(wide), np.asarray(b).astype(wide)
    gap, size = np.abs(a - b).max(initial=0), np.abs(b).max(initial=0)
    if gap > tolerance * max(size, 1e-6):
      return [
        f"the model without gamma differs from that with gamma = 0 by {gap:.1e} (outputs are up to "
        f"{size:.1e}); its layers must return f_eq where no gamma is passed to apply"
      ]
  return []


def _equivariance(
  learned: Task, variables: homotopy.Variables, batch: Batch, symmetry: Symmetry
) -> dict[str, float]:
  def error(variables: Any, batch: Batch) -> jax.Array:
    def predict(batch):
      return learned.predict(variables, batch)

    prediction = predict(batch)
    gaps = symmetry.gaps(predict, prediction, batch, jax.random.key(0))
    size = jnp.mean(jnp.square(prediction))
    return jnp.sqrt(jnp.mean(gaps) / jnp.maximum(size, jnp.finfo(size.dtype).tiny))

  gamma = variables.get(homotopy.GAMMA, {})
  run = jax.jit(error)
  errors = {"f_eq": float(run(homotopy.project(variables), batch))}
  leaves, structure = jax.tree.flatten(gamma)
  for i, name in enumerate(homotopy.names(gamma)):
    alone = [jnp.full_like(leaf, float(i == j)) for j, leaf in enumerate(leaves)]
    relaxed = {**variables, homotopy.GAMMA: jax.tree.unflatten(structure, alone)}
    errors[name] = float(run(relaxed, batch))
  return errors


def _shapes(batch: Batch, samples: int) -> Batch:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((samples, *x.shape[1:]), x.dtype), batch)
