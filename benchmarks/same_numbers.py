"""Whether the working tree trains to the numbers of an older commit, bit for bit.

`python -m benchmarks.same_numbers OLD_COMMIT` runs twelve short commands, which together use every
experiment that trains and every constraint, in the older commit's tree and in this one, and
compares all numbers that they write: losses, gammas, multipliers and errors of every epoch, and
each result. Not compared: what `IGNORED` names. Ends with 1 if a number differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import compare, launching
from experiments.harness.programs import last_line

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", None, "Names of runs; by default all.")

_NBODY = (
  "experiments.nbody --epochs=2 --batch_size=10 --hidden_features=6 --layers=1 --eval_every=1 "
)
_NBODY += "--train_samples=40"
_MOCAP = "experiments.mocap --source=synthetic --epochs=1 --layers=1 --hidden_features=8 "
_MOCAP += "--eval_every=1 --train_samples=24"
RUNS = {
  "equality": f"{_NBODY} --constraint=equality --seeds=0,1",
  "strict_paper": f"{_NBODY} --constraint=strict --preset=paper --log_test",
  "resilient_channels": f"{_NBODY} --constraint=resilient --grid=rho=0.5,2 --relaxation=low_rank "
  "--gamma=channel",
  "inequality": f"{_NBODY} --constraint=inequality --dual_optimizer=nu_pi --clip_norm=1",
  "one_sided": f"{_NBODY} --constraint=one_sided --dual_optimizer=sgd --relaxation=spectral_mlp",
  "ridge": f"{_NBODY} --constraint=ridge --symmetry_breaking=gravity:1 --norm=instance",
  "schedule": f"{_NBODY} --constraint=schedule",
  "gap_penalty": f"{_NBODY} --constraint=gap_penalty --weighting=gradnorm --model=transformer",
  "functional": f"{_NBODY} --constraint=functional --model=mpnn --augmented=1",
  "egno_resilient": f"{_MOCAP} --constraint=resilient",
  "egnn_none": f"{_MOCAP} --constraint=none --model=egnn",
  "pendulum": "experiments.pendulum --damping=0.3 --epochs=5",
}
"""Module and flags of each; without --workdir."""

IGNORED = {
  *("seconds", "steps_per_second", "environment", "memory", "time", "command", "format"),
  *("source", "cache", "seconds_a_run"),
}
"""Keys whose values may differ: what was measured by a clock, and what names a machine."""


def run(tree: Path, command: str, workdir: Path) -> None:
  """Runs a command in a tree.

  Raises:
    CompareError: it fails.
  """
  environment = {**os.environ, "PYTHONPATH": str(tree)}
  done = subprocess.run(
    [sys.executable, "-m", *command.split(), f"--workdir={workdir}"],
    cwd=tree,
    env=environment,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise compare.CompareError(f"{command} in {tree.name}: {last_line(done.stderr)}")


def numbers(folder: Path) -> dict[str, Any]:
  """Returns all that a run wrote as {file and path in it: value}, but for what is ignored."""
  values: dict[str, Any] = {}

  def collect(prefix: str, value: Any) -> None:
    if isinstance(value, dict):
      for key, item in value.items():
        if key not in IGNORED:
          collect(f"{prefix}/{key}", item)
    elif isinstance(value, list):
      for index, item in enumerate(value):
        collect(f"{prefix}/{index}", item)
    else:
      values[prefix] = value

  for path in sorted([*folder.rglob("result.json"), *folder.rglob("metrics.jsonl")]):
    name = str(path.relative_to(folder))
    if path.suffix == ".json":
      collect(name, json.loads(path.read_text()))
    else:
      for number, line in enumerate(path.read_text().splitlines()):
        collect(f"{name}/{number}", json.loads(line))
  return values


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Returns a line for each value of the older run that the newer one does not have."""
  return [
    f"{name}: {value!r} before, {new.get(name, 'nothing')!r} now"
    for name, value in old.items()
    if name not in new or new[name] != value
  ]


def main(argv: list[str]) -> None:
  """Compares, and prints a line a run and one of JSON."""
  if len(argv) != 2:
    raise app.UsageError("name one commit to compare with: benchmarks.same_numbers OLD_COMMIT")
  names = FLAGS.runs or [*RUNS]
  unknown = [name for name in names if name not in RUNS]
  if unknown:
    raise app.UsageError(f"--runs={unknown[0]} is none of {', '.join(RUNS)}.")
  differing: dict[str, list[str]] = {}
  compared = 0
  try:
    commit = compare.resolve(compare.ROOT, argv[1])
    with tempfile.TemporaryDirectory() as temporary:
      old = Path(temporary) / "old"
      old.mkdir()
      compare.unpack(compare.ROOT, commit, old)
      for name in names:
        folders = [Path(temporary) / side / name for side in ("before", "now")]
        for tree, folder in zip((old, compare.ROOT), folders, strict=True):
          run(tree, RUNS[name], folder)
        before, now = map(numbers, folders)
        compared += len(before)
        changed = differences(before, now)
        print(f"{name}: {len(before)} values, {len(changed)} differ", flush=True)
        print("".join(f"  {line}\n" for line in changed[:10]), end="", flush=True)
        if changed:
          differing[name] = changed
  except compare.CompareError as error:
    sys.exit(f"error: {error}")
  counts = {name: len(lines) for name, lines in differing.items()}
  report = {"benchmark": "same_numbers", "commit": commit, "values": compared, "differing": counts}
  print(json.dumps(report))
  if differing:
    sys.exit(1)


if __name__ == "__main__":
  launching.launch(main, arguments=1)
