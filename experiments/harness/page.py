"""A run's page: report.html in its folder, one file that needs no network.

A page is a function of a folder, so that it can be written again at any time, and so that
`experiments.view` shows runs that have none yet.
"""

import base64
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import markupsafe

from ace_jax import files
from ace_jax.training import history
from experiments.harness import page_runs, page_tables, page_words, result_files
from experiments.harness.page_runs import Run
from experiments.harness.page_tables import Table

if TYPE_CHECKING:
  import jinja2

PAGE = "report.html"
_STATIC = Path(__file__).parent / "page_static"
_FIGURE, _FIGURES = 3 * 2**20, 12 * 2**20
"""Bytes of a figure, and of all, that a page takes in."""
_PNG = b"\x89PNG\r\n\x1a\n"
_BROAD = 1500
"""Pixels of a figure above which it gets the whole width."""
RUNS = 1000
"""Runs that the page of a folder lists."""


def write(folder: Path) -> None:
  """Writes the page of a folder; where that fails, says it in one line and goes on.

  Args:
    folder: Of a run, or of many.
  """
  # The page repeats what lies beside it. Nothing that happens here may cost a result.
  try:
    files.write_text(folder / PAGE, render(page_runs.read(folder), folder))
  except Exception as error:
    reason = " ".join((str(error) or type(error).__name__).split())
    sys.stderr.write(
      f"warning: {folder / PAGE} was not written ({reason}); the result is; "
      f"python -m experiments.view {folder} shows it.\n"
    )


def write_table(path: Path, title: str, table: Table, runs: Sequence[Path]) -> None:
  """Writes a page with a table and links to the pages of the runs that it was made of.

  Args:
    path: The file.
    title: Of the page.
    table: The table.
    runs: Folders of the runs.
  """
  listed = [_row(page_runs.read(run), path.parent, PAGE) for run in runs[:RUNS]]
  left = max(0, len(runs) - RUNS)
  files.write_text(path, _fill("folder.html", title=title, tables=[table], runs=listed, left=left))


def render(run: Run, root: Path, live: bool = False) -> str:
  """Returns the page of a folder.

  Args:
    run: What it holds.
    root: The folder that is shown, which links may not leave.
    live: Whether the page asks the server that it is from for what is new.
  """
  if not run.training:
    return _of_folder(run, root, live)
  records, damage = page_runs.records(run, root)
  finished = run.status == "finished"
  figures, left_out = _figures(run.folder, root)
  command = str(run.environment.get("command", ""))
  return _fill(
    "run.html",
    title=_title(run),
    name=run.folder.resolve().name,
    head=markupsafe.Markup(head(run, damage)),
    words=page_words.verdict(run, records, root) if finished else [],
    result=page_tables.of_predictors(run.result) if run.result else None,
    layers=page_tables.of_layers(run.result),
    curves=_json({"panels": _panels(records, run.result), "live": _state(run, live)}),
    figures=figures,
    left_out=left_out,
    asked=page_tables.asked(run),
    data=page_tables.of_data(run.result),
    environment=page_tables.of_environment(run),
    commit=run.environment.get("commit"),
    command=page_tables.to_repeat(command) if page_tables.given(command) else "",
    up=live and run.folder != root,
  )


def head(run: Run, damage: str = "") -> str:
  """Returns the part of a run's page that says how far it is.

  Args:
    run: The run.
    damage: What is wrong with its records.
  """
  total = run.settings.get("epochs")
  return _fill(
    "head.html",
    run=run,
    note=run.note or damage,
    total=total if result_files.finite(total) else None,
    when=page_tables.when(run.ended),
  )


def update(run: Run, root: Path) -> dict[str, Any]:
  """Returns what is new of a run, for a page that is open."""
  records, damage = page_runs.records(run, root)
  panels = _panels(records, run.result)
  return {"head": head(run, damage), "panels": panels, "live": _state(run, True)}


def _panels(records: Sequence[history.Record], result: Mapping[str, Any]) -> list[dict[str, Any]]:
  from experiments.harness import page_curves  # Matplotlib, of its colours, is slow to import

  return page_curves.panels(records, result)


def rows(runs: Sequence[Run], root: Path) -> str:
  """Returns the rows of the list of runs, for a page that is open."""
  return _fill("rows.html", runs=[_row(run, root, "") for run in runs])


def _state(run: Run, live: bool) -> str:
  """Returns what a page must be loaded anew for where it changes; "" of one that is a file."""
  return f"{run.status} {run.note if run.status == 'damaged' else ''}" if live else ""


