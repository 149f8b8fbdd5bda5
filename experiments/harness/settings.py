"""What decides a run: frozen dataclasses, checked when they are made. Imports no JAX.

A run's `Settings` are groups; every field of a group is a flag, and a key of config.json and
result.json, which are flat (`to_json`, `from_json`). An experiment has a model and a data group of
its own. Objects are made of settings once, at the top (`experiments.harness.build`); constants that
ride in the state are passed beside them, by name.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from experiments.harness import branches, constraint_entry, constraints
from experiments.harness.usage import UsageError


def recorded_where_asked_for(default: Any = None) -> Any:
  """Returns a field that JSON leaves out where it is the default.

  So runs from before there was a choice are resumed and grouped with new ones.
  """
  return dataclasses.field(default=default, metadata={"left_out": True})


@dataclasses.dataclass(frozen=True)
class Group:
  """A group of settings.

  Attributes:
    DOMAINS: What its numbers must be, by name, as `constraint_entry.check_domain` takes it.
  """

  DOMAINS: ClassVar[Mapping[str, str]] = {}

  def __post_init__(self) -> None:
    """Refuses numbers out of range.

    Raises:
      UsageError: says which, and what may stand there.
    """
    check_domains(self.DOMAINS, vars(self))

  @classmethod
  def from_json(cls, flat: Mapping[str, Any]) -> Self:
    """Reads the group's keys; one that is left out is its default.

    Raises:
      UsageError: a key without a default is missing, or a number is out of range.
    """
    values = {}
    for field in dataclasses.fields(cls):
      if field.name in flat:
        value = flat[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
      elif field.default is dataclasses.MISSING:
        raise UsageError(f"the settings name no {field.name}.")
    return cls(**values)

  def to_json(self) -> dict[str, Any]:
    """Returns the group's keys."""
    flat = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not (field.metadata.get("left_out") and value == field.default):
        flat[field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def check_domains(domains: Mapping[str, str], values: Mapping[str, Any]) -> None:
  """Refuses numbers out of range; None is none.

  Args:
    domains: What each must be.
    values: By name.

  Raises:
    UsageError: says which, and what may stand there.
  """
  for name, domain in domains.items():
    if values[name] is not None:
      constraint_entry.check_domain(name, values[name], domain)


@dataclasses.dataclass(frozen=True)
class Constraint(Group):
  """The constraint, or the rule that trains.

  Attributes:
    name: Of the constraint.
    augmented: c of the augmented Lagrangian term.
    constants: Those of its entry that are given. What a run shares with others that it is compared
      with is kept, though it has no meaning here.
  """

  DOMAINS: ClassVar[Mapping[str, str]] = {"augmented": "not negative"}

  name: str = "equality"
  augmented: float | None = None
  constants: Mapping[str, constraint_entry.Value] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    super().__post_init__()
    known = constraints.constants()
    for name, value in self.constants.items():
      known[name].check(value)

  @property
  def entry(self) -> constraints.Constraint:
    """What is known of the constraint."""
    return constraints.get(self.name)

  @classmethod
  def from_json(cls, flat: Mapping[str, Any]) -> Self:
    """Reads name, c and constants."""
    given = {name: flat[name] for name in constraints.constants() if flat.get(name) is not None}
    return cls(flat.get("constraint", "equality"), flat.get("augmented"), given)

  def to_json(self) -> dict[str, Any]:
    """Returns name, c and constants: null, or left out, where they are not given."""
    nullable = [name for name, constant in constraints.constants().items() if constant.nullable]
    fixed = {"constraint": self.name, "augmented": self.augmented}
    return {**fixed, **dict.fromkeys(nullable), **self.constants}


@dataclasses.dataclass(frozen=True)
class Branch(Group):
  """The relaxation branches f_neq.

  Attributes:
    relaxation: Name of the branch.
    size: What its entry calls its size; None for its own.
    gamma: "layer" or "channel": how many gammas; None is a layer.
    relaxation_scale: "free" or "fixed": whether f_neq is divided by its root mean square.
  """

  relaxation: str = branches.DEFAULT
  size: int | None = None
  gamma: Literal["layer", "channel"] | None = None
  relaxation_scale: Literal["free", "fixed"] = "free"

  @classmethod
  def from_json(cls, flat: Mapping[str, Any]) -> Self:
    """Reads the branch; its size stands under the name that its entry gives it."""
    name = flat.get("relaxation", branches.DEFAULT)
    entry = branches.get(name)
    size = flat.get(entry.size.name) if entry.size else None
    return cls(name, size, flat.get("gamma"), flat.get("relaxation_scale", "free"))

  def to_json(self) -> dict[str, Any]:
    """Returns the branch; sizes of other branches are null."""
    size = branches.get(self.relaxation).size
    sizes = {name: self.size if size and size.name == name else None for name in branches.sizes()}
    scale = {"gamma": self.gamma, "relaxation_scale": self.relaxation_scale}
    return {"relaxation": self.relaxation, **sizes, **scale}


@dataclasses.dataclass(frozen=True)
class PrimalOptimizer(Group):
  """What moves theta, gamma and slack.

  Attributes:
    lr: Step size of theta.
    gamma_lr: Step size of gamma; None is lr.
    slack_lr: Adam step size of the slack; None is lr.
    clip_norm: Largest gradient norm, of theta and gamma together.
    decay_epochs: In which the step sizes fall to 0, as a cosine.
    gamma_optimizer: "adam" or "sgd", without momentum.
    weight_decay: Decoupled, of theta, times its step size.
    optimizer: "adam" or "sgd", without momentum: moves theta.
  """

  DOMAINS: ClassVar[Mapping[str, str]] = {
    **{"lr": "positive", "gamma_lr": "positive", "slack_lr": "positive", "clip_norm": "positive"},
    "weight_decay": "not negative",
  }

  lr: float
  gamma_lr: float | None = None
  slack_lr: float | None = None
  clip_norm: float | None = None
  decay_epochs: int | None = None
  gamma_optimizer: Literal["adam", "sgd"] = recorded_where_asked_for("adam")
  weight_decay: float | None = recorded_where_asked_for()
  optimizer: Literal["adam", "sgd"] = recorded_where_asked_for("adam")


@dataclasses.dataclass(frozen=True)
class DualOptimizer(Group):
  """What moves the multipliers.

  Attributes:
    dual_optimizer: "sgd", "adam" or "nu_pi".
    dual_lr: Step size.
    dual_eps: Epsilon of Adam.
  """

  DOMAINS: ClassVar[Mapping[str, str]] = {"dual_lr": "positive", "dual_eps": "positive"}

  dual_optimizer: Literal["sgd", "adam", "nu_pi"]
  dual_lr: float
  dual_eps: float | None = None


@dataclasses.dataclass(frozen=True)
class Training(Group):
  """How long, how often, from what seed.

  Attributes:
    epochs: Passes over the training data.
    batch_size: Samples in a batch.
    eval_every: Epochs between evaluations.
    checkpoint_every: Epochs between checkpoints.
    keep_period: Checkpoints after a multiple of so many epochs are kept.
    patience: Evaluations without improvement to stop at.
    seed: Moves initial values and the order of samples.
    log_test: Whether test errors are recorded while training.
    preset: "quick" or "paper", which gave what no flag did.
    precision: Of the factors of matrix products on an accelerator.
    finish_epochs: The last epochs, which train the pruned model.
    finish_from: What a finish begins with, "best" or "last".
  """

  epochs: int
  batch_size: int
  eval_every: int = 1
  checkpoint_every: int = 1
  keep_period: int | None = None
  patience: int | None = None
  seed: int = 0
  log_test: bool = False
  preset: Literal["quick", "paper"] = "quick"
  precision: Literal["float32", "tf32", "bfloat16"] = recorded_where_asked_for("float32")
  finish_epochs: int | None = recorded_where_asked_for()
  finish_from: Literal["best", "last"] | None = recorded_where_asked_for()


@dataclasses.dataclass(frozen=True)
class Model(Group):
  """The network.

  Attributes:
    model: Its name.
    hidden_features: Its width.
    layers: How many.
    centring: "none" or "center_of_mass": the origin of the positions that it sees.
  """

  model: str = ""
  hidden_features: int | None = None
  layers: int | None = None
  centring: Literal["none", "center_of_mass"] = "none"


@dataclasses.dataclass(frozen=True)
class Data(Group):
  """The data.

  Attributes:
    train_samples: Size of the training set; several give a curve, None is all.
    data_seed: Moves simulated data.
  """

  train_samples: tuple[int, ...] | None = None
  data_seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
  """All settings of a run; an experiment has groups of its own for model and data.

  Attributes:
    constraint: The constraint.
    branch: The relaxation branches.
    primal: What moves theta, gamma and slack.
    dual: What moves the multipliers.
    training: How long, how often, from what seed.
    model: The network.
    data: The data.
  """

  constraint: Constraint
  branch: Branch
  primal: PrimalOptimizer
  dual: DualOptimizer
  training: Training
  model: Model
  data: Data

  @classmethod
  def from_json(cls, flat: Mapping[str, Any]) -> Self:
    """Reads settings; keys that are none of them are left alone.

    Raises:
      UsageError: a key without a default is missing, or a number is out of range.
    """
    kinds = typing.get_type_hints(cls)
    groups = {f.name: kinds[f.name].from_json(flat) for f in dataclasses.fields(cls)}
    return cls(**groups)

  def to_json(self) -> dict[str, Any]:
    """Returns the settings as config.json and result.json have them, flat."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      flat |= getattr(self, field.name).to_json()
    return flat

  def replace(self, **changes: Any) -> Self:
    """Returns the settings with some of them changed, by their flat names.

    Raises:
      UsageError: a number is out of range.
    """
    return self.from_json({**self.to_json(), **changes})
