import dataclasses

import numpy as np
import pytest

from ace_jax.symmetry import report, verdicts
from ace_jax.symmetry.verdicts import Judgement, Verdict

LEARNED = verdicts.Training(error=0.1, baseline=1.0, improvement=0.1, gamma=0.5, gamma_change=0.1)


def judge(loss, error=0.01, samples=500, asymmetry=0.1, learned=()):
  return verdicts.judge(loss, error, samples, asymmetry, learned)


@pytest.mark.parametrize(
  ("changed", "reason"),
  [
    ({"error": 1.0}, "the model is not better than the baseline"),
    ({"error": float("nan")}, "the model is not better than the baseline"),
    ({"improvement": 0.26}, "the model still improves"),
    ({"improvement": None}, "too few evaluations to say whether the model still improves"),
    ({"gamma_change": 0.13}, "gamma still moves"),
    ({"improvement": float("inf")}, "the model still improves"),
    ({"improvement": float("nan")}, "its records hold numbers that are not finite"),
    ({"gamma_change": float("nan")}, "its records hold numbers that are not finite"),
    ({"gamma": float("inf")}, "its records hold numbers that are not finite"),
  ],
)
def test_why_a_model_has_not_learned(changed, reason):
  assert verdicts.doubts(LEARNED) == ()
  assert verdicts.doubts(dataclasses.replace(LEARNED, **changed)) == (reason,)


def test_gamma_near_zero_may_move():
  assert verdicts.doubts(dataclasses.replace(LEARNED, gamma=0.009, gamma_change=0.009)) == ()
  assert verdicts.doubts(dataclasses.replace(LEARNED, gamma=None, gamma_change=None)) == ()


def test_three_verdicts():
  assert judge(0.05).verdict == Verdict.BROKEN
  assert judge(0.039).verdict == Verdict.KEPT  # 3.9 standard errors
  assert judge(0.019, error=1e-3).verdict == Verdict.KEPT  # below the smallest effect
  # What no symmetric data could make a model lose shows a breaking, whatever it has learned.
  assert judge(0.05, learned=("gamma still moves",)).verdict == Verdict.BROKEN
  assert judge(0.0, learned=("gamma still moves",)).reasons == ("gamma still moves",)
  assert judge(0.0, asymmetry=1e-6).reasons == (verdicts.BY_CONSTRUCTION,)
  assert judge(5.0, samples=29).reasons == ("too few samples",)
  assert judge(0.0, error=0.07).reasons == ("too few samples",)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_called_kept(number):
  for judgement in (judge(number), judge(0.0, error=number), judge(0.0, asymmetry=number)):
    assert judgement == Judgement(Verdict.CANNOT_TELL, (verdicts.NOT_FINITE,))


@pytest.mark.filterwarnings("error")
def test_a_model_without_a_loss_tells_nothing():
  lost = {"rotation_x": np.zeros(40), "rotation_y": np.ones(40)}
  measured = report.Measured({"rotation_x": 0.1, "rotation_y": 0.1}, lost, 0.0)
  for reported in report.generator_reports([measured], [LEARNED]):
    assert reported.judgement == Judgement(Verdict.CANNOT_TELL, (verdicts.NOT_FINITE,))


def test_errors_that_fall_to_zero():
  def improvement(errors, mode="min"):
    records = [{"epoch": i, "valid/relaxed": error} for i, error in enumerate(errors, 1)]
    return report.evidence(records, baseline=1.0, mode=mode).improvement

  assert improvement([0.1, 0, 0, 0, 0, 0, 0, 0]) == 0
  assert improvement([0.4, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1]) == pytest.approx(0.5)
  assert improvement([0.4, 0.2, 0.2, 0.2, 0.2, 0.2, 0, 0]) == 1
  assert improvement([0, 0, 0, 0, 0, 0, 0.5, 0.5], mode="max") == float("inf")
  assert improvement([0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6], mode="max") == pytest.approx(0.2)


def test_three_epochs_at_38_standard_errors_below_zero_tell_nothing():
  records = [
    {"epoch": i, "valid/relaxed": error, "gamma/a": 0.1 * i} for i, error in enumerate((4, 2, 1))
  ]
  training = report.evidence(records, baseline=0.5)
  judgement = judge(-0.38, learned=verdicts.doubts(training))
  assert judgement == Judgement(
    Verdict.CANNOT_TELL,
    (
      "moved data fit better than the data themselves",
      "the model is not better than the baseline",
      "too few evaluations to say whether the model still improves",
      "gamma still moves",
    ),
  )
  assert judgement.describe().startswith("cannot tell: moved data fit better")


def test_evidence_is_of_the_last_quarter():
  errors = [8.0, 6.0, 5.0, 4.0, 4.0, 4.0, 3.5, 3.0]
  records = [
    {"valid/relaxed": error, "valid/projection": 9.0, "gamma/a": -0.5 - 0.1 * i, "gamma/b": 0.2}
    for i, error in enumerate(errors)
  ]
  evidence = report.evidence(records, baseline=10.0)
  assert (evidence.error, evidence.baseline) == (3.0, 10.0)
  assert evidence.improvement == pytest.approx(1 - 3 / 4)
  assert evidence.gamma == pytest.approx(1.2)
  assert evidence.gamma_change == pytest.approx(0.2)
  strict = report.evidence([{"valid/projection": error} for error in errors], 10.0)
  assert (strict.error, strict.gamma) == (3.0, None)


def test_the_words_name_what_cannot_be_told():
  measured = report.Measured({"g": 0.1}, {"g": np.linspace(-0.1, 0.1, 100)}, 1.0)
  young = dataclasses.replace(LEARNED, improvement=0.5)
  said = report.verdict(report.generator_reports([measured] * 2, [LEARNED, young]))
  assert said.startswith("Cannot tell of g: the model still improves. Rule: a symmetry is called ")
  assert report.verdict(report.generator_reports([measured], [LEARNED])).startswith(
    "Not seen to be"
  )


def test_outcomes_leave_out_what_is_kept_by_construction():
  broken, kept = Judgement(Verdict.BROKEN), Judgement(Verdict.KEPT)
  by_construction = Judgement(Verdict.CANNOT_TELL, (verdicts.BY_CONSTRUCTION,))
  unknown = Judgement(Verdict.CANNOT_TELL, ("gamma still moves",))
  assert verdicts.outcome({"a": broken, "b": kept, "c": by_construction}, {"a"}) == "right"
  assert verdicts.outcome({"a": broken, "b": unknown}, {"a"}) == "cannot tell"
  assert verdicts.outcome({"a": kept, "b": unknown}, {"a"}) == "wrong"
