import json
from pathlib import Path

import pytest

from ace_jax.symmetry import report, verdicts
from experiments.detection import run as detection_run

EXPERIMENT = "detection"
ROOT = Path(__file__).parent.parent.parent


def campaign(**changes):
  strengths = {"gravity": [0.0, 1.0]}
  fields = {"seeds": 2, "data_sets": 1, "first_data_seed": 7, "lengths": (1, 2), "rho": 0.1}
  return detection_run.Campaign(strengths, **{**fields, **changes}, breaking_from="input")


def row(strength, called, outcome, reasons=(), epochs=2):
  names = ("rotation_x", "rotation_y", "rotation_z")
  return {
    **{"kind": "gravity", "strength": strength, "epochs": epochs, "outcome": outcome},
    **{"called_broken": sorted(called), "reasons": list(reasons)},
    "generators": {name: {} for name in names},
    "verdicts": {
      name: "broken" if name in called else "kept" for name in (*names, "translation_x")
    },
  }


def test_strength_zero_has_twice_the_data_sets():
  assert campaign().programs() == [("gravity", 0.0, 7), ("gravity", 0.0, 8), ("gravity", 1.0, 7)]


def test_verdicts_are_counted_at_every_length(tmp_path, capsys):
  both = ("rotation_x", "rotation_y")
  early = [row(s, (), "cannot tell", ["gamma still moves"], epochs=1) for s in (0.0, 1.0, 1.0)]
  late = [row(0.0, (), "right"), row(0.0, ("rotation_z",), "wrong"), row(1.0, both, "right")]
  late += [row(1.0, ("rotation_x",), "wrong"), row(1.0, both, "right")]
  detection_run.write(tmp_path, campaign(), [*early, *late])
  counts = json.loads((tmp_path / "result.json").read_text())["counts"]
  assert [(c["strength"], c["epochs"], *c["outcomes"].values()) for c in counts] == [
    *((0.0, 1, 0, 0, 1), (0.0, 2, 1, 1, 0)),
    *((1.0, 1, 0, 0, 2), (1.0, 2, 2, 1, 0)),
  ]
  assert counts[-1]["called"] == {"rotation_x": 3, "rotation_y": 2, "rotation_z": 0}
  generators = json.loads((tmp_path / "result.json").read_text())["generators"]
  assert [(row["epochs"], row["truth"], *row["verdicts"].values()) for row in generators] == [
    *((1, "broken", 0, 4, 0), (1, "kept", 0, 5, 0)),
    *((2, "broken", 5, 1, 0), (2, "kept", 1, 8, 0)),
  ]
  said = capsys.readouterr().out
  assert "after 2 epochs, generators that are broken in truth: broken 5, kept 1, cannot tell 0" in (
    said
  )
  assert "rotation_x 3, rotation_y 2" in said
  assert "gamma still moves 2" in said
  assert "a symmetry is called broken if" in said
  assert (tmp_path / "detection.png").exists()


def test_a_run_is_right_wrong_or_tells_nothing():
  def judged(truth, **losses):
    measured = {
      name: report.GeneratorReport(name, 0.1, loss, 0.01, 0.0, 1, 500, doubts)
      for name, (loss, *doubts) in losses.items()
    }
    return detection_run.judged(list(measured.values()), truth)

  outcome = judged(("a",), a=(1.0,), b=(0.0,))
  assert (outcome["outcome"], outcome["called_broken"]) == ("right", ["a"])
  assert judged((), a=(1.0,), b=(0.0,))["outcome"] == "wrong"
  assert judged(("a",), a=(0.0,), b=(0.0,))["outcome"] == "wrong"
  outcome = judged(("a",), a=(1.0, "gamma still moves"), b=(0.0, "gamma still moves"))
  assert (outcome["outcome"], outcome["reasons"]) == ("cannot tell", ["gamma still moves"])
  assert outcome["verdicts"] == {"a": "broken", "b": "cannot tell"}


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--gravity=a"], "--gravity=a must be numbers"),
    (["--wind=-1"], "--wind needs numbers"),
    (["--rho=0"], "--rho=0 must be positive"),
    (["--epochs=0,10"], "--epochs=0,10 must be whole numbers"),
    (["--epochs=long"], "--epochs=long must be whole numbers"),
    (["--gravity=", "--wind=", "--anisotropy="], "nothing to do"),
  ],
)
def test_usage_errors(run, flags, says):
  done = run(*flags)
  assert done.returncode == 2
  assert says in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_strong_gravity_is_found_and_nothing_is_repeated(run, tmp_path):
  flags = ["--gravity=3", "--wind=", "--anisotropy=", "--seeds=2", "--data_sets=1"]
  done = run(*flags, "--epochs=20", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert "rotation_x 2, rotation_y 2" in done.stdout
  finished = (tmp_path / "gravity3_data0.json").stat().st_mtime_ns
  assert run(*flags, "--epochs=20", f"--workdir={tmp_path}").returncode == 0
  assert (tmp_path / "gravity3_data0.json").stat().st_mtime_ns == finished


# As the page says: rotations called broken, kept, and neither, after 15, 30 and 60 epochs.
SAID = {
  "detection": {
    "broken": [[145, 35, 0], [159, 13, 8], [174, 0, 6]],
    "kept": [[0, 210, 0], [0, 131, 79], [0, 0, 210]],
  },
  "detection_leaking": {
    "broken": [[20, 0, 0], [20, 0, 0], [20, 0, 0]],
    "kept": [[0, 10, 0], [0, 10, 0], [0, 4, 6]],
  },
}


@pytest.mark.parametrize("folder", SAID)
def test_the_page_of_results_counts_what_is_stored(folder):
  stored = json.loads((ROOT / "results" / folder / "result.json").read_text())
  assert stored["rule"] == verdicts.rule()
  for run in stored["runs"]:
    doubts = verdicts.doubts(verdicts.Training(**run["training"]))
    judged = {
      name: verdicts.judge(g["loss"], g["standard_error"], 1000, g["lie_error"], doubts)
      for name, g in run["generators"].items()
    }
    assert {name: said.verdict.value for name, said in judged.items()} == run["verdicts"]
    truth = detection_run.BROKEN[run["kind"]] if run["strength"] else ()
    assert verdicts.outcome(judged, truth) == run["outcome"]
  assert detection_run.by_generator(stored["runs"]) == stored["generators"]
  by_truth = {"broken": [], "kept": []}
  for row in stored["generators"]:
    by_truth[row["truth"]].append([*row["verdicts"].values()])
  assert by_truth == SAID[folder]
  page = (ROOT / "results" / "README.md").read_text()
  rows = {}
  for count in stored["counts"]:
    row = rows.setdefault((f"{count['kind']} {count['strength']:g}", count["runs"]), [])
    row.append(" / ".join(map(str, count["outcomes"].values())))
  for (breaking, runs), cells in rows.items():
    assert f"| {breaking} | {runs} | {' | '.join(cells)} |" in page
