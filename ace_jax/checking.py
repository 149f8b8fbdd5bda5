"""Whether model, loss and symmetry fit together, tried on a few samples before training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import compiling, homotopy, programs, sample_losses, task, weights
from ace_jax.constraints.base import Constraint
from ace_jax.errors import AceError, ConfigurationError, first_line
from ace_jax.homotopy import LayerCall
from ace_jax.recording import layer_calls
from ace_jax.symmetry import entries
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

  (of a prediction with several entries their root mean square).

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
  tried = _try(learned, {} if loss is None else {"loss": loss}, variables, batch)
  problems = _layer_problems(learned, tried, variables, batch)
  problems += _loss_problems(tried, variables, batch)
  problems += _projection_problems(learned, tried, variables, batch)
  by_entry = {} if symmetry is None else _equivariance(learned, variables, batch, symmetry)
  errors = {name: float(entries.combined(of_entries)) for name, of_entries in by_entry.items()}
  for name, error in errors.items():
    if name == "f_eq" and error > KEPT:
      worst = max(by_entry[name], key=lambda entry: float(by_entry[name][entry]))
      most = f", most of it in {worst} ({float(by_entry[name][worst]):.1e})" if worst else ""
      said = f"f_eq does not keep the group: relative equivariance error {error:.1e}{most}"
      problems.append(said)
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
  metrics: Mapping[str, Callable[[Any, Batch], jax.Array]] = MappingProxyType({}),
) -> None:
  """Refuses what `fit` cannot train in the way it was asked to.

  Args:
    learned: Model and loss.
    variables: Initial ones.
    sample: Two samples.
    constraint: Whether it constrains gamma decides whether a homotopic layer is needed.
    strict: Whether the caller gave variables without gamma, that is asked for the strict model.
    metrics: Further metrics by name.

  Raises:
    ConfigurationError: names the first problem.
  """
  variables = homotopy.without_sown(variables)
  for path, leaf in jax.tree_util.tree_flatten_with_path(variables.get("params", {}))[0]:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      raise ConfigurationError(
        f"params{jax.tree_util.keystr(path)} is of {leaf.dtype}, which has no gradient; keep it in "
        "another collection, such as by self.variable."
      )
  functions = _metrics(learned, metrics)
  tried = _try(learned, {"loss": learned.loss, **functions}, variables, sample)
  problems = _loss_problems(tried, variables, sample)
  if not strict and not problems and _constrains_gamma(constraint):
    problems += _layer_problems(learned, tried, variables, sample)
  problems = problems or _projection_problems(learned, tried, variables, sample)
  if problems:
    raise ConfigurationError(f"{problems[0]}.")


def require_evaluated(
  learned: Task,
  variables: homotopy.Variables,
  sample: Batch,
  others: Mapping[str, Batch],
  metrics: Mapping[str, Callable[[Any, Batch], jax.Array]] = MappingProxyType({}),
) -> None:
  """Refuses samples to evaluate on which model and metrics fail, or compare with one another.

  Args:
    learned: Model and loss, which have passed `require`.
    variables: Initial ones.
    sample: What they passed with.
    others: Samples by what they are called; those of the shapes of `sample` pass as it did.
    metrics: Further metrics by name.

  Raises:
    ConfigurationError: names the samples, and their first problem.
  """
  variables = homotopy.without_sown(variables)
  functions = _metrics(learned, metrics) or {"loss": learned.loss}
  for called, other in others.items():
    if _kind(other) == _kind(sample):
      continue
    try:
      tried = _try(learned, functions, variables, other)
    except Exception as error:  # of the model, of any kind
      raise ConfigurationError(
        f"{called} is not what train is, and model or metric fail on it ({first_line(error)}); "
        "give it the structure and the shapes of train."
      ) from error
    problems = _loss_problems(tried, variables, other)
    if problems:
      raise ConfigurationError(f"of {called}, {problems[0]}.")


def _metrics(
  learned: Task, metrics: Mapping[str, Callable[[Any, Batch], jax.Array]]
) -> dict[str, Callable[[Any, Batch], Any]]:
  """Returns what is evaluated beside the loss, by what messages call it."""
  functions: dict[str, Any] = {f"metric {name}": metric for name, metric in metrics.items()}
  if learned.metric is not None and not functions:
    functions = {"metric": learned.metric}
  return functions


def _kind(batch: Batch) -> tuple[Any, list[tuple[int, ...]]]:
  leaves, structure = jax.tree.flatten(batch)
  return structure, [leaf.shape[1:] for leaf in leaves]


def _constrains_gamma(constraint: Constraint) -> bool:
  some = {"layer": {homotopy.GAMMA: jnp.ones(())}}
  leaves = [len(jax.tree.leaves(constraint.init_multipliers(gamma))) for gamma in (some, {})]
  return leaves[0] > leaves[1]


class _Tried(NamedTuple):
  """Model and loss, traced on a few samples.

  Attributes:
    run: `run(variables, batch) -> ({name: values of the loss or a metric}, prediction)`, jitted.
    functions: The loss and metrics, by name.
    values: What it returns first, as shapes.
    prediction: What it returns then, as shapes.
    program: Of `run`, as of `jax.make_jaxpr`.
    calls: Of the homotopic layers.
  """

  run: Callable[[homotopy.Variables, Batch], tuple[dict[str, Any], Any]]
  functions: Mapping[str, Callable[[Any, Batch], Any]]
  values: dict[str, Any]
  prediction: Any
  program: Any
  calls: Sequence[LayerCall]


def _try(
  learned: Task,
  functions: Mapping[str, Callable[[Any, Batch], jax.Array]],
  variables: homotopy.Variables,
  batch: Batch,
) -> _Tried:
  # One jitted function for all: it is traced once for samples of one shape, and the tracing of the
  # model is most of the time that a check takes.
  @jax.jit
  def run(variables: homotopy.Variables, batch: Batch) -> tuple[dict[str, Any], Any]:
    prediction = learned.predict(variables, batch)
    for leaf in jax.tree.leaves(prediction):
      if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
        raise ConfigurationError(
          f"the prediction of the model holds a {type(leaf).__name__}; let it return arrays, in "
          "tuples, lists, dictionaries, or dataclasses of flax.struct."
        )
    values = {name: function(prediction, batch) for name, function in functions.items()}
    return values, prediction

  with layer_calls() as calls:
    traced = run.trace(variables, batch)
  values, prediction = traced.out_info
  return _Tried(run, functions, values, prediction, traced.jaxpr, calls)


def _layer_problems(
  learned: Task, tried: _Tried, variables: homotopy.Variables, batch: Batch
) -> list[str]:
  gamma = homotopy.by_name(variables.get(homotopy.GAMMA, {}))
  idle = sorted({call.name for call in tried.calls if call.gamma is None} - set(gamma))
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
  unused = _unused(learned, tried, variables, batch)
  if unused:
    return [
      f"the homotopic layer {unused[0]} is never called: its gamma changes no prediction; call it "
      "in the model, or take it out"
    ]
  return []


def _unused(learned: Task, tried: _Tried, variables: homotopy.Variables, batch: Batch) -> list[str]:
  """Returns the layers whose gamma changes no prediction, in training neither."""
  called = {call.name or homotopy.GAMMA for call in tried.calls}
  left = [name for name in homotopy.names(variables[homotopy.GAMMA]) if name not in called]
  # Not seen to be called are those of a `Model` too, and what a jax.jit of the model keeps traced.
  if left:
    left = _without_effect(left, tried.program, variables, batch)
  if left:

    def train(variables: homotopy.Variables, batch: Batch) -> Any:
      return learned.apply(variables, batch, jax.random.key(0))

    # Some layers, such as those of a second head, are called in training alone.
    trained = jax.make_jaxpr(train, axis_env=[("data", 1)])(variables, batch)
    left = _without_effect(left, trained, variables, batch)
  return left


def _without_effect(
  layers: Sequence[str], program: Any, variables: homotopy.Variables, batch: Batch
) -> list[str]:
  """Returns those of the layers of whose gamma a program's results are seen not to depend."""
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path((variables, batch))[0]]
  names = [jax.tree_util.keystr(path) for path in paths]
  gammas = [
    jax.tree_util.keystr(
      (jax.tree_util.SequenceKey(0), jax.tree_util.DictKey(homotopy.GAMMA), *path)
    )
    for path, _ in jax.tree_util.tree_flatten_with_path(variables[homotopy.GAMMA])[0]
  ]
  by_layer = dict(zip(homotopy.names(variables[homotopy.GAMMA]), gammas, strict=True))
  renamed = [["another" if name == by_layer[layer] else name for name in names] for layer in layers]
  before, *after = programs.results([program] * (1 + len(layers)), [names, *renamed])
  return [layer for layer, numbers in zip(layers, after, strict=True) if numbers == before]


