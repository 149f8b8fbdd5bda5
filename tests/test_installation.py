"""The other project named ace-jax: its files are refused, and no message fetches it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ace_jax
from ace_jax.errors import InstallationError
from ace_jax.installation import FOREIGN, foreign_files, refuse_foreign_files

ROOT = Path(__file__).parent.parent


def test_the_checkout_has_none_of_the_foreign_files():
  assert foreign_files(ROOT / "ace_jax") == []


@pytest.mark.parametrize("name", FOREIGN)
def test_each_foreign_file_is_refused_by_name(name, tmp_path):
  (tmp_path / name).parent.mkdir(exist_ok=True)
  (tmp_path / name).touch()
  with pytest.raises(InstallationError, match=re.escape(name)) as refusal:
    refuse_foreign_files(tmp_path)
  assert isinstance(refusal.value, ImportError)
  assert "\n" not in str(refusal.value)


def test_folders_that_an_uninstalled_project_left_behind_are_no_mixture(tmp_path):
  (tmp_path / "basis" / "__pycache__").mkdir(parents=True)
  refuse_foreign_files(tmp_path)


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_a_mixture_is_refused_at_import_whichever_was_installed_last(last, tmp_path):
  shutil.copytree(
    ROOT / "ace_jax", tmp_path / "ace_jax", ignore=shutil.ignore_patterns("__pycache__")
  )
  for name in ("basis", "export"):  # the latter takes the place of our module export.py
    (tmp_path / "ace_jax" / name).mkdir()
    (tmp_path / "ace_jax" / name / "__init__.py").touch()
  if last == "theirs":
    (tmp_path / "ace_jax" / "__init__.py").write_text("")
  imported = "ace_jax" if last == "ours" else "ace_jax.relaxations"
  done = subprocess.run(
    [sys.executable, "-c", f"import {imported}"],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    check=False,
  )
  assert done.returncode == 1
  *_, message = done.stderr.strip().splitlines()
  assert message.startswith("ace_jax.errors.InstallationError: ")
  assert "pip uninstall ace-jax" in message


def test_nothing_tells_a_user_to_install_the_other_project():
  wrong = re.compile(r"pip install [^\n`]*\bace[_-]jax\b(?!-)")
  files = subprocess.run(
    ["git", "ls-files", "*.py", "*.md", "*.ipynb", "*.toml", "*.yml"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  ).stdout.split()
  assert len(files) > 100
  naming = {f for f in files if (ROOT / f).exists() and wrong.search((ROOT / f).read_text())}
  assert naming == set()


def test_the_citation_names_this_version():
  assert f"\nversion: {ace_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
