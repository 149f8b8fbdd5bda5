"""The server of pages: what it lists, what it refuses, what is new of a run that trains."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from experiments.harness.usage import UsageError
from experiments.view import server
from tests.experiments import pages

RECORDS = [pages.record(epoch) for epoch in range(1, 5)]


@contextlib.contextmanager
def serving_at(root):
  """Serves a folder, and yields its address, and what asks for one: (status, headers, text)."""
  made = server.make(server.Site(root))
  thread = threading.Thread(target=made.serve_forever)
  thread.start()

  def ask(address, method="GET", host=None):
    port = made.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, address, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text

  try:
    yield f"http://127.0.0.1:{made.server_address[1]}", ask
  finally:
    made.shutdown()
    thread.join()
    made.server_close()


@contextlib.contextmanager
def serving(root):
  """Serves a folder, and yields what asks for an address."""
  with serving_at(root) as (_, ask):
    yield ask


@pytest.fixture
def root(tmp_path):
  root = tmp_path / "root"
  pages.write(root / "a" / "done", pages.result(), RECORDS)
  pages.write(root / "b", None, RECORDS[:2])
  pages.write(root / "c", pages.result(), RECORDS)
  (root / "c" / "result.json").write_text("{")
  pages.write(tmp_path / "outside", pages.result(model="secret"), RECORDS)
  (root / "linked").symlink_to(tmp_path / "outside")
  (root / "commits" / "x").mkdir(parents=True)
  pages.write(root / "commits" / "x" / "results", pages.result())
  return root


def test_runs_are_listed_with_their_state(root):
  with serving(root) as ask:
    status, _, text = ask("/")
    rows = json.loads(ask("/live.json")[2])["rows"]
  assert status == 200
  for shown in (text, rows):
    assert 'href="a/done/"' in shown and 'href="b/"' in shown
    assert "linked" not in shown and "commits" not in shown
    assert [shown.count(f">{word}</span>") for word in ("finished", "running", "damaged")] == [
      1, 1, 1,
    ]  # fmt: skip
    assert "result.json: damaged (" in shown
  said = server.listing(server.Site(root))
  assert [line.split()[:2] for line in said.splitlines()[2:]] == [
    ["a/done", "finished"], ["b", "running"], ["c", "damaged"],
  ]  # fmt: skip


@pytest.mark.parametrize(
  "address",
  [
    "/../outside/", "/a/../../outside/", "/%2e%2e/outside/", "/..%2foutside/", "/linked/",
    "/linked/live.json", "/a%2fdone/", "//etc/", "/a/done/result.json", "/none/", "/%00/", "/./",
    "/b/metrics.jsonl", "/a/done/../../../outside/",
  ],
)  # fmt: skip
def test_nothing_but_folders_below_the_root_is_served(root, address):
  with serving(root) as ask:
    status, _, text = ask(address)
  assert status == 404
  assert "secret" not in text


def test_names_of_elsewhere_and_other_methods_are_refused(root):
  with serving(root) as ask:
    assert ask("/", host="example.org")[0] == 403
    assert ask("/", method="POST")[0] == 501
    status, headers, text = ask("/b", method="HEAD")
    assert (status, headers["Location"], text) == (301, "/b/", "")
    assert ask("//example.org/..")[0] == 404


def test_a_page_grows_while_its_run_trains(root):
  with serving(root) as ask:
    _, _, text = ask("/b/")
    before = json.loads(ask("/b/live.json")[2])
    pages.append(root / "b", RECORDS[2])
    after = json.loads(ask("/b/live.json")[2])
    (root / "b" / "result.json").write_text(json.dumps(pages.result()))
    ended = json.loads(ask("/b/live.json")[2])
    assert "projection f_" in ask("/b/")[2]
  assert '"live":"running "' in text and 'href="/"' in text
  assert [len(live["panels"][0]["epochs"]) for live in (before, after)] == [2, 3]
  assert "epoch 3 of 4" in after["head"]
  assert before["live"] == after["live"] != ended["live"]


def test_two_hundred_runs_in_a_folder(tmp_path):
  for number in range(200):
    pages.write(tmp_path / f"run{number:03d}", pages.result(), RECORDS * 1)
  with serving(tmp_path) as ask:
    _, _, text = ask("/")
  assert "Runs (200)" in text
  assert all(f'href="run{number:03d}/"' in text for number in range(200))
  said = server.listing(server.Site(tmp_path)).splitlines()
  assert said[-1] == "... and 160 more, on the page."


def test_a_run_is_a_root_too(root):
  with serving(root / "b") as ask:
    _, _, text = ask("/")
    assert len(json.loads(ask("/live.json")[2])["panels"]) == 5
  assert "epoch 2 of 4" in text
  assert 'href="/"' not in text


def test_a_port_that_is_taken_is_refused(tmp_path):
  with server.make(server.Site(tmp_path)) as first:
    port = first.server_address[1]
    with pytest.raises(UsageError, match=f"--port={port}: .*; choose another, or 0"):
      server.make(server.Site(tmp_path), port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_lists_serves_and_ends(root, number):
  process = subprocess.Popen(
    [sys.executable, "-m", "experiments.view", str(root)],
    env={**os.environ, "PYTHONPATH": "."},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  said = []
  while not said or not said[-1].startswith("http://"):
    said.append(process.stdout.readline())
    assert said[-1], process.stderr.read()
  assert said[2].split()[:2] == ["a/done", "finished"]
  process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (0, "")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.view", str(tmp_path / "none")],
    capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {tmp_path}/none is no folder; name one of a run")
  assert len(done.stderr.splitlines()) == 1
