"""The saved state of a loader or its iterator, as JSON: nothing is pickled.

Two protocols are known: grain's `get_state` and `set_state`, and torchdata's `state_dict` and
`load_state_dict`.
"""

import base64
import importlib
from typing import Any

import numpy as np

_PROTOCOLS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
_TAG = "__type__"


def has_state(loader: Any) -> bool:
  """Whether a loader or iterator has one of the protocols."""
  return _protocol(loader) is not None


def get(loader: Any) -> Any:
  """Returns the state of a loader that has one, in what JSON can hold.

  Raises:
    TypeError: it holds something else than numbers, text, bytes, arrays and containers of them.
  """
  protocol = _protocol(loader)
  assert protocol is not None
  return _encoded(getattr(loader, protocol[0])())


def set_(loader: Any, state: Any) -> None:
  """Gives a loader the state that `get` returned.

  Raises:
    TypeError: it has no such protocol.
  """
  protocol = _protocol(loader)
  if protocol is None:
    raise TypeError(f"a {type(loader).__name__} has no saved state")
  getattr(loader, protocol[1])(_decoded(state))


def _protocol(loader: Any) -> tuple[str, str] | None:
  for names in _PROTOCOLS:
    if all(callable(getattr(loader, name, None)) for name in names):
      return names
  return None


def _encoded(value: Any) -> Any:
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, bytes):
    return {_TAG: "bytes", "value": _text(value)}
  if isinstance(value, list):
    return [_encoded(entry) for entry in value]
  if isinstance(value, tuple):
    return {_TAG: "tuple", "value": [_encoded(entry) for entry in value]}
  if isinstance(value, dict):
    pairs = [[_encoded(key), _encoded(entry)] for key, entry in value.items()]
    return {_TAG: "dict", "value": pairs}
  tensor = type(value).__module__.partition(".")[0] == "torch"
  array = value.numpy() if tensor else value
  if isinstance(array, np.ndarray | np.generic) and not array.dtype.hasobject:
    return {
      _TAG: "tensor" if tensor else "array",
      "value": _text(np.ascontiguousarray(array).tobytes()),
      "dtype": array.dtype.str,
      "shape": list(array.shape),
    }
  raise TypeError(f"its state holds a {type(value).__name__}")


def _decoded(value: Any) -> Any:
  if isinstance(value, list):
    return [_decoded(entry) for entry in value]
  if not isinstance(value, dict):
    return value
  kind, content = value[_TAG], value["value"]
  if kind == "bytes":
    return base64.b64decode(content)
  if kind == "tuple":
    return tuple(_decoded(entry) for entry in content)
  if kind == "dict":
    return {_decoded(key): _decoded(entry) for key, entry in content}
  flat = np.frombuffer(base64.b64decode(content), np.dtype(value["dtype"]))
  array = flat.reshape(value["shape"]).copy()
  return array if kind == "array" else importlib.import_module("torch").from_numpy(array)


def _text(content: bytes) -> str:
  return base64.b64encode(content).decode()
