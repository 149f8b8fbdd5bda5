"""What the homotopic layers of any framework compute, recorded while they are called."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

from jaxtyping import Array


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


@contextlib.contextmanager
def layer_calls() -> Iterator[list[LayerCall]]:
  """Lists the homotopic layers of any framework that are called (traced) in this context."""
  calls: list[LayerCall] = []
  token = _CALLS.set(calls)
  try:
    yield calls
  finally:
    _CALLS.reset(token)


def record_call(call: LayerCall) -> None:
  """Appends a call to the list of the innermost `layer_calls`, if there is one."""
  calls = _CALLS.get()
  if calls is not None:
    calls.append(call)
