import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Its epochs take the next of TIMES; every call is written down.
STEPS = """
MODELS = ("segnn", "egno")
def problem(name, formulation="auto"):
  return type("Problem", (), {"batch_size": 4})
def start(problem, constraint, seed=0):
  return constraint
class Epoch:
  compile_seconds = 0.1
  def __init__(self, problem, states):
    print("not an answer")
    note(f"start {states}")
    self.times = iter(TIMES)
  def __call__(self):
    note("epoch")
    return next(self.times)
def note(what):
  with open(NOTES, "a") as file:
    file.write(f"{SIDE} {what}\\n")
"""
MACHINE = """
import os
def product_ms():
  return 10.0
def describe():
  return {"processor": "P", "cores": 2, "device": "cpu", "jax": "0", "tree": os.getcwd()}
"""


def git(root, *arguments):
  who = ["-c", "user.name=a", "-c", "user.email=a@b"]
  return subprocess.run(
    ["git", "-C", str(root), *who, *arguments], check=True, capture_output=True, text=True
  ).stdout.strip()


def write(root, side, times, steps=STEPS):
  (root / "benchmarks" / "steps.py").write_text(
    f"SIDE = {side!r}\nTIMES = {times}\nNOTES = {str(root / '.git' / 'notes')!r}\n{steps}"
  )
  (root / "benchmarks" / "machine.py").write_text(MACHINE)


@pytest.fixture
def repository(tmp_path):
  """Two commits: "empty" without benchmarks, "old" with them; the working tree is another."""
  root = tmp_path / "repository"
  (root / "benchmarks").mkdir(parents=True)
  git(tmp_path, "init", "-q", str(root))
  (root / "a").write_text("")
  git(root, "add", "-A")
  git(root, "commit", "-qm", "a")
  git(root, "tag", "empty")
  write(root, "old", [9.0, 2.0, 4.0, 6.0, 8.0])
  git(root, "add", "-A")
  git(root, "commit", "-qm", "b")
  git(root, "tag", "old")
  write(root, "new", [9.0, 1.0, 4.0, 2.0, 8.0])
  return root


def launch(root, *arguments):
  """Starts the comparison in a repository, its temporary folders beside it."""
  (root.parent / "tmp").mkdir(exist_ok=True)
  code = (
    "import pathlib, sys; from absl import app; from benchmarks import compare; "
    f"app.run(lambda argv: compare.main(argv, pathlib.Path({str(root)!r})))"
  )
  return subprocess.Popen(
    [sys.executable, "-c", code, "--rounds=4", *arguments],
    cwd=ROOT,
    env={**os.environ, "TMPDIR": str(root.parent / "tmp")},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_pairs_of_both_trees_by_turns(repository):
  process = launch(repository, "old", "--model=segnn,egno,segnn", "--strict")
  out, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (0, "")
  assert "with uncommitted changes" in out.splitlines()[1]
  report = json.loads(out.splitlines()[-1])
  assert report["old"]["commit"] == git(repository, "rev-parse", "old")
  assert report["new"] == {"commit": report["old"]["commit"], "uncommitted_changes": True}
  assert report["machine"]["tree"] == str(repository)
  assert [*report["models"]] == ["segnn", "egno"]
  for model in report["models"].values():
    assert model["constraint"] == "strict"
    assert model["ratios"] == [2.0, 1.0, 3.0, 1.0]  # the first pair of all is not kept
    assert model["ratio"] == 1.5
    assert model["old"]["times_ms"] == [2.0, 4.0, 6.0, 8.0]
    assert (model["old"]["products"], model["new"]["products"]) == (0.5, 0.3)
  notes = (repository / ".git" / "notes").read_text().splitlines()
  turns = ["new", "old", "old", "new"] * 2 + ["new", "old"]
  per_model = ["old start ['strict']", "new start ['strict']", *(f"{side} epoch" for side in turns)]
  assert notes == 2 * per_model
  assert not [*(repository.parent / "tmp").iterdir()]


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["nowhere"], "'nowhere' is no commit of"),
    ([], "give one commit to compare with, not 0."),
    (["empty"], "empty has no benchmarks/steps.py, by which steps are timed"),
    (["old", "--model=egoo"], "--model=egoo is none of segnn, egno"),
    (["old", "--model="], "--model= names none; take some of segnn, egno"),
    (["old", "--model=egno", "--formulation=fast"], "--formulation is SEGNN's alone"),
    (["old", "--strict", "--unconstrained"], "--strict and --unconstrained contradict each other"),
    (["old", "--model=tfn"], "commit old cannot be timed: ValueError: it knows no model 'tfn'"),
  ],
)
def test_what_cannot_be_compared_is_said_in_one_line(repository, arguments, says):
  process = launch(repository, *arguments)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1
  assert err.startswith(f"error: {says}")
  assert err.count("\n") == 1
  assert not [*(repository.parent / "tmp").iterdir()]


def test_a_side_that_ends_is_named_with_its_last_words(repository):
  ends = STEPS.replace("return next(self.times)", "import os; os.write(2, b'gone\\n'); os._exit(3)")
  write(repository, "new", [], ends)
  process = launch(repository, "old")
  _, err = process.communicate(timeout=120)
  assert err == "error: the process of the working tree ended with code 3: gone\n"
  assert not [*(repository.parent / "tmp").iterdir()]


def test_sigterm_leaves_no_process_and_no_folder(repository):
  pid = repository / ".git" / "pid"
  waits = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
  write(repository, "new", [], STEPS.replace("return next(self.times)", waits))
  process = launch(repository, "old")
  deadline = time.monotonic() + 120
  while not (pid.exists() and pid.read_text()):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (128 + signal.SIGTERM, "")
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)
  assert not [*(repository.parent / "tmp").iterdir()]


@pytest.mark.slow
def test_this_tree_against_itself(tmp_path):
  root = tmp_path / "repository"
  for name in ("ace_jax", "benchmarks", "data", "experiments"):
    shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
  git(tmp_path, "init", "-q", str(root))
  git(root, "add", "-A")
  git(root, "commit", "-qm", "a")
  process = launch(root, "HEAD", "--model=radial_field")
  out, err = process.communicate(timeout=400)
  assert (process.returncode, err) == (0, "")
  report = json.loads(out.splitlines()[-1])
  assert not report["new"]["uncommitted_changes"]
  model = report["models"]["radial_field"]
  assert len(model["ratios"]) == 4
  assert model["old"]["batch"] == model["new"]["batch"] == 12
