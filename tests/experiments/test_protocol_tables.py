import json

import pytest

from experiments.table import __main__ as table
from experiments.table import by_protocol, modelnet40, qm9


def result(experiment, seed, errors, *, differs=(), metric="error rate", **settings):
  predictors = {
    name: {"test_mse": test, "valid_mse": test, "final_equivariance_error": 1e-7, **rest}
    for name, (test, rest) in errors.items()
  }
  given = {"hidden_features": 8, "layers": 1, "batch_size": 10, "preset": "quick", "seed": seed}
  given |= {"constraint": "equality", "dual_lr": 1e-3, "augmented": 0.0}
  return {
    "experiment": experiment,
    "model": {"qm9": "schnet", "modelnet40": "vn_dgcnn"}[experiment],
    "constraint": settings.get("constraint", "equality"),
    "metric": metric,
    "data": {"made_up": True},
    "curve": [],
    "differs_from_published": {name: [1, 2] for name in differs},
    "settings": given | settings,
    "predictors": predictors,
    "train_samples": 100,
    "epochs": 5,
    "seconds": 3.0,
    "seeds": [seed],
  }


def molecules(seed, test, target, **settings):
  unit = {"alpha": "Bohr^3", "U0": "eV"}[target]
  errors = {"projection": (test, {})}
  return result(
    "qm9", seed, errors, metric=f"MAE ({unit})", target=target, split="published", **settings
  )


def test_qm9_has_a_column_a_target_and_a_row_a_configuration():
  results = [
    molecules(1, 0.25, "alpha", differs=("epochs", "target")),
    molecules(2, 0.75, "alpha", differs=("epochs",)),
    molecules(1, 0.5, "U0", atom_references="isolated", differs=("atom_references",)),
    molecules(1, 0.125, "U0", atom_references="none"),
    molecules(1, 0.375, "alpha", constraint="strict"),
    result("modelnet40", 1, {"projection": (0.5, {})}),
  ]
  header, rows = qm9.table(results)
  assert header[5:] == ["U0 (eV)", "U0 - atoms (eV)", "alpha (Bohr^3)", "not as published"]
  by_kind = {row[0]: row for row in rows}
  assert len(rows) == 2
  equality = by_kind["schnet, equality"]
  assert equality[1:5] == ["projection", "100", "5", "published"]
  assert equality[5:] == ["0.125 (1)", "0.5 (1)", "0.5 +- 0.3536 (2)", "epochs"]
  assert by_kind["schnet, strict"][5:] == ["", "", "0.375 (1)", "none"]


def shapes(seed, upright, turned, **settings):
  errors = {
    "projection": (upright, {"test_mse_turned": {"vertical": upright, "random_axes": upright}}),
    "relaxed": (upright / 2, {"test_mse_turned": {"vertical": upright, "random_axes": turned}}),
  }
  return result("modelnet40", seed, errors, differs=("points", "rotations"), **settings)


def test_modelnet40_has_the_accuracies_of_upright_and_turned_shapes():
  results = [
    shapes(1, 0.25, 0.75, rotations="none"),
    shapes(2, 0.75, 0.75, rotations="none"),
    shapes(1, 0.5, 0.5, rotations="none", dropout=0.875),
  ]
  rows = modelnet40.rows(results)
  assert all(len(row) == len(modelnet40.HEADER) for row in rows)
  by_row = {(row[0], row[3]): row for row in rows}
  plain = by_row["vn_dgcnn, equality", "relaxed"]
  assert plain[1:6] == ["made up", "none", "relaxed", "100", "5"]
  assert plain[6:] == ["75.0 +- 17.7 (2)", "50.0 +- 35.4 (2)", "25.0 +- 0.0 (2)", "points"]
  assert by_row["vn_dgcnn, equality, dropout 0.875", "projection"][6:8] == ["50.0 (1)"] * 2


@pytest.mark.parametrize("name", ["qm9", "modelnet40"])
def test_both_are_read_from_folders(tmp_path, name):
  made = {
    "qm9": molecules(1, 0.25, "alpha"),
    "modelnet40": shapes(1, 0.25, 0.75, rotations="none"),
  }[name]
  (tmp_path / "result.json").write_text(json.dumps(made))
  results = table.read([str(tmp_path)])
  assert [len(group) for group in by_protocol.groups(results, name)] == [1]
  assert by_protocol.groups(results, "nbody") == []
