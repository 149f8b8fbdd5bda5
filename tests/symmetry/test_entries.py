"""Energy and forces in one model: errors by entry, training, and the report."""

import dataclasses
import importlib.util
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import symmetry
from ace_jax.constraints import on_error, rivals
from ace_jax.errors import ConfigurationError
from ace_jax.relaxations import MLP
from ace_jax.symmetry import actions, entries, groups, report
from ace_jax.symmetry.data import Symmetry, measure

BOTH = {"energy": actions.invariant, "forces": actions.vector}
SYMMETRY = Symmetry.by_entry(
  groups.so3(), (actions.vector, BOTH), BOTH, units={"energy": 2.0, "forces": 0.5}
)
PUSH = 0.3


class Energy(nn.Module):
  """Of the distances of all pairs; its branch sees the positions."""

  @nn.compact
  def __call__(self, x):
    squares = jnp.sum(jnp.square(x[:, :, None] - x[:, None]), axis=-1, keepdims=True)
    h = nn.tanh(nn.Dense(4)(squares)).sum(axis=2)
    h = ace_jax.Homotopic(MLP, name="layer")(h, x)
    return nn.Dense(1)(nn.tanh(h)).sum(axis=(1, 2))


class Potential(nn.Module):
  """Energy, and forces = -grad energy; `push` is a constant force along z."""

  push: float = 0.0

  @nn.compact
  def __call__(self, x):
    energy, back = nn.vjp(lambda model, x: model(x), Energy(name="potential"), x)
    _, slope = back(jnp.ones_like(energy))
    return {"energy": energy, "forces": -slope + jnp.array([0, 0, self.push])}


def squared(prediction, batch):
  errors = jax.tree.map(lambda a, b: jnp.square(a - b), prediction, batch[1])
  return errors["energy"] + jnp.mean(errors["forces"], axis=(1, 2))


def springs(count, key=0):
  """Three particles on springs to their common origin."""
  x = jax.random.normal(jax.random.key(key), (count, 3, 3))
  return x, {"energy": jnp.sum(jnp.square(x), axis=(1, 2)) / 2, "forces": -x}


def strict_potential(push, x):
  """Returns f_eq of a pushed potential in the precision of x, from a batch."""
  model = Potential(push)
  variables = ace_jax.strict(model.init)(jax.random.key(1), x)
  variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), variables)
  return lambda batch: model.apply(variables, batch[0])


def test_gaps_name_the_entry_that_breaks_the_symmetry():
  with jax.enable_x64(True):
    batch = jax.tree.map(lambda a: a.astype(float), springs(5))
    elements = groups.so3().sample(jax.random.key(2), 5)
    exact, pushed = (strict_potential(push, batch[0]) for push in (0.0, PUSH))
    gaps = SYMMETRY.gaps_at(elements, exact, exact(batch), batch)
    assert {name: gap.shape for name, gap in gaps.items()} == {"energy": (5,), "forces": (5,)}
    assert max(float(jnp.max(gap)) for gap in gaps.values()) < 1e-20  # errors below 1e-10
    broken = SYMMETRY.gaps_at(elements, pushed, pushed(batch), batch)
    assert jnp.max(broken["energy"]) < 1e-20
    # f(R x) - R f(x) = p - R p, of three coordinates: |p|^2 2 (1 - R_zz) / 3.
    expected = PUSH**2 * 2 * (1 - elements.matrix[:, 2, 2]) / 3
    np.testing.assert_allclose(broken["forces"], expected, rtol=1e-9)
    joined = SYMMETRY.joined(broken)
    np.testing.assert_allclose(joined, expected / 0.5**2 / 2, rtol=1e-9)  # of two entries


def test_lie_derivatives_and_statistics_by_entry():
  with jax.enable_x64(True):
    batch = jax.tree.map(lambda a: a.astype(float), springs(4))
    exact, pushed = (strict_potential(push, batch[0]) for push in (0.0, PUSH))
    act = SYMMETRY.act_batch
    lie = symmetry.lie_derivatives(pushed, batch, groups.so3().generators, act, BOTH)
    # The norm of p turned about x, of three particles; about z it stays.
    np.testing.assert_allclose(lie["rotation_x"]["forces"], np.full(4, PUSH * 3**0.5), rtol=1e-9)
    assert jnp.max(lie["rotation_z"]["forces"]) < 1e-9
    assert jnp.max(lie["rotation_x"]["energy"]) < 1e-9
    drawn = groups.so3().sample(jax.random.key(3), 2)
    statistics = symmetry.equivariance_statistics(pushed, batch, drawn, act, BOTH)
    assert statistics["energy"].relative < 1e-9
    joined = symmetry.equivariance_error(pushed, batch, drawn, act, BOTH)
    assert joined == pytest.approx(float(statistics["forces"].relative) / 2**0.5)
    assert symmetry.equivariance_error(exact, batch, drawn, act, BOTH) < 1e-9


