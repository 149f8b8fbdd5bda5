"""Is the misalignment report right? `python -m experiments.detection --workdir=runs/detection`.

Trains small models on N-body data whose broken symmetry is known, several seeds as replicas of
one program, and counts how often each run's verdict is right: the detection curve.
"""

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import LARGEST, UsageError

FLAGS = flags.FLAGS
flags.DEFINE_list("gravity", ["0", "0.2", "1", "3"], "Strengths of gravity along -z.")
flags.DEFINE_list("wind", ["0", "2", "6", "10"], "Speeds of a wind along x (with drag).")
flags.DEFINE_list(
  "anisotropy", ["0.5", "1.5", "3"], "Excess of pair forces along x; 0 is gravity:0."
)
flags.DEFINE_integer("seeds", 5, "Seeds of each data set, trained as replicas.", lower_bound=1)
flags.DEFINE_integer("data_sets", 2, "Data sets of each strength; twice as many at 0.", 1)
flags.DEFINE_integer("first_data_seed", 0, "Seed of the first data set.", lower_bound=0)
flags.DEFINE_list(
  "epochs", ["15", "30", "60"], "Lengths of training, in passes over the 1000 trajectories."
)
flags.DEFINE_float("rho", 0.1, "Price of slack.")
flags.DEFINE_enum(
  "breaking_from", "input", ["input", "start"], "start: the input already shows the field."
)
paths.DEFINE_path("workdir", None, "Where to write; what is finished there is not repeated.")

KINDS = ("gravity", "wind", "anisotropy")


def main() -> None:
  """Runs the campaign.

  Raises:
    UsageError: a strength is no number, or is negative; or there is no such length.
  """
  strengths = {}
  for kind in KINDS:
    try:
      strengths[kind] = sorted({float(word) for word in FLAGS[kind].value})
    except ValueError as error:
      given = ",".join(FLAGS[kind].value)
      raise UsageError(f"--{kind}={given} must be numbers, separated by commas.") from error
    if not all(0 <= s < float("inf") for s in strengths[kind]):
      raise UsageError(f"--{kind} needs numbers that are finite and not negative.")
  if not 0 < FLAGS.rho < float("inf"):
    raise UsageError(f"--rho={FLAGS.rho:g} must be positive and finite.")
  if not any(strengths.values()):
    raise UsageError("nothing to do; leave out one of --gravity, --wind, --anisotropy.")
  lengths = _lengths()
  folder = folders.chosen(FLAGS.workdir, f"detection_{FLAGS.breaking_from}")
  app.set_up_jax()
  from experiments.detection import run as detection_run

  campaign = detection_run.Campaign(
    strengths={kind: values for kind, values in strengths.items() if values},
    seeds=FLAGS.seeds,
    data_sets=FLAGS.data_sets,
    first_data_seed=FLAGS.first_data_seed,
    lengths=lengths,
    rho=FLAGS.rho,
    breaking_from=FLAGS.breaking_from,
  )
  detection_run.run(campaign, folder)


def _lengths() -> tuple[int, ...]:
  try:
    lengths = tuple(sorted({int(word) for word in FLAGS.epochs}))
  except ValueError:
    lengths = ()
  if not lengths or lengths[0] < 1 or lengths[-1] > LARGEST:
    raise UsageError(
      f"--epochs={','.join(FLAGS.epochs)} must be whole numbers above 0, separated by commas."
    )
  return lengths


if __name__ == "__main__":
  app.launch(main)
