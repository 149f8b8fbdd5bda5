"""Human motion: `python -m experiments.mocap --subject=run --constraint=resilient`.

From positions and velocities of 31 joints at one frame, predict the next quarter of a second.
"""

from absl import flags

from experiments.harness import app, branches, constraints, models, paths
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

OWN = ("subject", "source", "data_dir", "height", "modes")


def check() -> None:
  """Refuses flags that contradict each other.

  Raises:
    UsageError: says which.
  """
  if FLAGS.data_dir and FLAGS.source not in ("auto", "acclaim"):
    raise UsageError(f"--data_dir is not read with --source={FLAGS.source}; leave out one.")
  if FLAGS.source == "acclaim" and not FLAGS.data_dir:
    raise UsageError("--source=acclaim needs a folder: add --data_dir=FOLDER.")
  model = FLAGS.model or "egno"
  if model in models.names("mocap"):
    _check_model(models.get("mocap", model))
  if FLAGS.train_samples and len(FLAGS.train_samples) > 1:
    raise UsageError("--train_samples takes one size here.")


def _check_model(model: models.Model) -> None:
  known = [models.get("mocap", name) for name in models.names("mocap")]
  shown = model.name.upper()
  if not model.irreps and constraints.get(FLAGS.constraint).irreps:
    others = [other.name for other in known if other.irreps and other.homotopic]
    raise UsageError(
      f"--constraint={FLAGS.constraint} penalises linear branches between known representations, "
      f"and {shown}'s branches carry streams without any; take --model={'|'.join(others)}."
    )
  for name in ("relaxation", *branches.sizes()):
    if not model.branches and FLAGS[name].present:
      others = [other.name for other in known if other.branches and other.homotopic]
      raise UsageError(
        f"--{name}: {shown}'s branches are streams of one published form; leave it out, or "
        f"take --model={'|'.join(others)}."
      )
  for name in ("modes", "centring"):
    if name not in model.flags and FLAGS[name].present:
      users = models.with_flag("mocap", name)
      raise UsageError(f"--{name} is for --model={'|'.join(users)}; leave out one.")


def main() -> None:
  """Runs what the flags ask for."""
  check()
  settings = common.settings(
    Settings, preset_values(FLAGS.preset, FLAGS.model or "egno"), OWN, models.names("mocap")
  )
  plan = common.plan(settings)
  if FLAGS.dry_run:
    print(common.describe(settings, plan))
    return
  app.set_up_jax(settings.training.precision, plan.on_devices(settings))
  from experiments.mocap import run as mocap_run

  mocap_run.run(settings, FLAGS.workdir, FLAGS.resume, plan)


if __name__ == "__main__":
  app.launch(main)
