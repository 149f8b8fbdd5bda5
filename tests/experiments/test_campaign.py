import errno
import json
import os
import signal
import time
from pathlib import Path
from unittest import mock

import pytest

from ace_jax import files
from ace_jax.errors import AceError, ConfigurationError
from data.errors import DataError
from experiments.campaign import run as campaign_run
from experiments.campaign import state as campaign_state
from experiments.campaign.plan import Comparison, Plan, Run
from experiments.harness import programs, workdirs
from experiments.harness.usage import UsageError
from tests.experiments.campaign_repository import commit, entry, git, start, write_plan


@pytest.fixture
def repository(tmp_path):
  folder = tmp_path / "repository"
  folder.mkdir()
  git(folder, "init", "-q")
  commit(folder, 1)
  return folder


def run(plan, repository, folder, minutes=None, devices=("cpu", 1)):
  with mock.patch.object(programs, "local_devices", lambda: devices):
    campaign_run.run(plan, repository, folder, folder / "collected", 1, minutes)


def result(folder, *path):
  return json.loads(folder.joinpath("runs", *path, "result.json").read_text())


def test_what_is_missing_runs_in_order_each_at_its_commit(tmp_path, repository, capsys):
  folder, first = tmp_path / "w", git(repository, "rev-parse", "HEAD")
  second = commit(repository, 2)
  plan = Plan((entry("b"), entry("a", at=first[:8])))
  run(plan, repository, folder)
  assert [result(folder, name)["version"] for name in "ba"] == [2, 1]
  assert [result(folder, name)["commit"] for name in "ba"] == [second, first]
  assert result(folder, "b")["cores"] == [*os.sched_getaffinity(0)]
  said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
  assert said == ["b", "b", "a", "a"]
  run(plan, repository, folder)
  assert capsys.readouterr().out == ""
  assert {path.name for path in (folder / "commits").iterdir()} == {first[:12], second[:12]}


