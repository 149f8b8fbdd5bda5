"""Verdicts on what is no rotation: discrete generators, steps, and groups that are not compact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax.errors import ConfigurationError
from ace_jax.symmetry import actions, groups, report, verdicts
from ace_jax.symmetry.data import Symmetry
from ace_jax.symmetry.verdicts import Verdict

LEARNED = verdicts.Training(error=0.1, baseline=1.0, improvement=0.1)
X = jax.random.normal(jax.random.key(0), (400, 3))
NOISE = 0.1 * jax.random.normal(jax.random.key(1), X.shape)


def reports(predict, batch, symmetry):
  """Returns the reports by generator, and the words, of a predictor with squared loss."""

  def loss(batch):
    return jnp.mean(jnp.square(predict(batch) - batch[1]).reshape(len(batch[1]), -1), axis=1)

  measured = jax.jit(lambda batch: report.measure_group(predict, loss, batch, symmetry))(batch)
  made = report.generator_reports([measured], [LEARNED], symmetry.group.lines)
  return {generator.name: generator for generator in made}, report.verdict(made)


def of_vectors(group, act=actions.vector):
  return Symmetry.by_entry(group, (act, act), act)


def crooked(batch):
  """A model of y = x that errs as much as the noise, and by no symmetry of its own."""
  return batch[0] + 0.02 * jnp.sin(
    3 * batch[0] @ jnp.array([[1.0, 2, 0], [0, 1, 1], [2, 0, 1]]) + 1
  )


def pushed(batch):
  return batch[0] + jnp.array([0.0, 0, 0.5])


PUSHED = (X, X + NOISE + jnp.array([0.0, 0, 0.5]))


@pytest.mark.parametrize(
  ("symmetry", "name"),
  [
    (of_vectors(groups.o3()), "inversion"),
    (of_vectors(groups.cyclic_rotations(4, "x")), "rotation_x_by_90"),
    (of_vectors(groups.time_reversal(), actions.odd), "time_reversal"),
    (of_vectors(groups.permutations(3), actions.permuted(0)), "cycle"),
  ],
)
def test_discrete_generators_are_judged(symmetry, name):
  generators, said = reports(crooked, (X, X + NOISE), symmetry)
  assert generators[name].judgement.verdict == Verdict.KEPT
  assert "Not seen to be broken: " in said
  generators, said = reports(pushed, PUSHED, symmetry)
  assert generators[name].judgement.verdict == Verdict.BROKEN
  assert said.startswith("The data break ")
  generators, _ = reports(lambda batch: batch[0], (X, X + NOISE), symmetry)
  assert generators[name].judgement.reasons == (verdicts.BY_CONSTRUCTION,)


def test_a_discrete_error_in_closed_form():
  # Of f(x) = x + p: norm(p - (-p)), and what the fit of pushed data loses by it, |2 p|^2 / 3.
  measured = reports(pushed, PUSHED, of_vectors(groups.time_reversal(), actions.odd))[0]
  size = float(jnp.mean(jnp.linalg.norm(pushed(PUSHED), axis=1)))
  reported = measured["time_reversal"]
  assert reported.lie_error == pytest.approx(2 * 0.5 / size, rel=1e-5)
  noise = float(jnp.mean(jnp.square(NOISE)))
  residual = jnp.square(-X + jnp.array([0.0, 0, 0.5]) + X + NOISE + jnp.array([0.0, 0, 0.5]))
  assert reported.loss == pytest.approx(float(jnp.mean(residual)) / noise - 1, rel=1e-4)


def test_steps_of_a_cyclic_group_are_whole():
  symmetry = Symmetry.by_entry(
    groups.cyclic_shifts(1, 3),
    (lambda g, x: jnp.roll(x, g[1]),) * 2,
    lambda g, x: jnp.roll(x, g[1]),
  )
  generators, _ = reports(pushed, PUSHED, symmetry)
  assert generators["shift_x"].broken
  assert groups.cyclic_shifts(1, 3).moves["shift_x"].times == (1, 2)
  assert len(groups.cyclic_shifts(40, 40).moves["shift_y"].times) <= 20


def test_swaps_and_cycles_are_permutations():
  discrete = groups.permutations(4).discrete
  np.testing.assert_array_equal(discrete["swap"], [1, 0, 2, 3])
  np.testing.assert_array_equal(discrete["cycle"], [3, 0, 1, 2])
  assert set(groups.permutations(2).discrete) == {"swap"}
  assert groups.permutations(1).discrete == {}


# Galilean boosts: where particles are a time 2 later is p + 2 v, and a boost keeps that.
TIME = 2.0
MOVING = {"positions": X, "velocities": jnp.roll(X, 1, axis=0)}
LATER = MOVING["positions"] + TIME * MOVING["velocities"] + NOISE
BOOSTS = Symmetry.by_entry(
  groups.boosts(3.0),
  ({"positions": actions.invariant, "velocities": actions.boosted()}, actions.boosted(TIME)),
  actions.boosted(TIME),
)


def drift(batch, misfit=0.0):
  """The relation, and a misfit where velocities are larger than the data's."""
  velocities = batch[0]["velocities"]
  beyond = jnp.sign(velocities) * jnp.maximum(jnp.abs(velocities) - 3, 0)
  return batch[0]["positions"] + TIME * velocities - misfit * beyond