def test_the_errors_of_entries_are_joined_as_relative_ones():
  learned = ace_jax.Task(lambda v, batch, key: (v(batch), {}), squared)
  batch = springs(6)
  pushed = strict_potential(PUSH, batch[0])
  gap, error, relative = measure(learned, SYMMETRY, pushed, batch, jax.random.key(0), batch_size=4)
  size = jnp.mean(jnp.square(pushed(batch)["forces"]))
  assert set(gap) == set(error) == {"energy", "forces"}
  assert relative == pytest.approx(float(jnp.sqrt(gap["forces"] / size / 2)), rel=1e-4)
  assert entries.combined(jnp.float32(3)) == 3
  assert entries.combined({"a": jnp.float32(3), "b": jnp.float32(4)}) == pytest.approx(12.5**0.5)


def test_check_names_the_entry():
  x, y = springs(4)
  variables = Potential(PUSH).init(jax.random.key(0), x)
  checked = ace_jax.check(Potential(PUSH), variables, (x, y), SYMMETRY, loss=squared)
  (problem,) = checked.problems
  assert problem.startswith("f_eq does not keep the group: relative equivariance error")
  assert ", most of it in forces (" in problem
  assert ace_jax.check(Potential(), variables, (x, y), SYMMETRY, loss=squared).problems == ()


def test_what_is_ambiguous_is_refused_in_one_line():
  x, _ = batch = springs(3)
  predict = strict_potential(0.0, x)
  key = jax.random.key(0)

  def refused(match, act, batch_act=(actions.vector, BOTH)):
    with pytest.raises(ConfigurationError, match=match) as caught:
      Symmetry.by_entry(groups.so3(), batch_act, act).gaps(predict, predict(batch), batch, key)
    assert "\n" not in str(caught.value)

  refused("it says nothing of forces", {"energy": actions.invariant})
  refused("there is no entry stress", {**BOTH, "stress": actions.vector})
  refused("it says nothing of energy", BOTH, (actions.vector, {"forces": actions.vector}))
  refused("acts on a last axis of 3", dict.fromkeys(BOTH, actions.vector))
  with pytest.raises(ConfigurationError, match=r"Symmetry\.act_prediction is a dict.*by_entry"):
    Symmetry(groups.so3(), SYMMETRY.act_batch, BOTH)  # pyright: ignore[reportArgumentType]
  keeps = Symmetry(groups.so3(), SYMMETRY.act_batch, lambda g, f, batch: {"energy": f["energy"]})
  with pytest.raises(ConfigurationError, match=r"the entry forces of .* returned no array"):
    keeps.gaps(predict, predict(batch), batch, key)
  with pytest.raises(ConfigurationError, match=r"the entry 1 of .* shape \[\]; its leading axis"):
    SYMMETRY.gaps(predict, [x, jnp.float32(0)], batch, key)
  unitless = dataclasses.replace(SYMMETRY, units=None)
  gaps = unitless.gaps(predict, predict(batch), batch, key)
  with pytest.raises(ConfigurationError, match=r"energy, forces are in different units.*none"):
    unitless.joined(gaps)


TRAIN, VALID = springs(40), springs(32, key=1)


@pytest.mark.slow
def test_a_functional_constraint_trains_energy_and_forces():
  constraint = on_error.Functional(1e-3, symmetry=SYMMETRY)
  fit = ace_jax.fit(
    Potential(PUSH), squared, TRAIN, VALID, VALID, constraint=constraint, epochs=2, batch_size=8,
    metric=lambda p, batch: jnp.abs(p["energy"] - batch[1]["energy"]), progress=None, lr=1e-2,
  )  # fmt: skip
  assert fit.history[1]["loss"] < fit.history[0]["loss"]
  assert fit.multipliers["equivariance"] > 0
  predict = jax.jit(lambda batch: Potential(PUSH).apply(fit.relaxed, batch[0]))
  error = jnp.mean(jnp.abs(predict(VALID)["energy"] - VALID[1]["energy"]))
  assert fit.test["relaxed"] == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("rule", ["gap", "gradnorm", "augment", "remul"])
