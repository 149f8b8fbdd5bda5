import contextlib
import dataclasses
import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from ace_jax.errors import AceError, ConfigurationError
from experiments.harness import programs
from experiments.harness.usage import UsageError
from experiments.sweep import figures as sweep_plots
from experiments.sweep import plan as sweep_plan
from experiments.sweep import run as sweep_run
from experiments.sweep.plan import Range, Sweep
from experiments.table import __main__ as table
from tests import commands

ROOT = Path(__file__).parent.parent.parent
TINY = ["--epochs=1", "--batch_size=10", "--hidden_features=4", "--eval_every=1"]


def run(*arguments):
  return commands.run("experiments.sweep", *arguments)


GRID = sweep_plan.parse_grid(["layers=1,2", "rho=0.1,1,10", "dual_lr=1e-4,1e-3"])


def test_replicas_share_a_program_unless_the_program_changes():
  program_list = sweep_plan.programs(GRID, (0, 1, 2), 1000)
  assert [program.name for program in program_list] == ["000_layers1", "001_layers2"]
  assert [sweep_plan.count(program.plan) for program in program_list] == [18, 18]
  assert program_list[1].flags() == (
    "--layers=2",
    "--grid=rho=0.1,1.0,10.0",
    "--grid=dual_lr=0.0001,0.001",
    "--seeds=0,1,2",
  )


@pytest.mark.parametrize(
  ("most", "sizes"),
  [(18, [18] * 2), (12, [12, 6] * 2), (6, [6] * 6), (3, [3] * 12), (2, [2, 1] * 12), (1, [1] * 36)],
)
def test_large_programs_are_split_and_seeds_last(most, sizes):
  program_list = sweep_plan.programs(GRID, (0, 1, 2), most)
  assert [sweep_plan.count(program.plan) for program in program_list] == sizes
  names = [
    (program.fixed, name) for program in program_list for name, _ in program.plan.points(seed=0)
  ]
  assert len({*names}) == 36


def test_ranges_and_what_a_grid_may_hold():
  ranges = sweep_plan.parse_ranges(["lr=1e-4..1e-2:log", "layers=1..4", "rho=1..2"])
  assert ranges == {"lr": Range(1e-4, 1e-2, True), "layers": Range(1, 4), "rho": Range(1.0, 2.0)}
  assert [type(ranges[name].low) for name in ("layers", "rho")] == [int, float]
  assert sweep_plan.parse_grid(["constraint=strict,none"]) == (("constraint", ("strict", "none")),)


def test_devices_are_shared_out():
  assert programs.share("cpu", 1, None, {}) == [{}]
  assert programs.share("cpu", 1, 3, {}) == [{}, {}, {}]
  shown = [
    environment["CUDA_VISIBLE_DEVICES"] for environment in programs.share("cuda", 3, None, {})
  ]
  assert shown == ["0", "1", "2"]
  chosen = programs.share("cuda", 2, 3, {"CUDA_VISIBLE_DEVICES": "4,7"})
  assert [environment["CUDA_VISIBLE_DEVICES"] for environment in chosen] == ["4", "7", "4"]


def test_a_slot_is_filled_when_one_is_free_and_a_failure_stops_nothing():
  futures, asked = {}, []

  def source():
    for name in "abcd":
      asked.append(name)
      yield name

  def submit(name):
    futures[name] = Future()
    if name == "b":
      futures[name].set_exception(OSError("gone"))
    elif name != "a":
      futures[name].set_result(0)
    return futures[name]

  driven = programs.drive(source(), submit, 2)
  name, error = next(driven)
  assert (name, str(error), asked) == ("b", "gone", ["a", "b"])
  assert next(driven) == ("c", 0)
  assert next(driven) == ("d", 0)
  futures["a"].set_result(3)
  assert list(driven) == [("a", 3)]


