"""Signals that end a run, handled for as long as a context lasts."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


def name(number: int) -> str:
  """Returns what messages call a signal."""
  return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def not_ignored(*numbers: int) -> tuple[int, ...]:
  """Returns those of some signals that are not ignored, as a job in the background may."""
  return tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)


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


class Asked:
  """Whether a program was asked to end.

  Attributes:
    number: The signal that asked; 0 as long as none did.
  """

  number: int = 0


@contextlib.contextmanager
def asked_to_end(*numbers: int) -> Iterator[Asked]:
  """Takes note of the first of some signals while the context lasts.

  The handlers of before take the next one, so that who asks twice does not wait.

  Args:
    *numbers: The signals.
  """
  asked = Asked()
  with contextlib.ExitStack() as stack:

    def note(number: int, _: Any) -> None:
      asked.number = number
      stack.close()

    stack.enter_context(handling(note, *numbers))
    yield asked
