"""What every command has in common: help, refusals, folders, interrupts, pipes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import RequestError
from experiments.harness import folders
from experiments.harness.usage import UsageError
from tests import commands

ROOT = Path(__file__).parent.parent.parent
COMMANDS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/__main__.py"))
BENCHMARKS = [
  *("accelerator", "all", "compare", "evaluation", "faults", "fuzz", "nbody", "overhead"),
  *("replicas", "same_numbers", "scaling", "startup", "step"),
]
SMALL = ("--train_samples=40", "--epochs=2", "--batch_size=10", "--hidden_features=4")


def start(module, *flags, cwd=ROOT, stdout=subprocess.PIPE, path=ROOT):
  return subprocess.Popen(
    [sys.executable, "-m", module, *map(str, flags)],
    cwd=cwd,
    env={**commands.ENVIRONMENT, "PYTHONPATH": str(path)},
    stdout=stdout,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module, *flags, cwd=ROOT):
  process = start(module, *flags, cwd=cwd)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def answers(module):
  code, out, err = run(module, "--help")
  assert (code, err) == (0, "")
  assert len(out.splitlines()) > 5
  code, out, err = run(module, "--nonsense=3")
  assert (code, out) == (2, "")
  assert err == "error: Unknown command line flag 'nonsense' (--help lists the flags)\n"


def made(command):
  # Of folders in runs/ those of the command alone: another worker's test may make one meanwhile.
  runs = (ROOT / "runs").glob(f"{command}*")
  return {*runs, *ROOT.glob("*"), *(ROOT / "results").glob("*/*")} - {ROOT / "runs"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_answers_help_and_refuses_other_flags(name):
  answers(f"experiments.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_answers_help_and_refuses_other_flags(name):
  answers(f"benchmarks.{name}")


def test_a_benchmark_without_flags_of_its_own_answers():
  answers("benchmarks.startup")


@pytest.mark.parametrize(
  ("command", "flags", "says"),
  [
    ("nbody", ["--symmetry_breaking=foo"], "symmetry breaking 'foo' is not understood"),
    ("nbody", ["--train_samples=0"], "train_samples"),
    ("nbody", ["--train_samples=10001"], "there are 1 to 10000"),
    ("nbody", ["--train_samples=100,100"], "must be different positive whole numbers"),
    ("nbody", ["--train_samples=100,200", "--grid=lr=1e-3,1e-2"], "is a mean over all replicas"),
    ("nbody", ["--data_file=none.npz"], "--data_file=none.npz is no file"),
    ("nbody", ["--data_file="], "flag --data_file=: a path is empty"),
    ("nbody", ["--data_dir=none"], "--data_dir=none is no folder"),
    ("nbody", ["--workdir=results/nbody/strict_seed1"], "holds a result.json without the config"),
    ("nbody", ["--workdir=results/pendulum", "--resume"], "holds a result.json without the config"),
    ("nbody", ["--batch_size=50", "--train_samples=40"], "--batch_size=50 is larger than the 40"),
    ("nbody", ["--keep_period=3", "--checkpoint_every=2"], "must be a multiple of"),
    ("nbody", ["--workdir=README.md/run"], "README.md is no folder; choose another with --workdir"),
    ("mocap", ["--source=acclaim", "--data_dir=none"], "--data_dir=none is no folder"),
    ("mocap", ["--data_seed=3"], "the synthetic walker is always the same"),
    ("qm9", ["--data_dir=none"], "--data_dir=none is no folder"),
  ],
)
def test_a_dry_run_refuses_what_the_run_refuses(command, flags, says):
  for more in ((), ("--dry_run",)):
    code, out, err = run(f"experiments.{command}", *flags, *more)
    assert (code in (1, 2), out) == (True, "")
    assert err.startswith("error: ")
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
  ("command", "flags", "says"),
  [
    ("tradeoff", ["--", "--system=foo"], "--system"),
    ("tradeoff", ["--symmetry_breaking=foo"], "symmetry breaking 'foo'"),
    ("relaxations", ["--", "--symmetry_breaking=foo"], "symmetry breaking 'foo'"),
    ("sweep", ["--grid=layers=1,2", "--", "--symmetry_breaking=foo"], "symmetry breaking 'foo'"),
    ("sweep", ["--grid=layers=1,2", "--", "--help"], "leave out --help and its like"),
    ("pendulum", ["--workdir=README.md/run"], "README.md is no folder"),
    ("images", ["--workdir=results/images"], "holds a result.json without the config.json"),
    ("detection", ["--workdir=README.md/run"], "cannot write to workdir README.md/run"),
    ("reference", ["--reference=none.csv"], "name the CSV with --reference"),
    ("report", ["--runs=none"], "name the folder of a finished run"),
    ("report", ["--runs=results/pendulum", "--suggest"], "name the folder of a finished run"),
    ("equivariance", ["--run=none"], "name the folder of a finished run"),
    ("landscape", ["--run=none"], "name the folder of a finished run"),
    ("landscape", ["--redraw=results/landscape", "--grid=5"], "leave out --grid"),
    ("weights", ["--predictors=relaxed"], "add --add=RUN and --name=NAME"),
    ("claims", ["--folder=README.md"], "--folder=README.md is no folder"),
    ("campaign", ["--compare=none"], "--compare=none is no folder"),
    ("campaign", ["--compare=results", "--workdir=none"], "leave out --workdir"),
    ("campaign", ["--workdir=README.md", "--status"], "--workdir=README.md is no folder"),
    ("campaign", ["--workdir=none", "--collect=none"], "--workdir=none is no folder"),
    ("view", ["results", "--list", "--port=8000"], "leave out --port"),
    ("view", ["", "--list"], "'' is no folder"),
    ("table", ["--folders="], "flag --folders=: a path is empty"),
    ("table", ["--folders=results/nbody,"], "flag --folders=results/nbody,: a path is empty"),
    ("table", ["--table=qm9", "--folders=results/nbody"], "no run that --table=qm9 shows"),
    ("table", ["--table=mocap", "--folders=results/nbody"], "no run that --table=mocap shows"),
    ("table", ["--table=variants", "--folders=results/pendulum"], "no run that --table=variants"),
  ],
)
def test_nothing_starts_that_would_be_refused(command, flags, says):
  before = made(command)
  code, out, err = run(f"experiments.{command}", *flags)
  assert (code in (1, 2), out) == (True, ""), err
  assert says in err
  assert len(err.splitlines()) == 1
  assert made(command) == before


def test_a_dry_run_refuses_the_folder_of_another_run(tmp_path):
  _, said, _ = run("experiments.nbody", *SMALL, "--dry_run")
  settings = {**json.loads(said)[0]["settings"], "lr": 0.5}
  (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
  for more in ((), ("--resume",)):
    code, _, err = run("experiments.nbody", *SMALL, "--dry_run", f"--workdir={tmp_path}", *more)
    assert code == 2
    assert "lr: 0.5 there" in err


def test_two_commands_of_one_second_get_two_folders_which_they_say(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  made = [folders.chosen(None, "nbody_strict", ("--resume",)) for _ in range(3)]
  assert len(set(made)) == 3
  assert all(folder.is_dir() for folder in made)
  said = capsys.readouterr().out.splitlines()
  assert said[0] == (
    f"Everything is written to {made[0]} (add --workdir={made[0]} --resume to go on with it)."
  )


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    UsageError, match=r"cannot write to out .*file/a: Not a directory; choose anot"
  ):
    folders.tried(tmp_path / "file" / "a", "out")
  assert folders.tried(tmp_path / "new folder" / "ä", "out").is_dir()
  assert [*(tmp_path / "new folder" / "ä").iterdir()] == []


def test_a_folder_that_a_command_made_and_left_empty_is_removed(tmp_path):
  (tmp_path / "there").mkdir()
  code = (
    "import pathlib, sys; from experiments.harness import folders; "
    "made = [folders.tried(pathlib.Path(path), 'out') for path in sys.argv[1:]]; "
    "(made[0] / 'a').write_text('')"
  )
  done = commands.python("-c", code, *(tmp_path / name for name in ("kept", "empty", "there")))
  assert (done.returncode, done.stderr) == (0, "")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "there"]


def test_the_folder_of_several_runs_stands_for_them(tmp_path):
  for name in ("seed0", "seed1"):
    (tmp_path / "both" / name).mkdir(parents=True)
    (tmp_path / "both" / name / "metrics.jsonl").write_text("")
  (tmp_path / "one").mkdir()
  (tmp_path / "one" / "result.json").write_text("{}")
  both, alone = str(tmp_path / "both"), str(tmp_path / "one")
  assert folders.runs_in([alone, both]) == [alone, f"{both}/seed0", f"{both}/seed1"]
  assert folders.only_run(alone, "run") == alone
  with pytest.raises(UsageError, match=f"holds 2 runs; name one of them: {both}/seed0, {both}/se"):
    folders.only_run(both, "run")
  assert folders.runs_in(["none"]) == ["none"]
  with pytest.raises(UsageError, match=r"one is named twice; name each run once"):
    folders.runs_in([alone, both, alone])
  with pytest.raises(UsageError, match=r"seed1/ and .*/both/seed1 are one run"):
    folders.runs_in([both, f"{both}/seed1/"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
  ("imported", "says"),
  [
    ("absl", "nothing was written yet; begin again with"),
    ("jax", "what is finished is in {}; go on"),
  ],
)
def test_a_signal_while_a_command_imports_ends_in_one_line(tmp_path, number, code, imported, says):
  # A package of that name waits until the signal comes.
  (tmp_path / f"{imported}.py").write_text(
    "import pathlib, time\npathlib.Path(__file__).with_name('waits').touch()\ntime.sleep(60)\n"
  )
  folder = tmp_path / "a run"
  process = start("experiments.nbody", *SMALL, f"--workdir={folder}", path=tmp_path)
  while not (tmp_path / "waits").exists():
    time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
  process.send_signal(number)
  process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert process.returncode == code
  (line,) = err.splitlines()
  name = "Ctrl-C" if code == 130 else "SIGTERM"
  assert line.startswith(f"interrupted ({name}); {says.format(folder)}")
  command = line.split(" with: ")[1]
  assert shlex.split(command)[:4] == ["python", "-m", "experiments.nbody", "--train_samples=40"]
  assert f"--workdir={folder}" in shlex.split(command)
  assert ("--resume" in command) == (imported == "jax")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("twice", [False, True])
def test_a_signal_in_training_ends_in_one_line_and_the_run_goes_on(
  tmp_path, data_file, number, code, twice
):
  folder = tmp_path / "run"
  flags = (f"--data_file={data_file}", "--batch_size=10", "--hidden_features=4", "--layers=1")
  flags = (*flags, "--checkpoint_every=1", f"--workdir={folder}")
  process = start("experiments.nbody", *flags, "--epochs=2000")
  while not (folder / "metrics.jsonl").exists():
    time.sleep(0.1)
    assert process.poll() is None, process.stderr.read()
  process.send_signal(number)
  if twice:
    process.send_signal(number)
  _, err = process.communicate(timeout=60)
  assert process.returncode == code
  assert "Traceback" not in err
  assert re.search("(asked to end|interrupted) ", err.splitlines()[-1])
  assert f"--workdir={folder}" in err.splitlines()[-1]
  done = len((folder / "metrics.jsonl").read_text().splitlines())
  code, _, err = run("experiments.nbody", *flags, f"--epochs={done + 1}", "--resume")
  assert code == 0, err


@pytest.mark.parametrize(
  ("command", "flags"), [("nbody", ["--help"]), ("nbody", ["--dry_run"]), ("table", [])]
)
def test_a_reader_may_leave_early(command, flags):
  reader, writer = os.pipe()
  process = start(f"experiments.{command}", *flags, stdout=writer)
  os.close(writer)
  os.close(reader)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1)])
def test_closed_streams_are_none_of_a_command_s_business(closed):
  shell = " ".join(f"{number}>&-" for number in closed)
  command = f"{sys.executable} -m experiments.table --folders=none {shell}"
  done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
  said = "" if 2 in closed else "error: none: no result.json below it; name folders of finished"
  assert done.returncode == 1
  assert done.stderr.startswith(said)
  assert len(done.stderr.splitlines()) == bool(said)


def test_a_file_of_flags_that_is_none_ends_in_one_line(tmp_path):
  (tmp_path / "flags").write_bytes(b"\xff\xfe--epochs")
  code, _, err = run("experiments.table", f"--flagfile={tmp_path / 'flags'}")
  assert (code, err) == (
    2,
    "error: --flagfile names a file that is no text: invalid start byte.\n",
  )
  code, _, err = run("experiments.table", "--flagfile=none")
  assert (code, len(err.splitlines())) == (2, 1)
  assert err.startswith("error: Unable to open flagfile")


def test_numbers_beyond_32_bits_are_refused():
  for command, flag in (
    ("nbody", "--epochs=99999999999999999999"),
    ("pendulum", "--seed=4294967296"),
  ):
    code, _, err = run(f"experiments.{command}", flag)
    assert code == 2
    assert err == f"error: flag {flag}: must not be beyond 2147483647. (--help lists the flags)\n"


def test_a_dry_run_refuses_paths_that_cannot_be(tmp_path):
  (tmp_path / "circle").symlink_to("circle")
  (tmp_path / "nowhere").symlink_to("nothing")
  for name, says in (
    ("circle", "Too many levels of symbolic links"),
    ("circle/run", "Too many levels of symbolic links"),
    ("nowhere", "nowhere is a link to nothing"),
    ("nowhere/run", "nowhere is a link to nothing"),
    (300 * "a", "File name too long"),
  ):
    with pytest.raises(UsageError, match=f"cannot write to workdir .*{says}; choose another"):
      folders.check(str(tmp_path / name), None, resume=False)
  for refused in (folders.check, lambda path, *_, **__: folders.tried(Path(path), "workdir")):
    with pytest.raises(UsageError, match="the path is not UTF-8 in this locale; set PYTHONUTF8=1"):
      refused(os.fsdecode(bytes(tmp_path / "l") + b"\xff"), None, resume=False)
  folders.check(str(tmp_path / "new" / "ä日本"), None, resume=False)
  code, _, err = run("experiments.claims", f"--folder={tmp_path / (300 * 'a')}")
  assert (code, len(err.splitlines())) == (2, 1)
  assert err.endswith(": File name too long; give another path.\n")


def test_a_symmetry_breaking_is_read_without_jax():
  code = "import sys; from data.requests import Breaking; print('jax' in sys.modules)"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == "False\n", done.stderr
  from data.requests import Breaking

  assert Breaking.parse("gravity:0.5") == Breaking("gravity", 0.5)
  with pytest.raises(RequestError, match="'wind:fast' is not understood"):
    Breaking.parse("wind:fast")
