"""Every benchmark of speed, each in a process of its own: `python -m benchmarks.all`.

Each leaves its line of JSON as NAME.json in a folder of --results that has the name of the
processor and its cores, so that no processor's numbers replace another's. The table of this
processor is printed and written beside them; README.md of --results has a column for every
processor, and so has docs/speed.md with --speed_page. `--only=` measures nothing and writes the
tables anew. About ten minutes on two quiet cores; on a busy machine times mean little, and
products, taken in the same process, a little more.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from ace_jax import files
from benchmarks import launching, machine, speed_table
from experiments.harness import folders, paths
from experiments.harness.programs import last_line

FLAGS = flags.FLAGS
flags.DEFINE_list("only", None, "Names of benchmarks; by default all, and none if empty.")
paths.DEFINE_path("results", "benchmarks/results", "Has a folder a processor.")
flags.DEFINE_bool("speed_page", False, "Put the table of all processors into docs/speed.md.")
flags.DEFINE_integer("timeout", 900, "Seconds that one benchmark may take.", lower_bound=1)

TABLE = "README.md"
PAGE = Path("docs/speed.md")


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
  **{f"step_{name}": _step(f"--model={name}") for name in ("schnet", "vn_dgcnn")},
  "replicas_segnn": ["benchmarks.replicas", "--model=segnn", "--replicas=5"],
  "overhead_segnn": ["benchmarks.overhead", "--model=segnn"],
  "evaluation_segnn": ["benchmarks.evaluation", "--model=segnn"],
  "evaluation_egno": ["benchmarks.evaluation", "--model=egno"],
  "nbody": ["benchmarks.nbody"],
}
"""The module and the flags of each."""


def run(name: str, results: Path, timeout: int) -> tuple[str, str]:
  """Runs a benchmark, and keeps its line in the folder of its processor.

  Args:
    name: One of `BENCHMARKS`.
    results: Has a folder a processor.
    timeout: Seconds that it may take.

  Returns:
    The name of the folder, and what went wrong; one of them is empty.
  """
  environment = {**os.environ}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compilation is timed
  command = BENCHMARKS[name]
  try:
    done = subprocess.run(
      [sys.executable, "-m", *command],
      env=environment,
      capture_output=True,
      text=True,
      timeout=timeout,
    )
  except subprocess.TimeoutExpired:
    return "", f"took more than {timeout} s"
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    return "", last_line(done.stderr, f"exit code {done.returncode}")
  report = json.loads(lines[-1])
  folder = machine.folder(report["machine"])
  (results / folder).mkdir(parents=True, exist_ok=True)
  files.write_json(results / folder / f"{name}.json", {**report, "command": " ".join(command)})
  return folder, ""


def write_tables(results: Path, page: Path | None) -> dict[str, speed_table.Table]:
  """Writes the table of each processor into its folder, and that of all above them.

  Args:
    results: Has a folder a processor.
    page: A file that has that table too, between its marks, or None.

  Returns:
    The tables, by the names of their folders.
  """
  tables = speed_table.read_all(results, [*BENCHMARKS])
  for folder, table in tables.items():
    files.write_text(results / folder / TABLE, f"# Speed\n\n{speed_table.markdown(table)}")
  together = speed_table.side_by_side([*tables.values()])
  links = "\n".join(f"- [{table.title}]({folder}/{TABLE})" for folder, table in tables.items())
  files.write_text(results / TABLE, f"# Speed\n\n{links}\n\n{together}")
  if page:
    files.write_text(page, speed_table.insert(page.read_text(), together))
  return tables


def main(argv: list[str]) -> None:
  """Runs what is asked for, and writes the table."""
  del argv
  names = [*BENCHMARKS] if FLAGS.only is None else FLAGS.only
  unknown = [name for name in names if name not in BENCHMARKS]
  if unknown:
    raise app.UsageError(f"--only={unknown[0]} is none of {', '.join(BENCHMARKS)}.")
  if FLAGS.speed_page and not PAGE.is_file():
    raise app.UsageError(f"--speed_page: there is no {PAGE} here; start it in the checkout.")
  results = folders.tried(Path(FLAGS.results), "results")
  failed, measured = {}, {}
  for name in names:
    begin = time.perf_counter()
    folder, complaint = run(name, results, FLAGS.timeout)
    if complaint:
      failed[name] = complaint
    else:
      measured[folder] = None
    print(f"{name}: {complaint or 'done'} ({time.perf_counter() - begin:.0f} s)", flush=True)
  tables = write_tables(results, PAGE if FLAGS.speed_page else None)
  for folder in measured or tables:
    print(f"\n{speed_table.terminal(tables[folder])}")
  if failed:
    sys.exit(f"error: {', '.join(failed)} failed; the table has what was measured before.")


if __name__ == "__main__":
  launching.launch(main)
