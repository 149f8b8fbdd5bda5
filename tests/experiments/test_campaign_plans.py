import json
import subprocess
import sys

import pytest

from data.errors import DataError
from experiments.campaign import compare as campaign_compare
from experiments.campaign import plan as campaign_plan
from experiments.campaign import state as campaign_state
from experiments.campaign.plan import Comparison, Plan, Run
from tests.experiments.campaign_repository import ROOT, git, start, write_plan


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda plan: "{", "damaged"),
    (lambda plan: "[]", "no JSON dict"),
    (lambda plan: {**plan, "runs": 3}, "no list of runs"),
    (lambda plan: {"runs": plan["runs"]}, "no list of comparisons"),
    (lambda plan: {**plan, "runs": plan["runs"] * 2}, "two runs are named 'x'"),
    ({"name": "../x"}, "cannot be a folder's"),
    ({"name": 3}, "name is missing"),
    ({"minutes": 0}, "positive number"),
    ({"minutes": True}, "positive number"),
    ({"minutes": float("nan")}, "positive number"),
    ({"commit": "main"}, "null or a hash"),
    ({"command": "toy --seed=1"}, "python -m MODULE"),
    ({"command": "python -m toy --seed 1"}, "python -m MODULE"),
    ({"command": "python -m toy '--seed=1"}, "No closing quotation"),
    ({"command": "python -m toy --workdir=x"}, "given by the campaign itself"),
    ({"command": "python -m toy --seeds=1,x"}, "different whole numbers"),
    ({"minuets": 3}, "'minuets' is nothing of a run"),
    (
      lambda plan: {
        **plan,
        "runs": [*plan["runs"], {**plan["runs"][0], "name": "y", "command": "python -m z"}],
      },
      "run 'y' differs from 'x', of the same row",
    ),
    (lambda plan: {**plan, "comparisons": [{"name": "c", "test": "t"}]}, "needs a name and a test"),
    (
      lambda plan: {**plan, "comparisons": [claim(rows=["r", "s"])]},
      "comparison 'c': no run is of row 's'",
    ),
    (lambda plan: {**plan, "comparisons": [claim(rows=["r"])]}, "welch takes 2 of rows"),
    (lambda plan: {**plan, "comparisons": [claim(bound=1)]}, "bound is a number for at_most"),
    (lambda plan: {**plan, "comparisons": [claim(), claim()]}, "two comparisons have one name"),
  ],
)
def test_damaged_plans(tmp_path, change, says):
  path = write_plan(tmp_path / "plan.json", **(change if isinstance(change, dict) else {}))
  if not isinstance(change, dict):
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
  with pytest.raises(DataError, match=says) as caught:
    campaign_plan.read(path)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)


def claim(**changes):
  return {"name": "c", "test": "welch", "rows": ["r", "r"], "numbers": ["n", "n"], **changes}


def test_damaged_states(tmp_path):
  for text in (
    "{",
    "[]",
    "{}",
    '{"state_format": 1, "programs": {"a": 3}, "comparisons": {}, "running": []}',
  ):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state.json: damaged"):
      campaign_state.read(tmp_path)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ([], "add --workdir"),
    (["--workdir=w", "--status", "--collect=r"], "--status and --collect contradict"),
    (["--workdir=w", "--status", "--minutes=3"], "--minutes is for running"),
    (["--workdir=w", "--minutes=0"], "must be positive"),
    (["--workdir=w", "--plan=none.json", "--status"], "none.json: cannot be read"),
  ],
)
def test_usage_errors(flags, says):
  process = start(*flags)
  _, errors = process.communicate(timeout=60)
  assert process.returncode in (1, 2)
  (line,) = errors.strip().splitlines()
  assert line.startswith("error: ")
  assert says in line


