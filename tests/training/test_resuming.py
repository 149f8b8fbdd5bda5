"""Going on from a workdir and from a Fit, with other settings; Ctrl-C; what `fit` says."""

import json
import os
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import finite
from ace_jax.errors import ConfigurationError, Interrupted, NonFiniteError
from ace_jax.training import locks, make_mesh, measuring, resuming, settling
from experiments.harness import training as harness
from tests.marks import with_slow
from tests.training.test_fitting import Radial, X, Y, assert_same, fit, squared_error


def test_a_step_size_of_zero_leaves_parameters_where_they_were(tmp_path, caplog):
  first = fit(2, lr=1e-2, workdir=tmp_path)
  rates = {"lr": 0.0, "dual_lr": 5e-3}
  resumed = fit(4, **rates, workdir=tmp_path, resume=True)
  assert_same(resumed.state.primal, first.state.primal)
  assert_same(resumed.state.primal, fit(4, **rates, state=first).state.primal)
  assert "lr 0.01 -> 0.0, gamma_lr 0.01 -> 0.0" in caplog.text
  assert "dual_lr 0.001 -> 0.005" in caplog.text
  grown = float(resumed.multipliers["layer"]) - float(first.multipliers["layer"])
  assert grown == pytest.approx(4 * 5e-3, rel=0.05)  # Adam's steps, at a constant gamma


def test_constants_batches_and_patience_of_now_are_used(tmp_path, caplog):
  options = {"dual": "sgd", "dual_lr": 0.1, "lr": 0.0}
  first = fit(1, **options, workdir=tmp_path, constraint=ace_jax.Inequality(epsilon=0.5))
  assert float(first.multipliers["layer"]) == pytest.approx(2 * 0.1 * 0.5)
  now = {**options, "constraint": ace_jax.Inequality(epsilon=0.1), "batch_size": 24}
  resumed = fit(2, **now, workdir=tmp_path, resume=True)
  assert float(resumed.multipliers["layer"]) == pytest.approx(0.1 + 0.1 * 0.9)  # one step an epoch
  assert int(resumed.state.step) == 3
  assert "batch_size 12 -> 24" in caplog.text and "epsilon 0.5 -> 0.1" in caplog.text
  caplog.clear()
  again = fit(2, **now, workdir=tmp_path, resume=True)
  assert_same(again.state, resumed.state)
  assert "goes on with" not in caplog.text  # fit.json holds what is used


def test_who_stopped_early_goes_on_with_more_patience(tmp_path):
  options = {"lr": 0.0, "workdir": tmp_path}
  assert len(fit(9, patience=2, **options).history) == 3
  assert len(fit(9, patience=2, resume=True, **options).history) == 3
  assert len(fit(9, patience=4, resume=True, **options).history) == 5


@pytest.mark.parametrize(
  ("now", "says"),
  [
    ({"seed": 3}, "has seed=0, not seed=3"),
    ({"constraint": ace_jax.OneSided()}, "constraint Equality, which cannot become OneSided"),
    ({"dual": "sgd"}, "dual adam, which cannot become sgd"),
    ({"clip_norm": 1.0}, "clip_norm None, which cannot become 1.0"),
    ({"mode": "max"}, "mode min, which cannot become max"),
  ],
)
def test_what_cannot_change_is_refused(tmp_path, now, says):
  if not (tmp_path / "run").exists():
    fit(1, workdir=tmp_path / "run")
  before = (tmp_path / "run" / "fit.json").read_text()
  with pytest.raises(ConfigurationError, match=says) as error:
    fit(2, **now, workdir=tmp_path / "run", resume=True)
  assert "\n" not in str(error.value)
  assert (tmp_path / "run" / "fit.json").read_text() == before


@pytest.mark.parametrize("named", with_slow([False, True], True))
def test_another_metric_evaluates_the_best_of_a_run_anew(tmp_path, caplog, named):
  def far(prediction, batch):
    return 1000 + jnp.abs(prediction - batch[1])

  def metric(function):
    return {"metric": {"error": function}} if named else {"metric": function}

  options = {"lr": 0.1, "eval_every": 1, "workdir": tmp_path}
  fit(1, **options, **(metric(squared_error) if named else {}))
  says = "goes on with another metric, by which its best predictors are evaluated anew"
  resumed = fit(4, **options, resume=True, **metric(far))
  assert says in caplog.text
  for name, best in resumed.state.best.items():
    error = float(jnp.mean(far(Radial().apply(best.variables, X), (X, Y))))
    assert float(best.error) == pytest.approx(error, rel=1e-6)
    assert int(best.epoch) > 1
    assert float(best.error) == min(r[f"valid/{name}"] for r in resumed.history[1:])
  caplog.clear()
  again = fit(4, **options, resume=True, **metric(far))
  assert_same(again.state, resumed.state)
  assert "another metric" not in caplog.text
  back = fit(4, **options, resume=True, **metric(squared_error))
  assert says in caplog.text and float(back.state.best["relaxed"].error) < 100


