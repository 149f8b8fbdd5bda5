"""The site's sources: links that hold, a page for each constraint, code that runs."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.harness import constraints

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if not {"gathered", "_build"} & {*p.parts}]


def module(name):
  spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
  loaded = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loaded)
  return loaded


def test_each_registered_constraint_has_a_page_and_no_page_is_stale():
  pages = {path.stem for path in (DOCS / "constraints").glob("*.md")} - {"index"}
  assert pages == {*constraints.names()}


@pytest.mark.parametrize("name", constraints.names())
def test_the_page_of_a_constraint_says_when_to_use_it_and_how(name):
  text = (DOCS / "constraints" / f"{name}.md").read_text()
  assert text.startswith(f"# {name}\n")
  assert "## When to use it" in text
  assert f"--constraint={name}" in text
  cls = constraints.get(name).make.rpartition(":")[2]
  assert cls in text or constraints.get(name).make.startswith("experiments.")


def test_the_page_on_installing_names_every_extra():
  setup = (ROOT / "setup.py").read_text().partition("extras_require={")[2]
  extras = re.findall(r'^    "([a-z0-9]+)": \[', setup, re.MULTILINE)
  assert len(extras) > 10
  text = (DOCS / "start.md").read_text()
  assert [extra for extra in extras if f"`{extra}`" not in text] == []


def test_links_between_sources_hold():
  gathering = module("gathering")
  gathered = {DOCS / "gathered" / name for name in gathering.pages(ROOT).values()}
  gathered |= {DOCS / "gathered" / f"{name}.inc" for name in ("constraints", "weights")}
  checked = 0
  for page in PAGES:
    for link in re.findall(r"(?:\]\(|include\} )(?!https?:|#)([^)#\s]+)", page.read_text()):
      there = (page.parent / link).resolve()
      assert there in gathered or there.is_file(), f"{page.name}: {link}"
      checked += 1
  assert checked > 60


def test_gathered_links_lead_where_they_did(tmp_path):
  gathering = module("gathering")
  source, target = tmp_path / "a" / "README.md", tmp_path / "docs" / "b.md"
  moves = {tmp_path / "c" / "d.md": tmp_path / "docs" / "e.md"}
  text = "[x](../c/d.md#z) ![y](p/q.png) [w](https://h/i.md) [v](#here)"
  moved = gathering.relinked(text, source, target, moves)
  assert moved == "[x](e.md#z) ![y](../a/p/q.png) [w](https://h/i.md) [v](#here)"


def test_broken_links_of_a_built_site_are_found(tmp_path):
  (tmp_path / "index.html").write_text(
    '<a href="b.html#here">b</a><a href="b.html#gone">b</a><a href="c.html">c</a>'
    '<img src="d.png"><a href="https://nowhere.example/e">e</a>'
  )
  (tmp_path / "b.html").write_text('<p id="here"></p><a href="index.html">up</a>')
  assert module("check_links").broken_links(tmp_path) == [
    "index.html: b.html#gone",
    "index.html: c.html",
    "index.html: d.png",
  ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page):
  scope = {"__name__": page.stem}
  for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
    exec(compile(block, str(page), "exec"), scope)
