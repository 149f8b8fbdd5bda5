"""What an entry of a constraint or rival training rule says: its flags, its needs, what makes it.

Nothing here imports JAX.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Literal

from experiments.harness.usage import UsageError

Value = float | int | str
UNCONSTRAINED = "ace_jax.constraints.base:Unconstrained"
"""What makes the constraint that is none."""


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
    penalises_weights: Whether it penalises the size of the branches' weights, which a branch
      that divides by it would evade.
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
  penalises_weights: bool = False
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
    return self.make == UNCONSTRAINED