def test_a_new_metric_is_not_forgotten_before_a_checkpoint_has_it(tmp_path, caplog):
  def far(prediction, batch):
    return 1000 + jnp.abs(prediction - batch[1])

  def broken(record):
    raise OSError("the power is gone")

  fit(1, workdir=tmp_path)
  with pytest.raises(OSError, match="power"):
    fit(3, workdir=tmp_path, resume=True, metric=far, callbacks=[broken])
  caplog.clear()
  resumed = fit(3, workdir=tmp_path, resume=True, metric=far)
  assert "another metric" in caplog.text
  assert float(resumed.state.best["relaxed"].error) > 1000


def test_an_unchanged_metric_keeps_the_best_bit_for_bit(tmp_path, monkeypatch):
  options = {"metric": lambda p, b: jnp.abs(p - b[1]), "lr": 1e-2, "seeds": (0, 1)}
  whole = fit(3, **options)
  fit(2, workdir=tmp_path, **options)
  options["metric"] = lambda p, b: jnp.abs(p - b[1])
  asked = []
  original = measuring.test_errors
  monkeypatch.setattr(measuring, "test_errors", lambda *a: asked.append(1) or original(*a))
  resumed = fit(3, workdir=tmp_path, resume=True, **options)
  assert not asked
  for a, b in zip(whole, resumed, strict=True):
    assert_same(b.state, a.state)
  # Of a folder that does not say its metric, such as one of before: evaluated, and found the same.
  content = json.loads((tmp_path / "fit.json").read_text())
  for run in content["runs"]:
    assert len(run.pop("metric")) == 64
  (tmp_path / "fit.json").write_text(json.dumps(content))
  for a, b in zip(whole, fit(3, workdir=tmp_path, resume=True, **options), strict=True):
    assert_same(b.state, a.state)
  assert asked
  assert all(run["metric"] for run in json.loads((tmp_path / "fit.json").read_text())["runs"])


def test_other_data_are_refused(tmp_path):
  def train(y, valid_y=Y):
    return ace_jax.fit(
      Radial(), squared_error, (X, y), (X, valid_y), epochs=1, batch_size=12, workdir=tmp_path,
      resume=True, progress=None, mesh=make_mesh(devices=jax.devices()[:1]),
    )  # fmt: skip

  train(Y)
  train(np.asarray(Y, np.float64))  # the same numbers
  with pytest.raises(ConfigurationError, match="other data: train has changed"):
    train(Y.at[3].add(1e-3))
  with pytest.raises(ConfigurationError, match="other data: valid has changed"):
    train(Y, Y[::-1])


def test_a_workdir_of_before_is_resumed_without_comparing(tmp_path, caplog):
  fit(1, workdir=tmp_path)
  (tmp_path / "fit.json").unlink()
  assert len(fit(2, workdir=tmp_path, resume=True).history) == 2
  assert "data are not compared" in caplog.text


def test_a_fit_goes_on_bit_for_bit(tmp_path):
  options = {"lr": 1e-2, "constraint": ace_jax.Resilient(rho=0.5), "batch_size": 8}
  whole, first = fit(4, **options), fit(2, **options)
  kept = jax.tree.map(np.asarray, first.state)
  on = fit(4, **options, state=first, workdir=tmp_path)
  assert_same(on.state, whole.state)
  assert_same(first.state, kept)
  assert [record["epoch"] for record in on.history] == [1, 2, 3, 4]
  assert on.history[:2] == first.history
  assert len(fit(5, **options, workdir=tmp_path, resume=True).history) == 5


