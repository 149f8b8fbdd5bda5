"""When a symmetry may be called broken, when kept, and when nothing can be told.

A verdict rests on what a model loses on held-out data that are moved along a generator. If the
data are symmetric, moved held-out data are as likely as unmoved ones, and the expected loss is 0
whatever the model has learned. So a loss that is surely above 0 shows that the data break the
symmetry, from a good model and from a bad one. The reverse needs more: a model that has learned
little loses nothing on moved data either. "Kept" is said only of a model that has learned the data,
and where a breaking would have been seen.

All this takes a group under which a distribution of data can be invariant. Under boosts,
translations and scalings none can: moved data lie where the model was not trained, and may fit
worse though targets depend on inputs in the same way there. So a loss that grows shows nothing, and
one that does not shows that the relation of targets to inputs is kept.
"""

import dataclasses
import enum
import math
from collections.abc import Collection, Mapping, Sequence

THRESHOLD = 4.0
"""Standard errors by which a loss must differ from 0, ..."""
SMALLEST_EFFECT = 0.02
"""... and the share of the model's own loss that it must exceed, to be called a breaking."""
LARGEST_UNSEEN = 0.25
"""Share of the own loss that a breaking may cost and not be seen; above it, samples are too few."""
FEWEST_SAMPLES = 30
"""Below so many samples a standard error is itself too uncertain."""
TAIL = 0.25
"""The last part of the training, in which a model should have come to rest."""
IMPROVES = 0.25
"""A validation error that falls by a larger share in that part still improves."""
GAMMA_MOVES = 0.25
"""A change of gamma in that part by a larger share of the largest one is no rest, ..."""
GAMMA_NEGLIGIBLE = 0.01
"""... unless it is smaller than this."""
_ROUNDING = 1e-3  # of a loss over the own one: below, float32 decides its sign
_EXACT = 1e-5  # relative error of a model along a generator: below, it is float32's


NOT_FINITE = "its numbers are not finite, or the model's own loss is 0"
"""The reason where nothing can be compared."""
BY_CONSTRUCTION = "the model keeps it by construction"
"""The reason that is no lack of training."""
OUTSIDE = (
  "the loss grows on moved data, but these lie outside of the distribution that the model was "
  "trained on, so that the relation of targets to inputs was not tested"
)
"""The reason of a non-compact group."""


class Verdict(enum.Enum):
  """What is said of a symmetry."""

  BROKEN = "broken"
  KEPT = "kept"
  CANNOT_TELL = "cannot tell"


@dataclasses.dataclass(frozen=True)
class Training:
  """What is known of how a model was trained.

  Attributes:
    error: Its lowest validation error.
    baseline: The validation error of a prediction that learns nothing of the inputs.
    improvement: Share by which the validation error fell in the last quarter of the training; None
      if it was evaluated too rarely to say.
    gamma: Largest absolute gamma at the end, or at the beginning of that quarter; None without.
    gamma_change: Largest change of a gamma in that quarter; None without.
  """

  error: float
  baseline: float
  improvement: float | None
  gamma: float | None = None
  gamma_change: float | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
  """A verdict, and why there is none where nothing can be told.

  Attributes:
    verdict: What is said.
    reasons: Why nothing can be told; () otherwise.
  """

  verdict: Verdict
  reasons: tuple[str, ...] = ()

  def describe(self) -> str:
    """Returns the verdict in words."""
    return ": ".join([self.verdict.value, *([", ".join(self.reasons)] if self.reasons else [])])


def doubts(training: Training) -> tuple[str, ...]:
  """Returns why a model cannot be taken for one that has learned its data; () if it can."""
  reasons = []
  numbers = (training.improvement or 0.0, training.gamma or 0.0, training.gamma_change or 0.0)
  if any(map(math.isnan, numbers)) or not all(map(math.isfinite, numbers[1:])):
    reasons.append("its records hold numbers that are not finite")
  if not training.error < training.baseline:
    reasons.append("the model is not better than the baseline")
  if training.improvement is None:
    reasons.append("too few evaluations to say whether the model still improves")
  elif training.improvement > IMPROVES:
    reasons.append("the model still improves")
  if training.gamma is not None and training.gamma_change is not None:
    limit = max(GAMMA_MOVES * training.gamma, GAMMA_NEGLIGIBLE)
    if training.gamma_change > limit:
      reasons.append("gamma still moves")
  return tuple(reasons)


