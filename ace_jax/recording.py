"""What the homotopic layers of any framework compute, recorded while they are called."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from flax.core import tracers
from jaxtyping import Array

from ace_jax.errors import ConfigurationError


class LayerCall(NamedTuple):
  """What a homotopic layer computed when it was called.

  Attributes:
    name: Of the layer, "layers_0/update_1".
    y_eq: f_eq(x), flat.
    f_neq: f_neq(x), flat; None in a projection.
    y: What the layer returned, flat.
    gamma: None in a projection.
    mean_square: Of f_neq before it was divided by its root; None where a running value was taken.
  """

  name: str
  y_eq: Array
  f_neq: Array | None
  y: Array
  gamma: Array | None
  mean_square: Array | None = None


_CALLS: contextvars.ContextVar[list[LayerCall] | None] = contextvars.ContextVar(
  "ace_jax_layer_calls", default=None
)


class _Arrays(NamedTuple):
  """What `layer_arrays` lists.

  Attributes:
    fields: Of a `LayerCall`, those that are asked for.
    listed: Of each call, its layer and these fields.
    trace: Where the arrays are read.
  """

  fields: tuple[str, ...]
  listed: list[tuple[str, dict[str, Array]]]
  trace: Any


_ARRAYS: contextvars.ContextVar[_Arrays | None] = contextvars.ContextVar(
  "ace_jax_layer_arrays", default=None
)


@contextlib.contextmanager
def layer_calls() -> Iterator[list[LayerCall]]:
  """Lists the homotopic layers of any framework that are called (traced) in this context.

  Of a layer within a `jax.grad` or the like of the model's own only shapes can be read.
  """
  calls: list[LayerCall] = []
  token = _CALLS.set(calls)
  try:
    yield calls
  finally:
    _CALLS.reset(token)


@contextlib.contextmanager
def layer_arrays(*fields: str) -> Iterator[list[tuple[str, dict[str, Array]]]]:
  """Lists (layer, {field: array}) of every call in this context whose arrays can be read in it.

  Calls under a `jax.vmap` within are listed too, with its axis first (of what it maps). Those under
  a `jax.grad`, `jax.lax.scan`, `jax.checkpoint` or `jax.jit` within are left out.

  Args:
    *fields: Of a `LayerCall`; where all of them are None, the call is left out.
  """
  arrays = _Arrays(fields, [], tracers.current_trace())
  token = _ARRAYS.set(arrays)
  try:
    yield arrays.listed
  finally:
    _ARRAYS.reset(token)


def record_call(call: LayerCall) -> None:
  """Appends a call to the lists of the innermost `layer_calls` and `layer_arrays`, if any."""
  calls = _CALLS.get()
  if calls is not None:
    calls.append(call)
  record_arrays(call)


def record_arrays(call: LayerCall) -> None:
  """Appends a call to the list of the innermost `layer_arrays`, if there is one."""
  arrays = _ARRAYS.get()
  if arrays is not None and any(getattr(call, field) is not None for field in arrays.fields):
    _bring_out(arrays, call)


def require_readable(name: str, f_neq: Array) -> None:
  """Refuses a call whose mean square the innermost `layer_arrays` asks for, and cannot read.

  Asked before it is computed: JAX cannot differentiate a mean over samples within the model.

  Args:
    name: Of the layer.
    f_neq: What the mean square is of.

  Raises:
    ConfigurationError: it is computed within a `jax.grad`, `jax.lax.scan` or the like.
  """
  arrays = _ARRAYS.get()
  if arrays is None or "mean_square" not in arrays.fields:
    return
  tried = arrays._replace(listed=[])
  _bring_out(tried, LayerCall(name, f_neq, None, f_neq, None))
  if not tried.listed:
    raise ConfigurationError(
      f"{name}: its running scale cannot be kept through a jax.grad, jax.lax.scan, jax.checkpoint "
      "or jax.jit within the model; give the layer scale='free', or call it outside of them."
    )


def readable(
  listed: list[tuple[str, dict[str, Array]]], called: list[LayerCall]
) -> dict[str, LayerCall]:
  """Returns {layer: LayerCall} of what `layer_arrays` listed.

  Args:
    listed: With the fields y_eq, f_neq and y.
    called: What `layer_calls` listed meanwhile.

  Raises:
    ConfigurationError: what a layer computes was not found.
  """
  known = {
    name: LayerCall(name, gamma=None, **{"f_neq": None, **arrays}) for name, arrays in listed
  }
  missing = next((call.name for call in called if call.name not in known), None)
  if missing is not None:
    raise ConfigurationError(
      f"{missing}: its features cannot be read through a jax.grad, jax.lax.scan, jax.checkpoint or "
      "jax.jit within the model; call the layer outside of them."
    )
  return known


def _bring_out(arrays: _Arrays, call: LayerCall) -> None:
  """Appends a call, out of every `jax.vmap` within."""
  if tracers.current_trace() == arrays.trace:
    fields = {field: getattr(call, field) for field in arrays.fields}
    arrays.listed.append((call.name, {k: v for k, v in fields.items() if v is not None}))
    return
  # The rule of a custom_vmap is called outside of the vmap that it is for. All arrays go through
  # one: a mean over samples alone does not depend on the mapped axis any more. JAX cannot linearise
  # it within a jax.grad of the model's own.
  given = {name: value for name, value in call._asdict().items() if name not in ("name", "gamma")}
  given = jax.lax.stop_gradient(given)

  @jax.custom_batching.custom_vmap
  def through(values: dict[str, Array | None]) -> dict[str, Array | None]:
    return values

  @through.def_vmap
  def outside(size, batched, values):
    del size
    _bring_out(arrays, call._replace(**values))
    return values, batched[0]

  through(given)
