"""Many long runs, in an order, each at its commit: `python -m experiments.campaign --workdir=W`.

python -m experiments.campaign --plan=results/campaign.json --workdir=W            # what is missing
python -m experiments.campaign --plan=results/campaign.json --workdir=W --status   # done, left
python -m experiments.campaign --workdir=W --collect=results/campaign              # copies results
python -m experiments.campaign --compare=results/campaign                          # the tests

A run is done where its result is in the workdir or, from another machine, in the folder beside the
plan that has its name (results/campaign). A run that was cut short is continued from its
checkpoint. SIGTERM saves what runs, and ends.
"""

from pathlib import Path

from absl import flags

from experiments.campaign import plan as campaign_plan
from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_path("plan", "results/campaign.json", "The plan: see experiments/campaign/plan.py.")
paths.DEFINE_path("workdir", None, "The campaign's folder: state, clones, runs.")
flags.DEFINE_integer(
  "processes", 1, "Programs at once; on several accelerators each has one of them.", lower_bound=1
)
flags.DEFINE_float(
  "minutes",
  None,
  "Start nothing that cannot end within so many minutes by its estimate, and save what still runs "
  "then; by default run to the end.",
)
flags.DEFINE_bool("status", False, "Print what is done, what runs, and how long the rest takes.")
paths.DEFINE_path("collect", None, "Copy what finished runs leave for results/ to this folder.")
paths.DEFINE_path("compare", None, "Test the plan's comparisons on results in this folder.")
paths.DEFINE_path(
  "repository", None, "Git repository that commits are taken from; by default this checkout."
)


def main() -> None:
  """Does what the flags ask for.

  Raises:
    UsageError: flags contradict each other, or name a folder that there is not.
    DataError: the plan cannot be read, or is damaged.
  """
  asked = [name for name in ("status", "collect", "compare") if FLAGS[name].value]
  if len(asked) > 1:
    raise UsageError(f"--{asked[0]} and --{asked[1]} contradict each other; leave out one.")
  for name in ("processes", "minutes", "repository") if asked else ():
    if FLAGS[name].present:
      raise UsageError(f"--{name} is for running; leave it out with --{asked[0]}.")
  if FLAGS.compare and FLAGS.workdir:
    raise UsageError("--compare tests what was collected; leave out --workdir.")
  if FLAGS.minutes is not None and not 0 < FLAGS.minutes < float("inf"):
    raise UsageError(f"--minutes={FLAGS.minutes:g} must be positive and finite.")
  if not FLAGS.workdir and asked != ["compare"]:
    raise UsageError("a campaign needs a folder: add --workdir=FOLDER.")
  plan = campaign_plan.read(Path(FLAGS.plan))
  if FLAGS.compare:
    from experiments.campaign import compare as campaign_compare

    print(campaign_compare.table(plan, folders.existing(FLAGS.compare, "compare")))
    return
  from experiments.campaign import run as campaign_run
  from experiments.campaign import state as campaign_state

  workdir, collected = Path(FLAGS.workdir), Path(FLAGS.plan).with_suffix("")
  if not asked:
    repository = Path(FLAGS.repository or Path(__file__).parents[2])
    folders.tried(workdir, "workdir")
    campaign_run.run(plan, repository, workdir, collected, FLAGS.processes, FLAGS.minutes)
    return
  if FLAGS.collect or workdir.exists():  # the status of a campaign that has not begun is its plan
    folders.existing(FLAGS.workdir, "workdir")
  state = campaign_state.read(workdir)
  if FLAGS.status:
    print(campaign_run.status(plan, state, collected))
  else:
    count = campaign_run.collect(plan, state, Path(FLAGS.collect))
    print(f"Copied what {count} of {len(plan.runs)} runs left to {FLAGS.collect}.")


if __name__ == "__main__":
  app.launch(main)
