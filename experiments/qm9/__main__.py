"""Molecules: `python -m experiments.qm9 --target=alpha --model=schnet`.

From atoms and their positions predict one of twelve properties. The data come with the package
qm9pack (the extra `qm9`), or from files of QM9 in --data_dir.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, command, model_flags, models, paths
from experiments.harness import flags as common
from experiments.harness.usage import UsageError
from experiments.qm9.settings import Settings, preset_values

flags.adopt_module_key_flags(common)
FLAGS = flags.FLAGS

TARGETS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")

flags.DEFINE_enum(
  "target",
  "alpha",
  [*TARGETS],
  "The property: D, Bohr^3, eV (homo, lumo, gap), Bohr^2, eV (zpve, U0, U, H, G), cal/(mol K).",
)
paths.DEFINE_path("data_dir", None, "Folder of .xyz or .npz files of QM9; qm9pack by default.")
flags.DEFINE_enum(
  "split",
  "published",
  ["published", "literature"],
  "80/10/10 %, or 100,000 / 17,748 / 13,083 molecules; both are always the same.",
)
flags.DEFINE_enum(
  "atom_references",
  "none",
  ["none", "isolated"],
  "isolated: the target (U0, U, H, G, Cv) is less that of the atoms alone.",
)
flags.DEFINE_integer(
  "held_out", None, "Molecules for each of validation and test; all by default.", lower_bound=1
)
flags.DEFINE_float("radius", None, "Largest distance between atoms that interact, Angstrom.")
flags.DEFINE_enum(
  "target_scale",
  None,
  ["raw", "mad"],
  "What the loss sees: the target, or its difference from the mean in mean absolute deviations.",
)
flags.DEFINE_integer("lmax", 2, "Largest degree of the hidden features.", lower_bound=0)
flags.DEFINE_integer("lmax_attributes", 3, "Largest degree of the attributes.", lower_bound=0)
flags.DEFINE_enum("norm", "instance", ["none", "instance"], "Normalisation of the SEGNN's layers.")

FLAG_NAMES = (
  *("target", "data_dir", "split", "atom_references", "held_out", "radius", "target_scale"),
  *("lmax", "lmax_attributes", "norm"),
)


def check() -> None:
  """Refuses flags that contradict each other.

  Raises:
    UsageError: says which.
  """
  model_flags.check("qm9", "schnet", ("lmax", "lmax_attributes", "norm", "centring"))
  if FLAGS.data_dir and not Path(FLAGS.data_dir).is_dir():
    raise UsageError(f"--data_dir={FLAGS.data_dir} is no folder; name one of .xyz or .npz files.")
  if FLAGS["data_seed"].present:
    raise UsageError("--data_seed is for simulated data; leave it out.")
  if FLAGS.train_samples and len(FLAGS.train_samples) > 1:
    raise UsageError("--train_samples takes one size here.")


def main() -> None:
  """Runs what the flags ask for."""
  check()
  preset = preset_values(FLAGS.preset, FLAGS.model or "schnet")
  settings = common.settings(Settings, preset, FLAG_NAMES, models.names("qm9"))
  sizes = settings.data.train_samples
  label = f"qm9_{settings.data.target}_{settings.model.model}_{settings.constraint.name}"
  command.run("qm9", settings, label, max(sizes) if sizes else None)


if __name__ == "__main__":
  app.launch(main)
