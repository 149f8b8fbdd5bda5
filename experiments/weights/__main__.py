"""Trained models in results/weights: `python -m experiments.weights` lists them.

--add=RUN --name=NAME keeps the model of a finished run: its variables, 50 of its test samples, and
a card with the command, what differs from the published protocol, and both errors. The data of the
run must be here (ACE_DATA_DIR names their folder), for its test error is computed again.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError
from experiments.weights import cards

FLAGS = flags.FLAGS
paths.DEFINE_path("add", None, "Folder of a finished run to keep the model of.")
flags.DEFINE_string("name", None, "What it is to be called: small letters, digits and _.")
flags.DEFINE_list(
  "predictors", [], "Which to keep, projection or relaxed; by default all that the run has."
)


def main() -> None:
  """Prints the table of all weights, those added with it.

  Raises:
    UsageError: --add and --name are not given together, or --predictors without them.
  """
  if bool(FLAGS.add) != bool(FLAGS.name):
    raise UsageError("--add=RUN and --name=NAME belong together.")
  if FLAGS.predictors and not FLAGS.add:
    raise UsageError("--predictors says what to keep of a run; add --add=RUN and --name=NAME.")
  if FLAGS.add:
    cards.check_name(FLAGS.name)
    run = Path(folders.only_run(FLAGS.add, "add"))
    app.set_up_jax()
    from experiments.weights import store

    store.add(run, FLAGS.name, FLAGS.predictors)
  print(cards.text())


if __name__ == "__main__":
  app.launch(main)
