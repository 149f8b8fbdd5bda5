"""The server of pages: one address for every folder of runs, and what is new of it as JSON.

No file is served as it lies. A path in an address is followed only to folders below the root, all
links resolved, and the page that is made of a folder reads only what lies below the root too.
"""

import errno
import json
import os
import signal
import threading
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from experiments.harness import page, page_runs, tables
from experiments.harness.page_runs import Run
from experiments.harness.usage import UsageError

HOST = "127.0.0.1"
_LIVE = "live.json"
_LISTED = 40
"""Runs that a terminal gets."""


class Site:
  """The folders below a root, and what was read of them.

  Args:
    root: The folder.
  """

  def __init__(self, root: Path):
    self.root = root.resolve()
    self._kept: dict[Path, tuple[Any, Run]] = {}

  def run(self, folder: Path) -> Run:
    """Returns what a folder holds; read again when a file of it has changed, or it still trains."""
    signature = page_runs.signature(folder, self.root)
    kept = self._kept.get(folder)
    if kept is not None and kept[0] == signature and kept[1].status in ("finished", "damaged"):
      return kept[1]
    run = page_runs.read(folder, self.root)
    self._kept[folder] = signature, run
    return run

  def runs(self) -> list[Run]:
    """Returns what is found at and below the root."""
    return [self.run(folder) for folder in page_runs.find(self.root)]

  def folder(self, address: str) -> Path | None:
    """Returns the folder of an address such as "/a/b/"; None if there is none below the root."""
    # Split first: a slash that is written as %2F is part of a name, and no name has one.
    words = [unquote(word, errors="surrogateescape") for word in address.strip("/").split("/")]
    words = [] if words == [""] else words
    if any(word in ("", ".", "..") or "\0" in word or os.sep in word for word in words):
      return None
    folder = self.root.joinpath(*words)
    return folder if page_runs.inside(folder, self.root) and folder.is_dir() else None

  def page(self, folder: Path) -> str:
    """Returns the page of a folder: of its run, or of all runs below it."""
    return page.render(self.run(folder), self.root, live=True)

  def update(self, folder: Path) -> dict[str, Any]:
    """Returns what is new of a folder, for its open page."""
    run = self.run(folder)
    if run.training:
      return page.update(run, self.root)
    below = [self.run(path) for path in page_runs.find(folder) if path != folder]
    return {"rows": page.rows(below[: page.RUNS], folder), "live": "list"}


class _Handler(BaseHTTPRequestHandler):
  """Answers GET and HEAD."""

  server_version, sys_version = "ace_jax", ""
  site: Site
  port: int

  def do_GET(self) -> None:
    """Answers with a page, or with what is new of one."""
    hosts = {f"{name}:{self.port}" for name in (HOST, "localhost")}
    if self.headers.get("Host") not in hosts:  # a name of elsewhere that leads here
      self._answer(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost alone.")
      return
    address = urlsplit(self.path).path
    live = address.endswith(f"/{_LIVE}")
    folder = self.site.folder(address.removesuffix(_LIVE) if live else address)
    if folder is None:
      self._answer(HTTPStatus.NOT_FOUND, "There is no such folder of runs here.")
    elif live:
      self._made(lambda: json.dumps(self.site.update(folder)), "application/json")
    elif not address.endswith("/"):
      self.send_response(HTTPStatus.MOVED_PERMANENTLY)
      self.send_header("Location", f"/{address.strip('/')}/")
      self.send_header("Content-Length", "0")
      self.end_headers()
    else:
      self._made(lambda: self.site.page(folder), "text/html; charset=utf-8")

  do_HEAD = do_GET

  def _made(self, make: Any, kind: str) -> None:
    try:
      text = make()
    except Exception as error:  # of one page, which must not end the others
      traceback.print_exc()
      self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"defect: {type(error).__name__}: {error}")
      return
    self._answer(HTTPStatus.OK, text, kind)

  def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    content = text.encode("utf-8", "backslashreplace")
    self.send_response(status)
    self.send_header("Content-Type", kind)
    self.send_header("Content-Length", str(len(content)))
    self.send_header("Cache-Control", "no-store")
    self.send_header("X-Content-Type-Options", "nosniff")
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def log_message(self, format: str, *args: Any) -> None:
    """Says nothing of what is asked."""


class _Server(ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Says nothing of a browser that has gone."""


def make(site: Site, port: int = 0) -> ThreadingHTTPServer:
  """Returns a server that is bound, and not started.

  Args:
    site: What it serves.
    port: 0 takes one that is free.

  Raises:
    UsageError: the port is taken, or not ours to take.
  """
  handler = type("Handler", (_Handler,), {"site": site})
  try:
    server = _Server((HOST, port), handler)
  except OSError as error:
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
      raise
    raise UsageError(f"--port={port}: {error.strerror}; choose another, or 0.") from error
  handler.port = server.server_address[1]
  return server


def serve(site: Site, port: int) -> None:
  """Serves until Ctrl-C or SIGTERM; prints the address first.

  Raises:
    UsageError: the port cannot be taken.
  """
  server = make(site, port)
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
  print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
  with server:
    server.serve_forever()


def listing(site: Site) -> str:
  """Returns the runs below a folder as a table for a terminal."""
  runs = site.runs()
  if not runs:
    return f"{site.root}: no runs yet."
  rows = []
  for run in runs[:_LISTED]:
    total = run.settings.get("epochs") if run.training else None
    epoch = "" if run.epoch is None else f"{run.epoch}" + (f" of {total}" if total else "")
    name = _plain(os.path.relpath(run.folder, site.root))
    rows.append([name, run.status, epoch, _plain(run.note)])
  left = len(runs) - len(rows)
  more = f"\n... and {left} more, on the page." if left else ""
  return f"{tables.table(['run', 'status', 'epoch', ''], rows)}{more}"


def _plain(text: str) -> str:
  """Returns a text without what moves a terminal's cursor."""
  return "".join(sign if sign.isprintable() else "?" for sign in text)
