"""Charged particles or gravity: `python -m experiments.nbody --constraint=equality`.

From positions, velocities and charges at one moment, a SEGNN (or an MPNN or transformer, which
keep no rotations) predicts the positions one time unit later.
"""

from pathlib import Path

from absl import flags

from data.requests import Breaking, check_trajectories
from experiments.harness import app, command, kept, model_flags, models, paths
from experiments.harness import flags as common
from experiments.harness.usage import UsageError
from experiments.nbody.settings import PARTICLES, PRESETS, SIMULATED, Settings

flags.adopt_module_key_flags(common)
FLAGS = flags.FLAGS

flags.DEFINE_enum("system", "charged", ["charged", "gravity"], "What is simulated.")
flags.DEFINE_integer("particles", None, "In a simulated trajectory; 5 by default.", lower_bound=2)
flags.DEFINE_integer(
  "neighbours",
  None,
  "Every particle receives from so many others, its nearest at the input frame; all by default.",
  lower_bound=1,
)
paths.DEFINE_path(
  "data_file",
  None,
  "Trajectories to learn instead of simulating: an .npz, or one file of a published data set, such "
  "as loc_train_NAME.npy.",
)
paths.DEFINE_path(
  "data_dir", None, "Folder of a published data set: loc_, vel_, charges_SPLIT_NAME.npy."
)
flags.DEFINE_string(
  "symmetry_breaking", None, "gravity:G, wind:W or anisotropy:A; breaks a known symmetry."
)
flags.DEFINE_enum(
  "breaking_from", "input", ["input", "start"], "When the breaking field starts to act."
)
flags.DEFINE_enum("force_clip", "component", ["component", "norm"], "Clip of forces at 100.")
flags.DEFINE_integer("lmax", 1, "Largest degree of the hidden features.", lower_bound=1)
flags.DEFINE_integer("lmax_attributes", 1, "Largest degree of the attributes.", lower_bound=1)
flags.DEFINE_enum("norm", "none", ["none", "instance"], "Normalisation of the SEGNN's layers.")
flags.DEFINE_enum("keep", None, [*kept.CHOICES], kept.HELP)

FLAG_NAMES = (
  *("system", "particles", "neighbours"),
  *("data_file", "data_dir", "symmetry_breaking", "breaking_from", "force_clip"),
  *("lmax", "lmax_attributes", "norm", "keep"),
)


def check() -> None:
  """Refuses flags of the simulation where nothing is simulated.

  Raises:
    UsageError: the flags contradict each other, or there is no such file.
    RequestError: there is no such symmetry breaking.
  """
  simulated = ("system", "particles", "symmetry_breaking", "breaking_from", "force_clip")
  simulated += ("data_seed",)
  given = [name for name in ("data_file", "data_dir") if FLAGS[name].value]
  if len(given) > 1:
    raise UsageError("--data_file and --data_dir contradict each other; leave out one.")
  for name in simulated:
    if given and FLAGS[name].present:
      raise UsageError(f"--{name} is for simulated data; leave out it or --{given[0]}.")
  model_flags.check_names("nbody", "segnn", ("lmax", "lmax_attributes", "norm", "keep"))
  if FLAGS.model == "transformer" and FLAGS.neighbours is not None:
    raise UsageError("--neighbours: a transformer attends to all particles; leave it out.")
  if not given and FLAGS.neighbours is not None:
    particles = FLAGS.particles or PARTICLES
    if FLAGS.neighbours >= particles:
      raise UsageError(
        f"--neighbours={FLAGS.neighbours}: a particle of {particles} has {particles - 1} others; "
        "lower it, or raise --particles."
      )
  if FLAGS.data_file and not Path(FLAGS.data_file).is_file():
    raise UsageError(f"--data_file={FLAGS.data_file} is no file; name an .npz of trajectories.")
  if FLAGS.data_dir and not Path(FLAGS.data_dir).is_dir():
    raise UsageError(f"--data_dir={FLAGS.data_dir} is no folder; name one of a published data set.")
  if FLAGS.grid and len(FLAGS.train_samples or ()) > 1:
    raise UsageError(
      "--grid and several --train_samples contradict each other: the curve is a mean over all "
      "replicas; take one size, or one value."
    )
  Breaking.parse(FLAGS.symmetry_breaking)
  if FLAGS["breaking_from"].present and not FLAGS.symmetry_breaking:
    raise UsageError("--breaking_from needs --symmetry_breaking, such as gravity:1.")


def main() -> None:
  """Runs what the flags ask for."""
  check()
  settings = common.settings(Settings, PRESETS[FLAGS.preset], FLAG_NAMES, models.names("nbody"))
  # None where they change nothing: such a run is one that was made before there was a choice.
  particles = settings.data.particles or PARTICLES
  from_file = settings.data.data_file or settings.data.data_dir
  settings = settings.replace(particles=None if particles == PARTICLES else particles)
  if not from_file and settings.data.neighbours == particles - 1:
    settings = settings.replace(neighbours=None)
  sizes = settings.data.train_samples
  samples = max(sizes) if sizes else None
  if not settings.data.data_file:
    samples = samples or SIMULATED
    check_trajectories(samples)
  command.run("nbody", settings, f"nbody_{settings.constraint.name}", samples)


if __name__ == "__main__":
  app.launch(main)
