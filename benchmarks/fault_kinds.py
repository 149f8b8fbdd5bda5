"""The faults of `benchmarks.faults`, one function a kind.

Each takes the bench, a folder of its own and a generator, and yields one `Try` after another for
as long as it is asked.
"""

import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ace_jax.training import loop
from benchmarks import fault_problem, fault_runs
from benchmarks.fault_runs import Bench
from data import nbody


class Try(NamedTuple):
  """One try.

  Attributes:
    ending: "identical": the run, gone on with, is the undisturbed one bit for bit. "refused":
      it said in one line why it does not go on, and was identical after the fault was mended,
      where it can be. "failed": neither.
    where: What was struck.
    why: What went wrong, "" if nothing.
  """

  ending: str
  where: str
  why: str = ""


Kind = Callable[[Bench, Path, np.random.Generator], Iterator[Try]]


def _judged(where: str, ending: str, *whys: str) -> Try:
  why = "; ".join(why for why in whys if why)
  return Try("failed" if why else ending, where, why)


def _moment(bench: Bench, workdir: Path, rng: np.random.Generator):
  """Draws when to strike: over the whole life, or (half of the time) once it got further."""
  if rng.random() < 0.5:
    return rng.uniform(0, bench.life), lambda: True
  metrics = workdir / "metrics.jsonl"
  before = len(fault_runs.steady(workdir))

  def further():
    return metrics.exists() and len(metrics.read_bytes().splitlines()) > before

  return rng.uniform(0, 0.3 * bench.life), further


def _struck(bench: Bench, root: Path, rng: np.random.Generator, what: signal.Signals):
  """Strikes runs until they end; every blow is one try, judged when its run has ended."""
  for number in itertools.count():
    workdir, blows, whys, best = root / f"{number:03d}", [], [], 0
    while True:
      launched, process = time.time(), bench.start(workdir)
      seconds, ready = _moment(bench, workdir, rng)
      before = fault_runs.saved(workdir)
      struck = fault_runs.strike(process, seconds, fault_runs.send(process, what), ready)
      ended = fault_runs.wait(process)
      now = fault_runs.saved(workdir)
      if now < max(best, before):
        whys.append(f"epoch {max(best, before)} was saved, {now} is there")
      if len(fault_runs.steady(workdir)) < now:
        whys.append(f"epoch {now} was saved, but its records are not there")
      best = max(best, now)
      if "is damaged" in ended.said or "is missing" in ended.said:
        whys.append("a sealed checkpoint was damaged by the signal")
      if ended.complaint():
        whys.append(ended.complaint())
      if "saved in" in ended.said and f"epoch {now};" not in ended.said:
        whys.append(f"{ended.last()} but {now} is there")
      if not struck:
        break
      blows.append(fault_runs.phase(workdir, launched))
      if len(blows) >= 12:  # ends what would be struck for ever
        ended = bench.finish(workdir)
        break
    whys.append(bench.verdict(workdir, ended))
    for where in blows:
      yield _judged(where, "identical", *whys)


def kill(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """SIGKILL at random moments, several in the life of a run."""
  return _struck(bench, root, rng, signal.SIGKILL)


def terminate(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """SIGTERM at random moments, several in the life of a run."""
  return _struck(bench, root, rng, signal.SIGTERM)


@contextlib.contextmanager
def _disk(mountpoint: Path, megabytes: int) -> Iterator[bool]:
  """Mounts a small disk in memory; yields whether that was allowed."""
  mountpoint.mkdir(parents=True, exist_ok=True)
  command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mountpoint)]
  mounted = subprocess.run(command, capture_output=True).returncode == 0
  try:
    yield mounted
  finally:
    if mounted:
      subprocess.run(["umount", "-l", str(mountpoint)], capture_output=True)