def test_other_validation_samples_evaluate_the_best_anew():
  first = fit(2)
  options = {"epochs": 3, "batch_size": 12, "lr": 0.0, "progress": None, "state": first}
  mesh = make_mesh(devices=jax.devices()[:1])
  on = ace_jax.fit(Radial(), squared_error, (X, Y), (X, Y + 1), mesh=mesh, **options)
  for name in ("projection", "relaxed"):
    best = on.state.best[name]
    error = jnp.mean(squared_error(Radial().apply(best.variables, X), (X, Y + 1)))
    assert float(best.error) == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"epochs": 1}, "state has 1 epochs behind it, and epochs=1 counts them; give more"),
    ({"constraint": ace_jax.Resilient()}, "constraint Equality, which cannot become Resilient"),
    ({"dual": "nu_pi"}, "dual adam, which cannot become nu_pi"),
    ({"seeds": (1, 2)}, r"state has the seeds \[0\], not \[1, 2\]"),
    ({"variables": {}}, "state and variables both say where to begin"),
  ],
)
def test_a_state_that_does_not_fit(options, says):
  first = fit(1)
  with pytest.raises(ConfigurationError, match=says):
    fit(**{"epochs": 2, **options}, state=first)


def test_a_state_of_another_model():
  first = fit(1)
  theta = {**first.state.primal.theta, "out": {"kernel": jnp.ones((9, 1)), "bias": jnp.ones(1)}}
  state = first.state.replace(primal=first.state.primal._replace(theta=theta))
  says = r"state was trained with another model .*'out'.*'kernel'.* \[9, 1\], not shape \[4, 1\]"
  with pytest.raises(ConfigurationError, match=says):
    fit(2, state=first._replace(state=state))


@pytest.mark.parametrize("keeps", with_slow([True, False], False))
def test_the_first_ctrl_c_returns_the_fit_and_the_second_raises(tmp_path, keeps, caplog):
  workdir = tmp_path if keeps else None

  def ask(record):
    if record["epoch"] == 2:
      os.kill(os.getpid(), signal.SIGINT)

  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    ended = fit(5, eval_every=3, workdir=workdir, callbacks=[ask])
    assert ended.interrupted and [r["epoch"] for r in ended.history] == [1, 2]
    saved = f"saved in {tmp_path}" if keeps else "nothing saved: no workdir"
    assert f"asked to end (Ctrl-C) after epoch 2; {saved}" in caplog.text
    on = {"workdir": workdir, "resume": True} if keeps else {"state": ended}
    whole = fit(5, eval_every=3)
    assert_same(fit(5, eval_every=3, **on).state, whole.state)
    assert not whole.interrupted

    def insist(record):
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
      fit(5, callbacks=[insist])
  finally:
    signal.signal(signal.SIGINT, before)
  with pytest.raises(Interrupted, match="after epoch 2") as error:
    harness.finished(ended, "saved")
  assert error.value.exit_code == 130 and harness.finished(whole, "saved") is whole


def test_the_workdir_is_locked_before_it_is_looked_at(tmp_path):
  fit(1, workdir=tmp_path)
  (tmp_path / "fit.json").write_text("{")  # would be refused as damaged
  with locks.locked(tmp_path), pytest.raises(ConfigurationError, match="another process is runn"):
    fit(2, workdir=tmp_path, resume=True)
  assert (tmp_path / "fit.json").read_text() == "{"


def test_metrics_and_measures_are_recorded_by_name():
  def absolute(prediction, batch):
    return jnp.abs(prediction - batch[1])

  def measure(predict, valid):
    return {"largest": np.max(np.asarray(predict(valid)))}

  metrics = {"mae": absolute, "mse": squared_error}
  options = {"metric": metrics, "select": "mae", "measure": measure, "test": (X, Y)}
  trained = fit(3, lr=1e-2, eval_every=2, **options)
  assert ["mse/relaxed" in record for record in trained.history] == [True, False, True]
  last = trained.history[-1]
  for name, variables in trained.state.current().items():
    prediction = Radial().apply(variables, X)
    assert last[f"mae/{name}"] == pytest.approx(last[f"valid/{name}"], rel=1e-6)
    for metric, function in metrics.items():
      mean = float(jnp.mean(function(prediction, (X, Y))))
      assert last[f"{metric}/{name}"] == pytest.approx(mean, rel=1e-5)
    assert last[f"largest/{name}"] == pytest.approx(float(jnp.max(prediction)), rel=1e-5)
  for name, best in trained.state.best.items():
    mean = float(jnp.mean(squared_error(Radial().apply(best.variables, X), (X, Y))))
    assert trained.test[f"mse/{name}"] == pytest.approx(mean, rel=1e-5)
    assert trained.test[f"mae/{name}"] == pytest.approx(trained.test[name], rel=1e-6)
  assert trained.settings.select == "mae"


