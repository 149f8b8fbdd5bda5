import json
import shutil

import numpy as np
import pytest

from benchmarks import fault_campaign, fault_runs
from benchmarks.fault_runs import Ended


@pytest.mark.parametrize(
  ("code", "said", "refused", "complaint"),
  [
    (0, "", False, ""),
    (-9, "half a li", False, ""),
    (2, "warning: x\nerror: no\n", True, ""),
    (1, "Traceback (most recent call last):\nerror: no", False, "a traceback"),
    (1, "something", False, "exit code 1"),
    (124, "error: x\nhung", False, "exit code 124"),
  ],
)
def test_what_counts_as_a_refusal(code, said, refused, complaint):
  ended = Ended(code, said)
  assert ended.refused() == refused
  assert ended.complaint().startswith(complaint)
  assert bool(ended.complaint()) == bool(complaint)


def test_damage_truncates_or_flips_one_bit(tmp_path):
  path, content = tmp_path / "a", bytes(range(200))
  rng = np.random.default_rng(0)
  path.write_bytes(content)
  fault_runs.damage(path, "flip", rng)
  damaged = path.read_bytes()
  assert sum((a ^ b).bit_count() for a, b in zip(content, damaged, strict=True)) == 1
  path.write_bytes(content)
  fault_runs.damage(path, "truncate", rng)
  assert path.read_bytes() == content[: path.stat().st_size]
  assert path.stat().st_size < 200


@pytest.mark.slow
def test_the_harness_kills_flips_and_tells_other_runs_apart(tmp_path):
  root = tmp_path / "bench"
  report = fault_campaign.run(root, ["kill", "flipped_checkpoint"], 0.0, seed=0)
  for kind in report.values():
    assert kind["tries"] == kind["survived"] == 1, json.dumps(report)
  # A run that lost an epoch of its records, or has another state, is not the undisturbed one.
  bench = fault_runs.Bench.__new__(fault_runs.Bench)
  bench.expected = None
  workdir = root / "reference"
  bench.outcome = lambda _: ("state", fault_runs.steady(workdir), {}, [])
  bench.expected = bench.outcome(workdir)
  assert bench.verdict(workdir, Ended(0, "")) == ""
  lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
  (workdir / "metrics.jsonl").write_text("".join(lines[:-1]))
  assert bench.verdict(workdir, Ended(0, "")) == ("differs from the undisturbed run: metrics.jsonl")
  assert bench.verdict(workdir, Ended(-9, "")).startswith("not finished")
  shutil.rmtree(root)