def _loss_problems(tried: _Tried, variables: homotopy.Variables, batch: Batch) -> list[str]:
  """Judges the shapes of loss and metrics, for samples at two batch sizes."""
  for name, returned in tried.values.items():
    parts = returned if isinstance(returned, tuple) else (returned,)
    odd = [type(part).__name__ for part in parts if not hasattr(part, "shape")]
    if odd:
      return [
        f"the {name} returned {'None' if odd[0] == 'NoneType' else f'a {odd[0]}'}; it must return "
        "an array [samples, ...], or a pair (values, weights) of them"
      ]
    if any(jnp.issubdtype(part.dtype, jnp.complexfloating) for part in parts):
      return [f"the {name} is complex; it must be real, such as jnp.abs(error) ** 2"]
    values = weights.values_of(returned)
    if name == "loss" and not jnp.issubdtype(values.dtype, jnp.inexact):
      return [f"the loss is of {values.dtype}, which has no gradient; give it as a metric"]
  weighting = [
    problem
    for name, returned in tried.values.items()
    if isinstance(returned, tuple) and (problem := weights.problem(name, returned))
  ]
  if weighting:
    return weighting[:1]
  if len({leaf.shape[:1] for leaf in jax.tree.leaves(batch)}) > 1:  # graphs
    return [
      f"the {name} is one number for the batch; it must be [graphs, ...]"
      for name, returned in tried.values.items()
      if not weights.values_of(returned).shape
    ][:1]
  # Of the projection, whose prediction has the same shapes, and which is traced in half the time.
  plain = homotopy.project(variables)
  several = {}
  for n in (2, 3) if tried.values else ():
    try:
      alike = n == task.size(batch)
      several[n] = tried.values if alike else _values(tried, plain, batch, n)
    except AceError:
      raise
    except Exception as error:  # of the model or a loss, of any kind
      return [
        f"model or loss fail on {n} samples, and not on {task.size(batch)} ({first_line(error)}); "
        "let no shape of theirs depend on how many there are"
      ]
  for name in tried.values:
    shapes = []
    for samples, values in several.items():
      shape = weights.values_of(values[name]).shape
      if shape[:1] != (samples,):
        return [
          f"the {name} of {samples} samples has shape {shape}; it must be [samples, ...], one or "
          "more numbers a sample, without a mean over samples"
        ]
      shapes.append(shape)
    if shapes[0][1:] != shapes[1][1:]:
      return [
        f"the {name} of 2 samples has shape {shapes[0]}, that of 3 {shapes[1]}: it compares every "
        "sample with every other; give prediction and target the same shape"
      ]
  return [
    f"the {name} compares every sample with every other, and takes a mean over them; give "
    "prediction and target the same shape"
    for name, function in tried.functions.items()
    if sample_losses.broadcasts(function, tried.prediction, batch)
  ][:1]


