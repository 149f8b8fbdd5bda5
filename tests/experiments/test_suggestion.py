"""What a verdict suggests: a subgroup, and a command that another run can be started with."""

import json
import shlex

import pytest

from ace_jax.symmetry.report import GeneratorReport
from experiments.nbody.settings import preset
from experiments.report import suggestion
from tests import commands

GRAVITY = preset(
  "paper",
  constraint="resilient",
  rho=0.1,
  relaxation="linear",
  symmetry_breaking="gravity:3",
  centring="center_of_mass",
  train_samples=[300],
  log_test=True,
  seed=4,
)


def generators(*broken, doubts=()):
  names = [f"{kind}_{axis}" for kind in ("rotation", "translation") for axis in "xyz"]
  return [
    GeneratorReport(name, 0.1, 0.5 if name in broken else 0.0, 0.01, 0.0, 1, 500, doubts)
    for name in names
  ]


@pytest.mark.parametrize(
  ("broken", "says", "ends"),
  [
    (("rotation_x", "rotation_y"), "keep the rotations about z, and break", "--keep=axis:z"),
    (("rotation_y", "rotation_z"), "keep the rotations about x, and break", "--keep=axis:x"),
    ((), "No rotation is seen to be broken", None),
    (("translation_z",), "No rotation is seen to be broken", None),
    (("rotation_x", "rotation_y", "rotation_z"), "none to keep", None),
    (("rotation_x",), "Rotations about y and z generate all others", None),
  ],
)
def test_the_subgroup(broken, says, ends):
  said = suggestion.suggest(generators(*broken), GRAVITY)
  assert says in said
  assert ("--keep" in said) == (ends is not None)
  assert ends is None or ends in said.split()


def test_nothing_is_suggested_of_what_cannot_be_told():
  said = suggestion.suggest(generators("rotation_x", doubts=("it still improves",)), GRAVITY)
  assert said == (
    "Nothing can be told of rotation_y and rotation_z (it still improves), so that no rotations "
    "are suggested."
  )


def test_a_model_that_could_not_break_them_tells_nothing():
  reports = [GeneratorReport(f"rotation_{axis}", 1e-7, 0.0, 0.01, 0.0, 1, 500) for axis in "xyz"]
  assert suggestion.suggest(reports, GRAVITY).startswith("Nothing can be told of rotation_x and")


def test_the_command_starts_the_same_run_strictly():
  command = suggestion.command(GRAVITY, constraint="strict", keep="axis:z")
  python, *words = shlex.split(command)
  assert python == "python"
  done = commands.python(*words, "--dry_run")
  assert done.returncode == 0, done.stderr
  ((run),) = json.loads(done.stdout)
  asked = GRAVITY.replace(constraint="strict", keep="axis:z", rho=None, seed=0, relaxation="mlp")
  assert run["settings"] == asked.to_json()
