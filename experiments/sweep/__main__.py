"""Many runs of an experiment, over a grid or by search: `python -m experiments.sweep`.

python -m experiments.sweep --experiment=nbody --grid=dual_lr=1e-4,1e-3 --grid=rho=0.1,1 \
  --seeds=0,1,2 --workdir=runs/sweep -- --constraint=resilient --epochs=60

Runs that can share a device program do. What is finished in --workdir is not repeated.
"""

from absl import flags

from experiments.harness import app, folders, models, paths, programs, replicas
from experiments.harness.usage import UsageError
from experiments.sweep import plan as sweep_plan

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  "experiment", "nbody", [*models.experiments()], "What is run; its own flags follow after a --."
)
flags.DEFINE_multi_string("grid", [], "NAME=VALUE,VALUE of any of its flags; may be repeated.")
flags.DEFINE_list("seeds", None, "Seeds of every point; by default the one of the experiment.")
flags.DEFINE_enum(
  "search", None, ["random", "tpe"], "Draw points by Optuna; those of --grid are then choices."
)
flags.DEFINE_multi_string("range", [], "NAME=LOW..HIGH or NAME=LOW..HIGH:log to draw from.")
flags.DEFINE_integer("trials", 20, "Points that a search draws.", lower_bound=1)
flags.DEFINE_integer("search_seed", 0, "Moves the points that a search draws.", lower_bound=0)
flags.DEFINE_string(
  "storage", None, "Optuna database, as an SQLAlchemy URL; by default optuna.db in --workdir."
)
flags.DEFINE_enum(
  "objective",
  "projection",
  ["projection", "relaxed"],
  "The predictor whose validation error counts.",
)
flags.DEFINE_enum("engine", "local", ["local", "ray"], "Devices of this machine, or a Ray cluster.")
flags.DEFINE_integer("jobs", None, "Programs at once; one a device, one on a CPU.", lower_bound=1)
flags.DEFINE_integer(
  "pack", None, "Largest number of replicas in a program; by default all programs get a share.", 1
)
paths.DEFINE_path("workdir", None, "Where to write; runs/sweep_EXPERIMENT_TIME by default.")


def read(given: list[str]) -> sweep_plan.Sweep:
  """Returns the sweep that the flags ask for.

  Args:
    given: Flags of the experiment.

  Raises:
    UsageError: flags contradict each other, or something is not installed.
  """
  grid, ranges = sweep_plan.parse_grid(FLAGS.grid), sweep_plan.parse_ranges(FLAGS.range)
  if FLAGS.search is None:
    for name in ("range", "trials", "search_seed", "storage"):
      if FLAGS[name].present:
        raise UsageError(f"--{name} needs --search=random or --search=tpe.")
  elif not grid and not ranges:
    raise UsageError(f"--search={FLAGS.search} needs something to draw: --range or --grid.")
  elif FLAGS.pack:
    raise UsageError("--pack is for a grid; a search trains the seeds of a point together.")
  for name, _ in grid:
    if name in ranges:
      raise UsageError(f"--grid={name}=... and --range={name}=... contradict; leave out one.")
  for word in given:
    if not word.startswith("--"):
      raise UsageError(
        f"unexpected argument {word!r}; write flags of the experiment as --NAME=VALUE."
      )
  if FLAGS.search:
    programs.require("optuna", "sweep", f"--search={FLAGS.search}")
  if FLAGS.engine == "ray":
    programs.require("ray", "ray", "--engine=ray")
  return sweep_plan.Sweep(
    experiment=FLAGS.experiment,
    given=tuple(given),
    grid=grid,
    ranges=tuple(ranges.items()),
    seeds=replicas.parse_seeds(FLAGS.seeds),
    objective=FLAGS.objective,
    search=FLAGS.search,
    search_seed=FLAGS.search_seed,
  )


def main(given: list[str]) -> None:
  """Runs the sweep."""
  sweep = read(given)
  sweep_plan.check(sweep)
  folder = folders.chosen(FLAGS.workdir, f"sweep_{sweep.experiment}")
  from experiments.sweep import run as sweep_run

  sweep_run.run(
    sweep,
    folder=folder,
    trials=FLAGS.trials,
    storage=FLAGS.storage,
    engine=FLAGS.engine,
    jobs=FLAGS.jobs,
    pack=FLAGS.pack,
  )


if __name__ == "__main__":
  app.launch_with_rest(main)
