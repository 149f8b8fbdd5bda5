"""The models in results/weights: their cards' numbers, and what is refused."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

import ace_jax
from ace_jax import task
from ace_jax.errors import CheckpointError
from data.errors import DataError, RequestError
from experiments import weights
from experiments.weights import cards, store
from tests.experiments.test_settings import RESULTS

NAMES = cards.names()
RUN = RESULTS / "campaign" / "nbody_equality_seed1"


@pytest.fixture
def copied(tmp_path):
  """The folder of the smaller model alone."""
  for path in cards.FOLDER.glob("nbody_f_eq*"):
    shutil.copy(path, tmp_path)
  return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_the_kept_samples_give_the_number_of_the_card(name):
  kept = weights.load(name)
  assert task.size(kept.problem.test) == store.KEPT
  assert (cards.FOLDER / f"{name}.npz").stat().st_size <= store.LARGEST
  assert list(kept.variables) == list(kept.card.predictors)
  for predictor, variables in kept.variables.items():
    said = kept.card.predictors[predictor]["samples"]
    assert store.error(kept.problem, variables) == pytest.approx(said, rel=store.TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_the_number_of_the_table(name):
  card = cards.read(name)
  result = json.loads((cards.ROOT / card.run / "result.json").read_text())
  for predictor, errors in card.predictors.items():
    assert errors["test"] == result["predictors"][predictor]["test_mse"]
  assert card.command.startswith(f"python -m experiments.{card.experiment} ")
  assert "licence" in card.data or "MIT" in card.data or "mocap.cs.cmu.edu" in card.data


def test_f_eq_has_the_parameters_of_the_strict_model_alone():
  alone, both = weights.load("nbody_f_eq"), weights.load("nbody_equality")
  projection = alone.variables["projection"]
  assert list(projection) == ["params"]
  jax.tree.map(np.testing.assert_array_equal, projection, both.variables["projection"])
  strict = jax.eval_shape(
    ace_jax.strict(alone.model.init), jax.random.key(0), *alone.problem.inputs(alone.problem.test)
  )
  shapes = jax.tree.map(np.shape, strict["params"])
  assert jax.tree.map(np.shape, projection["params"]) == shapes
  assert set(both.variables["relaxed"]) == {"params", "gamma"}


def test_a_file_that_is_not_the_card_s_is_refused(copied):
  model = store.load("nbody_f_eq", copied).model
  path = copied / "nbody_f_eq.npz"
  sum_of_card = cards.read("nbody_f_eq").sha256
  assert ace_jax.load(path, model, sha256=sum_of_card).gamma == {}
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with pytest.raises(CheckpointError, match=f"its SHA-256 is not {sum_of_card}"):
    ace_jax.load(path, model, sha256=sum_of_card)
  with pytest.raises(CheckpointError, match="its SHA-256 is not"):
    store.load("nbody_f_eq", copied)
  (copied / "nbody_f_eq_samples.npz").unlink()
  with pytest.raises(CheckpointError, match=r"_samples\.npz: cannot be read"):
    store.load("nbody_f_eq", copied)


def test_cards_that_are_none(copied):
  with pytest.raises(DataError, match=r"no weights 'nothing' in .*; known: nbody_f_eq"):
    cards.read("nothing", copied)
  path = copied / "nbody_f_eq.json"
  content = json.loads(path.read_text())
  for changed, key in [({"epochs": "many"}, "epochs"), ({"more": 1}, "more")]:
    path.write_text(json.dumps({**content, **changed}))
    with pytest.raises(DataError, match=rf"damaged \({key} is missing"):
      cards.read("nbody_f_eq", copied)


def test_what_cannot_be_kept(tmp_path):
  with pytest.raises(RequestError, match=r"cannot be called '\.\./a'"):
    store.add(RUN, "../a", folder=tmp_path)
  with pytest.raises(RequestError, match="no predictor 'strict'; it has projection, relaxed"):
    store.add(RUN, "a", ("strict",), tmp_path)
  with pytest.raises(DataError, match=r"none/config\.json"):
    store.add(tmp_path / "none", "a", folder=tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_the_page_of_the_site_has_every_card():
  page = cards.page()
  for name in NAMES:
    assert f"## {name}\n" in page
    assert cards.read(name).sha256 in page
    assert name in cards.text()


@pytest.mark.slow
@pytest.mark.skipif("ACE_DATA_DIR" not in os.environ, reason="no ACE_DATA_DIR")
@pytest.mark.parametrize("name", NAMES)
def test_all_test_samples_give_the_number_of_the_table(name):
  kept = weights.load(name)
  problem = store.on_all_samples(kept.card)
  assert problem.summary["sizes"] == kept.card.summary["sizes"]
  for predictor, variables in kept.variables.items():
    said = kept.card.predictors[predictor]["test"]
    assert store.error(problem, variables) == pytest.approx(said, rel=store.TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif("ACE_DATA_DIR" not in os.environ, reason="no ACE_DATA_DIR")
def test_adding_a_run_again_gives_the_same_weights(tmp_path):
  again = store.add(RUN, "nbody_f_eq", ("projection",), tmp_path)
  card = cards.read("nbody_f_eq")
  assert again.samples_sha256 == card.samples_sha256
  assert again.settings == card.settings
  kept, there = store.load("nbody_f_eq", tmp_path), weights.load("nbody_f_eq")
  jax.tree.map(np.testing.assert_array_equal, kept.variables, there.variables)