def _of_folder(run: Run, root: Path, live: bool) -> str:
  paths = [path for path in page_runs.find(run.folder) if path != run.folder]
  runs = [page_runs.read(path, root) for path in paths[:RUNS]]
  content = run.result | page_runs.of_many(run.folder, root)[0]
  tables = page_tables.of_text(run.folder / "table.md", root) or page_tables.of_lists(
    {k: v for k, v in content.items() if k not in ("settings", "environment", "data")}
  )
  verdicts = page_runs.dictionary(content.get("verdicts"))
  words = [f"{name}: {said}" for name, said in verdicts.items() if isinstance(said, str)]
  figures, left_out = _figures(run.folder, root)
  command = str(run.environment.get("command") or content.get("command") or "")
  return _fill(
    "folder.html",
    title=_title(run),
    name=run.folder.resolve().name,
    words=words,
    note=run.note,
    runs=[_row(member, run.folder, "" if live else PAGE) for member in runs],
    left=max(0, len(paths) - RUNS),
    tables=tables,
    figures=figures,
    left_out=left_out,
    asked=page_tables.asked(run)[-1:],
    environment=page_tables.of_environment(run),
    command=page_tables.to_repeat(command) if page_tables.given(command) else "",
    curves=_json({"panels": [], "live": "list" if live else ""}),
    up=live and run.folder != root,
  )


def _title(run: Run) -> str:
  result, settings = run.result, run.settings
  experiment = result.get("experiment") or page_tables.experiment(run)
  parts = [experiment, result.get("model") or settings.get("model")]
  parts += [result.get("constraint") or settings.get("constraint")]
  if run.training and result_files.finite(settings.get("seed")):
    parts.append(f"seed {settings['seed']}")
  kinds = [word for name, word in page_runs.TOGETHER.items() if (run.folder / name).exists()]
  words = [str(part) for part in [*kinds, *parts] if part]
  return ", ".join(words) or run.folder.resolve().name


def _row(run: Run, parent: Path, page: str) -> dict[str, Any]:
  """Returns a row of a list of runs."""
  predictors = run.result.get("predictors", {}) if run.training else {}
  relative = os.path.relpath(run.folder, parent)
  there = page_runs.inside(run.folder / page, run.folder)
  return {
    "name": relative,
    "link": quote(os.fsencode(f"{relative}/{page}")) if there else "",
    "run": run,
    "title": _title(run),
    "errors": [
      page_tables.cell(predictors.get(name, {}).get("test_mse"), 4)
      for name in ("projection", "relaxed")
    ],
    "total": run.settings.get("epochs") if run.training else None,
    "when": page_tables.when(run.ended),
  }


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure in a page.

  Attributes:
    name: Of its file.
    address: Its bytes, as a data URI.
    broad: Whether it has panels side by side that need the whole width.
  """

  name: str
  address: str
  broad: bool = False


def _figures(folder: Path, root: Path) -> tuple[list[Figure], list[str]]:
  """Returns the figures of a folder, and what is said of those that are left out."""
  shown, left_out, total = [], [], 0
  for path in sorted([*folder.glob("*.png"), *folder.glob("figures/*.png")]):
    if not page_runs.inside(path, root) or not path.is_file():
      left_out.append(f"{path.name}: leads out of the folder")
      continue
    size = path.stat().st_size
    if size > _FIGURE or total + size > _FIGURES:
      left_out.append(f"{path.name}: {size / 2**20:.1f} MiB, too large for this page")
      continue
    content = path.read_bytes()
    if not content.startswith(_PNG):
      left_out.append(f"{path.name}: no PNG")
      continue
    total += size
    address = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    width = int.from_bytes(content[16:20], "big")  # of the header, which comes first
    shown.append(Figure(path.stem.replace("_", " "), address, width > _BROAD))
  return shown, left_out


def _json(value: Any) -> markupsafe.Markup:
  """Returns JSON that may stand in a script element."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  for sign in "<>&":
    text = text.replace(sign, f"\\u{ord(sign):04x}")
  return markupsafe.Markup(text)


@functools.cache
def _environment() -> "jinja2.Environment":
  import jinja2  # not before a training has ended

  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(_STATIC),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )


@functools.cache
def _static(name: str) -> markupsafe.Markup:
  return markupsafe.Markup((_STATIC / name).read_text().strip())


@functools.cache
def _policy() -> str:
  """Returns what the browser may do with a page: our scripts, and no other server.

  Markup that were not escaped would not run.
  """
  scripts = [_static(name) for name in ("uPlot.iife.min.js", "page.js")]
  sums = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
  allowed = " ".join(f"'sha256-{digest}'" for digest in sums)
  return (
    f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
  )


def _fill(template: str, **values: Any) -> str:
  shared = {"static": _static, "policy": _policy()}
  lists = ("figures", "left_out", "words", "asked")
  defaults = {**{name: [] for name in lists}, "command": "", "note": "", "up": False}
  text = _environment().get_template(template).render({**defaults, **shared, **values})
  return text.encode("utf-8", "backslashreplace").decode()