def test_boosts_that_the_relation_keeps_are_not_called_broken():
  def learned(batch):  # extrapolates badly, as networks do
    return drift(batch, misfit=1.0)

  generators, said = reports(learned, (MOVING, LATER), BOOSTS)
  reported = generators["boost_x"]
  assert reported.score > verdicts.THRESHOLD
  assert reported.loss > verdicts.SMALLEST_EFFECT
  assert {g.judgement for g in generators.values()} == {
    verdicts.Judgement(Verdict.CANNOT_TELL, (verdicts.OUTSIDE,))
  }
  assert "The data break" not in said
  assert "the relation of targets to inputs was not tested" in said
  assert "No distribution of data is invariant under boost_" in said


def test_boosts_are_kept_by_a_relation_that_holds_beyond_the_data():
  def learned(batch):
    return drift(batch) + 0.01 * jnp.sin(batch[0]["velocities"])

  generators, said = reports(learned, (MOVING, LATER), BOOSTS)
  assert {g.judgement.verdict for g in generators.values()} == {Verdict.KEPT}
  assert said.startswith("Not seen to be broken, in the relation of targets to inputs: boost_")
  generators, said = reports(drift, (MOVING, LATER), BOOSTS)
  assert {g.judgement.reasons for g in generators.values()} == {(verdicts.BY_CONSTRUCTION,)}
  assert "No distribution" not in said


def test_scalings_act_and_are_not_compact():
  scalings = groups.scalings(2.0)
  drawn = scalings.sample(jax.random.key(0), 200)
  assert 0.5 <= drawn.min() < 0.55
  assert 1.8 < drawn.max() <= 2.0
  np.testing.assert_allclose(actions.scaled(2.0)(jnp.float32(3), X), 9 * X, rtol=1e-6)
  assert scalings.lines == ("scaling",)
  assert groups.se3().lines == ("translation_x", "translation_y", "translation_z")
  assert groups.so3().lines == ()
  cubic = of_vectors(scalings, actions.scaled())
  reported = reports(lambda batch: batch[0] ** 3, (X, X**3 + NOISE), cubic)[0]["scaling"]
  assert reported.judgement.reasons == (verdicts.OUTSIDE,)


def test_a_group_says_where_data_are_moved():
  curve = {"rotation": lambda t: groups.Motion(groups.rotation("z", t), jnp.zeros(3))}
  for group, match in (
    (groups.Group("mine", groups.so3().sample, curve), "mine does not say where .* along rotation"),
    (groups.Group("none", groups.so3().sample), "none does not say what its generators are"),
  ):
    with pytest.raises(ConfigurationError, match=match):
      report.measure_group(pushed, lambda batch: batch[1], PUSHED, of_vectors(group))
  moves = {"rotation": groups.circle()}
  told = groups.Group("mine", groups.so3().sample, curve, moves=moves)
  generators, _ = reports(pushed, PUSHED, of_vectors(told))
  assert not generators["rotation"].broken
