"""Gives every loader broken and hostile files: `python -m benchmarks.fuzz --cases=2000`.

Each either raises its own error, in one line, or returns what holds together; within 10 s and
--gigabytes of memory, without unpickling anything or writing outside of its folder. Whole files
are taken from ACE_DATA_DIR where it has them. The report is --out; the last line is its summary.
"""

import collections
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import hypothesis
from absl import app, flags

from benchmarks import fuzz_loader, fuzz_loaders, launching, machine
from experiments.harness import paths, workdirs

FLAGS = flags.FLAGS
flags.DEFINE_integer("cases", 2000, "Files for each loader.", lower_bound=1)
flags.DEFINE_list("loaders", None, "Which loaders; all by default.")
flags.DEFINE_integer("seed", 0, "Draws the files.", lower_bound=0)
flags.DEFINE_float("gigabytes", 2.0, "Memory that a loader may take beyond what it starts with.")
paths.DEFINE_path("out", "benchmarks/results/fuzz.json", "The report.")


def attack(name: str, cases: int, seed: int, gigabytes: float, real: str | None) -> dict[str, Any]:
  """Gives one loader its cases, in this process, whose memory is limited from then on.

  Returns:
    How many cases were loaded and refused, what was found, the largest memory and the time.
  """
  pages = int(Path("/proc/self/statm").read_text().split()[0])
  limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  endings: collections.Counter[str] = collections.Counter()
  findings: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
    loader = fuzz_loaders.make(Path(folder), Path(real) if real else None)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()

    @hypothesis.seed(seed)
    @hypothesis.settings(
      max_examples=cases,
      database=None,
      deadline=None,
      phases=[hypothesis.Phase.generate],
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(loader.cases)
    def attempt(content: bytes) -> None:
      try:
        endings["loaded" if loader.answers(content) else "refused"] += 1
      except fuzz_loader.Finding as finding:
        endings["findings"] += 1
        findings[workdirs.portable(str(finding))] += 1

    attempt()
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
  return {
    "cases": endings.total(),
    **{key: endings[key] for key in ("loaded", "refused", "findings")},
    "what": dict(findings.most_common(20)),
    "memory_grown_mib": round(grown),
    "seconds": round(time.monotonic() - begin, 1),
  }


def main(argv: list[str]) -> None:
  """Runs the campaign, writes the report, prints its summary."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    names = list(fuzz_loaders.make(Path(folder), None))
  unknown = [name for name in FLAGS.loaders or [] if name not in names]
  if unknown:
    raise app.UsageError(f"--loaders={unknown[0]} is none of {', '.join(names)}.")
  out = launching.report_path(FLAGS.out)
  real, reports = os.environ.get("ACE_DATA_DIR"), {}
  for name in FLAGS.loaders or names:
    # A process each: its memory is limited, and a crash is a finding too.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
      try:
        task = pool.submit(attack, name, FLAGS.cases, FLAGS.seed, FLAGS.gigabytes, real)
        reports[name] = task.result()
      except BrokenProcessPool:
        reports[name] = {"cases": 0, "findings": 1, "what": {"the process crashed": 1}}
    print(f"{name}: {json.dumps(reports[name])}", flush=True)
  totals = {"benchmark": "fuzz", "seed": FLAGS.seed, "real_files": bool(real)}
  totals |= {key: sum(report[key] for report in reports.values()) for key in ("cases", "findings")}
  machine.report(out, totals, {"loaders": reports})


if __name__ == "__main__":
  launching.launch(main)