def test_rival_rules_take_entries(rule):
  made = {
    "gap": rivals.GapPenalty(2.0, symmetry=SYMMETRY),
    "gradnorm": rivals.GradNorm(symmetry=SYMMETRY, objectives=on_error.loss_and_gap),
    "augment": rivals.Augment(symmetry=SYMMETRY),
    "remul": rivals.Remul(symmetry=SYMMETRY),
  }[rule]
  learned = ace_jax.Task(
    lambda v, batch, key: ({"energy": batch[0].sum((1, 2)), "forces": v["params"] * batch[0]}, {}),
    squared,
  )
  primal = ace_jax.Primal(jnp.float32(0.5), {}, {})
  terms = made.terms(learned, primal, {}, TRAIN, jax.random.key(0), made.init_state({}))
  total = float(terms.loss + terms.cost)
  if rule in ("gap", "gradnorm"):
    draw, _ = jax.random.split(jax.random.key(0))
    turned = SYMMETRY.group.sample(draw, 40).matrix
    moved = jnp.einsum("nij,npj->n", turned, TRAIN[0])  # the energy of this model is no invariant
    gap = float(jnp.mean(jnp.square(moved - TRAIN[0].sum((1, 2))))) / 2.0**2 / 2
    expected = float(terms.loss) + (2 if rule == "gap" else 1) * gap
    assert total == pytest.approx(expected, rel=1e-4)
  else:
    assert np.isfinite(total)


@pytest.fixture(scope="module")
def trained():
  return ace_jax.fit(Potential(PUSH), squared, TRAIN, VALID, epochs=1, batch_size=40, progress=None)


@pytest.mark.slow
def test_a_report_of_a_fit_names_the_entry(trained, tmp_path, capsys):
  reported = trained.report(VALID, SYMMETRY, path=tmp_path / "report.png")
  printed = capsys.readouterr().out
  assert printed == f"{reported.text}\n"
  assert (tmp_path / "report.png").stat().st_size > 10_000
  assert len(reported.figure.axes) == 4
  assert {generator.name for generator in reported.generators} == {f"rotation_{a}" for a in "xyz"}
  assert [layer.name for layer in reported.layers] == ["potential/layer"]
  header = [part.strip() for part in printed.splitlines()[0].split("  ") if part]
  assert header[:4] == ["generator", "Lie error", "of energy", "of forces"]
  worst = max((error, entry) for g in reported.generators for entry, error in g.entries.items())
  assert f"entries {worst[1]} is furthest from equivariant: relative error" in reported.verdict
  for generator in reported.generators:
    squares = np.square(list(generator.entries.values()))
    assert generator.lie_error == pytest.approx(np.sqrt(squares.mean()), rel=1e-5)


@pytest.mark.slow
def test_without_matplotlib_the_text_is_printed_and_the_extra_named(trained, capsys, monkeypatch):
  monkeypatch.delattr(ace_jax, "plots", raising=False)
  monkeypatch.delitem(sys.modules, "ace_jax.plots", raising=False)
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name)
  )
  projection = trained._replace(relaxed=trained.projection)
  reported = projection.report(VALID, SYMMETRY)
  said = capsys.readouterr()
  # The projection moves by the push alone: p turned, of three particles, over the forces' norm.
  forces = Potential(PUSH).apply(trained.projection, VALID[0])["forces"]
  size = np.mean(np.linalg.norm(np.asarray(forces).reshape(32, -1), axis=1))
  named = {generator.name: generator.entries for generator in reported.generators}
  assert named["rotation_x"]["forces"] == pytest.approx(PUSH * 3**0.5 / size, rel=1e-4)
  assert named["rotation_x"]["energy"] < 1e-5
  assert named["rotation_z"]["forces"] < 1e-5
  assert "entries forces is furthest from equivariant" in said.out
  assert said.err == "figures need Matplotlib: pip install 'ace-equivariance[plots]'.\n"
  assert reported.figure is None


def test_a_report_without_generators_says_so():
  with pytest.raises(ConfigurationError, match="there is no generator"):
    report.verdict([])
