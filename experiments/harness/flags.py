"""Flags that mean the same in every experiment, and the checks that need no data.

Nothing here imports JAX, so that `--help` and a usage error answer at once.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from absl import flags

from experiments.harness import branches, constraints, paths, regularisation, replicas
from experiments.harness.models import plain_models
from experiments.harness.settings import (
  Constraint,
  DualOptimizer,
  PrimalOptimizer,
  Settings,
  check_domains,
)
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
S = TypeVar("S", bound=Settings)

flags.DEFINE_enum(
  "constraint",
  "equality",
  constraints.names(),
  "Constraint on every layer's gamma; or on the equivariance error of any network (functional, "
  "functional_resilient); or a rival training rule (schedule, remul, gap_penalty, augment, "
  "residual_pathway, projection_regulariser); or a gamma that nobody learns (swing, "
  "random_homotopy).",
)
for _constant in constraints.constants().values():
  if _constant.kind is str:
    flags.DEFINE_enum(_constant.name, None, [*_constant.choices], _constant.help)
  elif _constant.kind is int:
    flags.DEFINE_integer(_constant.name, None, _constant.help, lower_bound=_constant.least)
  else:
    flags.DEFINE_float(_constant.name, None, _constant.help)
flags.DEFINE_float("augmented", None, "c of the augmented Lagrangian term.")
flags.DEFINE_float("lr", None, "Step size of theta.")
flags.DEFINE_enum(
  "optimizer", None, ["adam", "sgd"], "Moves theta; sgd has no momentum. adam, or the preset's."
)
flags.DEFINE_float("gamma_lr", None, "Step size of gamma; by default the preset's, or --lr.")
flags.DEFINE_enum(
  "gamma_optimizer",
  None,
  ["adam", "sgd"],
  "Moves gamma; sgd has no momentum. adam, or the preset's.",
)
flags.DEFINE_float("slack_lr", None, "Adam step size of the slack (resilient).")
flags.DEFINE_float(
  "dual_lr",
  None,
  "Step size of the multipliers; by default the preset's, but under --preset=quick 0.1 for a "
  "functional constraint.",
)
flags.DEFINE_enum("dual_optimizer", None, ["sgd", "adam", "nu_pi"], "Moves the multipliers.")
flags.DEFINE_float("dual_eps", None, "Epsilon of Adam on the multipliers.")
flags.DEFINE_float("clip_norm", None, "Largest gradient norm, of theta and gamma together.")
flags.DEFINE_integer(
  "decay_epochs",
  None,
  "Epochs in which the step sizes of theta, gamma and slack fall to 0, as a cosine; 0 leaves them "
  "as they are. By default 0, but under --preset=quick --epochs for a functional constraint.",
  lower_bound=0,
)
flags.DEFINE_enum("relaxation", branches.DEFAULT, branches.names(), "The branch f_neq.")
for _size in branches.sizes().values():
  flags.DEFINE_integer(_size.name, None, _size.help, lower_bound=1)
flags.DEFINE_enum(
  "gamma", None, ["layer", "channel"], "One gamma a layer (the default), or one a channel."
)
flags.DEFINE_enum(
  "relaxation_scale",
  None,
  ["free", "fixed"],
  "Whether f_neq is divided by its root mean square; fixed is the default of inequality and "
  "resilient under --preset=quick.",
)
flags.DEFINE_enum(
  "preset", "quick", ["quick", "paper"], "quick: minutes on two cores; paper: published settings."
)
flags.DEFINE_string("model", None, "Which model; each experiment has its own.")
flags.DEFINE_integer("hidden_features", None, "Width of the model.", lower_bound=1)
flags.DEFINE_integer("layers", None, "Layers of the model.", lower_bound=1)
flags.DEFINE_enum(
  "centring",
  None,
  ["none", "center_of_mass"],
  "Origin of the positions that the model (motion capture: its relaxation) sees.",
)
flags.DEFINE_integer("epochs", None, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Samples in a batch.", lower_bound=1)
flags.DEFINE_integer("eval_every", None, "Epochs between evaluations.", lower_bound=1)
flags.DEFINE_integer("checkpoint_every", None, "Epochs between checkpoints.", lower_bound=1)
flags.DEFINE_integer(
  "keep_period",
  None,
  "Checkpoints after a multiple of so many epochs are kept beside the newest, for landscapes along "
  "training.",
  lower_bound=1,
)
flags.DEFINE_integer("patience", None, "Evaluations without improvement to stop at.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Moves initial values and the order of samples, never the data.")
flags.DEFINE_integer("data_seed", 0, "Moves simulated data.", lower_bound=0)
flags.DEFINE_list("train_samples", None, "Training set size; several, by commas, give a curve.")
paths.DEFINE_path("workdir", None, "Where the run writes; runs/EXPERIMENT_CONSTRAINT_TIME.")
flags.DEFINE_bool("resume", False, "Continue the run in --workdir from its last checkpoint.")
flags.DEFINE_bool("log_test", False, "Record test errors while training; selects nothing.")
flags.DEFINE_bool("dry_run", False, "Print the settings of every replica as JSON, and end.")
flags.DEFINE_list("seeds", None, "Several seeds, trained at once as replicas of one program.")
flags.DEFINE_multi_string(
  "grid",
  [],
  f"NAME=VALUE,VALUE: replicas that differ in a constant ({', '.join(constraints.gridded())}); "
  "may be repeated, and joined with --seeds.",
)
flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "tf32", "bfloat16"],
  "Of the factors of matrix products on an accelerator; sums, and all else, stay float32. A CPU "
  "multiplies in float32 whatever is said here, and warns.",
)
flags.DEFINE_string(
  "mesh", None, "Devices, as replica:2,data:4; by default all, to replicas first, then to data."
)

flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of the first of several processes, of which each is started with the same flags but "
  "--process; auto reads all three from SLURM, Open MPI, Kubernetes or Cloud TPU.",
)
flags.DEFINE_integer("processes", None, "How many processes there are.", lower_bound=1)
flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0)

flags.DEFINE_float(
  "weight_decay", None, "Decoupled weight decay of theta, times its step size; 0 by default."
)
flags.DEFINE_float(
  "dropout",
  None,
  "Rate at which whole channels are dropped in training (segnn); largest share of points that a "
  "shape loses (modelnet40). 0 by default.",
)
flags.DEFINE_integer(
  "finish_epochs",
  None,
  "The last epochs train the pruned model, without gamma and branches; 0 by default.",
  lower_bound=0,
)
flags.DEFINE_enum(
  "finish_from",
  None,
  ["best", "last"],
  "What the finish begins with: f_eq at its lowest validation error (the default), or the last.",
)

_COMMON = [
  *("constraint", *constraints.constants(), "augmented"),
  *("lr", "optimizer", "gamma_lr", "gamma_optimizer", "slack_lr", "dual_lr", "decay_epochs"),
  *("dual_optimizer", "clip_norm", "relaxation", *branches.sizes(), "gamma"),
  *("relaxation_scale", "preset", "epochs"),
  *("batch_size", "eval_every", "checkpoint_every", "keep_period", "patience"),
  *("seed", "data_seed", "train_samples", "log_test"),
  *("dual_eps", "model", "hidden_features", "layers", "centring", "precision"),
  *regularisation.NAMES,
]


def settings(
  kind: type[S],
  preset: Mapping[str, Any],
  experiment_flags: tuple[str, ...],
  models: tuple[str, ...],
) -> S:
  """Returns all settings of a run: flags where given, else the preset's values.

  Args:
    kind: The experiment's settings.
    preset: Values of the chosen preset for flags left alone.
    experiment_flags: Names of the experiment's own flags.
    models: Names of the experiment's models.

  Raises:
    UsageError: flags contradict each other, or a value is out of range.
  """
  given = {name: FLAGS[name].value for name in (*_COMMON, *experiment_flags)}
  _check(given)
  if given["model"] is not None and given["model"] not in models:
    raise UsageError(f"--model={given['model']} does not exist here; take {'|'.join(models)}.")
  _check_plain(given["model"] or preset["model"], given)
  merged = {**given, **{k: v for k, v in preset.items() if given[k] is None}}
  sizes = merged["train_samples"] = _sizes(merged["train_samples"])
  if sizes and given["batch_size"] is None:
    merged["batch_size"] = min(merged["batch_size"], max(sizes))
  merged = regularisation.complete(merged, FLAGS["patience"].present)
  constrained = merged["epochs"] - merged.get("finish_epochs", 0)
  named = [name for name, value in given.items() if value is not None]
  merged = constraints.complete(merged, named, merged["epochs"], constrained)
  defaults = {"relaxation_scale": "free", "optimizer": "adam", "gamma_optimizer": "adam"}
  merged |= {name: value for name, value in defaults.items() if merged[name] is None}
  # As in runs that were made before there was a choice.
  decay = merged["decay_epochs"] = merged["decay_epochs"] or None
  epochs = merged["epochs"]
  if decay is not None and decay < epochs:
    raise UsageError(
      f"--decay_epochs={decay} is shorter than the run of {epochs} epochs, which would stand still "
      "at its end; raise it, or lower --epochs."
    )
  period, interval = merged.get("keep_period"), merged["checkpoint_every"]
  if period and period % interval:
    raise UsageError(
      f"--keep_period={period} must be a multiple of --checkpoint_every={interval}; change one."
    )
  entry = constraints.get(merged["constraint"])
  if entry.branch:
    _check_branch(merged, entry.branch)
    merged["relaxation"] = entry.branch
  elif entry.penalises_weights and branches.get(merged["relaxation"]).normalised:
    others = [name for name in branches.names() if not branches.get(name).normalised]
    raise UsageError(
      f"--relaxation={merged['relaxation']} divides its weights by their norm, so that a penalty "
      f"on their size, --constraint={entry.name}, binds nothing; take "
      f"--relaxation={'|'.join(others)}."
    )
  for name in branches.sizes():
    users = branches.users(name)
    if merged[name] is not None and merged["relaxation"] not in users:
      raise UsageError(
        f"--{name} has no meaning with --relaxation={merged['relaxation']}; leave it out, or take "
        f"--relaxation={'|'.join(users)}."
      )
  return kind.from_json(merged)


def _check_plain(model: str, given: Mapping[str, Any]) -> None:
  if model not in plain_models():
    return
  constraint = given["constraint"]
  rules = constraints.where(gamma="optional")
  if constraint not in rules | constraints.where(gamma="absent"):
    raise UsageError(
      f"--model={model} is not equivariant and has nothing to relax, so that "
      f"--constraint={constraint} has no meaning; add --constraint=strict (without a constraint) "
      f"or --constraint={'|'.join(sorted(rules))}."
    )
  of_branches = ("relaxation", *branches.sizes(), "relaxation_scale")
  for name in (*of_branches, "gamma", "gamma_lr", "gamma_optimizer"):
    if given[name] != FLAGS[name].default:
      raise UsageError(f"--{name} has no meaning with --model={model}, which has no branches.")


def _check_branch(merged: Mapping[str, Any], branch: str) -> None:
  if FLAGS["relaxation"].present and merged["relaxation"] != branch:
    raise UsageError(
      f"--relaxation={merged['relaxation']}: the {merged['constraint']}'s penalty is for a "
      f"{branch} branch; leave it out."
    )


def plan(settings: Settings) -> replicas.Plan:
  """Returns the replicas that --seeds, --grid and --mesh ask for.

  Args:
    settings: Of the command, from `settings`.

  Raises:
    UsageError: flags contradict each other, or a value is out of range.
  """
  planned = replicas.Plan(
    replicas.parse_seeds(FLAGS.seeds),
    replicas.parse_grid(FLAGS.grid),
    replicas.parse_mesh(FLAGS.mesh),
  )
  if planned.seeds and FLAGS["seed"].present:
    raise UsageError("--seed and --seeds contradict each other; leave out one.")
  for name, values in planned.grid:
    if FLAGS[name].present:
      raise UsageError(f"--{name} and --grid={name}=... contradict each other; leave out one.")
    for value in values:
      others = dict.fromkeys((*_COMMON, *constraints.meaningful()))
      _check({**others, "constraint": settings.constraint.name, name: value})
  return planned


def describe(settings: Settings, plan: replicas.Plan) -> str:
  """Returns what --dry_run prints, a line of JSON: [{"replica": name, "settings": {...}}, ...]."""
  runs = [{"replica": name, "settings": of_run.to_json()} for name, of_run in plan.expand(settings)]
  return json.dumps(runs)


def _check(given: Mapping[str, Any]) -> None:
  for name, users in constraints.meaningful().items():
    if given[name] is not None:
      _check_only(name, FLAGS[name].default, given, users)
  for group in (PrimalOptimizer, DualOptimizer, Constraint):
    check_domains(group.DOMAINS, given)
  for name, constant in constraints.constants().items():
    constant.check(given[name])
  check_domains({"dropout": "share"}, given)
  for name, constant in constraints.constants().items():
    if constant.replaced_by and given[name] is not None:
      other, value = constant.replaced_by
      if given[other] == value:
        raise UsageError(f"--{name} and --{other}={value} contradict each other; leave out one.")
  if FLAGS.resume and not FLAGS.workdir:
    raise UsageError("--resume needs to know what: add --workdir=FOLDER of the run to continue.")
  _check_hosts()


def _check_hosts() -> None:
  processes, process = FLAGS.processes, FLAGS.process
  if FLAGS.coordinator is None:
    if processes is not None or process is not None:
      raise UsageError("--processes and --process need --coordinator=HOST:PORT.")
    return
  if not FLAGS.workdir:
    raise UsageError("several processes write into one folder that all can see: add --workdir.")
  if FLAGS.coordinator != "auto" and (processes is None or process is None):
    raise UsageError("--coordinator=HOST:PORT needs --processes and --process.")
  if None not in (processes, process) and process >= processes:
    raise UsageError(
      f"--process={process} must be below --processes={processes}; they count from 0."
    )


def _check_only(name: str, default: Any, given: Mapping[str, Any], users: set[str]) -> None:
  if given[name] != default and given["constraint"] not in users:
    raise UsageError(
      f"--{name} has no meaning with --constraint={given['constraint']}; "
      f"leave it out, or take --constraint={'|'.join(sorted(users))}."
    )


def _sizes(train_samples: list[str] | list[int] | None) -> list[int] | None:
  if train_samples is None:
    return None
  try:
    sizes = [int(size) for size in train_samples]
  except ValueError:
    sizes = []
  if not sizes or min(sizes) < 1 or len({*sizes}) < len(sizes):
    raise UsageError(
      f"--train_samples={','.join(map(str, train_samples))} must be different positive whole "
      "numbers, separated by commas."
    )
  return sizes