def test_each_seed_is_measured_with_its_own_predictors():
  seen = []

  def measure(predict, valid):
    seen.append(np.asarray(predict(valid)))
    return {"mean": seen[-1].mean()}

  runs = fit(2, lr=1e-2, seeds=(0, 1), measure=measure)
  assert len(seen) == 2 * 2 * 2  # evaluations, seeds, predictors
  for i, run in enumerate(runs):
    for j, (name, variables) in enumerate(run.state.current().items()):
      prediction = Radial().apply(variables, X)
      np.testing.assert_allclose(seen[4 + 2 * i + j], prediction, rtol=1e-5, atol=1e-6)
      mean = pytest.approx(float(jnp.mean(prediction)), rel=1e-5)
      assert run.history[-1][f"mean/{name}"] == mean
  means = [run.history[-1]["mean/relaxed"] for run in runs]
  assert abs(means[0] - means[1]) > 1e-3


def test_an_evaluation_predicts_once_for_all_metrics():
  traced = []

  class Counted(nn.Module):
    @nn.compact
    def __call__(self, x):
      traced.append(x.shape)
      return Radial(name="net")(x)

  def evaluations(**options):
    traced.clear()
    trained = ace_jax.fit(
      Counted(), squared_error, (X[:20], Y[:20]), (X[:7], Y[:7]), epochs=1, batch_size=10,
      mesh=make_mesh(devices=jax.devices()[:1]), progress=None, eval_batch_size=7, **options
    )  # fmt: skip
    return trained, traced.count((7, 3))

  alone, times = evaluations()
  three = {"a": lambda p, b: jnp.abs(p - b[1]), "b": squared_error, "c": lambda p, b: p}
  trained, again = evaluations(metric=three, select="b")
  assert times == again > 0
  assert trained.history[0]["valid/relaxed"] == alone.history[0]["valid/relaxed"]
  assert trained.history[0]["b/relaxed"] == alone.history[0]["valid/relaxed"]


def test_checksums_of_data_are_made_where_they_are_asked_for(tmp_path, monkeypatch):
  made, original = [], resuming.fingerprint
  monkeypatch.setattr(resuming, "fingerprint", lambda data: made.append(1) or original(data))
  first = fit(1)
  assert not made
  kept = fit(1, workdir=tmp_path)
  assert len(made) == 2
  assert first.settings.data == kept.settings.data
  assert len({*kept.settings.data.values()}) == 1  # train and valid are the same here
  fit(2, state=first)
  assert len(made) == 5  # validation samples of the second alone
  kept.save(tmp_path / "a.npz")
  assert ace_jax.load(tmp_path / "a.npz", Radial()).settings.data == dict(kept.settings.data)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"metric": {"mae": squared_error, "b": squared_error}}, "metric has mae, b; say with select"),
    ({"metric": {"mae": squared_error}, "select": "mea"}, "did you mean mae"),
    ({"select": "mae"}, "select='mae' names one of several metrics"),
    ({"metric": {"gamma": squared_error}}, "metric has the name 'gamma', which records use"),
    ({"metric": {"mae": lambda p, b: jnp.mean(p)}}, r"the metric mae of 2 samples has shape \(\)"),
    ({"measure": lambda predict, valid: 3}, "measure returned a int; it must return numbers by"),
    ({"measure": lambda predict, valid: {"a": X}}, "measure returned a as no number"),
  ],
)
def test_metrics_and_measures_that_do_not_fit(options, says):
  with pytest.raises(ConfigurationError, match=says):
    fit(1, **options)


@pytest.mark.parametrize("where", ["train", "valid"])
def test_samples_that_are_not_finite_are_named_before_training(where):
  bad = np.array(X)
  bad[7, :2], bad[9, 0] = np.nan, np.inf
  splits = {"train": {"x": np.array(X)}, "valid": {"x": np.array(X)}}
  splits[where] = {"x": bad}
  says = rf"{where}\['x'\] holds 3 values that are not finite, first at sample 7"

  def loss(prediction, batch):
    return jnp.square(prediction)

  with pytest.raises(ConfigurationError, match=says):
    ace_jax.fit(Radial(), loss, **splits, inputs=lambda b: (b["x"],), epochs=1, batch_size=12)


def test_missing_labels_that_the_loss_leaves_out_are_taken():
  def loss(prediction, batch):
    return jnp.where(jnp.isnan(batch[1]), 0, jnp.square(prediction - jnp.nan_to_num(batch[1])))

  data = (X, Y.at[3].set(jnp.nan))
  mesh = make_mesh(devices=jax.devices()[:1])
  trained = ace_jax.fit(
    Radial(), loss, data, data, epochs=1, batch_size=12, progress=None, mesh=mesh
  )
  assert np.isfinite(trained.history[0]["loss"])


