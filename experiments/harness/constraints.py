"""The constraints and rival training rules: one entry each, from which all else follows.

Flags and their help, defaults, checks, what `--grid` may name, labels of tables and the object that
trains (`experiments.harness.build`) are derived from the entries. Nothing here imports JAX: what
makes a constraint is named as "module:name" and imported where a run begins.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from experiments.harness.usage import UsageError

Value = float | int | str


class Length(enum.Enum):
  """A default that is counted in the epochs of the run."""

  RUN = "all epochs"
  CONSTRAINED = "the epochs before a finish"


@dataclasses.dataclass(frozen=True)
class Constant:
  """A number, or a choice, that a constraint takes, and the flag that gives it.

  Attributes:
    name: Of the flag and of the setting.
    help: Of the flag.
    default: Where the flag is left alone; None for what the constraint does without it.
    kind: float, int, or str for one of `choices`.
    choices: What a choice may be, and what tables call each; "" says nothing.
    argument: What `Constraint.make` calls it; by default the name.
    domain: What a number must be.
    least: The smallest whole number that the flag takes.
    too_long: What is said of a number of epochs above {epochs}, those that train gamma; None if it
      counts something else.
    gridded: Whether it rides in the state as an array, so that replicas may differ in it.
    replaced_by: A setting and the value of it that takes this one's place.
    nullable: Whether it stands in the settings of every run, as null where it has no meaning; else
      it is left out there, so that runs of before it was there are grouped with new ones.
    word: What tables call it, before the number; by default "name=".
    shown: Where tables show it: in "every" label; "changed", in every label but where it is the
      default; "rivals", in those that compare constants; "never".
  """

  name: str
  help: str
  default: Value | Length | None = None
  kind: type = float
  choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
  argument: str = ""
  domain: Literal["positive", "not negative", "finite", "any"] = "any"
  least: int | None = None
  too_long: str | None = None
  gridded: bool = False
  replaced_by: tuple[str, str] | None = None
  nullable: bool = False
  word: str = ""
  shown: Literal["every", "changed", "rivals", "never"] = "every"

  def at(self, default: Value) -> "Constant":
    """Returns the constant with another default."""
    return dataclasses.replace(self, default=default)

  def check(self, value: Any) -> None:
    """Refuses a value out of range; None is none.

    Raises:
      UsageError: says what may stand there.
    """
    if value is not None and self.kind is not str:
      check_domain(self.name, value, self.domain)

  def label(self, value: Any) -> str:
    """Returns what tables say of a value."""
    if self.kind is str:
      return self.choices.get(value, value)
    return f"{self.word} {value:g}" if self.word else f"{self.name}={value:g}"


def check_domain(name: str, value: float, domain: str) -> None:
  """Refuses a number out of range.

  Args:
    name: Of the flag.
    value: The number.
    domain: As in `Constant`.

  Raises:
    UsageError: says what may stand there.
  """
  if domain == "positive" and not 0 < value < float("inf"):
    raise UsageError(f"--{name}={value:g} must be positive and finite.")
  if domain == "not negative" and not 0 <= value < float("inf"):
    raise UsageError(f"--{name}={value:g} must not be negative, and finite.")
  if domain == "finite" and not abs(value) < float("inf"):
    raise UsageError(f"--{name}={value:g} must be finite.")
  if domain == "share" and not 0 <= value < 1:
    raise UsageError(f"--{name}={value:g} must be at least 0, and below 1.")


@dataclasses.dataclass(frozen=True)
class Constraint:
  """A constraint, or a rule that trains in another way.

  Attributes:
    name: Of the constraint, as --constraint takes it.
    make: "module:name" of its class, or of a function that returns an instance. It is called with
      its constants (those that are not None), with `augmented` if it has multipliers, and with
      what `takes` names.
    constants: What it takes.
    takes: What else `make` is called with: "symmetry" (of the data), "axis_name" (of the devices
      that share a batch), "steps_an_epoch".
    gamma: What happens to gamma. "absent": the equivariant model alone. "learned": the model must
      have it. "prescribed": it must, and nobody learns it. "optional": any network; where there is
      a gamma, it is learned.
    multipliers: Whether it has multipliers, and so an optimizer of them.
    slack: Whether it learns a slack.
    predictor: The predictor that it is for: the projection f_theta,0, the relaxed f_theta,gamma.
    branch: The only branch that it is for; None for any.
    branch_deviation: Of the normal numbers that its branches start from; None for their own.
    irreps: Whether it asks which representations a layer maps between (`Homotopic.irreps`).
    quick: Settings under --preset=quick in place of the preset's; a `Length` counts epochs.
  """

  name: str
  make: str
  constants: tuple[Constant, ...] = ()
  takes: tuple[str, ...] = ()
  gamma: Literal["absent", "learned", "prescribed", "optional"] = "learned"
  multipliers: bool = False
  slack: bool = False
  predictor: Literal["both", "projection", "relaxed"] = "both"
  branch: str | None = None
  branch_deviation: float | None = None
  irreps: bool = False
  quick: Mapping[str, Value | Length] = dataclasses.field(default_factory=dict)

  @property
  def on_error(self) -> bool:
    """Whether it bounds the equivariance error of any network."""
    return self.gamma == "optional" and self.multipliers

  @property
  def trains_gamma(self) -> bool:
    """Whether gamma is learned, where there is one."""
    return self.gamma in ("learned", "optional")

  @property
  def plain(self) -> bool:
    """Whether the loss alone trains: nothing is added to it, and no rule moves gamma."""
    return self.make == _UNCONSTRAINED


_RHO = Constant(
  "rho",
  "Price of slack (resilient) or weight of the penalty (ridge).",
  default=1.0,
  domain="positive",
  gridded=True,
  nullable=True,
  shown="rivals",
)
_EPSILON = Constant(
  "epsilon",
  "Bound on abs(gamma) (inequality), or on the mean squared equivariance error (functional).",
  domain="not negative",
  gridded=True,
  nullable=True,
  shown="rivals",
)
_BETA = Constant(
  "beta",
  "Weight of the loss of moved samples (remul) or of the equivariance error (gap_penalty); 1 by "
  "default.",
  default=1.0,
  domain="positive",
  gridded=True,
  replaced_by=("weighting", "gradnorm"),
  nullable=True,
  shown="rivals",
)
_WEIGHTING = Constant(
  "weighting",
  "Weights of the two losses of remul and gap_penalty: 1 and --beta, or by GradNorm.",
  default="constant",
  kind=str,
  choices={"constant": "", "gradnorm": "GradNorm"},
  nullable=True,
  shown="rivals",
)
_SCHEDULE_EPOCHS = Constant(
  "schedule_epochs",
  "Length of the schedule; by default --epochs.",
  default=Length.CONSTRAINED,
  kind=int,
  argument="epochs",
  least=1,
  too_long="is longer than the run of {epochs} epochs, which would end with gamma above 0; lower "
  "it, or raise --epochs.",
  nullable=True,
  shown="never",
)
_HOMOTOPY_DRAW = Constant(
  "homotopy_draw",
  "random_homotopy draws one gamma for all layers (the default), or one a layer.",
  default="all",
  kind=str,
  choices={"all": "gamma of all layers", "layer": "gamma of each layer"},
  argument="draws",
)
_SWING = (
  Constant(
    "swing_amplitude",
    "What the swing's amplitude falls to; 0.4 by default.",
    default=0.4,
    argument="amplitude",
    domain="not negative",
    gridded=True,
    word="amplitude",
  ),
  Constant(
    "swing_period",
    "Steps of a whole swing of gamma; 2000 by default.",
    default=2000.0,
    argument="period",
    domain="positive",
    gridded=True,
    word="period",
  ),
  Constant(
    "swing_initial",
    "What it falls from; 1 by default.",
    default=1.0,
    argument="initial",
    domain="not negative",
    word="from",
    shown="changed",
  ),
  Constant(
    "swing_time_constant",
    "Steps in which the amplitude falls by a factor e; 900 by default.",
    default=900.0,
    argument="time_constant",
    domain="positive",
    gridded=True,
    word="time constant",
    shown="changed",
  ),
  Constant(
    "swing_phase",
    "Lead of each layer over the one before it, in periods; 0 by default.",
    default=0.0,
    argument="phase",
    domain="finite",
    gridded=True,
    word="phase",
    shown="changed",
  ),
  Constant(
    "swing_start",
    "Steps at gamma = 0 before the swing; 0 by default.",
    default=0,
    kind=int,
    argument="start",
    least=0,
    word="start",
    shown="changed",
  ),
  Constant(
    "swing_epochs",
    "Epochs by which the amplitude has also fallen to 0, as a line; by default it never does.",
    kind=int,
    argument="epochs",
    least=1,
    too_long="is longer than the {epochs} epochs that train gamma; lower it, or raise --epochs.",
    word="0 by epoch",
    shown="changed",
  ),
)
_UNCONSTRAINED = "ace_jax.constraints.base:Unconstrained"
_ON_GAMMA, _ON_ERROR = "ace_jax.constraints.on_gamma", "ace_jax.constraints.on_error"
_BUILD = "experiments.harness.build"

_ENTRIES = (
  Constraint("strict", _UNCONSTRAINED, gamma="absent", predictor="projection"),
  Constraint("none", _UNCONSTRAINED, predictor="relaxed"),
  Constraint("equality", f"{_ON_GAMMA}:Equality", multipliers=True),
  Constraint(
    "inequality",
    f"{_ON_GAMMA}:Inequality",
    (_EPSILON.at(0.1),),
    multipliers=True,
    quick={"relaxation_scale": "fixed"},
  ),
  Constraint(
    "resilient",
    f"{_ON_GAMMA}:Resilient",
    (_RHO,),
    multipliers=True,
    slack=True,
    quick={"relaxation_scale": "fixed"},
  ),
  Constraint("ridge", f"{_ON_GAMMA}:Ridge", (_RHO,)),
  Constraint("one_sided", f"{_ON_GAMMA}:OneSided", multipliers=True),
  Constraint("published_resilient", f"{_ON_GAMMA}:PublishedResilient", multipliers=True),
  Constraint(
    "schedule",
    f"{_BUILD}:schedule",
    (_SCHEDULE_EPOCHS,),
    takes=("symmetry", "axis_name", "steps_an_epoch"),
    gamma="prescribed",
    predictor="projection",
    branch="linear",
    branch_deviation=1e-4,  # as published: near 0
    irreps=True,
  ),
  Constraint("swing", f"{_BUILD}:swing", _SWING, takes=("steps_an_epoch",), gamma="prescribed"),
  Constraint(
    "random_homotopy",
    "ace_jax.constraints.prescribed:RandomHomotopy",
    (_HOMOTOPY_DRAW,),
    takes=("axis_name",),
    gamma="prescribed",
    predictor="projection",
  ),
  Constraint(
    "remul",
    f"{_BUILD}:remul",
    (_BETA, _WEIGHTING),
    takes=("symmetry", "axis_name"),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "gap_penalty",
    f"{_BUILD}:gap_penalty",
    (_BETA, _WEIGHTING),
    takes=("symmetry", "axis_name"),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "augment",
    "ace_jax.constraints.rivals:Augment",
    takes=("symmetry",),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "functional",
    f"{_ON_ERROR}:Functional",
    (_EPSILON.at(1e-3),),
    takes=("symmetry",),
    gamma="optional",
    multipliers=True,
    predictor="relaxed",
    quick={"dual_lr": 0.1, "decay_epochs": Length.RUN},
  ),
  Constraint(
    "functional_resilient",
    f"{_ON_ERROR}:ResilientFunctional",
    (_RHO,),
    takes=("symmetry",),
    gamma="optional",
    multipliers=True,
    slack=True,
    predictor="relaxed",
    quick={"dual_lr": 0.1, "decay_epochs": Length.RUN},
  ),
)

_registered = {entry.name: entry for entry in _ENTRIES}


def register(entry: Constraint) -> None:
  """Adds a constraint of another module, before flags are defined or anything is read.

  Raises:
    ValueError: there is one of that name, or a constant whose flag would mean something else.
  """
  if entry.name in _registered:
    raise ValueError(f"constraint {entry.name!r} is registered already.")
  flags = constants()
  for constant in entry.constants:
    there = flags.get(constant.name, constant)
    if dataclasses.replace(there, default=None) != dataclasses.replace(constant, default=None):
      raise ValueError(f"constant {constant.name!r} of {entry.name!r} has another meaning already.")
  _registered[entry.name] = entry


def names() -> list[str]:
  """Returns the names of all constraints, in their order in tables."""
  return [*_registered]


def get(name: str) -> Constraint:
  """Returns a constraint's entry.

  Raises:
    UsageError: there is none of that name.
  """
  if name not in _registered:
    raise UsageError(f"--constraint={name} does not exist; take {'|'.join(_registered)}.")
  return _registered[name]


def where(**fields: Any) -> set[str]:
  """Returns the names of the constraints whose entries have these values."""
  return {
    entry.name
    for entry in _registered.values()
    if all(getattr(entry, name) == value for name, value in fields.items())
  }


def constants() -> dict[str, Constant]:
  """Returns all constants by name, each as its first constraint has it."""
  found: dict[str, Constant] = {}
  for entry in _registered.values():
    for constant in entry.constants:
      found.setdefault(constant.name, constant)
  return found


def users(constant: str) -> set[str]:
  """Returns the names of the constraints that take a constant."""
  return {
    entry.name
    for entry in _registered.values()
    if constant in [own.name for own in entry.constants]
  }


def meaningful() -> dict[str, set[str]]:
  """Returns, for every setting that not all constraints have, those with which it has a meaning."""
  dual = where(multipliers=True)
  branches = {*names()} - where(gamma="absent")
  return {
    **{name: users(name) for name in constants()},
    "slack_lr": where(slack=True),
    **dict.fromkeys(("dual_lr", "dual_optimizer", "dual_eps", "augmented"), dual),
    **{name: where(trains_gamma=True) for name in ("gamma_lr", "gamma_optimizer", "gamma")},
    "relaxation": branches,
    **{
      name: branches & where(branch=None)
      for name in ("relaxation_features", "rank", "relaxation_scale")
    },
    **{
      name: where(gamma="learned") | where(gamma="prescribed")
      for name in ("finish_epochs", "finish_from")
    },
  }


_RIDING = ("lr", "gamma_lr", "slack_lr", "dual_lr")


def gridded() -> tuple[str, ...]:
  """Returns the settings that ride in the state as arrays, so that replicas may differ in them."""
  riding = [name for name, constant in constants().items() if constant.gridded]
  return (*_RIDING, *riding, "augmented", "weight_decay")


def complete(
  settings: Mapping[str, Any], given: Iterable[str], epochs: int, constrained: int
) -> dict[str, Any]:
  """Returns the settings with the constants of their constraint, and without those of others.

  Args:
    settings: Of a run; what was not given is None, or the preset's.
    given: Names of the flags that were given.
    epochs: Of the run.
    constrained: Those before a finish.

  Raises:
    UsageError: a length is above the epochs that train gamma.
  """
  entry, given = get(settings["constraint"]), {*given}
  lengths = {Length.RUN: epochs, Length.CONSTRAINED: constrained}
  found = dict(settings)

  def resolve(value: Any) -> Any:
    return lengths[value] if isinstance(value, Length) else value

  for constant in entry.constants:
    replaced = constant.replaced_by and settings[constant.replaced_by[0]] == constant.replaced_by[1]
    if found[constant.name] is None and not replaced:
      found[constant.name] = resolve(constant.default)
    value = found[constant.name]
    if constant.too_long and value and value > constrained:
      said = constant.too_long.format(epochs=constrained)
      raise UsageError(f"--{constant.name}={value} {said}")
  if settings["preset"] == "quick":
    found |= {name: resolve(v) for name, v in entry.quick.items() if name not in given}
  left_out = [name for name, constant in constants().items() if not constant.nullable]
  return {k: v for k, v in found.items() if v is not None or k not in left_out}


def labels(settings: Mapping[str, Any], rivals: bool) -> list[str]:
  """Returns what tables say of a run's constants.

  Args:
    settings: Of the run; older ones do not name what there was no choice of.
    rivals: Those that only tables of rivals show, in place of those that all show.
  """
  shown = ("rivals",) if rivals else ("every", "changed")
  found = [
    constant.label(settings[name])
    for name, constant in constants().items()
    if constant.shown in shown
    and settings.get(name) is not None
    and (constant.shown != "changed" or settings[name] != constant.default)
  ]
  return [label for label in found if label]
