"""Where the records of a run go: a JSONL file, TensorBoard; `progress` shows them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ace_jax import files
from ace_jax.errors import ConfigurationError
from ace_jax.training.history import Record


@runtime_checkable
class Logger(Protocol):
  """A sink of records."""

  def log(self, record: Record) -> None:
    """Takes the record of an epoch."""

  def close(self) -> None:
    """Writes out what is pending; called once, also after an error."""


class CallbackLogger:
  """Calls a function with each record.

  Args:
    callback: Gets a record of its own.
    more: Entries that are added to every record.
  """

  def __init__(self, callback: Callable[[Record], Any], more: Record | None = None):
    self._callback, self._more = callback, more or {}

  def log(self, record: Record) -> None:
    """Calls the function."""
    self._callback({**record, **self._more})

  def close(self) -> None:
    """Does nothing."""


def as_logger(sink: Logger | Callable[[Record], Any]) -> Logger:
  """Returns a logger as it is, and one that calls a function.

  Raises:
    ConfigurationError: it is neither.
  """
  if isinstance(sink, Logger):
    return sink
  if callable(sink):
    return CallbackLogger(sink)
  raise ConfigurationError(
    f"a {type(sink).__name__} takes no records; give a function of a record, or an object with "
    "log(record) and close()."
  )


class JsonlLogger:
  """Appends each record as a line of JSON, and flushes it.

  Args:
    path: The file; appended to. A leading ~ is the home folder.
  """

  def __init__(self, path: str | Path):
    self._file = files.expanded(path).open("a", encoding="utf-8")

  def log(self, record: Record) -> None:
    """Appends a line."""
    self._file.write(json.dumps(record) + "\n")
    self._file.flush()

  def close(self) -> None:
    """Closes the file, after its content has reached the disk."""
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()


class TensorBoardLogger:
  """Writes each number of a record as a TensorBoard scalar over epochs (needs tensorboardX).

  Args:
    folder: Where the event files go; a leading ~ is the home folder.
    resumed_epoch: Epochs that an interrupted run had done; later events in it are hidden.

  Raises:
    ImportError: tensorboardX is not installed (`pip install 'ace-equivariance[tensorboard]'`).
  """

  def __init__(self, folder: str | Path, resumed_epoch: int = 0):
    # Optional, and slow to import. Its SummaryWriter is not used: it writes from a thread that dies
    # of a full disk or a clock that jumps, and then the training waits for it for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

    folder = files.expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Protocol buffers, whose classes a type checker cannot see.
    events: Any = event_pb2
    summaries: Any = summary_pb2
    self._event, self._summary = events.Event, summaries.Summary
    self._writer = EventsWriter(str(folder / "events"))
    start = events.SessionLog(status=events.SessionLog.START)
    self._writer.write_event(self._event(step=resumed_epoch + 1, session_log=start))

  def log(self, record: Record) -> None:
    """Writes the scalars of an epoch."""
    numbers = {k: v for k, v in record.items() if k not in ("epoch", "time")}
    values = [self._summary.Value(tag=name, simple_value=v) for name, v in numbers.items()]
    summary = self._summary(value=values)
    event = self._event(wall_time=time.time(), step=int(record["epoch"]), summary=summary)
    self._writer.write_event(event)
    self._writer.flush()

  def close(self) -> None:
    """Writes out pending events."""
    self._writer.close()