def full_disk(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A disk that another program fills at a random moment, or (no mounts) a limit on file sizes."""
  for number in itertools.count(1):
    folder = root / f"{number:03d}"
    workdir = folder / "run"
    with _disk(folder, 8) as mounted:
      if mounted:
        process = bench.start(workdir)
        seconds, ready = _moment(bench, workdir, rng)
        filler = folder / "filler"
        fault_runs.strike(process, seconds, lambda path=filler: _fill(path), ready)
        ended = fault_runs.wait(process)
        filler.unlink(missing_ok=True)
      else:
        limit = int(rng.integers(1, 20_000))
        ended = bench.finish(
          workdir, before=lambda n=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
        )
      first = "refused" if ended.code else "identical"
      again = bench.finish(workdir)
      where = "tmpfs" if mounted else "RLIMIT_FSIZE"
      yield _judged(where, first, ended.complaint(), bench.verdict(workdir, again))


def _fill(path: Path) -> None:
  with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
    while True:
      if not file.write(bytes(4096)):
        break


def read_only(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A workdir on a disk that became read-only while the run was down."""
  for number in itertools.count(1):
    folder = root / f"{number:03d}"
    workdir = folder / "run"
    with _disk(folder, 64) as mounted:
      if not mounted:
        yield Try("failed", "not tried", "mounting is not allowed here")
        continue
      where = "fresh"
      if number % 2:
        where = "resumed"
        process = bench.start(workdir)
        seconds, ready = _moment(bench, workdir, rng)
        fault_runs.strike(process, seconds, process.kill, ready)
        fault_runs.wait(process)
      _remount(folder, "ro")
      ended = bench.finish(workdir)
      _remount(folder, "rw")
      why = "" if ended.refused() else f"not refused: {ended.last()}"
      again = bench.finish(workdir)
      yield _judged(where, "refused", why, ended.complaint(), bench.verdict(workdir, again))


def _remount(mountpoint: Path, how: str) -> None:
  subprocess.run(
    ["mount", "-o", f"remount,{how}", str(mountpoint)], check=True, capture_output=True
  )


def _half_done(bench: Bench, root: Path) -> Path:
  """A run with checkpoints that was killed on the way; made once."""
  workdir = root / "half"
  while fault_runs.saved(workdir) < 8:
    process = bench.start(workdir)
    fault_runs.strike(process, 0, process.kill, lambda: fault_runs.saved(workdir) >= 8)
    fault_runs.wait(process)
    if fault_runs.saved(workdir) == fault_problem.EPOCHS:
      shutil.rmtree(workdir)
  return workdir


def checkpoint(how: str) -> Kind:
  """A random file of the newest checkpoint (every fifth time: of every one), damaged."""

  def tries(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
    half = _half_done(bench, root)
    for number in itertools.count(1):
      workdir = root / f"{number:03d}"
      shutil.copytree(half, workdir)
      manifests = sorted((workdir / loop.CHECKPOINTS).glob("[0-9]*/manifest.json"))
      every = number % 5 == 0
      for manifest in manifests if every else manifests[-1:]:
        fault_runs.damage(rng.choice(fault_runs.files(manifest.parent)), how, rng)
      ended = bench.finish(workdir)
      if every:
        why = "" if ended.refused() else bench.verdict(workdir, ended)
        ending = "refused" if ended.refused() else "identical"
        yield _judged("every checkpoint", ending, ended.complaint(), why)
      else:
        yield _judged("newest checkpoint", "identical", bench.verdict(workdir, ended))

  return tries


def records(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """metrics.jsonl or config.json of a run that is down, truncated or with a bit flipped."""
  half = _half_done(bench, root)
  for number in itertools.count(1):
    workdir = root / f"{number:03d}"
    shutil.copytree(half, workdir)
    name = ("metrics.jsonl", "config.json")[number % 2]
    fault_runs.damage(workdir / name, ("truncate", "flip")[number // 2 % 2], rng)
    ended = bench.finish(workdir)
    why = "" if ended.refused() else bench.verdict(workdir, ended)
    yield _judged(name, "refused" if ended.refused() else "identical", ended.complaint(), why)


def program_cache(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A random half of the files of JAX's compilation cache, truncated or with a bit flipped."""
  whole = bench.cache
  for number in itertools.count():
    cache = root / f"cache{number:03d}"
    shutil.copytree(whole, cache)
    how = ("truncate", "flip")[number % 2]
    for path in fault_runs.files(cache):
      if rng.random() < 0.5:
        fault_runs.damage(path, how, rng)
    workdir = root / f"{number:03d}"
    bench.cache = cache
    try:
      ended = bench.finish(workdir)
    finally:
      bench.cache = whole
    yield _judged(how, "identical", bench.verdict(workdir, ended))


def data_cache(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """The cache of simulated data, truncated or with a bit flipped."""
  del bench
  nbody.load(train=10, cache=root)
  (path,) = root.iterdir()
  content = path.read_bytes()
  expected = nbody.load(train=10, cache=root)
  for number in itertools.count():
    how = ("truncate", "flip")[number % 2]
    path.write_bytes(content)
    fault_runs.damage(path, how, rng)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      again = nbody.load(train=10, cache=root)
    differing = [
      field
      for name in ("train", "valid", "test")
      for field, array in getattr(expected, name).items()
      if not np.array_equal(array, getattr(again, name)[field])
    ]
    yield _judged(how, "identical", f"{differing[0]} differs" if differing else "")


def clock(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A clock that jumps by twenty years in a run, and then files from the future and the past."""
  for number in itertools.count():
    workdir = root / f"{number:03d}"
    where = ("clock_forward", "clock_backward")[number % 2]
    seconds = rng.uniform(0, bench.life)
    first = bench.finish(workdir, f"--fault={where}", f"--fault_seconds={seconds}")
    for path in [*workdir.rglob("*")]:
      moment = time.time() + rng.choice([-1, 1]) * 1e9
      os.utime(path, (moment, moment))
    ending = "refused" if first.code else "identical"
    again = bench.finish(workdir)
    yield _judged(where, ending, first.complaint(), bench.verdict(workdir, again))


def not_a_number(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A NaN in a batch, in the gradients or in gamma, in a random epoch; then without it."""
  for number in itertools.count():
    workdir = root / f"{number:03d}"
    where = ("nan_batch", "nan_gradient", "nan_gamma")[number % 3]
    epoch = int(rng.integers(1, fault_problem.EPOCHS + 1))
    ended = bench.finish(workdir, f"--fault={where}", f"--fault_epoch={epoch}")
    why = "" if f"in epoch {epoch}, step" in ended.last() else f"said {ended.last()}"
    again = bench.finish(workdir)
    yield _judged(where, "refused", why, ended.complaint(), bench.verdict(workdir, again))


def two_runs(bench: Bench, root: Path, rng: np.random.Generator) -> Iterator[Try]:
  """A second run in the workdir of one that goes on: one of them refuses."""
  for number in itertools.count():
    workdir = root / f"{number:03d}"
    processes = [bench.start(workdir)]
    time.sleep(rng.uniform(0, 0.3 * bench.life))
    processes.append(bench.start(workdir))
    both = [fault_runs.wait(process) for process in processes]
    refusals = [e for e in both if e.refused() and "another process" in e.last()]
    whys = [ended.complaint() for ended in both]
    if len(refusals) != 1:
      whys.append(f"{len(refusals)} of two runs refused: {[e.last() for e in both]}")
    again = bench.finish(workdir)
    yield _judged("together", "refused", *whys, bench.verdict(workdir, again))


KINDS: dict[str, tuple[int, Kind]] = {
  "kill": (50, kill),
  "terminate": (20, terminate),
  "full_disk": (10, full_disk),
  "read_only": (4, read_only),
  "truncated_checkpoint": (10, checkpoint("truncate")),
  "flipped_checkpoint": (10, checkpoint("flip")),
  "damaged_records": (12, records),
  "program_cache": (6, program_cache),
  "data_cache": (10, data_cache),
  "clock": (6, clock),
  "not_a_number": (9, not_a_number),
  "two_runs": (6, two_runs),
}
"""Every kind, with its number of tries."""
