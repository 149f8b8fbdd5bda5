import json

import pytest

from experiments.nbody import run as nbody_run
from experiments.nbody.settings import preset
from tests.experiments.nbody_commands import TINY, refuses, run


def test_every_size_gets_the_same_steps_and_evaluations():
  settings = preset("quick", epochs=330, decay_epochs=330)
  scaled = {n: nbody_run.lengths(settings, 90, n // 100) for n in (1000, 3000, 5000, 9000)}
  assert [lengths["epochs"] for lengths in scaled.values()] == [2970, 990, 594, 330]
  assert [lengths["decay_epochs"] for lengths in scaled.values()] == [2970, 990, 594, 330]
  assert {lengths["epochs"] * (n // 100) for n, lengths in scaled.items()} == {29_700}
  assert [lengths["eval_every"] for lengths in scaled.values()] == [45, 15, 9, 5]
  assert {lengths["eval_every"] * (n // 100) for n, lengths in scaled.items()} == {450}
  assert "keep_period" not in scaled[1000]
  # 70 steps do not divide 29,700: the nearest.
  assert nbody_run.lengths(settings, 90, 70)["epochs"] == 424
  assert nbody_run.lengths(settings.replace(eval_every=1), 1, 90)["eval_every"] == 1


@pytest.mark.slow
def test_sample_efficiency_curve(tmp_path, data_file):
  folder = tmp_path / "curve"
  flags = [*TINY, f"--data_file={data_file}", f"--workdir={folder}", "--constraint=strict"]
  flags.append("--decay_epochs=2")
  done = run(*flags, "--train_samples=10,30,40")
  assert done.returncode == 0, done.stderr
  assert (folder / "figures" / "sample_efficiency.png").exists()
  results = [json.loads((folder / f"strict_{n}/result.json").read_text()) for n in (10, 40)]
  assert [result["steps"] for result in results] == [8, 8]
  # 8 steps are no whole number of epochs of 3.
  curve = json.loads((folder / "result.json").read_text())
  assert curve["steps"] == {"10": 8, "30": 9, "40": 8}
  assert curve["settings"]["train_samples"] == [10, 30, 40]
  assert curve["environment"]["command"].startswith("python -m experiments.nbody --epochs=2")
  refuses(run(*flags, "--train_samples=10,30,40"), 2, "already holds this run", "--resume")
  assert json.loads((folder / "strict_30/result.json").read_text())["steps"] == 9
  assert [result["settings"]["decay_epochs"] for result in results] == [8, 2]
  assert results[0]["differs_from_published"]["decay_epochs"] == [8, None]
  again = run(*flags, "--train_samples=10,30,40", "--resume")
  assert again.returncode == 0, again.stderr