def test_local_programs_end_with_their_code_and_their_last_words(tmp_path):
  with programs.local_engine([{"MARK": "7"}]) as machine:
    code = "import os, sys; print('error: mark', os.environ['MARK']); sys.exit(3)"
    assert machine.submit([sys.executable, "-c", code], tmp_path / "x").result() == 3
  assert programs.last_words(tmp_path / "x") == "mark 7"


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--grid=layrs=1,2"], "no parameter 'layrs'; did you mean layers"),
    (["--search=tpe", "--range=dual_lrr=1..2"], "did you mean dual_lr"),
    (["--grid=rho=1,1"], "different values"),
    (["--grid=rho="], "different values"),
    (["--grid=rho=1", "--grid=rho=2"], "is there twice"),
    (["--range=lr=1..2"], "--range needs --search"),
    (["--search=tpe"], "needs something to draw"),
    (["--search=tpe", "--range=lr=2..1"], "LOW < HIGH"),
    (["--search=tpe", "--range=lr=0..1:log"], "0 < LOW"),
    (["--search=tpe", "--range=lr=1..2", "--grid=lr=1,2"], "contradict"),
    (["--seeds=0,0"], "different whole numbers"),
    (["--grid=seed=0,1"], "--seeds=0,1,2"),
    (["--objective=relaxed", "--grid=constraint=equality,strict"], "no relaxed predictor"),
    (["--grid=rho=1,2"], "--rho has no meaning with --constraint=equality"),
    (["--grid=layers=1,2", "--", "--layers=3"], "leave out one"),
    (["--", "--workdir=x"], "the sweep sets --workdir itself"),
    (["--", "--train_samples=1,2"], "--grid=train_samples"),
  ],
)
def test_usage_errors(flags, says):
  done = run(*flags)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ")
  assert says in line


def test_a_package_that_is_missing_is_named():
  with pytest.raises(UsageError, match=r"--engine=x needs no_such_package: pip install"):
    programs.require("no_such_package", "ray", "--engine=x")


def test_help_needs_no_jax():
  code = "import sys, experiments.sweep; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def planned(workdir, **changes):
  """Runs a sweep on an engine that trains nothing; returns the folders that it was asked for."""
  fields = {"grid": sweep_plan.parse_grid(["layers=1,2", "rho=0.5,2"]), "seeds": (0, 1)}
  fields |= {"given": ("--constraint=resilient",), **changes}
  sweep, asked = Sweep("nbody", **fields), []

  def submit(command, folder):
    asked.append(folder.name)
    flags = [word for word in command[3:] if not word.startswith(("--workdir", "--resume"))]
    folder.mkdir(parents=True, exist_ok=True)
    bad = False
    for name, settings in sweep_plan.describe(dataclasses.replace(sweep, given=()), tuple(flags)):
      if settings["lr"] > 1:
        bad = True
        continue
      (folder / name).mkdir(exist_ok=True)
      metrics = {"valid_mse": settings["layers"] + settings["seed"]}
      result = {"settings": settings, "predictors": {"projection": metrics}}
      (folder / name / "result.json").write_text(json.dumps(result))
    (folder / programs.LOG).write_text("error: the loss is not finite\n" if bad else "")
    future = Future()
    future.set_result(int(bad))
    return future

  machine = contextlib.nullcontext(programs.Engine(1, submit))
  with mock.patch.object(sweep_run, "_engine", lambda *_: machine):
    sweep_run.run(sweep, workdir, 3, None, "local", None, None)
  return asked


def test_only_what_is_missing_is_run_again(tmp_path, capsys):
  assert planned(tmp_path) == ["000_layers1", "001_layers2"]
  trials = json.loads((tmp_path / "sweep.json").read_text())["trials"]
  assert [trial["objective"] for trial in trials] == [1, 2, 1, 2, 2, 3, 2, 3]
  (best,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("1 ")]
  assert best.split() == ["1", "1", "0.5", "2", "of", "2", "1.5", "7.1e-01"]
  assert planned(tmp_path) == []
  (tmp_path / "001_layers2" / "rho2_seed1" / "result.json").unlink()
  assert planned(tmp_path) == ["001_layers2"]
  path = tmp_path / "000_layers1" / "rho2_seed1" / "result.json"
  path.write_text(path.read_text().replace('"rho": 2.0', '"rho": 3.0'))
  assert planned(tmp_path) == ["000_layers1"]
  with pytest.raises(ConfigurationError, match="another configuration"):
    planned(tmp_path, seeds=(0,))


