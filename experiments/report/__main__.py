"""What the data resist: `python -m experiments.report --runs=runs/a,runs/b`.

Runs that differ in the seed alone are joined to one report: terminal text, report.md, report.png.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_paths(
  "runs",
  None,
  "Finished runs that differ in the seed alone: their folders, or one of several.",
)
paths.DEFINE_path("out", None, "Folder of report.md and report.png; the first run by default.")
flags.DEFINE_integer("samples", 500, "Held-out samples to measure on.", lower_bound=2)
flags.DEFINE_integer("angles", 16, "Points on the circle of every generator.", lower_bound=2)
flags.DEFINE_bool(
  "suggest", False, "Name the rotations that the data keep, and the command that keeps them alone."
)


def main() -> None:
  """Writes the report.

  Raises:
    UsageError: no runs are named.
    DataError: one of them is no finished run.
  """
  if not FLAGS.runs:
    raise UsageError("name finished runs: --runs=FOLDER,FOLDER.")
  runs = folders.runs_in(FLAGS.runs)
  folders.check_trained(*runs)
  target = folders.tried(Path(FLAGS.out or runs[0]), "out")
  app.set_up_jax()
  from experiments.report import run as report_run
  from experiments.report import subjects

  known = (subjects.NBODY,) if FLAGS.suggest else subjects.SUBJECTS  # --keep is of N-body runs
  report_run.read_settings(Path(runs[0]), known)
  generators, settings = report_run.run(runs, target, FLAGS.samples, FLAGS.angles)
  if FLAGS.suggest:
    from experiments.report import suggestion

    print(f"\n{suggestion.suggest(generators, settings)}")


if __name__ == "__main__":
  app.launch(main)
