"""Every benchmark of speed, each in a process of its own: `python -m benchmarks.all`.

Each leaves its line of JSON in --results, as NAME.json, and the table of all that is there is
printed and written beside them. About ten minutes on two quiet cores; on a busy machine times mean
little, and products, taken in the same process, a little more. --readme puts the table into
README.md.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from ace_jax import history
from benchmarks import speed_table

FLAGS = flags.FLAGS
flags.DEFINE_list("only", None, "Names of benchmarks; by default all.")
flags.DEFINE_string("results", "benchmarks/results", "Folder of the JSON files and the table.")
flags.DEFINE_bool("readme", False, "Put the table into README.md too.")
flags.DEFINE_integer("timeout", 900, "Seconds that one benchmark may take.", lower_bound=1)

TABLE = "README.md"


def _step(*options: str) -> list[str]:
  return ["benchmarks.step", *options, "--epochs=5"]


BENCHMARKS = {
  "startup": ["benchmarks.startup"],
  "step_segnn": _step("--model=segnn"),
  "step_segnn_general": _step("--model=segnn", "--formulation=general"),
  "step_segnn_strict": _step("--model=segnn", "--strict"),
  "step_egno": _step("--model=egno"),
  "step_egno_strict": _step("--model=egno", "--strict"),
  **{f"step_{name}": _step(f"--model={name}") for name in ("egnn", "mpnn", "radial_field")},
  **{f"step_{name}": _step(f"--model={name}") for name in ("tfn", "se3_transformer")},
  "replicas_segnn": ["benchmarks.replicas", "--model=segnn", "--replicas=5"],
  "overhead_segnn": ["benchmarks.overhead", "--model=segnn"],
  "evaluation_segnn": ["benchmarks.evaluation", "--model=segnn"],
  "evaluation_egno": ["benchmarks.evaluation", "--model=egno"],
  "nbody": ["benchmarks.nbody"],
}
"""The module and the flags of each."""


def run(name: str, results: Path) -> str:
  """Runs a benchmark and keeps its line; returns what went wrong, or nothing."""
  environment = {**os.environ}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compilation is timed
  command = BENCHMARKS[name]
  try:
    done = subprocess.run(
      [sys.executable, "-m", *command],
      env=environment,
      capture_output=True,
      text=True,
      timeout=FLAGS.timeout,
    )
  except subprocess.TimeoutExpired:
    return f"took more than {FLAGS.timeout} s"
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
  found = json.loads(lines[-1])
  history.write_json(results / f"{name}.json", {**found, "command": " ".join(command)})
  return ""


def main(argv: list[str]) -> None:
  """Runs what is asked for, and writes the table."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
  names = FLAGS.only or [*BENCHMARKS]
  unknown = [name for name in names if name not in BENCHMARKS]
  if unknown:
    raise app.UsageError(f"--only={unknown[0]} is none of {', '.join(BENCHMARKS)}.")
  results = Path(FLAGS.results)
  results.mkdir(parents=True, exist_ok=True)
  failed = {}
  for name in names:
    begin = time.perf_counter()
    complaint = run(name, results)
    if complaint:
      failed[name] = complaint
    print(f"{name}: {complaint or 'done'} ({time.perf_counter() - begin:.0f} s)", flush=True)
  found = {name: results / f"{name}.json" for name in BENCHMARKS}
  rows, machine = speed_table.read({name: path for name, path in found.items() if path.exists()})
  print(f"\n{speed_table.terminal(rows)}\n\n{machine}")
  table = speed_table.markdown(rows, machine)
  history.write_text(results / TABLE, f"# Speed\n\n{table}")
  if FLAGS.readme:
    readme = Path("README.md")
    history.write_text(readme, speed_table.insert(readme.read_text(), table))
  if failed:
    sys.exit(f"error: {', '.join(failed)} failed; the table has what was measured before.")


if __name__ == "__main__":
  app.run(main)
