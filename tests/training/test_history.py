import json
import struct
import threading
import time

import pytest

from ace_jax import errors
from ace_jax.training import history, sinks


def test_metrics_file_survives_a_cut_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(json.dumps({"epoch": 1}) + "\n" + json.dumps({"epoch": 2}) + '\n{"epo')
  assert history.truncate(path, 1) == [{"epoch": 1}]
  assert path.read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize(
  "second",
  [
    '{"epo',
    "5",
    '{"epoch": 3}',
    '{"epoch": "2"}',
    "[" * 100_000,
    "1" * 5000,
    "\x00",
    '{"loss": 1}',
  ],
  ids=range(8),
)
def test_damage_before_the_end_of_a_metrics_file_is_refused(tmp_path, second):
  path = tmp_path / "metrics.jsonl"
  path.write_text(f'{{"epoch": 1}}\n{second}\n{{"epoch": 3}}\n')
  with pytest.raises(errors.RecordsError, match=r"metrics\.jsonl:2: not the record of epoch 2"):
    history.read(path)


def test_a_missing_metrics_file_is_an_error_of_one_line(tmp_path):
  with pytest.raises(errors.RecordsError, match="No such file"):
    history.read(tmp_path / "metrics.jsonl")


def test_tensorboard_outlives_clocks_that_jump(tmp_path, monkeypatch):
  # A writer of its own thread would wait for a moment in the year 2046, and block the training.
  logger = sinks.TensorBoardLogger(tmp_path, 3)
  monkeypatch.setattr(time, "time", lambda: -1e9)
  for epoch in range(4, 60):
    logger.log({"epoch": epoch, "time": 0.0, "loss": 1.0 / epoch})
  assert not [t for t in threading.enumerate() if "EventLogger" in type(t).__name__]
  logger.close()
  (path,) = tmp_path.iterdir()
  events = list(_events(path.read_bytes()))
  assert events[1].session_log.status == 1
  assert events[1].step == 4
  values = {event.step: event.summary.value[0].simple_value for event in events[2:]}
  assert values == {epoch: pytest.approx(1.0 / epoch) for epoch in range(4, 60)}


def _events(content):
  from tensorboardX.proto import event_pb2

  while content:  # length, its checksum, the event, its checksum
    (length,) = struct.unpack("<Q", content[:8])
    yield event_pb2.Event.FromString(content[12 : 12 + length])
    content = content[16 + length :]
