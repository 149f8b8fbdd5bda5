import gzip
import json

import numpy as np
import pytest

from ace_jax.symmetry import groups
from data.errors import DataError
from experiments.harness import artifacts
from experiments.mocap import run as mocap_run
from experiments.nbody import run as nbody_run


def records(count, evaluated=()):
  history = []
  for epoch in range(1, count + 1):
    record = {"epoch": epoch, "step": 30 * epoch, "time": 1.7e9 + epoch, "loss": 1 / 3 / epoch}
    record |= {"slack/layers_0/features": 0.1 * epoch, "slack/layers_0/positions": 0.2}
    history.append(record | ({"valid/projection": 0.5} if epoch in evaluated else {}))
  return history


def test_records_of_every_fifth_epoch_the_evaluations_and_the_last(tmp_path):
  path = tmp_path / artifacts.RECORDS
  artifacts.write_records(path, records(14, evaluated=(3, 6)))
  kept = artifacts.read_records(tmp_path)
  assert [record["epoch"] for record in kept] == [1, 3, 6, 11, 14]
  assert [record["step"] for record in kept] == [30, 90, 180, 330, 420]
  assert kept[0]["loss"] == 0.3333333
  assert kept[2]["slack/layers_0/features"] == 0.6
  assert "time" not in kept[0]
  before = path.read_bytes()
  artifacts.write_records(path, records(14, evaluated=(3, 6)))
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  ("damage", "says"),
  [
    (lambda data: data[:-9], "damaged"),
    (lambda data: b"x" + data, "no gzip file"),
    (lambda data: gzip.compress(b"[1]\n"), "no records"),
    (lambda data: gzip.compress(b'{"loss": 1}\n'), "no records"),
    (lambda data: gzip.compress(b'{"loss": \n'), "damaged"),
  ],
)
def test_damaged_records_are_named(tmp_path, damage, says):
  path = tmp_path / artifacts.RECORDS
  artifacts.write_records(path, records(3))
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(DataError, match=f"{artifacts.RECORDS}: .*{says}"):
    artifacts.read_records(tmp_path)


def test_all_records_are_read_where_they_are(tmp_path):
  artifacts.write_records(tmp_path / artifacts.RECORDS, records(7))
  text = "".join(json.dumps(record) + "\n" for record in records(7))
  (tmp_path / "metrics.jsonl").write_text(text)
  assert len(artifacts.read_records(tmp_path)) == 7


def test_samples_are_turned_about_the_vertical_and_about_random_axes():
  random = np.random.default_rng(0)
  shapes = {"positions": (6, 5, 3), "velocities": (6, 5, 3), "targets": (6, 5, 3)}
  test = {name: random.normal(size=size).astype(np.float32) for name, size in shapes.items()}
  test["charges"] = np.ones((6, 5), np.float32)
  turned = artifacts.turned(nbody_run.ROTATIONS, test)
  assert set(turned) == {"vertical", "random_axes"}
  for name, moved in turned.items():
    same = np.allclose(moved["positions"][..., 2], test["positions"][..., 2], atol=1e-5)
    assert same == (name == "vertical")
    lengths = [np.linalg.norm(batch["velocities"], axis=-1) for batch in (moved, test)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
  # Every sample by a rotation of its own.
  angles = [
    np.arctan2(x[:, 0, 1], x[:, 0, 0]) for x in (turned["vertical"]["positions"], test["positions"])
  ]
  turns = np.mod(np.subtract(*angles), 2 * np.pi)
  assert len({*np.round(turns, 3)}) == 6
  again = artifacts.turned(nbody_run.ROTATIONS, test)
  np.testing.assert_array_equal(again["vertical"]["targets"], turned["vertical"]["targets"])


def test_heights_follow_the_turned_poses_where_asked():
  random = np.random.default_rng(0)
  shapes = {"positions": (3, 4, 3), "velocities": (3, 4, 3), "targets": (3, 4, 5, 3)}
  test = {name: random.normal(5, 1, size).astype(np.float32) for name, size in shapes.items()}
  test["heights"] = test["positions"][..., 1:2] / 8
  turned = artifacts.turned(mocap_run.rotations(8.0), test)
  vertical, held, recomputed = turned.values()
  np.testing.assert_allclose(vertical["positions"][..., 1], test["positions"][..., 1], rtol=1e-5)
  np.testing.assert_array_equal(held["heights"], test["heights"])
  np.testing.assert_array_equal(held["targets"], recomputed["targets"])
  np.testing.assert_allclose(recomputed["heights"], held["positions"][..., 1:2] / 8, rtol=1e-6)
  assert abs(recomputed["heights"] - held["heights"]).max() > 0.01
  assert groups.so2("y").name == mocap_run.rotations(8.0)["vertical"].group.name
