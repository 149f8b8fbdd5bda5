"""Shapes: `python -m experiments.modelnet40 --rotations=so3 --constraint=equality`.

From the points of a surface tell its class. The shapes are those of ModelNet40 in --data_dir, as
folders of .off files or HDF5; without it, shapes of eleven classes are made up.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, command, model_flags, models, paths
from experiments.harness import flags as common
from experiments.harness.usage import UsageError
from experiments.modelnet40.settings import Settings, preset_values

flags.adopt_module_key_flags(common)
FLAGS = flags.FLAGS

paths.DEFINE_path(
  "data_dir", None, "Folder of ModelNet40 (.off or HDF5); shapes are made up by default."
)
flags.DEFINE_enum(
  "rotations",
  "so3",
  ["none", "z", "so3"],
  "How training and validation shapes are turned: not at all, about the vertical, in any way.",
)
flags.DEFINE_integer("points", None, "Points of a shape.", lower_bound=1)
flags.DEFINE_integer(
  "neighbours", None, "Nearest points that a point receives from, itself among them.", lower_bound=1
)
flags.DEFINE_integer(
  "held_out", None, "Shapes for each of validation and test; all by default.", lower_bound=1
)

FLAG_NAMES = ("data_dir", "rotations", "points", "neighbours", "held_out")


def check() -> None:
  """Refuses flags that contradict each other or have no meaning here.

  Raises:
    UsageError: says which.
  """
  model_flags.check("modelnet40", "vn_dgcnn", ())
  if FLAGS.data_dir and not Path(FLAGS.data_dir).is_dir():
    raise UsageError(f"--data_dir={FLAGS.data_dir} is no folder; name one of ModelNet40.")
  for name, why in (
    ("layers", "the network has four edge convolutions"),
    ("centring", "the mean of a shape's points is at 0"),
  ):
    if FLAGS[name].present:
      raise UsageError(f"--{name}: {why}; leave it out.")
  if FLAGS.train_samples and len(FLAGS.train_samples) > 1:
    raise UsageError("--train_samples takes one size here.")


def main() -> None:
  """Runs what the flags ask for.

  Raises:
    UsageError: flags contradict each other, or a value is out of range.
  """
  check()
  preset = preset_values(FLAGS.preset)
  settings = common.settings(Settings, preset, FLAG_NAMES, models.names("modelnet40"))
  points, neighbours = settings.data.points, settings.model.neighbours
  if points < neighbours:
    raise UsageError(f"--points={points} are fewer than --neighbours={neighbours}; raise them.")
  sizes = settings.data.train_samples
  label = f"modelnet40_{settings.data.rotations}_{settings.constraint.name}"
  command.run("modelnet40", settings, label, max(sizes) if sizes else None)


if __name__ == "__main__":
  app.launch(main)
