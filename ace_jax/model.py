"""A model of any framework as a pair of pure functions: what `fit` and `Task` use."""

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from flax.errors import InvalidRngError
from jaxtyping import Array, PRNGKeyArray

from ace_jax import homotopy, sown
from ace_jax.errors import ConfigurationError, first_line
from ace_jax.recording import LayerCall

Variables = homotopy.Variables


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A pair of pure functions; static, and equal only to itself.

  Variables are a dictionary of collections: `params` (theta), `gamma` with one leaf
  `{layer: {"gamma": value}}` a layer, and any other that the model updates. Without `gamma` the
  model computes its projection. Parameters of a branch lie below a key `relaxation`.

  Attributes:
    init: `init(key, *inputs) -> variables`.
    apply: `apply(variables, *inputs, key=None) -> (prediction, model_state)`. In training `key`
      drives whatever is random, and model_state holds the new collections beside `params` and
      `gamma`; in evaluation `key` is None, and model_state as it came.
    calls: `calls(variables, *inputs) -> {layer: LayerCall}`, what every homotopic layer computes in
      evaluation; None if the model cannot say (it then has no layer reports).
    without_sown: `without_sown(variables, *inputs) -> variables`, without what the model leaves in
      collections as a result, such as by Linen's `sow` and `perturb`; None if it leaves nothing.
  """

  init: Callable[..., Variables]
  apply: Callable[..., tuple[Any, dict[str, Any]]]
  calls: Callable[..., dict[str, LayerCall]] | None = None
  without_sown: Callable[..., Variables] | None = None

  def __post_init__(self):
    object.__setattr__(self, "apply", _returning_a_pair(self.apply))


def as_model(model: Any, rngs: Sequence[str] = ("dropout",)) -> Model:
  """Turns a model into a `Model`: a Linen module, or an instance of an NNX or Equinox module.

  Args:
    model: Any of them; a `Model` comes back as it is. An Equinox module with state is the pair
      (module, state) that `equinox.nn.make_with_state` returns.
    rngs: Names of a Linen module's streams of random numbers in training.

  Raises:
    ConfigurationError: it is something else.
  """
  if isinstance(model, Model):
    return model
  if isinstance(model, nn.Module):
    return from_linen(model, rngs)
  if is_module_of("flax.nnx", model):
    from ace_jax import nnx as ace_nnx

    return ace_nnx.as_model(model)
  is_pair = isinstance(model, tuple) and len(model) == 2
  if is_module_of("equinox", model[0] if is_pair else model):
    from ace_jax import equinox as ace_equinox

    return ace_equinox.as_model(model)
  what = "the class " + model.__name__ if isinstance(model, type) else type(model).__name__
  raise ConfigurationError(
    f"{what} is no model; give an instance of a module of Linen, NNX or Equinox, or "
    "ace_jax.Model(init, apply)."
  )


def is_module_of(framework: str, model: Any) -> bool:
  """Whether a model is an instance of a framework's `Module`.

  Nothing is imported for it: who has an instance has imported its framework.

  Args:
    framework: Package with the class, "flax.nnx" or "equinox".
    model: Any object.
  """
  package = sys.modules.get(framework)
  return package is not None and isinstance(model, package.Module)


def mode_keywords(call: Callable[..., Any], training: bool) -> dict[str, Any]:
  """Returns the keywords by which a model is told whether it trains, of those that it takes.

  Args:
    call: Its `__call__`.
    training: Whether it trains.
  """
  modes = {"train": training, "training": training, "deterministic": not training}
  modes["is_training"] = training
  taken = inspect.signature(call).parameters
  return {name: value for name, value in modes.items() if name in taken}


def from_linen(module: nn.Module, rngs: Sequence[str] = ("dropout",)) -> Model:
  """Turns a Linen module into a `Model`.

  Args:
    module: Called as `module(*inputs)`, with `train`, `training`, `is_training` or `deterministic`
      if its `__call__` takes one of them.
    rngs: Names of its streams of random numbers in training.
  """
  call = type(getattr(module, "relaxed_model", module)).__call__
  rngs = (rngs,) if isinstance(rngs, str) else rngs

  def initial(key: PRNGKeyArray, *inputs: Any) -> tuple[dict[str, Any], set[sown.Path]]:
    # Modes that have no default are given; others stay as the module's author left them.
    taken = inspect.signature(call).parameters
    modes = {
      name: value
      for name, value in mode_keywords(call, False).items()
      if taken[name].default is inspect.Parameter.empty
    }
    with sown.recorded() as paths:
      return homotopy.unbox(module.init(key, *inputs, **modes)), paths

  def init(key: PRNGKeyArray, *inputs: Any) -> dict[str, Any]:
    # What is sown is no state, which a carry would feed back into `reduce_fn`, and perturbations
    # have the shapes of these inputs.
    return sown.without(*initial(key, *inputs))

  def apply(
    variables: Variables, *inputs: Any, key: PRNGKeyArray | None = None
  ) -> tuple[Any, dict[str, Any]]:
    model_state = {k: v for k, v in variables.items() if k not in ("params", homotopy.GAMMA)}
    modes = mode_keywords(call, key is not None)
    if key is None:
      with _said_in_one_line(rngs, training=False):
        return module.apply(variables, *inputs, **modes), model_state
    with _said_in_one_line(rngs, training=True):
      prediction, updated = module.apply(
        variables, *inputs, **modes, rngs=_streams(key, rngs), mutable=list(model_state)
      )
    # What is sown into a collection that is carried too would make the carry grow.
    state = carried(model_state, homotopy.without_sown(updated))
    if "intermediates" in model_state:  # who passes it asks what the layers sow (`rivals.Schedule`)
      state["intermediates"] = updated.get("intermediates", {})
    return prediction, state

  def calls(variables: Variables, *inputs: Any) -> dict[str, LayerCall]:
    modes = mode_keywords(call, False)
    with _said_in_one_line(rngs, training=False):
      _, kept = module.apply(variables, *inputs, **modes, mutable=["intermediates"])
    return _sown_calls(kept.get("intermediates", {}))

  def without_sown(variables: Variables, *inputs: Any) -> Variables:
    collections = {*variables} - {"params", homotopy.GAMMA, "batch_stats"}
    if not collections:  # where nothing can have been sown, the model is not traced
      return variables
    leaves: set[sown.Path] = set()
    jax.eval_shape(lambda key: leaves.update(initial(key, *inputs)[1]), jax.random.key(0))
    return sown.without(variables, leaves)

  return Model(init, apply, calls, without_sown)


def carried(state: Any, new: Any) -> Any:
  """Returns a state with the new values of its leaves, and no others: what the next step takes.

  Args:
    state: Nested dictionaries.
    new: The same, perhaps without some of the leaves, and with others, such as what modules sow.
  """
  if not isinstance(state, Mapping) or not isinstance(new, Mapping):
    return new
  return {name: carried(tree, new.get(name, tree)) for name, tree in state.items()}


def _returning_a_pair(apply: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `Model.apply` as it is, but for a line that says where it does not return a pair."""

  @functools.wraps(apply)
  def checked(*args: Any, **kwargs: Any) -> Any:
    returned = apply(*args, **kwargs)
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    if not is_pair or not isinstance(returned[1], Mapping):
      raise ConfigurationError(
        f"the apply of ace_jax.Model returned {_described(returned)}; it must return (prediction, "
        "model_state), where model_state holds the collections beside params and gamma, {} if "
        "there are none."
      )
    return returned

  return checked


