"""From the settings of a command line to the training of one model. Imports no JAX by itself."""

import json
import pkgutil

from absl import flags

from experiments.harness import app, folders, replicas
from experiments.harness import flags as common
from experiments.harness.settings import Settings
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS


def run(experiment: str, settings: Settings, label: str, samples: int | None) -> None:
  """Prints what would be trained (--dry_run), or starts JAX and calls the experiment's `run.run`.

  Args:
    experiment: Its name, a package of `experiments`.
    settings: Of the command, from `experiments.harness.flags.settings`.
    label: What a folder is called where none is named.
    samples: Training samples that there will be; None where only the data will say.

  Raises:
    UsageError: flags contradict each other, a value is out of range, or the run would be refused.
  """
  plan = common.plan(settings)
  _check(settings, plan, samples)
  if FLAGS.dry_run:
    print(common.describe(settings, plan))
    return
  folder = folders.chosen(FLAGS.workdir, label, ("--resume",))
  app.set_up_jax(settings.training.precision, plan.on_devices(settings))
  train = pkgutil.resolve_name(f"experiments.{experiment}.run:run")
  train(settings, folder, FLAGS.resume, plan)


def _check(settings: Settings, plan: replicas.Plan, samples: int | None) -> None:
  """Refuses what can be refused without JAX or data."""
  batch_size = settings.training.batch_size
  if samples is not None and batch_size > samples:
    raise UsageError(
      f"--batch_size={batch_size} is larger than the {samples} training samples; lower it, or "
      "raise --train_samples."
    )
  if FLAGS.workdir:
    # Of several processes the first makes the folder; the others may find it made.
    alone = FLAGS.coordinator is None
    identity = json.loads(json.dumps({**settings.to_json(), **plan.identity()}))
    folders.check(FLAGS.workdir, identity if alone else None, FLAGS.resume)
