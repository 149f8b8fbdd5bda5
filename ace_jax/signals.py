"""Signals that end a run, handled for as long as a context lasts."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], Any], *numbers: int) -> Iterator[None]:
  """Handles signals while the context lasts; then the handlers of before are back.

  Only the main thread of a program can set handlers: elsewhere nothing changes.

  Args:
    handler: As of `signal.signal`.
    *numbers: The signals.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, handler) for number in numbers}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old)


@contextlib.contextmanager
def asked_to_end() -> Iterator[threading.Event]:
  """Turns SIGTERM into an event while the context lasts."""
  asked = threading.Event()
  with handling(lambda *_: asked.set(), signal.SIGTERM):
    yield asked