def test_comparisons(tmp_path):
  number = "predictors/projection/test_mse"
  errors = {"strict": (5.0, 6.0, 7.0), "equality": (3.0, 4.0, 6.5)}
  listed = [
    Run(f"{row}_{seed}", "a", row, ("toy", f"--seed={seed}"), 1.0)
    for row in errors
    for seed in (1, 2, 3)
  ]
  rows, numbers = ("equality", "strict"), (number, number)
  claims = (
    Comparison("w", "welch", rows, numbers),
    Comparison("e", "every_seed", rows, numbers),
    Comparison("s", "within_standard_error", rows[::-1], numbers),
    Comparison("m", "at_most", rows[:1], numbers[:1], 4.5),
  )
  plan = Plan(tuple(listed), claims)
  for run in listed:
    folder = tmp_path / run.name
    folder.mkdir()
    value = errors[run.row][int(run.flag("seed")) - 1]
    (folder / "result.json").write_text(
      json.dumps({"predictors": {"projection": {"test_mse": value}}})
    )
  lines = campaign_compare.table(plan, tmp_path).splitlines()[2:]
  # t = -1.5 / sqrt(1.0 / 3 + 3.25 / 3) with 3.12 degrees of freedom.
  assert lines[0].split()[-2:] == ["0.15", "no"]
  assert [line.split()[-1] for line in lines] == ["no", "yes", "no", "yes"]
  assert "6 +- 1 (3)" in lines[0]
  (tmp_path / "strict_2" / "result.json").unlink()
  lines = campaign_compare.table(plan, tmp_path).splitlines()[2:]
  assert [line.endswith("1 runs missing") for line in lines] == [True, True, True, False]
  (tmp_path / "strict_1" / "result.json").write_text("{}")
  with pytest.raises(DataError, match="has no number predictors/projection/test_mse"):
    campaign_compare.table(plan, tmp_path)


PARSE = """
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver

module, *commands = json.loads(sys.stdin.read())
experiment = importlib.import_module(f"{module}.__main__")
for command in commands:
  with flagsaver.flagsaver():
    flags.FLAGS([module, *command, "--dry_run"])
    try:
      experiment.main()
    except Exception as error:
      sys.exit(f"{' '.join(command)}: {error}")
sys.exit("JAX was imported" if "jax" in sys.modules else 0)
"""


def test_every_command_of_the_plan_is_one_of_its_module(tmp_path):
  plan = campaign_plan.read(ROOT / "results" / "campaign.json")
  (tmp_path / "nbody_charged_7000.npz").touch()
  commands: dict[str, list[list[str]]] = {}
  for planned in plan.runs:
    words = [word.replace("$ACE_DATA_DIR", str(tmp_path)) for word in planned.command[1:]]
    commands.setdefault(planned.command[0], []).append([*words, "--workdir=w"])
  assert {*commands} == {"experiments.nbody", "experiments.mocap", "experiments.qm9"}
  for module, of_module in commands.items():
    done = subprocess.run(
      [sys.executable, "-c", PARSE],
      input=json.dumps([module, *of_module]),
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(of_module)


def test_the_plan_begins_with_both_rules_of_seed_1():
  plan = campaign_plan.read(ROOT / "results" / "campaign.json")
  first = [run.name for run in plan.runs[:3]]
  assert first == ["nbody_equality_seed1", "nbody_strict_seed1", "nbody_equality_seed2"]
  groups = [run.group for run in plan.runs]
  assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)  # in one piece each


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_commits_are_of_this_checkout_by_default(tmp_path):
  command = "python -m experiments.does_not_exist --seed=1"
  entry = {"name": "x", "group": "a", "row": "x", "command": command, "minutes": 1, "commit": None}
  (tmp_path / "plan.json").write_text(json.dumps({"runs": [entry], "comparisons": []}))
  process = start(f"--plan={tmp_path / 'plan.json'}", f"--workdir={tmp_path / 'w'}")
  shown, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert f"x: started at commit {git(ROOT, 'rev-parse', 'HEAD')[:12]}" in shown
  assert "exit code 1" in errors
