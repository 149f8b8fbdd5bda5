"""A repository with a toy experiment, entries of a plan for it, and the campaign as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from experiments.campaign.plan import Run

ROOT = Path(__file__).parent.parent.parent
TOY = Path(__file__).parent / "campaign_toy.py"


def git(folder, *words):
  names = ["-c", "user.name=a", "-c", "user.email=a@b"]
  done = subprocess.run(["git", *names, *words], cwd=folder, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def commit(repository, version):
  (repository / "toy.py").write_text(TOY.read_text().replace("VERSION = 1", f"VERSION = {version}"))
  git(repository, "add", ".")
  git(repository, "commit", "-m", str(version))
  return git(repository, "rev-parse", "HEAD")


def entry(name, seed=1, *flags, row=None, minutes=1.0, at=None):
  command = ("toy", "--epochs=3", *flags, f"--seed={seed}")
  return Run(name, "a", row or name, command, minutes, at)


def write_plan(path, **changes):
  first = {"name": "x", "group": "a", "row": "r", "minutes": 1, "commit": None}
  first |= {"command": "python -m toy --epochs=500 --seconds=0.02 --seed=1", **changes}
  path.write_text(json.dumps({"runs": [first], "comparisons": changes.pop("comparisons", [])}))
  return path


def start(*flags):
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.campaign", *map(str, flags)],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