def test_a_run_cut_short_goes_on_at_its_commit(tmp_path, repository):
  folder, first = tmp_path / "w", git(repository, "rev-parse", "HEAD")
  plan = Plan((entry("a", 1, "--cut=2"),))
  with pytest.raises(AceError, match="a by interruption: saved"):
    run(plan, repository, folder)
  commit(repository, 2)
  plan = Plan((*plan.runs, entry("later")))
  run(plan, repository, folder)
  resumed = result(folder, "a")
  assert (resumed["version"], resumed["commit"], resumed["began"]) == (1, first, 2)
  assert result(folder, "later")["version"] == 2
  assert len((folder / "runs" / "a" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_failure_is_shown_and_the_others_go_on(tmp_path, repository, capsys):
  folder = tmp_path / "w"
  plan = Plan(
    (entry("a", 1, "--fail=no luck."), entry("b", 1, "--data_file=$NOT_SET/x"), entry("c"))
  )
  with pytest.raises(
    AceError, match=r"2 of 3 programs failed, a by exit code 1: no luck; the same"
  ):
    run(plan, repository, folder)
  said = capsys.readouterr().out
  assert "a: failed after 0.0 minutes: exit code 1: no luck." in said
  assert "b: --data_file=$NOT_SET/x needs a variable of the environment" in said
  assert result(folder, "c")["version"] == 1
  shown = campaign_run.status(plan, campaign_state.read(folder), folder / "collected").splitlines()
  assert shown[2].split()[2] == "failed"
  assert "no luck" in shown[2]
  assert shown[-1].startswith("1 done, 2 failed; about 0.0 hours")


def test_seeds_of_a_row_are_replicas_on_an_accelerator(tmp_path, repository, monkeypatch):
  folder = tmp_path / "w"
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
  plan = Plan((entry("a_1", 1, row="a"), entry("b_1", 1, row="b"), entry("a_2", 2, row="a")))
  run(plan, repository, folder, devices=("cuda", 1))
  assert {path.name for path in (folder / "runs").iterdir()} == {"a_seeds1-2", "b_1"}
  assert result(folder, "a_seeds1-2", "seed2")["predictors"]["projection"]["test_mse"] == 1.2
  # Another machine finds them, alone or together.
  state = campaign_state.read(folder)
  for together in (False, True):
    tasks = campaign_state.programs(plan, state, together, tmp_path)
    assert [task.name for task in tasks] == ["a_seeds1-2", "b_1"]
    assert all(task.ended() for task in tasks)
  assert campaign_run.collect(plan, state, tmp_path / "r") == 3
  assert (tmp_path / "r" / "a_2" / "result.json").exists()
  longer = Plan((*plan.runs, entry("a_3", 3, row="a")))
  tasks = campaign_state.programs(longer, state, together=True, collected=tmp_path)
  assert [task.name for task in tasks] == ["a_seeds1-2", "b_1", "a_3"]


def test_replicas_that_a_command_names_itself():
  replicated = Run("r", "g", "r", ("toy", "--seeds=1,2", "--grid=beta=1,10"), 1.0)
  assert replicated.replicas() == ("beta1_seed1", "beta1_seed2", "beta10_seed1", "beta10_seed2")
  task = campaign_state.Program("r", (replicated,), Path("w"), Path("kept"))
  assert task.results(replicated)[1] == ("beta1_seed2", Path("w/beta1_seed2"))
  assert task.command() == replicated.command


def test_nothing_is_started_that_cannot_end_in_time(tmp_path, repository, capsys):
  folder = tmp_path / "w"
  plan = Plan((entry("long", minutes=90.0), entry("short", minutes=0.5)))
  run(plan, repository, folder, minutes=1.0)
  assert not (folder / "runs" / "long").exists()
  assert result(folder, "short")["version"] == 1
  assert "Not started, for lack of time: 1 (long)." in capsys.readouterr().out


def write_metrics(folder, done, seconds, total=100):
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps({"settings": {"epochs": total}}))
  times = [1000 + seconds * epoch + (500 if epoch > 4 else 0) for epoch in range(1, done + 1)]
  lines = [json.dumps({"epoch": i, "time": t}) for i, t in enumerate(times, 1)]
  (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"epo')


def test_estimates_use_the_speed_of_this_machine(tmp_path):
  slow = Run("s1", "a", "slow", ("toy", "--seed=1"), 10.0)
  runs_ = [slow, Run("s2", "a", "slow", slow.command, 10.0), Run("o", "a", "o", ("other",), 6.0)]
  runs_ += [Run("n", "a", "new", ("toy",), 4.0)]
  tasks = [
    campaign_state.Program(run.name, (run,), tmp_path / run.name, tmp_path / "kept")
    for run in runs_
  ]

  def left(i):
    return campaign_state.minutes_left(tasks[i], campaign_state.speeds(tasks))

  assert [left(i) for i in range(4)] == [10, 10, 6, 4]
  write_metrics(tmp_path / "s1", 40, 12.0)
  assert tasks[0].progress() == (40, 100, pytest.approx(12.0))  # without the pause
  assert left(0) == pytest.approx(60 * 12 / 60 + 1)
  assert left(1) == pytest.approx(20 + 1)  # 100 epochs of 12 s: twice the plan
  assert left(3) == pytest.approx(8 + 1)
  write_metrics(tmp_path / "o", 10, 1.8)
  assert left(3) == pytest.approx(8 + 1)  # of its own module
  (tmp_path / "o" / "result.json").write_text("{}")
  assert left(2) == 0


def test_a_run_that_just_began_has_no_speed(tmp_path):
  write_metrics(tmp_path / "a", 2, 1.0)
  assert (
    campaign_state.Program("a", (entry("a"),), tmp_path / "a", tmp_path / "kept").progress() is None
  )


def test_what_is_collected(tmp_path, repository):
  folder, out = tmp_path / "w", tmp_path / "results"
  plan = Plan((entry("a", 1, f"--data_file={tmp_path}/d.npz"), entry("b", 1, "--cut=1")))
  with pytest.raises(AceError):
    run(plan, repository, folder)
  assert campaign_run.collect(plan, campaign_state.read(folder), out) == 1
  assert {path.name for path in out.iterdir()} == {"a"}
  names = {"config.json", "result.json", "records.jsonl.gz", "variables_projection.npz"}
  assert {path.name for path in (out / "a").iterdir()} == names
  assert json.loads((out / "a" / "config.json").read_text())["settings"]["data_file"] == "d.npz"
  assert (out / "a" / "records.jsonl.gz").read_text() == "records.jsonl.gz"


def test_what_was_collected_elsewhere_is_not_run_again(tmp_path, repository):
  plan, elsewhere, here = Plan((entry("a"), entry("b"))), tmp_path / "v", tmp_path / "w"
  collected = here / "collected"
  run(Plan(plan.runs[:1]), repository, elsewhere)
  assert campaign_run.collect(plan, campaign_state.read(elsewhere), collected) == 1
  run(plan, repository, here)
  assert [path.name for path in (here / "runs").iterdir()] == ["b"]
  shown = campaign_run.status(plan, campaign_state.read(here), collected).splitlines()
  assert [line.split()[2] for line in shown[2:4]] == ["done", "done"]
  assert campaign_run.collect(plan, campaign_state.read(here), collected) == 2


def test_what_a_plan_may_not_change(tmp_path, repository):
  folder = tmp_path / "w"
  number = "predictors/projection/test_mse"
  claim = Comparison("a small", "at_most", ("a",), (number,), 2.0)
  run(Plan((entry("a"),), (claim,)), repository, folder)
  more = Comparison("b small", "at_most", ("b",), (number,), 2.0)
  run(Plan((entry("a"), entry("b")), (claim, more)), repository, folder)
  moved = Comparison("a small", "at_most", ("a",), (number,), 3.0)
  with pytest.raises(DataError, match="'a small' was fixed when the campaign began"):
    run(Plan((entry("a"), entry("b")), (moved, more)), repository, folder)
  with pytest.raises(DataError, match="a was started as toy --epochs=3 --seed=1, and the plan"):
    run(Plan((entry("a", 2), entry("b")), (claim, more)), repository, folder)
  with pytest.raises(DataError, match="a was started at commit"):
    run(Plan((entry("a", at="abcd"), entry("b")), (claim, more)), repository, folder)


def test_commits_that_do_not_exist_and_a_second_runner(tmp_path, repository):
  folder = tmp_path / "w"
  with pytest.raises(UsageError, match=r"run b: .* has no commit abcdef12; mend the plan"):
    run(Plan((entry("a"), entry("b", at="abcdef12"))), repository, folder)
  assert not (folder / "runs").exists()
  with (
    workdirs.locked(folder),
    pytest.raises(ConfigurationError, match="another process is running"),
  ):
    run(Plan((entry("a"),)), repository, folder)


def test_a_full_disk_is_one_line(tmp_path, repository):
  full = OSError(errno.ENOSPC, "No space left on device")
  with (
    mock.patch.object(files, "write_json", side_effect=full),
    pytest.raises(AceError, match=r"cannot write .*state.json: No space left on device; mend"),
  ):
    run(Plan((entry("a"),)), repository, tmp_path / "w")


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path, repository):
  folder = tmp_path / "w"
  plan = write_plan(tmp_path / "plan.json")
  shared = [f"--plan={plan}", f"--workdir={folder}"]
  process = start(*shared, f"--repository={repository}")
  metrics = folder / "runs" / "x" / "metrics.jsonl"
  while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  shown, _ = start(*shared, "--status").communicate(timeout=60)
  assert shown.splitlines()[2].split()[:3] == ["x", "a", "running"]
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM, errors
  assert "asked to end (SIGTERM); what ran was asked to save" in errors
  assert f"what is finished is in {folder}; go on with: python -m experiments.campaign" in errors
  saved = int((folder / "runs" / "x" / "checkpoint").read_text())
  assert 5 <= saved < 500
  shown, _ = start(*shared, "--status").communicate(timeout=60)
  assert shown.splitlines()[2].split()[2:6] == ["saved", str(saved), "of", "500"]
  done = start(*shared, f"--repository={repository}")
  _, errors = done.communicate(timeout=120)
  assert done.returncode == 0, errors
  assert result(folder, "x")["began"] == saved
  assert len(metrics.read_text().splitlines()) == 500
