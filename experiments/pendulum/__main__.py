"""The damped pendulum: `python -m experiments.pendulum`. Which constraint fits which data?

A network equivariant under time reversal learns the vector field of a pendulum, whose damping
breaks time reversal: strictly, with the equality constraint, and with the resilient one.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
flags.DEFINE_list("damping", ["0", "0.1", "0.3", "1"], "Damping constants, by commas.")
flags.DEFINE_integer("epochs", 200, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Moves initial values and the order of samples.")
flags.DEFINE_float("rho", 0.3, "Price of slack of the resilient constraint.")
paths.DEFINE_path("workdir", None, "Where to write; runs/pendulum_TIME by default.")


def main() -> None:
  """Runs what the flags ask for.

  Raises:
    UsageError: a damping is no number, or rho is not positive.
  """
  try:
    damping = sorted({float(value) for value in FLAGS.damping})
  except ValueError as error:
    given = ",".join(FLAGS.damping)
    raise UsageError(f"--damping={given} must be numbers, separated by commas.") from error
  if not damping or not all(0 <= c < float("inf") for c in damping):
    raise UsageError("--damping needs numbers that are finite and not negative.")
  if not 0 < FLAGS.rho < float("inf"):
    raise UsageError(f"--rho={FLAGS.rho:g} must be positive and finite.")
  settings = {"damping": damping, "epochs": FLAGS.epochs, "seed": FLAGS.seed, "rho": FLAGS.rho}
  if FLAGS.workdir:
    folders.check(FLAGS.workdir, settings, resume=True)
    if (Path(FLAGS.workdir) / folders.RESULT).exists():
      raise UsageError(f"{FLAGS.workdir} holds this run, finished; choose another --workdir.")
  folder = folders.chosen(FLAGS.workdir, "pendulum_all")
  app.set_up_jax()
  from experiments.pendulum import run as pendulum_run

  pendulum_run.run(damping, FLAGS.epochs, FLAGS.seed, FLAGS.rho, folder)


if __name__ == "__main__":
  app.launch(main)
