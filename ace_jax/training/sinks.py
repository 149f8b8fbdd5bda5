"""Where the records of a run go: a JSONL file, TensorBoard; `progress` shows them."""

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from ace_jax.training.history import Record


class Logger(Protocol):
  """A sink of records."""

  def log(self, record: Record) -> None:
    """Takes the record of an epoch."""

  def close(self) -> None:
    """Writes out what is pending; called once, also after an error."""


class JsonlLogger:
  """Appends each record as a line of JSON, and flushes it.

  Args:
    path: The file; appended to.
  """

  def __init__(self, path: Path):
    self._file = path.open("a", encoding="utf-8")

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
    folder: Where the event files go.
    resumed_epoch: Epochs that an interrupted run had done; later events in it are hidden.

  Raises:
    ImportError: tensorboardX is not installed (`pip install ace_jax[tensorboard]`).
  """

  def __init__(self, folder: Path, resumed_epoch: int = 0):
    # Optional, and slow to import. Its SummaryWriter is not used: it writes from a thread that dies
    # of a full disk or a clock that jumps, and then the training waits for it for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

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
