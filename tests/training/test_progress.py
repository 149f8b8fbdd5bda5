import contextlib
import io
import os
import pty
import termios

import pytest

from ace_jax.training import progress
from ace_jax.training.progress import Progress, ProgressBar, duration, fitting


def test_without_a_terminal_a_line_says_how_far_it_is(monkeypatch):
  stream = io.StringIO()
  times = iter([0.0, 60.0, 60.0, 60.0, 64.0, 64.0, 64.0])  # the first epoch takes a minute
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
  with Progress(10, "epoch", done=2, stream=stream, interval=0.0) as shown:
    shown.advance(1, {"loss": "0.5"})
    shown.reach(5)
  lines = stream.getvalue().splitlines()
  assert lines == ["epoch 3 of 10, loss 0.5", "epoch 5 of 10, about 10 s left"]


def test_without_a_terminal_nothing_is_said_within_a_minute(monkeypatch):
  stream = io.StringIO()
  with Progress(None, "file", stream=stream) as shown:
    for _ in range(1000):
      shown.advance()
  assert stream.getvalue() == ""
  with Progress(None, "file", label="reading", stream=stream, interval=0.0) as shown:
    shown.reach(3)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    shown.reach(4)
  assert stream.getvalue() == "reading: file 3\n"


def test_a_terminal_gets_a_bar_whose_first_epoch_compiles(monkeypatch):
  monkeypatch.delenv("TQDM_DISABLE", raising=False)
  monkeypatch.setenv("COLUMNS", "60")
  reader, writer = pty.openpty()
  termios.tcsetwinsize(writer, (24, 60))
  with os.fdopen(writer, "w") as stream:
    monkeypatch.setattr(progress.sys, "stderr", stream)
    bar = ProgressBar(5, done=1)
    bar.log({"loss": 0.25, "valid/projection": 0.125, "gamma/a": 0.5, "steps_per_second": 100.0})
    bar.close()
  said = _everything(reader)
  assert "\rcompiling: " in said
  last = said.rstrip().split("\r")[-1]
  assert last.startswith("2/5 ")
  assert "valid projection 0.125" in last


def _everything(terminal):
  """Reads a terminal whose other side is closed: it gives its bytes in pieces, then an error."""
  pieces = []
  with os.fdopen(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):
    while piece := stream.read(4096):
      pieces.append(piece)
  return b"".join(pieces).decode()


@pytest.mark.parametrize(
  ("width", "shown"),
  [(10, "valid 0.1"), (50, "valid 0.1, loss 0.25"), (200, "valid 0.1, loss 0.25, steps/s 100")],
)
def test_a_narrow_terminal_keeps_the_number_that_matters(width, shown):
  assert fitting({"valid": "0.1", "loss": "0.25", "steps/s": "100"}, width) == shown


def test_times_in_words():
  assert [duration(s) for s in (4.2, 61, 3600 * 2 + 300)] == ["4 s", "1 min", "2 h 5 min"]


def test_items_are_counted_as_they_are_done():
  assert list(progress.over([3, 1, 2], "item")) == [3, 1, 2]
