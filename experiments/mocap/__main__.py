"""Human motion: `python -m experiments.mocap --subject=run --constraint=resilient`.

From positions and velocities of 31 joints at one frame, predict the next quarter of a second.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, command, kept, model_flags, models, paths
from experiments.harness import flags as common
from experiments.harness.usage import UsageError
from experiments.mocap.settings import Settings, preset_values

flags.adopt_module_key_flags(common)
FLAGS = flags.FLAGS

flags.DEFINE_enum("subject", "run", ["run", "walk"], "Subject 9 runs, subject 35 walks.")
flags.DEFINE_enum(
  "source",
  "auto",
  ["auto", "acclaim", "prepared", "download", "synthetic"],
  "Where the data come from: files in --data_dir, arrays in ACE_DATA_DIR, mocap.cs.cmu.edu, or a "
  "synthetic walker; auto takes the first that is there.",
)
paths.DEFINE_path("data_dir", None, "Folder of Acclaim files, SS.asf and SS_TT.amc.")
flags.DEFINE_bool(
  "height", True, "Whether the height is a node feature; it tells even a strict model what is up."
)
flags.DEFINE_integer("modes", None, "Frequencies of EGNO's time convolutions.", lower_bound=1)
flags.DEFINE_enum("keep", None, [*kept.CHOICES], kept.HELP)

FLAG_NAMES = ("subject", "source", "data_dir", "height", "modes", "keep")


def check() -> None:
  """Refuses flags that contradict each other.

  Raises:
    UsageError: says which.
  """
  if FLAGS.data_dir and FLAGS.source not in ("auto", "acclaim"):
    raise UsageError(f"--data_dir is not read with --source={FLAGS.source}; leave out one.")
  if FLAGS.source == "acclaim" and not FLAGS.data_dir:
    raise UsageError("--source=acclaim needs a folder: add --data_dir=FOLDER.")
  if FLAGS.data_dir and not Path(FLAGS.data_dir).is_dir():
    raise UsageError(f"--data_dir={FLAGS.data_dir} is no folder; name one of Acclaim files.")
  model_flags.check("mocap", "egno", ("modes", "centring", "keep"))
  if FLAGS["data_seed"].present:
    raise UsageError("--data_seed: the synthetic walker is always the same; leave it out.")
  if FLAGS.train_samples and len(FLAGS.train_samples) > 1:
    raise UsageError("--train_samples takes one size here.")


def main() -> None:
  """Runs what the flags ask for."""
  check()
  settings = common.settings(
    Settings, preset_values(FLAGS.preset, FLAGS.model or "egno"), FLAG_NAMES, models.names("mocap")
  )
  sizes = settings.data.train_samples
  label = f"mocap_{settings.data.subject}_{settings.model.model}_{settings.constraint.name}"
  command.run("mocap", settings, label, max(sizes) if sizes else None)


if __name__ == "__main__":
  app.launch(main)
