"""How equivariant an N-body run is: `python -m experiments.equivariance --run=runs/a`.

Errors of both predictors under several groups, of every layer, and against gamma, beside a bound
from exact constants on a network small enough to have them.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_path("run", None, "Folder of a finished N-body run with gamma.")
paths.DEFINE_path("out", None, "Folder of the figure; equivariance/ in the run by default.")
flags.DEFINE_integer("samples", 200, "Held-out samples to measure on.", lower_bound=1)
flags.DEFINE_integer("elements", 16, "Group elements to draw.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Draws the elements.")


def main() -> None:
  """Measures, prints and draws.

  Raises:
    UsageError: no run is named.
    DataError: it is no finished run.
  """
  if not FLAGS.run:
    raise UsageError("name a finished run: --run=FOLDER.")
  run = folders.only_run(FLAGS.run, "run")
  folders.check_trained(run)
  target = folders.tried(Path(FLAGS.out or Path(run) / "equivariance"), "out")
  app.set_up_jax()
  from experiments.equivariance import run as equivariance_run

  equivariance_run.run(run, target, FLAGS.samples, FLAGS.elements, FLAGS.seed)


if __name__ == "__main__":
  app.launch(main)