def judge(
  loss: float,
  error: float,
  samples: int,
  asymmetry: float,
  learned: Sequence[str],
  compact: bool = True,
) -> Judgement:
  """Judges one generator by the rule of `rule`.

  Args:
    loss: Mean of what a model loses on moved held-out data, over its own loss.
    error: Its standard error over samples.
    samples: How many there are.
    asymmetry: Relative error of the model's own equivariance along the generator. A model that is
      equivariant by construction loses nothing, whatever the data are like.
    learned: The `doubts` in the model's training.
    compact: Whether a distribution of data can be invariant along the generator: rotations, what is
      discrete. Else a loss that grows is no breaking (`OUTSIDE`).
  """
  if samples < FEWEST_SAMPLES:
    return Judgement(Verdict.CANNOT_TELL, ("too few samples",))
  if not all(map(math.isfinite, (loss, error, asymmetry))):  # every comparison would be false
    return Judgement(Verdict.CANNOT_TELL, (NOT_FINITE,))
  if loss > THRESHOLD * error and loss > SMALLEST_EFFECT:
    return Judgement(Verdict.BROKEN) if compact else Judgement(Verdict.CANNOT_TELL, (OUTSIDE,))
  if asymmetry < _EXACT:
    return Judgement(Verdict.CANNOT_TELL, (BY_CONSTRUCTION,))
  reasons = []
  if loss < -THRESHOLD * error and loss < -_ROUNDING:
    reasons.append("moved data fit better than the data themselves")
  reasons.extend(learned)
  if loss + THRESHOLD * error > LARGEST_UNSEEN:
    reasons.append("too few samples")
  return Judgement(Verdict.CANNOT_TELL, tuple(reasons)) if reasons else Judgement(Verdict.KEPT)


def learned_reasons(trainings: Sequence[Training]) -> tuple[str, ...]:
  """Returns the `doubts` in any of several trainings, each once."""
  return tuple(dict.fromkeys(reason for training in trainings for reason in doubts(training)))


def rule() -> str:
  """Returns the rule of `judge` in words."""
  return (
    f"a symmetry is called broken if the model's loss on held-out data grows by more than "
    f"{THRESHOLD:g} standard errors and {SMALLEST_EFFECT:.0%} when the data are moved along it. It "
    f"is called kept if not, and if a growth of {LARGEST_UNSEEN:.0%} would have been seen, in a "
    f"model that is better than the baseline, whose validation error fell by less than "
    f"{IMPROVES:.0%} in the last quarter of its training, and whose gamma rested there (it changed "
    f"by less than {GAMMA_MOVES:.0%} of the largest, or {GAMMA_NEGLIGIBLE:g}), and which could "
    "have broken it. Otherwise nothing can be told"
  )


def outcome(judged: Mapping[str, Judgement], broken: Collection[str]) -> str:
  """Returns how judgements compare with the truth: "right", "wrong" or "cannot tell".

  They are wrong if one of them is, and right if all are, but for generators that the model keeps
  by construction.

  Args:
    judged: By the name of the generator.
    broken: The generators that are broken in truth.
  """
  tested = {
    name: judgement for name, judgement in judged.items() if judgement.reasons != (BY_CONSTRUCTION,)
  }
  said = {
    n: judgement.verdict
    for n, judgement in tested.items()
    if judgement.verdict != Verdict.CANNOT_TELL
  }
  if any((verdict == Verdict.BROKEN) != (name in broken) for name, verdict in said.items()):
    return "wrong"
  return "right" if len(said) == len(tested) else "cannot tell"