def test_what_diverges_is_reported_and_not_run_again(tmp_path, capsys):
  grid = sweep_plan.parse_grid(["lr=1e-3,9"])
  for asked in (["000"], []):
    with pytest.raises(AceError, match="2 of 4 trials have no result"):
      assert planned(tmp_path, grid=grid) == asked
    assert "the loss is not finite" in capsys.readouterr().out
  assert {*json.loads((tmp_path / "000" / "diverged.json").read_text())} == {
    "lr9_seed0",
    "lr9_seed1",
  }


def test_a_search_runs_its_points_once(tmp_path):
  pytest.importorskip("optuna")
  search = {"search": "tpe", "grid": (), "ranges": (("lr", Range(1e-4, 1e-2, True)),)}
  names = ["trial_000", "trial_001", "trial_002"]
  assert planned(tmp_path, **search) == names
  assert planned(tmp_path, **search) == []
  (tmp_path / "trial_001" / "seed0" / "result.json").unlink()
  assert planned(tmp_path, **search) == ["trial_001"]


@pytest.mark.slow
def test_a_sweep_from_end_to_end_and_what_is_run_again(tmp_path, data_file):
  workdir = tmp_path / "sweep"
  flags = ["--grid=layers=1,2", "--grid=rho=0.5,2", f"--workdir={workdir}", "--"]
  flags += ["--constraint=resilient", f"--data_file={data_file}", *TINY]
  done = run(*flags)
  assert done.returncode == 0, done.stderr
  trials = json.loads((workdir / "sweep.json").read_text())["trials"]
  assert len(trials) == 4
  for trial in trials:
    result = json.loads((workdir / trial["folder"] / "result.json").read_text())
    assert trial["objective"] == result["predictors"]["projection"]["valid_mse"]
    assert {name: result["settings"][name] for name in ("layers", "rho")} == trial["parameters"]
  assert (workdir / "sensitivity.png").exists()
  assert (workdir / "parallel.png").exists()
  assert len(table.nbody_rows(table.read([str(workdir)]))) == 8

  logs = {path.parent.name: path for path in workdir.glob("*/log.txt")}
  before = {name: path.stat().st_mtime_ns for name, path in logs.items()}
  assert len(before) == 2
  assert run(*flags).returncode == 0
  assert {name: path.stat().st_mtime_ns for name, path in logs.items()} == before

  (workdir / "001_layers2" / "rho2_seed0" / "result.json").unlink()
  assert run(*flags).returncode == 0
  changed = {name for name, path in logs.items() if path.stat().st_mtime_ns != before[name]}
  assert changed == {"001_layers2"}
  assert json.loads((workdir / "sweep.json").read_text())["trials"] == trials

  done = run(*flags, "--lr=0.5")
  assert done.returncode == 2
  assert "another configuration" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_step_sizes_that_diverge_are_told_from_those_that_do_not(tmp_path, data_file):
  flags = ["--grid=lr=1e-3,1e30", f"--workdir={tmp_path}", "--", f"--data_file={data_file}", *TINY]
  flags += ["--layers=1"]
  done = run(*flags)
  assert done.returncode == 1
  assert "1 of 2 trials have no result" in done.stderr
  assert "not finite" in done.stdout
  log = tmp_path / "000" / "log.txt"
  before = log.stat().st_mtime_ns
  assert run(*flags).returncode == 1
  assert log.stat().st_mtime_ns == before


QUADRATIC = Sweep("nbody", ranges=(("x", Range(-10.0, 10.0)),), search="tpe")