def _described(returned: Any) -> str:
  if isinstance(returned, tuple):
    return f"({', '.join(type(entry).__name__ for entry in returned)})"
  if isinstance(returned, jax.Array):
    return f"an array of shape {returned.shape}"
  return f"a {type(returned).__name__}"


@contextlib.contextmanager
def _said_in_one_line(rngs: Sequence[str], *, training: bool) -> Iterator[None]:
  """Says how to give a model the random numbers that it draws, where it has none."""
  try:
    yield
  except InvalidRngError as error:
    mend = (
      f"give rngs=({', '.join(map(repr, [*rngs, 'its name']))})"
      if training
      else "let it draw in training alone, which a keyword `train` of its __call__ says"
    )
    when = "training" if training else "evaluation, which has no random numbers"
    raise ConfigurationError(
      f"the model draws random numbers in {when} ({first_line(error).split(' (')[0]}); {mend}."
    ) from error


def _streams(key: PRNGKeyArray, names: Sequence[str]) -> dict[str, PRNGKeyArray]:
  # The first is the key itself: dropout alone draws as it always has.
  return {name: key if i == 0 else jax.random.fold_in(key, i) for i, name in enumerate(names)}


def _sown_calls(tree: Any) -> dict[str, LayerCall]:
  flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(tree)
  calls = {}
  for path, value in flat.items():
    if path[-1] == homotopy.OUTPUT:
      layer = path[:-1]

      def entry(name: str, layer=layer) -> Array | None:
        return flat[(*layer, name)][-1] if (*layer, name) in flat else None

      y = value[-1]
      y_eq = entry("equivariant")
      calls["/".join(layer)] = LayerCall(
        "/".join(layer), y if y_eq is None else y_eq, entry("non_equivariant"), y, None
      )
  return calls
