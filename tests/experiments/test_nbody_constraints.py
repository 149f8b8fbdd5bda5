import json

import numpy as np
import pytest

from experiments.table import rivals as rivals_table
from tests.experiments.nbody_commands import TINY, run

_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
  "flags",
  [
    pytest.param(["--constraint=strict"], marks=_SLOW),
    pytest.param(["--constraint=none", "--relaxation=linear"], marks=_SLOW),
    pytest.param(["--constraint=inequality", "--epsilon=0.2"], marks=_SLOW),
    pytest.param(["--constraint=resilient", "--rho=0.5", "--centring=center_of_mass"], marks=_SLOW),
    pytest.param(["--constraint=published_resilient", "--gamma_optimizer=sgd"], marks=_SLOW),
  ],
)
def test_every_constraint_runs(tmp_path, data_file, flags):
  folder = tmp_path / "run"
  done = run(*TINY, *flags, f"--data_file={data_file}", f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  result = json.loads((folder / "result.json").read_text())
  assert np.isfinite([predictor["test_mse"] for predictor in result["predictors"].values()]).all()
  sgd = "--gamma_optimizer=sgd" in flags
  assert result["settings"].get("gamma_optimizer") == ("sgd" if sgd else None)
  assert ("gamma_optimizer" in result["differs_from_published"]) == sgd


@pytest.mark.parametrize(
  "flags",
  [
    pytest.param(["--constraint=schedule", "--schedule_epochs=1"], marks=_SLOW),
    pytest.param(["--constraint=functional", "--model=mpnn", "--epsilon=1e-9"], marks=_SLOW),
    pytest.param(
      ["--constraint=projection_regulariser", "--grid=projection_weight=0,100"], marks=_SLOW
    ),
    pytest.param(["--constraint=residual_pathway", "--free_l2=0.5"], marks=_SLOW),
    pytest.param(["--constraint=augment", "--model=mpnn"], marks=_SLOW),
    pytest.param(["--constraint=remul", "--model=mpnn", "--grid=beta=0.5,2"], marks=_SLOW),
    pytest.param(["--constraint=functional_resilient", "--model=transformer"], marks=_SLOW),
    pytest.param(["--constraint=remul", "--weighting=gradnorm"], marks=_SLOW),
    pytest.param(["--constraint=gap_penalty", "--model=mpnn", "--beta=2"], marks=_SLOW),
    pytest.param(["--constraint=gap_penalty", "--weighting=gradnorm"], marks=_SLOW),
    pytest.param(["--constraint=functional"], marks=_SLOW),
  ],
)
def test_every_rival_runs(tmp_path, data_file, flags):
  folder = tmp_path / "run"
  done = run(*TINY, *flags, f"--data_file={data_file}", f"--workdir={folder}")
  assert done.returncode == 0, done.stderr
  results = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
  for result in results:
    for predictor in result["predictors"].values():
      assert np.isfinite(
        [predictor["test_mse"], predictor["test_gap"], predictor["test_gap_error"]]
      ).all()
  if "--epsilon=1e-9" in flags:
    reached = results[0]["functional"]["final"]
    assert results[0]["functional"]["asked"] == 1e-9
    assert (folder / "figures" / "gamma.png").exists()
    settings = results[0]["settings"]
    assert (settings["dual_lr"], settings["decay_epochs"], settings["epochs"]) == (0.1, 2, 2)
    assert reached["test_gap"] > 1e-3
    assert reached["train_gap"] == pytest.approx(reached["test_gap"], rel=0.9)
    assert reached["train_gap"] != reached["test_gap"]
    assert results[0]["final"]["multiplier"]["equivariance"] > 0
    warned = f"is below its standard error {reached['test_gap_error']:.1e} on 10 test samples"
    assert warned in done.stderr
  if "--constraint=schedule" in flags:
    assert results[0]["predictors"]["projection"]["test_gap"] < 1e-10
    assert set(results[0]["final"]["gamma"].values()) == {0}
    assert results[0]["settings"]["relaxation"] == "linear"
  if "--constraint=projection_regulariser" in flags:
    gaps = {
      r["settings"]["projection_weight"]: r["predictors"]["relaxed"]["test_gap"] for r in results
    }
    assert gaps[100] < gaps[0]
    assert set(results[0]["final"]["gamma"].values()) == {1}
  rows = rivals_table.rows(results)
  assert all(float(row[6].split()[0]) >= 0 for row in rows)