def _values(tried: _Tried, variables: homotopy.Variables, batch: Batch, samples: int) -> Any:
  """Returns what loss and metrics return of so many samples, as shapes."""
  return jax.eval_shape(tried.run, variables, _shapes(batch, samples))[0]


def _projection_problems(
  learned: Task, tried: _Tried, variables: homotopy.Variables, batch: Batch
) -> list[str]:
  if not variables.get(homotopy.GAMMA) or _same_programs(learned, tried, variables, batch):
    return []

  def both(variables, batch):
    zero = jax.tree.map(jnp.zeros_like, variables[homotopy.GAMMA])
    return (
      learned.predict(homotopy.project(variables), batch),
      tried.run({**variables, homotopy.GAMMA: zero}, batch)[1],
    )

  # Compiled without optimisation, since it runs once.
  options: dict[str, Any] = {"xla_backend_optimization_level": 0}
  plain, zeroed = compiling.Jitted(both, compiler_options=options)(variables, batch)
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


def _same_programs(
  learned: Task, tried: _Tried, variables: homotopy.Variables, batch: Batch
) -> bool:
  """Whether both forms are seen to be the same, which spares compiling them to see the numbers."""
  plain = homotopy.project(variables)
  strict = jax.jit(learned.predict).trace(plain, batch).jaxpr
  names = [
    [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(given)[0]]
    for given in ((variables, batch), (plain, batch))
  ]
  zeros = {name for name in names[0] if name.startswith(f"[0][{homotopy.GAMMA!r}]")}
  zeroed, without = programs.results((tried.program, strict), names, zeros)
  return zeroed[len(zeroed) - len(without) :] == without  # the last results are the prediction


def _equivariance(
  learned: Task, variables: homotopy.Variables, batch: Batch, symmetry: Symmetry
) -> dict[str, dict[str, jax.Array]]:
  """Returns the relative error of every entry, of f_eq and with each layer's gamma alone."""

  def error(variables: Any, batch: Batch) -> dict[str, jax.Array]:
    def predict(batch):
      return learned.predict(variables, batch)

    prediction = predict(batch)
    gaps = symmetry.gaps(predict, prediction, batch, jax.random.key(0))

    def relative(gap, y):
      size = jnp.mean(jnp.square(y))
      return jnp.sqrt(jnp.mean(gap) / jnp.maximum(size, jnp.finfo(size.dtype).tiny))

    return entries.by_name(jax.tree.map(relative, gaps, prediction))

  gamma = variables.get(homotopy.GAMMA, {})
  run = jax.jit(error)
  errors = {"f_eq": run(homotopy.project(variables), batch)}
  leaves, structure = jax.tree.flatten(gamma)
  for i, name in enumerate(homotopy.names(gamma)):
    alone = [jnp.full_like(leaf, float(i == j)) for j, leaf in enumerate(leaves)]
    relaxed = {**variables, homotopy.GAMMA: jax.tree.unflatten(structure, alone)}
    errors[name] = run(relaxed, batch)
  return errors


def _shapes(batch: Batch, samples: int) -> Batch:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((samples, *x.shape[1:]), x.dtype), batch)
