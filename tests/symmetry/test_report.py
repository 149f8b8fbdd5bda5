import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import Homotopic, homotopy
from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import actions, groups, report, verdicts
from data.errors import DataError
from experiments.nbody import settings as nbody_settings
from experiments.report import run as report_run

LEARNED = verdicts.Training(error=0.1, baseline=1.0, improvement=0.1, gamma=0.5, gamma_change=0.1)


class Constant(nn.Module):
  """A branch that returns `size` everywhere."""

  features: int
  size: float = 2.0

  @nn.compact
  def __call__(self, x):
    return self.size * jnp.ones((*x.shape[:-1], self.features))


class Two(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = Homotopic(Constant, name="a")(4 * x, x)
    return Homotopic(Constant, name="b")(x, x)


def records(**last):
  return [{f"multiplier/{n}": 0.1 * i for n in "ab"} | {"epoch": i} for i in range(9)] + [last]


def test_layers_are_ranked_by_numbers_free_of_scale():
  x = jnp.ones((3, 5))
  variables = {"gamma": {"a": {"gamma": jnp.float32(0.5)}, "b": {"gamma": jnp.float32(-0.1)}}}
  variables = {"params": {}, **variables}
  last = {"gamma/a": 0.5, "gamma/b": -0.1, "multiplier/a": 1.0, "multiplier/b": -3.0}
  layers = report.layer_reports(Two(), variables, (x,), records(**last, **{"slack/a": 0.2}))
  # Layer a: rms(f_eq) = 4, rms(f_neq) = 2; layer b sees 4 + 0.5 * 2 = 5.
  assert [layer.name for layer in layers] == ["b", "a"]
  assert layers[0].sensitivity == pytest.approx(3 * 5 / 2)
  assert layers[0].admixture == pytest.approx(0.1 * 2 / 5)
  assert layers[1].admixture == pytest.approx(0.5 * 2 / 4)
  assert layers[1].trend == pytest.approx(1.0 - 0.8)
  assert (layers[1].slack, layers[0].slack) == (0.2, None)
  header, rows = report.layer_rows(layers)
  assert rows[0][0] == "b"
  assert len(rows[0]) == len(header)


def test_a_strict_run_has_nothing_to_report():
  x = jnp.ones((3, 5))
  with pytest.raises(ConfigurationError, match="has no gamma"):
    report.layer_reports(Two(), homotopy.project({"params": {}}), (x,), [{}])


def test_measured_in_closed_form():
  # f(x) = x + b of data y = x + b, turned: the loss is |b - R b|^2 = 2 |b_perp|^2 (1 - cos t).
  bias = jnp.array([3.0, 4.0, 12.0])
  x = jax.random.normal(jax.random.key(0), (6, 3))

  def predict(batch):
    return batch["x"] + bias

  def loss(batch):
    return jnp.sum(jnp.square(predict(batch) - batch["y"]), axis=1) + 0.5

  curves = groups.so3().generators
  act = actions.act_on({"x": actions.vector, "y": actions.vector})
  times = dict.fromkeys(curves, jnp.array([0.5, 1.0, 1.5]) * jnp.pi)
  batch = {"x": x, "y": x + bias}
  measured = report.measure(predict, loss, batch, curves, act, actions.vector, times)
  size = np.mean(np.linalg.norm(x + bias, axis=1))
  for axis, square in {"x": 160.0, "y": 153.0, "z": 25.0}.items():
    name = f"rotation_{axis}"
    np.testing.assert_allclose(measured.lost[name], np.full(6, 2 * square * 4 / 3), rtol=1e-4)
    assert measured.local[name] == pytest.approx(square**0.5 / size, rel=1e-5)
  assert measured.loss == pytest.approx(0.5)


def test_generators_are_judged_by_effect_and_certainty():
  random = np.random.default_rng(0)
  losses = {
    "large": [random.normal(1.0, 1.0, 400) for _ in range(3)],
    "noise": [random.normal(0.0, 0.5, 400) for _ in range(3)],
    "certain but small": [random.normal(0.005, 1e-3, 400) for _ in range(3)],
    # Under symmetric data no model can lose so surely, whatever the other two have learned.
    "of one seed": [random.normal(m, 0.1, 400) for m in (3.0, 0.0, 0.0)],
  }
  measured = [
    report.Measured(
      local=dict.fromkeys(losses, local),
      lost={name: samples[seed] for name, samples in losses.items()},
      loss=0.5,
    )
    for seed, local in enumerate((0.1, 0.2, 0.3))
  ]
  reports = {r.name: r for r in report.generator_reports(measured, [LEARNED] * 3)}
  assert {name for name, r in reports.items() if r.broken} == {"large", "of one seed"}
  assert reports["large"].loss == pytest.approx(2.0, rel=0.1)
  # 1200 independent losses with deviation 0.5 over an own loss of 0.5: 1 / sqrt(1200) = 0.029.
  assert reports["noise"].error == pytest.approx(0.029, rel=0.1)
  assert reports["of one seed"].spread == pytest.approx(6 / 3**0.5, rel=0.01)
  assert reports["large"].lie_error == pytest.approx(0.2)
  said = report.verdict(list(reports.values()))
  assert said.startswith("The data break of one seed, large. Not seen to be broken: ")
  assert "(3 seeds, 400 samples)" in said
  assert report.verdict([reports["noise"]]).startswith("Not seen to be broken: noise. Rule: ")


def test_seeds_that_agree_on_every_sample_are_no_more_certain_than_one():
  lost = np.random.default_rng(2).normal(0.3, 1.0, 200)
  measured = report.Measured({"g": 0.1}, {"g": lost}, 0.5)
  (alone,), (together,) = (report.generator_reports([measured] * n, [LEARNED] * n) for n in (1, 4))
  assert together.score == pytest.approx(alone.score)
  assert (alone.spread, together.spread) == (0, 0)
  assert len(report.generator_rows([together])[0]) == len(report.generator_rows([alone])[0]) + 1


def test_false_alarms_are_rare():
  # 500 symmetric data sets, whose samples three seeds share: at 4 standard errors none should be
  # called broken.
  random = np.random.default_rng(1)
  shared, separate = random.standard_t(5, (500, 1, 300)), random.standard_t(5, (500, 3, 300))
  losses = np.exp(random.normal(size=(500, 3, 300)))
  reports = []
  for lost, loss in zip((shared + separate) / 3, losses, strict=True):
    seeds = [
      report.Measured({"g": 0.0}, {"g": d}, l.mean()) for d, l in zip(lost, loss, strict=True)
    ]
    reports.append(report.generator_reports(seeds, [LEARNED] * 3)[0])
  assert not any(r.broken for r in reports)
  scores = np.array([r.score for r in reports])
  assert scores.std() == pytest.approx(1, abs=0.1)


def test_reports_join_runs_of_other_seeds_alone(tmp_path):
  with pytest.raises(DataError, match="name the folder of a finished run"):
    report_run.restore(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps({"settings": {"subject": "run"}}))
  (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
  with pytest.raises(DataError, match="no finished N-body run"):
    report_run.restore(tmp_path)
  first, second = (
    nbody_settings.preset("quick", constraint="resilient", seed=s, rho=r)
    for s, r in ((1, 0.1), (2, 0.2))
  )
  with pytest.raises(DataError, match=r"rho is 0\.2 where a has 0\.1"):
    report_run.check_same(["a", "b"], [first, second])
  with pytest.raises(DataError, match=r"b and a are of one seed, 1, and so the same training"):
    report_run.check_same(["a", "b"], [first, first])