def masked_after(prediction, batch):
  return jnp.where(jnp.isnan(batch[1]), 0, jnp.square(prediction - batch[1]))


def fit_on(y, loss=masked_after, **options):
  options = {"epochs": 1, "batch_size": 12, "progress": None, **options}
  mesh = make_mesh(devices=jax.devices()[:1])
  data, valid = (X, y), options.pop("valid", (X, Y))
  return ace_jax.fit(Radial(), loss, data, valid, mesh=mesh, **options)


@pytest.mark.parametrize("rows", [[3], [3, 4, 9]])
def test_a_loss_that_is_masked_after_the_arithmetic_has_no_gradient(rows):
  says = rf"train\[1\] holds {len(rows)} values that are not finite, first at sample 3, which the"
  y = Y.at[np.array(rows)].set(jnp.nan)
  with pytest.raises(ConfigurationError, match=says) as error:
    fit_on(y)
  assert "before the arithmetic" in str(error.value) and "\n" not in str(error.value)
  assert np.isfinite(fit_on(Y, valid=(X, y)).history[0]["valid/relaxed"])  # without a gradient


def test_every_sample_that_is_not_finite_is_tried():
  def loss(prediction, batch):
    return jnp.square(prediction - jnp.where(jnp.isnan(batch[1]), prediction, batch[1]))

  y = jnp.tile(Y, (1, 2)).at[0, 0].set(jnp.nan)
  assert np.isfinite(fit_on(y, loss).history[0]["loss"])
  says = r"train\[1\] holds 2 values .*does not leave out those of sample 5; mend or leave out"
  with pytest.raises(ConfigurationError, match=says):
    fit_on(y.at[5, 1].set(jnp.inf), loss)


@pytest.mark.parametrize("where", ["train", "valid"])
def test_a_failing_run_names_data_that_are_not_finite(where, monkeypatch, caplog):
  monkeypatch.setattr(finite, "_MOST_TRIED", 2)

  def loss(prediction, batch):  # NaN are left out, infinities are not
    return jnp.square(prediction - jnp.where(jnp.isnan(batch[1]), prediction, batch[1]))

  y = Y.at[np.array([2, 3])].set(jnp.nan).at[5].set(jnp.inf)
  data = {"y": y} if where == "train" else {"y": Y, "valid": (X, y)}
  says = (
    rf"is not finite.*; {where}\[1\] holds 3 values that are not finite, first at sample 2: lea"
  )
  with pytest.raises(NonFiniteError, match=says) as error:
    fit_on(loss=loss, **data)
  assert "\n" not in str(error.value)
  with pytest.raises(NonFiniteError, match=r"; lower the step sizes or clip") as error:
    fit_on(Y, lr=1e38, epochs=3)
  assert "holds" not in str(error.value)


def test_a_constraint_without_time_to_act_is_warned_of(caplog):
  fit(3)
  assert "the constraint had no time to act: gamma of layer misses it by" in caplog.text
  assert "train for more epochs, or with a larger step size of the multipliers" in caplog.text


def records(gammas, multipliers, norm=0.1):
  return [
    {"gamma/a": g, "violation/a": g, "multiplier/a": m, "gradient_norm/gamma": norm}
    for g, m in zip(gammas, multipliers, strict=True)
  ]


def test_what_is_said_of_gamma_and_multipliers():
  still = [*np.linspace(1, 0, 20), *np.zeros(20)]
  assert settling.unsettled(records(still, np.ones(40)), ace_jax.Equality()) == ""
  stuck = records(np.full(40, 0.5), np.full(40, 0.01), 0.2)
  said = settling.unsettled(stuck, ace_jax.Equality())
  assert "gamma of a misses it by 1 of" in said and "multipliers (0.01) are far below" in said
  # Through 0 at the end, with a speed that it has not lost.
  moving = records(np.linspace(1, -0.05, 40), np.ones(40))
  assert "gamma of a still moved by 0.11" in settling.unsettled(moving, ace_jax.Equality())
  within = records(np.full(40, 0.3), np.zeros(40))
  for record in within:
    record["violation/a"] = -0.1
  assert settling.unsettled(within, ace_jax.Inequality(epsilon=0.4)) == ""
  assert settling.unsettled([{"epoch": 1}], ace_jax.Unconstrained()) == ""


def test_settings_are_kept_beside_the_checkpoints(tmp_path):
  fit(1, lr=3e-3, workdir=tmp_path)
  (run,) = json.loads((tmp_path / "fit.json").read_text())["runs"]
  assert run["lr"] == 3e-3 and len(run["data"]["train"]) == 64
