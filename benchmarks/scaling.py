"""How time and memory of a training step grow, one axis at a time: `python -m benchmarks.scaling`.

From the published N-body step (SEGNN, 5 particles, all pairs, batch 100, 64 features, 4 layers)
along particles, batch, width, layers, replicas and training set, each point in a process of its
own; about ten minutes on two quiet cores. --axes=AXIS measures some axes and keeps the others as
they were. Writes scaling.json and scaling.png into this processor's folder of --records, and
prints the slopes on logarithmic axes: a step whose time grows as its arithmetic does has both
slopes equal.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from ace_jax import files, plots
from benchmarks import launching, machine, scaling_figure
from experiments.harness import folders, paths, programs, result_files, tables

FLAGS = flags.FLAGS
flags.DEFINE_list("axes", None, "Names of axes; by default all.")
paths.DEFINE_path("records", "benchmarks/results", "Has a folder a processor.")

AXES: dict[str, tuple[str, list[dict[str, int]]]] = {
  "particles": ("particles", [{"particles": n} for n in (5, 10, 20)]),
  "particles_batch25": ("particles", [{"particles": n, "batch": 25} for n in (5, 20, 50, 100)]),
  "nearest16": ("particles", [{"particles": n, "neighbours": 16} for n in (20, 50, 100)]),
  "batch": ("batch", [{"batch": n} for n in (25, 50, 100, 200, 400, 800, 1600)]),
  "width": ("width", [{"width": n} for n in (16, 32, 64, 128, 256)]),
  "layers": ("layers", [{"layers": n} for n in (1, 2, 4, 8)]),
  "replicas": ("replicas", [{"replicas": n} for n in (1, 2, 4, 8, 16)]),
  "samples": ("samples", [{"samples": n} for n in (300, 1000, 3000, 10000)]),
}
"""What varies along each axis, and its points: fields of `scaling_worker.Size`."""

MEASURED = ("step_ms", "gflop", "gigabytes", "buffers", "rss", "state", "data")
JSON, FIGURE = "scaling.json", "scaling.png"


def measure(size: dict[str, int]) -> dict[str, Any]:
  """Measures one point in a process of its own.

  Raises:
    SystemExit: it failed; says which and why.
  """
  command = [sys.executable, "-m", "benchmarks.scaling_worker", f"--size={json.dumps(size)}"]
  environment = {**os.environ, "XLA_FLAGS": ""}
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  if done.returncode:
    reason = programs.last_line(done.stderr, f"exit code {done.returncode}")
    sys.exit(f"error: the point {size} failed: {reason}")
  return json.loads(done.stdout.splitlines()[-1])


def slopes(varied: str, points: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Returns the slopes of what was measured over what varies, both as logarithms.

  Args:
    varied: The field of the points' sizes.
    points: At least two, in ascending order.

  Returns:
    By quantity `all`, of the line through all points (least squares), and `last`, of that through
    the last two; quantities without numbers, or with one of 0, are left out.
  """
  x = np.log([point["size"][varied] for point in points])
  by_name = {}
  for name in MEASURED:
    values = [point.get(name) for point in points]
    if all(value is not None and 0 < value < float("inf") for value in values):
      y = np.log(values)
      whole, last = np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])
      by_name[name] = {"all": round(float(whole), 3), "last": round(float(last), 3)}
  return by_name


def table(report: dict[str, Any]) -> str:
  """Formats the slopes of every axis."""
  rows = []
  for name, axis in report["axes"].items():
    sizes = [point["size"][axis["varied"]] for point in axis["points"]]
    cells = [axis["slopes"].get(quantity) for quantity in MEASURED[:5]]
    shown = ["" if cell is None else f"{cell['all']:.2f} ({cell['last']:.2f})" for cell in cells]
    rows.append([name, f"{sizes[0]} to {sizes[-1]}", *shown])
  return tables.table(["axis", "sizes", "time", "operations", "traffic", "buffers", "RSS"], rows)


def main(argv: list[str]) -> None:
  """Measures what is asked for, and writes the report and the figure."""
  del argv
  names = [*AXES] if FLAGS.axes is None else [*dict.fromkeys(FLAGS.axes)]
  if not names:
    raise app.UsageError(f"--axes= names none; take some of {', '.join(AXES)}, or leave it out.")
  unknown = [name for name in names if name not in AXES]
  if unknown:
    raise app.UsageError(f"--axes={unknown[0]} is none of {', '.join(AXES)}.")
  folder = folders.tried(Path(FLAGS.records) / machine.folder(machine.describe()), "records")
  path = folder / JSON
  axes = result_files.read_json(path, "remove it").get("axes", {}) if path.exists() else {}
  for name in names:
    begin, (varied, sizes) = time.perf_counter(), AXES[name]
    points = [measure(size) for size in sizes]
    axes[name] = {"varied": varied, "points": points, "slopes": slopes(varied, points)}
    # After every axis, so that what is measured is kept.
    ordered = {known: axes[known] for known in AXES if known in axes}
    report = {"benchmark": "scaling", "axes": ordered, "machine": machine.describe()}
    files.write_json(path, report)
    print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
  plots.save(scaling_figure.growth(report["axes"]), folder / FIGURE)
  print(f"\nSlopes, of all points (of the last two)\n{table(report)}")


if __name__ == "__main__":
  launching.launch(main)
