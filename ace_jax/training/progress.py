"""How far a long piece of work is: a bar on a terminal, a line a minute elsewhere."""

import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

import tqdm

from ace_jax.training import history
from ace_jax.training.history import Record

_INTERVAL = 60.0  # seconds between lines where there is no terminal
_NARROW = 100  # columns below which a bar leaves its own length and speed out
_KINDS = ("valid", "gamma", "multiplier", "slack", "violation")  # a layer may have any name
_COUNTS = 26  # columns of the counts and times before the numbers of a narrow bar


class Progress:
  """Counts pieces of work on stderr: a bar on a terminal, a line a minute where it is none.

  TQDM_DISABLE=1 in the environment silences both.

  Args:
    total: How many pieces there are; None if that is not known.
    unit: What a piece is called.
    done: Pieces that were done before.
    label: Said in front of the counts.
    delay: Seconds before a bar appears.
    stream: stderr if None.
    interval: Seconds between lines where there is no terminal.
  """

  def __init__(
    self,
    total: int | None,
    unit: str,
    done: int = 0,
    label: str = "",
    delay: float = 0.0,
    stream: TextIO | None = None,
    interval: float = _INTERVAL,
  ):
    self._stream = sys.stderr if stream is None else stream
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=label or None,
        delay=delay,
        file=self._stream,
        dynamic_ncols=True,
        mininterval=0.5,
      )
    self._total, self._unit, self._label, self._interval = total, unit, label, interval
    self._done, self._last = done, time.monotonic()
    self._begin: tuple[int, float] | None = None
    self._numbers: dict[str, str] = {}

  def label(self, text: str) -> None:
    """Replaces what stands in front of the counts."""
    self._label = text
    if self._bar is not None:
      self._bar.set_description(text or None)

  def total(self, total: int) -> None:
    """Sets how many pieces there are, where that becomes known later."""
    self._total = total
    if self._bar is not None:
      self._bar.total = total

  def advance(self, count: int = 1, numbers: Mapping[str, str] | None = None) -> None:
    """Counts pieces that are done.

    Args:
      count: How many.
      numbers: What to show beside the counts, by name, what matters most first.
    """
    self._done += count
    if self._begin is None:
      # The time left is told from the pieces after the first, which waits for a compilation.
      self._begin = self._done, time.monotonic()
    self._numbers = dict(numbers or {})
    if self._bar is not None:
      width = shutil.get_terminal_size().columns
      if width < _NARROW:
        self._bar.bar_format = "{desc}{n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
      self._bar.set_postfix_str(fitting(self._numbers, width), refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._last >= self._interval:
      self._last = time.monotonic()
      if not os.environ.get("TQDM_DISABLE"):
        self._stream.write(f"{self.line()}\n")
        self._stream.flush()

  def reach(self, done: int, total: int | None = None) -> None:
    """Counts up to so many pieces, of a total that may become known now."""
    if total is not None:
      self.total(total)
    self.advance(done - self._done)

  def line(self) -> str:
    """Returns what is said where there is no terminal."""
    total = "" if self._total is None else f" of {self._total}"
    parts = [f"{self._label + ': ' if self._label else ''}{self._unit} {self._done}{total}"]
    parts += [f"{name} {number}" for name, number in self._numbers.items()]
    before, begin = self._begin or (self._done, 0.0)
    new = self._done - before
    if self._total is not None and new:
      seconds = (time.monotonic() - begin) * (self._total - self._done) / new
      parts.append(f"about {duration(seconds)} left")
    return ", ".join(parts)

  def close(self) -> None:
    """Leaves the bar on the terminal."""
    if self._bar is not None:
      self._bar.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def over(items: Sequence[Any], unit: str) -> Iterable[Any]:
  """Yields items, and counts each when the next one is asked for."""
  with Progress(len(items), unit) as progress:
    for item in items:
      yield item
      progress.advance()


def fitting(numbers: Mapping[str, str], width: int) -> str:
  """Returns the numbers that fit on a terminal beside counts and times; the first always stays.

  Args:
    numbers: By name, what matters most first.
    width: Columns of the terminal.
  """
  room = width - (_COUNTS if width < _NARROW else 2 * _COUNTS)
  shown = ""
  for name, number in numbers.items():
    longer = f"{shown}, {name} {number}" if shown else f"{name} {number}"
    if shown and len(longer) > room:
      break
    shown = longer
  return shown


def duration(seconds: float) -> str:
  """Returns a time in words, such as "2 h 5 min"."""
  minutes = round(seconds / 60)
  if minutes < 1:
    return f"{seconds:.0f} s"
  return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class ProgressBar:
  """Shows epochs done, time left, errors, and how far gamma and multipliers are.

  It is a sink of records (`sinks.Logger`). Until the first of them it says that the programs are
  being compiled, which the first epoch waits for.

  Args:
    epochs: Length of the run.
    done: Epochs that were done before (a resumed run).
  """

  def __init__(self, epochs: int, done: int = 0):
    self._progress = Progress(epochs, "epoch", done)
    self._progress.label("compiling")
    self._valid: dict[str, float] = {}
    self._more: dict[str, float] = {}

  def log(self, record: Record) -> None:
    """Advances by an epoch."""
    if not self._valid:
      self._progress.label("")
    new = {k: v for k, v in record.items() if k.startswith("valid/")}
    self._valid |= {k.removeprefix("valid/"): v for k, v in new.items()}
    shown = {f"valid {name}": f"{value:.3g}" for name, value in self._valid.items()}
    shown["loss"] = f"{record['loss']:.3g}"
    more = {k: v for k, v in record.items() if k.endswith(("/projection", "/relaxed"))}
    self._more |= {k: v for k, v in more.items() if k.partition("/")[0] not in _KINDS}
    shown |= {k.replace("/", " "): f"{v:.3g}" for k, v in self._more.items()}
    for kind, label in (("gamma", "max|gamma|"), ("multiplier", "max|multiplier|")):
      value = history.largest(record, kind)
      if value is not None and math.isfinite(value):
        shown[label] = f"{value:.2g}"
    shown["steps/s"] = f"{record['steps_per_second']:.0f}"
    self._progress.advance(1, shown)

  def close(self) -> None:
    """Leaves the bar on the terminal."""
    self._progress.close()
