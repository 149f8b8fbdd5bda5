"""Which layer's symmetry the data resist, and which part of the group: the misalignment report.

Layers are compared by numbers that do not change when gamma and f_neq trade their scale: the
admixture abs(gamma) rms(f_neq) / rms(f_eq), and the sensitivity abs(lambda) rms(f_eq) / rms(f_neq),
the change of the loss per unit of relative admixture, which means something at gamma = 0 too.

Generators are compared by what the relaxed model's fit loses on held-out data that are moved along
them (`data_fit_loss`). If the data are symmetric, moved held-out data are as likely as unmoved
ones, so that the expected loss is 0 whatever the model has learned: its mean over its standard
error is a test, and does not mistake a model's own asymmetry for the data's. What is said of a
generator, and when nothing can be told, `verdicts` decides.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ace_jax import homotopy, scales
from ace_jax.errors import ConfigurationError
from ace_jax.recording import LayerCall
from ace_jax.symmetry import verdicts
from ace_jax.symmetry.errors import layer_calls
from ace_jax.symmetry.measuring import Measured, measure, measure_group
from ace_jax.symmetry.verdicts import SMALLEST_EFFECT, THRESHOLD
from ace_jax.training.history import Record

__all__ = [
  "SMALLEST_EFFECT",
  "THRESHOLD",
  "GeneratorReport",
  "LayerReport",
  "Measured",
  "evidence",
  "generator_reports",
  "generator_rows",
  "layer_reports",
  "layer_rows",
  "measure",
  "measure_group",
  "reports_of_calls",
  "verdict",
]


@dataclasses.dataclass(frozen=True)
class LayerReport:
  """One homotopic layer.

  Attributes:
    name: The layer.
    gamma: Final gamma (of a vector: the entry of largest absolute value; so for the others).
    multiplier: Final multiplier; None without a constraint.
    trend: Change of the multiplier over the last fifth of the epochs.
    slack: Final slack; None where there is none.
    admixture: abs(gamma) rms(f_neq) / rms(f_eq).
    sensitivity: abs(lambda) rms(f_eq) / rms(f_neq).
  """

  name: str
  gamma: float
  multiplier: float | None
  trend: float | None
  slack: float | None
  admixture: float
  sensitivity: float | None


@dataclasses.dataclass(frozen=True)
class GeneratorReport:
  """One generator of the group, over the seeds of a run.

  Attributes:
    name: The generator.
    lie_error: Mean Lie-derivative error of the relaxed model over the mean norm of its output; of
      a cyclic group's generator, the equivariance error of one step.
    loss: Mean of what the fit loses on moved data, over the fit's own loss.
    error: Its standard error over samples.
    spread: Its standard deviation over seeds; 0 of one.
    seeds: Number of seeds.
    samples: Number of held-out samples.
    doubts: Why the models cannot be taken for ones that have learned the data (`verdicts.doubts`).
    entries: `lie_error` of each entry of a prediction with several, which it joins
      (`ace_jax.symmetry.entries.combined`); {} of a single array.
    compact: Whether a distribution of data can be invariant along it (`verdicts.judge`).
  """

  name: str
  lie_error: float
  loss: float
  error: float
  spread: float
  seeds: int
  samples: int
  doubts: tuple[str, ...] = ()
  entries: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
  compact: bool = True

  @property
  def score(self) -> float:
    """The loss in standard errors."""
    return self.loss / max(self.error, 1e-30)

  @property
  def judgement(self) -> verdicts.Judgement:
    """What the rule of `verdicts` says."""
    return verdicts.judge(
      self.loss, self.error, self.samples, self.lie_error, self.doubts, self.compact
    )

  @property
  def broken(self) -> bool:
    """Whether the symmetry is called broken."""
    return self.judgement.verdict == verdicts.Verdict.BROKEN


def layer_reports(
  model: Any,
  variables: homotopy.Variables,
  inputs: tuple[Any, ...],
  records: Sequence[Record],
) -> list[LayerReport]:
  """Reports on every homotopic layer, the one whose symmetry costs most first.

  Ranked by sensitivity, then (where multipliers are 0 or missing) by admixture.

  Args:
    model: A model with `Homotopic` layers, of any framework.
    variables: Of the relaxed predictor at the end of training.
    inputs: A batch of the model's inputs.
    records: Of the run (`ace_jax.training.history`).

  Raises:
    ConfigurationError: the model has no relaxed layer, or the run recorded no gamma.
  """
  if not variables.get(homotopy.GAMMA):
    raise ConfigurationError(
      "the run has no gamma, since it trained a strict model; report on a run of a relaxed one."
    )
  return reports_of_calls(layer_calls(model, variables, *inputs), variables, records)


def reports_of_calls(
  calls: Mapping[str, LayerCall],
  variables: homotopy.Variables,
  records: Sequence[Record],
) -> list[LayerReport]:
  """Returns `layer_reports` from what every layer computed on a batch, by its name."""
  reports = []
  for name in homotopy.names(variables[homotopy.GAMMA]):
    call = calls.get(name)
    if call is None or call.f_neq is None:
      raise ConfigurationError(
        f"what the layer {name} computes is not seen; call it outside of a jax.jit or the like, "
        "and under nn.scan or nn.vmap add 'intermediates': 0 to variable_axes."
      )
    sizes = [float(jnp.sqrt(scales.mean_square(y))) for y in (call.f_neq, call.y_eq)]
    ratio = sizes[0] / max(sizes[1], 1e-30)
    last = records[-1]
    if f"gamma/{name}" not in last:
      raise ConfigurationError(f"the run's metrics have no gamma/{name}; are they another run's?")
    gamma, multiplier = last[f"gamma/{name}"], last.get(f"multiplier/{name}")
    reports.append(
      LayerReport(
        name=name,
        gamma=gamma,
        multiplier=multiplier,
        trend=_trend(records, f"multiplier/{name}"),
        slack=last.get(f"slack/{name}"),
        admixture=abs(gamma) * ratio,
        sensitivity=None if multiplier is None else abs(multiplier) / max(ratio, 1e-30),
      )
    )

  def cost(report):
    return report.sensitivity or 0.0, report.admixture

  return sorted(reports, key=cost, reverse=True)


def evidence(
  records: Sequence[Record],
  baseline: float,
  predictor: str = "relaxed",
  mode: Literal["min", "max"] = "min",
) -> verdicts.Training:
  """Returns what the records of a run say of how far its training came.

  Args:
    records: Of every epoch.
    baseline: The validation error of a prediction that learns nothing of the inputs.
    predictor: Whose validation errors count; the projection's where there is no such predictor.
    mode: Whether low ("min") or high ("max") numbers are good; high ones are reported with a minus.
  """
  sign = -1 if mode == "max" else 1
  key = f"valid/{predictor}" if any(f"valid/{predictor}" in r for r in records) else _PROJECTION
  errors = [(i, sign * record[key]) for i, record in enumerate(records) if key in record]
  tail = int((1 - verdicts.TAIL) * len(records))
  before = [error for index, error in errors if index < tail]
  lowest = min((error for _, error in errors), default=float("inf"))
  # Two evaluations before, and two in the last quarter: of fewer, one may be an outlier.
  enough = min(len(before), len(errors) - len(before)) >= 2
  largest, change = None, None
  last, earlier = records[-1], records[max(0, tail - 1)]
  names = [name for name in last if name.startswith("gamma/") and name in earlier]
  if names:
    largest = max(max(abs(last[name]), abs(earlier[name])) for name in names)
    change = max(abs(last[name] - earlier[name]) for name in names)
  return verdicts.Training(
    error=lowest,
    baseline=sign * baseline,
    improvement=_improvement(min(before), lowest, sign) if enough else None,
    gamma=largest,
    gamma_change=change,
  )


def _improvement(before: float, after: float, sign: int) -> float:
  """Returns the share by which a signed error fell; of 0, nothing or more than any share."""
  if before == after:
    return 0.0
  return sign * (1 - after / before) if before else float("inf")


_PROJECTION = "valid/projection"


def generator_reports(
  measured: Sequence[Measured],
  trainings: Sequence[verdicts.Training],
  lines: Sequence[str] = (),
) -> list[GeneratorReport]:
  """Joins what every seed found, the generator that the data resist most first.

  With d_si what sample i loses under seed s, over that seed's own loss, the joint loss is the mean
  of m_i = mean_s d_si, and its standard error std(m) / sqrt(samples). It is an error given these
  seeds: if the data are symmetric, and the samples independent and held out, the expected loss is 0
  for every single model (but for a part in the number of samples, since the own loss is estimated
  on the same ones). What seeds share, the samples, is in the error therefore; their spread is not,
  and says how much of a breaking each of them has learned.

  Args:
    measured: Of the predictor of every seed, on the same samples in the same order.
    trainings: How far the training of every seed came (`evidence`).
    lines: Generators under which no distribution of data is invariant (`Group.lines`).
  """
  reports, doubts = [], verdicts.learned_reasons(trainings)
  for name in measured[0].lost:
    with np.errstate(divide="ignore", invalid="ignore"):  # of an own loss of 0; `judge` says so
      shares = np.array(
        [np.asarray(of_seed.lost[name], np.float64) / float(of_seed.loss) for of_seed in measured]
      )
      joint, means = shares.mean(axis=0), shares.mean(axis=1)
      loss = joint.mean()
      error = joint.std(ddof=1) / np.sqrt(len(joint))
      spread = means.std(ddof=1) if len(means) > 1 else 0.0
    reports.append(
      GeneratorReport(
        name=name,
        lie_error=float(np.mean([of_seed.local[name] for of_seed in measured])),
        loss=float(loss),
        error=float(error),
        spread=float(spread),
        seeds=len(means),
        samples=len(joint),
        doubts=doubts,
        entries={
          entry: float(np.mean([of_seed.entries[name][entry] for of_seed in measured]))
          for entry in measured[0].entries.get(name, {})
        },
        compact=name not in lines,
      )
    )
  return sorted(reports, key=lambda report: report.loss, reverse=True)


def verdict(generators: Sequence[GeneratorReport]) -> str:
  """Says in words what the data break and keep, of what nothing can be told, and by which rule.

  Raises:
    ConfigurationError: there is no generator.
  """
  if not generators:
    raise ConfigurationError("there is no generator to report on; give a group that has one.")
  named: dict[tuple[verdicts.Judgement, bool], list[str]] = {}
  for report in generators:
    named.setdefault((report.judgement, report.compact), []).append(report.name)
  kinds = list(verdicts.Verdict)
  said = []
  for judgement, compact in sorted(named, key=lambda key: kinds.index(key[0].verdict)):
    names, why = ", ".join(named[judgement, compact]), ", ".join(judgement.reasons)
    of_what = "" if compact else ", in the relation of targets to inputs"
    said.append(
      {
        verdicts.Verdict.BROKEN: f"The data break {names}.",
        verdicts.Verdict.KEPT: f"Not seen to be broken{of_what}: {names}.",
        verdicts.Verdict.CANNOT_TELL: f"Cannot tell of {names}: {why}.",
      }[judgement.verdict]
    )
  said.extend(_of_lines(generators) + _of_entries(generators))
  seeds = generators[0].seeds
  counted = f"{seeds} seed{'s' if seeds > 1 else ''}, {generators[0].samples} samples"
  return f"{' '.join(said)} Rule: {verdicts.rule()} ({counted})."


def _of_lines(generators: Sequence[GeneratorReport]) -> list[str]:
  """Says what of non-compact generators is tested, where something is."""
  names = [
    report.name
    for report in generators
    if not report.compact and report.judgement.reasons != (verdicts.BY_CONSTRUCTION,)
  ]
  if not names:
    return []
  return [
    f"No distribution of data is invariant under {', '.join(names)}: a loss that grows there is "
    "not called a breaking, and kept is said of the relation of targets to inputs alone."
  ]


def _of_entries(generators: Sequence[GeneratorReport]) -> list[str]:
  """Names the entry of a prediction in which the model is furthest from equivariant."""
  errors = [
    (error, entry, report.name) for report in generators for entry, error in report.entries.items()
  ]
  if not errors:
    return []
  error, entry, name = max(errors)
  return [
    f"Of the prediction's entries {entry} is furthest from equivariant: relative error "
    f"{error:.1e} along {name}."
  ]


def layer_rows(reports: Sequence[LayerReport]) -> tuple[list[str], list[list[str]]]:
  """Returns header and rows of the table of layers."""
  header = ["layer", "gamma", "multiplier", "trend", "slack", "admixture", "sensitivity"]
  rows = [
    [report.name, *(_number(getattr(report, field)) for field in header[1:])] for report in reports
  ]
  return header, rows


def generator_rows(
  reports: Sequence[GeneratorReport], local: str = "Lie error"
) -> tuple[list[str], list[list[str]]]:
  """Returns header and rows of the table of generators; `local` is what `lie_error` is called.

  Of a prediction with several entries a column for each, "of forces", follows it.
  """
  several, named = reports[0].seeds > 1, list(reports[0].entries)
  header = ["generator", local, *(f"of {entry}" for entry in named), "loss on moved data"]
  header += [*(["deviation of seeds"] * several), "standard errors", "verdict"]
  rows = []
  for report in reports:
    loss = [f"{report.loss:+.3f} +- {report.error:.3f}", *([f"{report.spread:.3f}"] * several)]
    said = report.judgement.verdict.value
    errors = [report.lie_error, *(report.entries[entry] for entry in named)]
    numbers = [f"{error:.1e}" for error in errors]
    rows.append([report.name, *numbers, *loss, f"{report.score:.1f}", said])
  return header, rows


def _trend(records: Sequence[Record], key: str) -> float | None:
  values = [record[key] for record in records if key in record]
  if not values:
    return None
  return values[-1] - values[-max(1, len(values) // 5)]


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.3g}"
