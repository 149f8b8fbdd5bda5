"""Starting, disturbing and judging the runs of `benchmarks.faults`."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ace_jax.training import checkpoints, history, loop, parallel
from benchmarks import fault_problem
from data import nbody
from data.nbody.physics import Physics
from experiments.harness import problems, programs, workdirs

LONGEST = 300.0
"""Seconds after which a run counts as hung."""
_WALL = ("time", "seconds", "steps_per_second")
_SAMPLES = {"train": slice(0, 40), "valid": slice(40, 50), "test": slice(50, 60)}


@dataclasses.dataclass
class Ended:
  """How a process ended.

  Attributes:
    code: Exit code; negative for a signal.
    said: Its standard error.
  """

  code: int
  said: str

  def complaint(self) -> str:
    """What is wrong with the ending; "" for 0, a signal that was heard, or a clear refusal."""
    if "Traceback" in self.said:
      return f"a traceback: {self.last()}"
    if self.code in (1, 2) and self.last().startswith("error: "):
      return ""
    return (
      ""
      if self.code <= 0 or self.code in programs.INTERRUPTED
      else f"exit code {self.code}: {self.last()}"
    )

  def refused(self) -> bool:
    """Whether it ended in a refusal of one line."""
    return self.code in (1, 2) and not self.complaint()

  def last(self) -> str:
    """The last line of standard error."""
    lines = self.said.strip().splitlines()
    return lines[-1] if lines else ""


class Bench:
  """The undisturbed run, and what others are held against.

  Args:
    root: Folder of everything: data, caches, runs.
  """

  def __init__(self, root: Path):
    self.root = root
    root.mkdir(parents=True, exist_ok=True)
    self.data_file = root / "data.npz"
    simulated = nbody.simulate(Physics(), 5, np.arange(60), 0)
    arrays = {
      f"{name}_{field}": simulated[field][part]
      for name, part in _SAMPLES.items()
      for field in ("positions", "velocities", "charges", "targets")
    }
    np.savez(self.data_file, **arrays)
    problem = fault_problem.problem(nbody.load_file(self.data_file))
    self._template = problems.start([fault_problem.SETTINGS], problem)
    self.cache = root / "xla"
    for name in ("cold", "reference"):  # the second shows how long a life is, programs cached
      begin = time.monotonic()
      ended = self.finish(root / name)
      self.life = time.monotonic() - begin
      if ended.code:
        raise RuntimeError(f"the undisturbed run failed: {ended.said}")
    self.expected = self.outcome(root / "reference")
    if self.expected != self.outcome(root / "cold"):
      raise RuntimeError("two undisturbed runs differ; nothing can be held against them")

  def start(self, workdir: Path, *flags: str, before: Callable[[], None] | None = None):
    """Starts a run that continues what is in `workdir`."""
    command = [sys.executable, "-m", "benchmarks.fault_target", f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(self.cache), "XLA_FLAGS": ""}
    workdir.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
      [*command, f"--data_file={self.data_file}", *flags],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      preexec_fn=before,
    )

  def finish(self, workdir: Path, *flags: str, before: Callable[[], None] | None = None) -> Ended:
    """Runs to the end."""
    return wait(self.start(workdir, *flags, before=before))

  def outcome(self, workdir: Path) -> Any:
    """What must be equal bit for bit: parameters, records without wall-clock, predictors."""
    state = checkpoints.restore(workdir / loop.CHECKPOINTS, self._template)
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(parallel.select(state, 0))):
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      total.update(np.asarray(leaf).tobytes())
    result = json.loads((workdir / workdirs.RESULT).read_text())
    return total.hexdigest(), steady(workdir), result["predictors"], result["curve"]

  def verdict(self, workdir: Path, ended: Ended) -> str:
    """Returns "" if a finished run is the undisturbed one bit for bit, else what is not."""
    if ended.complaint() or ended.code:
      return ended.complaint() or f"not finished: {ended.last()}"
    outcome = self.outcome(workdir)
    names = ("final state", "metrics.jsonl", "predictors", "curve")
    differing = [n for n, a, b in zip(names, outcome, self.expected, strict=True) if a != b]
    return f"differs from the undisturbed run: {', '.join(differing)}" if differing else ""


def wait(process: subprocess.Popen) -> Ended:
  """Waits for a process; one that hangs is killed and counts as exit code 124."""
  try:
    said = process.communicate(timeout=LONGEST)[1]
  except subprocess.TimeoutExpired:
    process.kill()
    return Ended(124, f"{process.communicate()[1]}\nhung")
  return Ended(process.returncode, said)


def strike(
  process: subprocess.Popen, seconds: float, blow: Callable[[], Any], ready: Callable[[], bool]
) -> bool:
  """Waits until `ready`, then so many seconds, then strikes; False if the process ended before."""
  deadline = time.monotonic() + LONGEST
  while process.poll() is None and not ready() and time.monotonic() < deadline:
    time.sleep(0.005)
  try:
    process.wait(seconds)
    return False
  except subprocess.TimeoutExpired:
    blow()
    return True


def send(process: subprocess.Popen, what: signal.Signals) -> Callable[[], None]:
  """Returns the blow that sends a signal."""
  return lambda: process.send_signal(what)


def steady(workdir: Path) -> list[dict[str, float]]:
  """The records of a run without what a clock measured."""
  path = workdir / history.FILE
  records = history.read(path) if path.exists() else []
  return [{k: v for k, v in record.items() if k not in _WALL} for record in records]


def saved(workdir: Path) -> int:
  """The epoch of the newest checkpoint that was completed, 0 without one."""
  folder = workdir / loop.CHECKPOINTS
  return int(checkpoints.newest(folder).name) if checkpoints.exists(folder) else 0


def phase(workdir: Path, launched: float) -> str:
  """What a run that was struck was doing, as far as its folder tells.

  Args:
    workdir: The folder.
    launched: Unix time at which its process was started.
  """

  def fresh(path: Path) -> bool:
    return path.exists() and path.stat().st_mtime >= launched

  if not fresh(workdir / history.FILE):
    return "start"
  if any(
    fresh(path) and not (path / "manifest.json").exists()
    for path in (workdir / loop.CHECKPOINTS).glob("[0-9]*")
  ):
    return "checkpoint"
  return "end" if saved(workdir) == fault_problem.EPOCHS else "training or evaluation"


def files(folder: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
  """All files below a folder that match a pattern."""
  paths = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
  return sorted(paths)


def damage(path: Path, how: str, rng: np.random.Generator) -> None:
  """Truncates a file at a random place, or flips a random bit of it."""
  content = bytearray(path.read_bytes())
  offset = int(rng.integers(max(1, len(content))))
  if how == "truncate":
    del content[offset:]
  elif content:
    content[offset] ^= 1 << int(rng.integers(8))
  path.write_bytes(content)
