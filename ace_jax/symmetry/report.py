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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ace_jax import homotopy, scales
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import verdicts
from ace_jax.symmetry.errors import (
  Action,
  Curve,
  data_fit_loss,
  layer_calls,
  lie_derivatives,
)
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
  """

  name: str
  lie_error: float
  loss: float
  error: float
  spread: float
  seeds: int
  samples: int
  doubts: tuple[str, ...] = ()

  @property
  def score(self) -> float:
    """The loss in standard errors."""
    return self.loss / max(self.error, 1e-30)

  @property
  def judgement(self) -> verdicts.Judgement:
    """What the rule of `verdicts` says."""
    return verdicts.judge(self.loss, self.error, self.samples, self.lie_error, self.doubts)

  @property
  def broken(self) -> bool:
    """Whether the symmetry is called broken."""
    return self.judgement.verdict == verdicts.Verdict.BROKEN


class Measured(NamedTuple):
  """What one predictor shows on held-out data.

  Attributes:
    local: For each generator the mean Lie-derivative error over the mean norm of the prediction;
      of a cyclic group's generator, the equivariance error of one step.
    lost: For each generator the `data_fit_loss` of every sample.
    loss: The mean of its loss.
  """

  local: Mapping[str, Any]
  lost: Mapping[str, Float[Any, " samples"]]
  loss: Any


def measure(
  predict: Callable[[Any], Float[Array, "samples ..."]],
  loss: Callable[[Any], Float[Array, " samples"]],
  batch: Any,
  curves: Mapping[str, Curve],
  act_batch: Action,
  act_prediction: Action,
  times: Mapping[str, Float[Array, " times"]],
) -> Measured:
  """Measures a predictor along every generator A of a continuous group: what the report joins.

  The mean norm of `lie_derivatives` over the mean norm of the prediction, `data_fit_loss`, and the
  mean loss.

  Args:
    predict: f, from a batch to predictions.
    loss: Loss of every sample of a batch of inputs and targets.
    batch: Held-out samples.
    curves: t -> exp(t A) by name of the generator, such as `so3().generators`.
    act_batch: Acts on inputs and targets.
    act_prediction: rho_Y.
    times: For each generator where to move the samples, see `data_fit_loss`.
  """
  lie = lie_derivatives(predict, batch, curves, act_batch, act_prediction)
  prediction = predict(batch)
  size = jnp.mean(jnp.linalg.norm(prediction.reshape(len(prediction), -1), axis=1))
  lost = {
    name: data_fit_loss(loss, batch, curve, act_batch, times[name])
    for name, curve in curves.items()
  }
  local = {name: jnp.mean(values) / size for name, values in lie.items()}
  return Measured(local, lost, jnp.mean(loss(batch)))


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
  calls = layer_calls(model, variables, *inputs)
  reports = []
  for name in homotopy.names(variables[homotopy.GAMMA]):
    call = calls.get(name)
    if call is None or call.f_neq is None:
      raise ConfigurationError(
        f"what the layer {name} computes is not seen; under nn.scan or nn.vmap add "
        "'intermediates': 0 to variable_axes."
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
  records: Sequence[Record], baseline: float, predictor: str = "relaxed"
) -> verdicts.Training:
  """Returns what the records of a run say of how far its training came.

  Args:
    records: Of every epoch.
    baseline: The validation error of a prediction that learns nothing of the inputs.
    predictor: Whose validation errors count; the projection's where there is no such predictor.
  """
  key = f"valid/{predictor}" if any(f"valid/{predictor}" in r for r in records) else _PROJECTION
  errors = [(index, record[key]) for index, record in enumerate(records) if key in record]
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
    baseline=baseline,
    improvement=1 - lowest / min(before) if enough else None,
    gamma=largest,
    gamma_change=change,
  )


_PROJECTION = "valid/projection"


def generator_reports(
  measured: Sequence[Measured], trainings: Sequence[verdicts.Training]
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
  """
  reports, doubts = [], verdicts.learned_reasons(trainings)
  for name in measured[0].lost:
    shares = np.array(
      [np.asarray(of_seed.lost[name], np.float64) / float(of_seed.loss) for of_seed in measured]
    )
    joint, means = shares.mean(axis=0), shares.mean(axis=1)
    reports.append(
      GeneratorReport(
        name=name,
        lie_error=float(np.mean([of_seed.local[name] for of_seed in measured])),
        loss=float(joint.mean()),
        error=float(joint.std(ddof=1) / np.sqrt(len(joint))),
        spread=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        seeds=len(means),
        samples=len(joint),
        doubts=doubts,
      )
    )
  return sorted(reports, key=lambda report: report.loss, reverse=True)


def verdict(generators: Sequence[GeneratorReport]) -> str:
  """Says in words what the data break and keep, of what nothing can be told, and by which rule."""
  named: dict[verdicts.Judgement, list[str]] = {}
  for report in generators:
    named.setdefault(report.judgement, []).append(report.name)
  kinds = list(verdicts.Verdict)
  said = []
  for judgement in sorted(named, key=lambda judgement: kinds.index(judgement.verdict)):
    names, why = ", ".join(named[judgement]), ", ".join(judgement.reasons)
    said.append(
      {
        verdicts.Verdict.BROKEN: f"The data break {names}.",
        verdicts.Verdict.KEPT: f"Not seen to be broken: {names}.",
        verdicts.Verdict.CANNOT_TELL: f"Cannot tell of {names}: {why}.",
      }[judgement.verdict]
    )
  seeds = generators[0].seeds
  counted = f"{seeds} seed{'s' if seeds > 1 else ''}, {generators[0].samples} samples"
  return f"{' '.join(said)} Rule: {verdicts.rule()} ({counted})."


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
  """Returns header and rows of the table of generators; `local` is what `lie_error` is called."""
  several = reports[0].seeds > 1
  header = ["generator", local, "loss on moved data", "standard errors", "verdict"]
  if several:
    header.insert(3, "deviation of seeds")
  rows = []
  for report in reports:
    loss = [f"{report.loss:+.3f} +- {report.error:.3f}", *([f"{report.spread:.3f}"] * several)]
    said = report.judgement.verdict.value
    rows.append([report.name, f"{report.lie_error:.1e}", *loss, f"{report.score:.1f}", said])
  return header, rows


def _trend(records: Sequence[Record], key: str) -> float | None:
  values = [record[key] for record in records if key in record]
  if not values:
    return None
  return values[-1] - values[-max(1, len(values) // 5)]


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.3g}"
