"""Relaxation branches at equal cost: `python -m experiments.relaxations --workdir=runs/branches`.

Linear, MLP, spectrally normalised MLP and low rank, with one gamma a layer and one a channel. The
sizes are chosen for as many relaxation parameters as the linear branch has, which alone has no
size; and for the time of a training step with the MLP of published size, measured here. Flags of
the experiment may follow after a --.
"""

from absl import flags

from experiments.harness import app, branches, constraints, folders, models, paths, replicas
from experiments.harness.usage import UsageError
from experiments.sweep import plan as sweep_plan

FLAGS = flags.FLAGS
BRANCHES = sorted(branches.names(), key=lambda name: branches.get(name).size is not None)
BUDGETS = ("parameters", "time")
flags.DEFINE_enum("experiment", "nbody", ["nbody", "mocap"], "What is trained.")
flags.DEFINE_multi_enum("branch", BRANCHES, BRANCHES, "Branches; may be repeated.")
flags.DEFINE_multi_enum(
  "gamma", ["layer", "channel"], ["layer", "channel"], "One gamma a layer, or one a channel."
)
flags.DEFINE_multi_enum(
  "budget", BUDGETS, BUDGETS, "What is equal: relaxation parameters, or the time of a step."
)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of every branch.")
flags.DEFINE_integer("jobs", None, "Programs at once; one a device, one on a CPU.", lower_bound=1)
paths.DEFINE_path("workdir", None, "Where to write; what is finished there is not repeated.")

SMALL = {
  "nbody": (
    *("--constraint=resilient", "--rho=0.1", "--slack_lr=5e-3"),
    *("--hidden_features=16", "--layers=2", "--centring=center_of_mass"),
    *("--train_samples=1000", "--batch_size=50", "--epochs=60", "--eval_every=5"),
  ),
  "mocap": ("--constraint=resilient", "--rho=0.1", "--model=egnn", "--epochs=60"),
}
"""What is trained unless flags after the -- say otherwise. EGNO has branches of one form alone."""
OWNED = (*sweep_plan.OWNED, "relaxation", *branches.sizes(), "gamma")


def _fixed_branches() -> list[str]:
  known = [models.get("mocap", name) for name in models.names("mocap")]
  return [model.name for model in known if not model.branches]


def _without_choice() -> set[str]:
  free = constraints.where(branch=None) - constraints.where(gamma="absent")
  return {*constraints.names()} - free


def main(given: list[str]) -> None:
  """Runs the comparison.

  Args:
    given: Flags of the experiment.

  Raises:
    UsageError: flags contradict each other.
  """
  for word in given:
    name, _, value = word.lstrip("-").partition("=")
    if name in OWNED:
      raise UsageError(f"{word} after the --: the comparison sets it itself; see --help.")
    if name == "model" and FLAGS.experiment == "mocap" and value in _fixed_branches():
      raise UsageError("--model=egno: its branches are streams of one form; take --model=egnn.")
    if name == "constraint" and value in _without_choice():
      raise UsageError(f"--constraint={value} has no choice of branches; take another.")
  seeds = replicas.parse_seeds(FLAGS.seeds)
  sweep = sweep_plan.Sweep(FLAGS.experiment, (*SMALL[FLAGS.experiment], *given), seeds=seeds)
  sweep_plan.describe(sweep, ())  # refused here, before anything is measured
  folder = folders.chosen(FLAGS.workdir, f"relaxations_{FLAGS.experiment}")
  from experiments.relaxations import run as relaxations_run

  relaxations_run.run(
    sweep,
    branches=tuple(dict.fromkeys(FLAGS.branch)),
    gammas=tuple(dict.fromkeys(FLAGS.gamma)),
    budgets=tuple(dict.fromkeys(FLAGS.budget)),
    folder=folder,
    jobs=FLAGS.jobs,
  )


if __name__ == "__main__":
  app.launch_with_rest(main)
