"""From the settings of a command line to the training of one model. Imports no JAX by itself."""

import pkgutil

from absl import flags

from experiments.harness import app
from experiments.harness import flags as common
from experiments.harness.settings import Settings

FLAGS = flags.FLAGS


def run(experiment: str, settings: Settings) -> None:
  """Prints what would be trained (--dry_run), or starts JAX and calls the experiment's `run.run`.

  Args:
    experiment: Its name, a package of `experiments`.
    settings: Of the command, from `experiments.harness.flags.settings`.

  Raises:
    UsageError: flags contradict each other, or a value is out of range.
  """
  plan = common.plan(settings)
  if FLAGS.dry_run:
    print(common.describe(settings, plan))
    return
  app.set_up_jax(settings.training.precision, plan.on_devices(settings))
  train = pkgutil.resolve_name(f"experiments.{experiment}.run:run")
  train(settings, FLAGS.workdir, FLAGS.resume, plan)
