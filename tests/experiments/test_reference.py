import json
import shutil
from pathlib import Path

import pytest

from data.errors import DataError
from experiments.reference import curves

EXPERIMENT = "reference"
RESULTS = Path(__file__).parent.parent.parent / "results"
HEADER = ",".join(curves.COLUMNS)


def seeds(*errors, epochs=10):
  return [dict.fromkeys(range(1, epochs + 1), error) for error in errors]


def test_the_three_ways_to_compare_are_against_two_deviations():
  # The band is 1.1 +- 2 * 0.1414.
  curve = {1: 0.81, 2: 0.82, 3: 1.38, 4: 1.39, **dict.fromkeys(range(5, 11), 1.0), 99: 9.0}
  compared = curves.compare(seeds(1.0, 1.2), curve)
  assert compared["shares"] == {"worse": 0.1, "better": 0.1, "matched": 0.8, "cannot_tell": 0.0}
  assert (compared["epochs"], compared["evaluations"]) == ([1, 10], 10)
  assert compared["ours_at_the_end"] == pytest.approx([1.0, 1.2])
  assert compared["reference_at_the_end"] == pytest.approx(1.04)
  assert compared["first_ratio"] == pytest.approx(0.81 / 1.1)


def test_nothing_matches_where_ours_could_not_have_been_worse():
  # 2 - 2 sqrt(2) < 1: half our error would have been within the band.
  compared = curves.compare(seeds(1.0, 3.0), {**seeds(0.01)[0], 10: 5.0})
  assert compared["shares"] == {"worse": 0.0, "better": 0.1, "matched": 0.0, "cannot_tell": 0.9}


def test_few_epochs_in_common_are_no_comparison():
  with pytest.raises(ValueError, match="9 epochs in common with our runs, and 10 are needed"):
    curves.compare(seeds(1.0), seeds(1.0, epochs=9)[0])


def test_epochs_of_a_reference_count_finished_ones(tmp_path):
  path = tmp_path / "curve.csv"
  path.write_text(f"{HEADER}\nstrict,0,0.5,0.6,,\n")
  assert curves.read_reference(path)["strict", "test", "projection"] == {1: 0.6}
  path.write_text(f"\ufeff{HEADER}\r\nstrict,0,0.5,0.7,,\r\n", encoding="utf-8")  # of a spreadsheet
  assert curves.read_reference(path)["strict", "test", "projection"] == {1: 0.7}


@pytest.mark.parametrize(
  ("text", "says"),
  [
    (None, "name the CSV"),
    ("", "its columns must be run, epoch"),
    (f"{HEADER}\n", "it has no rows"),
    ("Once upon a time\nthere was a curve.\n", "its columns must be run, epoch"),
    ("\x00\x01\n", "not a reference curve"),
    (f"{HEADER}\nstrict,0,nan,0.6,,\n", "line 2: valid_mse_projection is 'nan'"),
    (f"{HEADER}\nstrict,0,0.5,-0.6,,\n", "line 2: test_mse_projection is '-0.6'"),
    (f"{HEADER}\nstrict,0,0.5\n", "line 2: test_mse_projection is"),
    (f"{HEADER}\nstrict,0,0.5,0.6,,,7\n", "line 2: it has 7 values"),
    (f"{HEADER}\nequality,0,0.5,0.6,,\n", "line 2: valid_mse_relaxed is ''"),
    (f"{HEADER}\nloose,0,0.5,0.6,,\n", "run 'loose' is none of strict, equality"),
    (f"{HEADER}\nstrict,-1,0.5,0.6,,\n", "epoch '-1' is no whole number"),
    (f"{HEADER}\nstrict,0,0.5,0.6,,\nstrict,0,0.5,0.6,,\n", "line 3: epoch 0 of strict is there"),
  ],
)
def test_what_is_no_reference_is_refused(tmp_path, text, says):
  path = tmp_path / "curve.csv"
  if text is not None:
    path.write_text(text)
  with pytest.raises(DataError, match=says):
    curves.read_reference(path)


def curve_file(path, factor, runs=("strict",)):
  """Writes a reference that is our own first seed times a factor."""
  lines = [HEADER]
  for run in runs:
    curve = json.loads((RESULTS / "nbody" / f"{run}_seed1" / "result.json").read_text())["curve"]
    for record in curve:
      numbers = [
        str(factor * record[key]) if (key := f"{split}/{predictor}") in record else ""
        for predictor in ("projection", "relaxed")
        for split in ("valid", "test")
      ]
      lines.append(",".join([run, str(int(record["epoch"]) - 1), *numbers]))
  path.write_text("\n".join(lines) + "\n")
  return path


@pytest.mark.slow
def test_what_is_written_and_what_stays(run, tmp_path):
  out = tmp_path / "out"
  committed = (RESULTS / "nbody" / curves.REPORT).read_bytes()
  # Of another experiment, or in other units.
  done = run(f"--reference={curve_file(tmp_path / 'a.csv', 100)}", f"--out={out}")
  assert (done.returncode, out.exists()) == (1, False)
  assert "errors after the first epoch in common are 1" in done.stderr
  assert "nothing was written" in done.stderr
  both = curve_file(tmp_path / "b.csv", 1.0, ("strict", "equality"))
  done = run(f"--reference={both}", f"--out={out}")
  assert done.returncode == 0, done.stderr
  kept = (out / curves.REPORT).read_bytes()
  assert len(json.loads(kept)) == 6
  # A comparison of less than what is there.
  done = run(f"--reference={curve_file(tmp_path / 'c.csv', 1.0)}", f"--out={out}")
  assert done.returncode == 1
  assert "has equality/test/projection" in done.stderr
  assert (out / curves.REPORT).read_bytes() == kept
  assert (RESULTS / "nbody" / curves.REPORT).read_bytes() == committed


def test_a_comparison_goes_into_a_new_folder_unless_asked(run, tmp_path):
  done = run(f"--reference={curve_file(tmp_path / 'a.csv', 1.0)}")
  assert done.returncode == 0, done.stderr
  folder = RESULTS.parent / done.stdout.split("Everything is written to ")[1].split()[0]
  assert (folder / curves.REPORT).exists()
  shutil.rmtree(folder)


def test_only_runs_of_the_reference_model_are_held_against_it():
  result = {
    "experiment": "mocap",
    "model": "egno",
    "constraint": "equality",
    "settings": {"preset": "paper", "dual_lr": 2e-4},
    "data": {"split": "published"},
    "differs_from_published": {"epochs": [300, 3000]},
  }
  assert curves.comparable(result)
  assert not curves.comparable({**result, "model": "egnn"})
  other_rate = {**result, "settings": {"preset": "paper", "dual_lr": 5e-4}}
  assert not curves.comparable(other_rate)
  assert curves.comparable({**other_rate, "constraint": "strict"})
  assert not curves.comparable({**result, "differs_from_published": {"lr": [1e-3, 5e-4]}})