def searched(sweep, total, study=None):
  from experiments.sweep import search as sweep_search

  study = study or sweep_search.open_study(None, "s", sweep)
  while len(study.trials) < total:
    trial = sweep_search.ask(study, sweep)
    sweep_search.tell(study, trial.number, (trial.params["x"] - 3) ** 2)
  return [trial.params["x"] for trial in study.trials], study


def test_tpe_improves_on_a_quadratic():
  pytest.importorskip("optuna")
  errors = (np.array(searched(QUADRATIC, 40)[0]) - 3) ** 2
  uniform = 100 / 3 + 9  # the mean of (x - 3)^2 over the range
  assert errors[10:].mean() < 0.5 * uniform
  assert errors.min() < 0.1


def test_random_search_is_that_of_its_seed_even_if_interrupted():
  pytest.importorskip("optuna")
  sweep = Sweep("nbody", ranges=QUADRATIC.ranges, search="random", search_seed=5)
  points, _ = searched(sweep, 8)
  _, study = searched(sweep, 3)
  assert searched(sweep, 8, study)[0] == points
  assert len({*points}) == 8
  other = Sweep("nbody", ranges=QUADRATIC.ranges, search="random", search_seed=6)
  assert searched(other, 8)[0] != points


def test_a_study_belongs_to_one_sweep(tmp_path):
  pytest.importorskip("optuna")
  from experiments.sweep import search as sweep_search

  url = f"sqlite:///{tmp_path / 'o.db'}"
  sweep_search.open_study(url, "s", QUADRATIC)
  sweep_search.open_study(url, "s", QUADRATIC)
  with pytest.raises(ConfigurationError, match="another sweep"):
    sweep_search.open_study(url, "s", Sweep("nbody", search="random"))
  with pytest.raises(ConfigurationError, match="cannot be opened"):
    sweep_search.open_study("nowhere://x", "s", QUADRATIC)


def test_means_of_the_sensitivity_figure():
  trials = [({"lr": x, "c": c}, e) for x, c, e in [(1, "a", 1), (1, "b", 3), (100, "a", 5)]]
  figure = sweep_plots.sensitivity(trials, "error")
  lines = [axes.get_lines()[1].get_xydata().tolist() for axes in figure.axes]
  np.testing.assert_allclose(lines[0], [[1, 2], [100, 5]])
  np.testing.assert_allclose(lines[1], [[0, 3], [1, 3]])


def test_heights_of_parallel_coordinates():
  points = [({"lr": x}, e) for x, e in [(1e-4, 1.0), (1e-3, 2.0), (1e-2, 3.0)]]
  axes = sweep_plots.parallel_coordinates(points, "error").axes[0]
  lines = [line.get_ydata() for line in axes.get_lines() if len(line.get_xdata()) == 2]
  lines = [tuple(np.round(line, 6)) for line in lines if line[0] != line[1]]
  assert (0.0, 0.0) not in lines
  heights = axes.get_lines()[-1].get_ydata()
  np.testing.assert_allclose(heights, [0, 0])  # the best: lowest lr, lowest error


@pytest.mark.slow
def test_a_search_is_continued(tmp_path, data_file):
  flags = ["--search=random", "--range=lr=1e-4..1e-2:log", f"--workdir={tmp_path}"]
  given = ["--", f"--data_file={data_file}", *TINY, "--layers=1"]
  assert run(*flags, "--trials=1", *given).returncode == 0
  before = (tmp_path / "trial_000" / "log.txt").stat().st_mtime_ns
  assert run(*flags, "--trials=2", *given).returncode == 0
  assert (tmp_path / "trial_000" / "log.txt").stat().st_mtime_ns == before
  assert (tmp_path / "trial_001" / "result.json").exists()


@pytest.mark.slow
def test_a_local_ray_runs_programs(tmp_path, data_file):
  pytest.importorskip("ray")
  flags = ["--engine=ray", "--grid=layers=1,2", f"--workdir={tmp_path}"]
  done = run(*flags, "--", f"--data_file={data_file}", *TINY)
  assert done.returncode == 0, done.stderr
  assert len(list(tmp_path.glob("*/result.json"))) == 2
