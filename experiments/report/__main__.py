"""What the data resist: `python -m experiments.report --runs=runs/a,runs/b`.

Runs that differ in the seed alone are joined to one report: terminal text, report.md, report.png.
"""

from absl import flags

from experiments.harness import app, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_paths("runs", None, "Folders of finished runs that differ in the seed alone.")
paths.DEFINE_path("out", None, "Folder of report.md and report.png; the first run by default.")
flags.DEFINE_integer("samples", 500, "Held-out samples to measure on.", lower_bound=2)
flags.DEFINE_integer("angles", 16, "Points on the circle of every generator.", lower_bound=2)


def main() -> None:
  """Writes the report.

  Raises:
    UsageError: no runs are named.
  """
  if not FLAGS.runs:
    raise UsageError("name finished runs: --runs=FOLDER,FOLDER.")
  app.set_up_jax()
  from experiments.report import run as report_run

  report_run.run(FLAGS.runs, FLAGS.out, FLAGS.samples, FLAGS.angles)


if __name__ == "__main__":
  app.launch(main)
