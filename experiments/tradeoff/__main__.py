"""Error against symmetry: `python -m experiments.tradeoff --workdir=runs/tradeoff`.

N-body data that keep their symmetry and data that break it, under a resilient constraint of
several prices and an inequality of several bounds, with the strict and the unconstrained model as
ends: test error against measured equivariance error. Each constraint and data set is one device
program of replicas. Flags of experiments.nbody may follow after a --.
"""

from absl import flags

from experiments.harness import app, folders, paths, replicas
from experiments.harness.usage import UsageError
from experiments.sweep import plan as sweep_plan
from experiments.tradeoff import plan as tradeoff_plan

FLAGS = flags.FLAGS
flags.DEFINE_list("rho", ["0.01", "0.03", "0.1", "0.3", "1", "10"], "Prices of slack (resilient).")
flags.DEFINE_list(
  "epsilon", ["0.01", "0.03", "0.1", "0.3", "1"], "Bounds on abs(gamma) (inequality)."
)
flags.DEFINE_list(
  "symmetry_breaking", ["none", "gravity:0.3", "gravity:3"], "Data sets; none breaks nothing."
)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of every point.")
flags.DEFINE_integer("jobs", None, "Programs at once; one a device, one on a CPU.", lower_bound=1)
paths.DEFINE_path("workdir", None, "Where to write; what is finished there is not repeated.")

SMALL = (
  *("--hidden_features=16", "--layers=2", "--centring=center_of_mass"),
  *("--train_samples=1000", "--batch_size=50", "--epochs=60", "--eval_every=5"),
)
"""The reduced model and data of `experiments.detection`."""
OWNED = (*sweep_plan.OWNED, "constraint", "symmetry_breaking", "rho", "epsilon")


def constants(name: str) -> tuple[float, ...]:
  """Reads --rho or --epsilon.

  Raises:
    UsageError: not different numbers, or one is out of range.
  """
  words = FLAGS[name].value or []
  try:
    values = tuple(sorted({float(word) for word in words}))
  except ValueError:
    values = ()
  if len(values) < len(words) or not all(0 < value < float("inf") for value in values):
    raise UsageError(
      f"--{name}={','.join(words)} must be different positive numbers, separated by commas."
    )
  return values


def main(given: list[str]) -> None:
  """Runs the curve.

  Args:
    given: Flags of experiments.nbody.

  Raises:
    UsageError: flags contradict each other.
  """
  grids = {"resilient": constants("rho"), "inequality": constants("epsilon")}
  data = tuple(dict.fromkeys(FLAGS.symmetry_breaking))
  if not data:
    raise UsageError("nothing to do; leave out --symmetry_breaking, or name a data set.")
  for word in given:
    if word.lstrip("-").partition("=")[0] in OWNED:
      raise UsageError(f"{word} after the --: the curve sets it itself; see --help.")
  seeds = replicas.parse_seeds(FLAGS.seeds)
  sweep = sweep_plan.Sweep("nbody", (*SMALL, *given), seeds=seeds)
  for program in tradeoff_plan.programs(grids, data, seeds):
    sweep_plan.describe(sweep, program.flags())  # refused here, before anything is started
  folder = folders.chosen(FLAGS.workdir, "tradeoff_nbody")
  from experiments.tradeoff import run as tradeoff_run

  tradeoff_run.run(sweep, grids, data, folder, FLAGS.jobs)


if __name__ == "__main__":
  app.launch_with_rest(main)
