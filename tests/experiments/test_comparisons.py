"""The trade-off curve, and relaxation branches at equal cost."""

import json
import math

import jax.numpy as jnp
import pytest

from ace_jax import task
from ace_jax.symmetry import actions, groups
from ace_jax.symmetry.data import Symmetry
from experiments.detection.run import SETTINGS
from experiments.harness import gaps
from experiments.nbody import run as nbody_run
from experiments.relaxations import run as relaxations_run
from experiments.relaxations import sizes as branch_sizes
from experiments.relaxations.sizes import Variant
from experiments.sweep.plan import count
from experiments.tradeoff import run as tradeoff_run
from tests import commands


def run(experiment, *arguments):
  return commands.run(f"experiments.{experiment}", *arguments)


def test_a_constraint_and_data_set_is_one_program():
  grids = {"resilient": (0.1, 1.0), "inequality": (0.3,)}
  programs = tradeoff_run.programs(grids, ("none", "gravity:3"), (4, 5))
  assert [program.name for program in programs] == [
    f"{data}_{constraint}"
    for data in ("none", "gravity3")
    for constraint in ("resilient", "inequality", "strict", "none")
  ]
  assert [count(program.plan) for program in programs] == [4, 2, 2, 2] * 2
  assert programs[5].flags() == (
    "--constraint=inequality",
    "--symmetry_breaking=gravity:3",
    "--relaxation_scale=fixed",
    "--grid=epsilon=0.3",
    "--seeds=4,5",
  )
  assert "relaxation_scale" not in dict(programs[2].fixed)
  only = tradeoff_run.programs({"resilient": (), "inequality": (0.3,)}, ("none",), (0,))
  assert [program.name for program in only] == ["none_inequality", "none_strict", "none_none"]


def result(constraint, seed, error, gap, **settings):
  metrics = {"test_mse": error, "test_gap": gap, "test_gap_relative": math.sqrt(gap)}
  predictors = {"projection": {**metrics, "test_mse": 2 * error, "test_gap": 1e-13}}
  if constraint != "strict":
    predictors["relaxed"] = metrics
  gamma = {} if constraint == "strict" else {"layers_0/update_1": -0.4, "layers_0/update_2": 0.2}
  shared = {"constraint": constraint, "seed": seed, "rho": None, "epsilon": None}
  return {
    "constraint": constraint,
    "seeds": [seed],
    "epochs": 3,
    "train_samples": 10,
    "predictors": predictors,
    "final": {"gamma": gamma},
    "seconds": 8.0,
    "replicas": 2,
    "differs_from_published": {},
    "settings": {**shared, "symmetry_breaking": None, **settings},
    "environment": {},
  }


def test_the_curve_joins_seeds_and_draws_what_it_prints(tmp_path, capsys):
  results = [
    *(result("resilient", seed, 0.02 + 0.01 * seed, 1e-4, rho=0.1) for seed in (0, 1)),
    result("inequality", 0, 0.04, 1e-5, epsilon=0.3, symmetry_breaking="gravity:3"),
    *(result("strict", seed, 0.05, 1e-13) for seed in (0, 1)),
    result("none", 0, 0.01, 1e-2),
  ]
  points = [tradeoff_run.point(outcome) for outcome in results]
  assert [p["seconds"] for p in points] == [4.0] * 6
  rows = tradeoff_run.rows(points)
  assert rows[0] == [
    *("none", "resilient, rho=0.1", "0,1", "0.025 +- 0.007", "0.05 +- 0.01"),
    *("0.0001", "0.01", "0.4"),
  ]
  assert rows[1][:4] == ["gravity:3", "inequality, epsilon=0.3", "0", "0.04"]
  assert rows[2][3:5] == ["0.1 +- 0", "0.1 +- 0"]  # the strict model is its own projection
  marks = tradeoff_run.curves(points)
  assert {data: len(curve) for data, curve in marks.items()} == {"none": 3, "gravity:3": 1}
  assert marks["none"][0].errors == [0.02, 0.03]
  tradeoff_run.write(tmp_path, {}, points)
  assert json.loads((tmp_path / "result.json").read_text())["points"] == points
  assert (tmp_path / "tradeoff.png").stat().st_size > 10_000
  assert "| none | resilient, rho=0.1 | 0,1 |" in (tmp_path / "table.md").read_text()
  assert "gravity:3" in capsys.readouterr().out


def test_the_nearest_size_is_found_with_few_costs():
  def search(cost, *arguments, **options):
    asked = []
    return *branch_sizes.nearest(lambda n: asked.append(n) or cost(n), *arguments, **options), asked

  size, cost, _ = search(lambda n: n * n + 3, 100)
  assert (size, cost) == (10, 103)
  size, cost, asked = search(lambda n: 0.8 + n / 100, 1.0, 40, 0.02, 5)
  assert size == 20 and len(asked) == len({*asked}) <= 5
  assert search(lambda n: 1.3 + n / 100, 1.0, 40, 0.02)[0] == 1  # the smallest costs too much
  assert search(lambda n: 0.5, 1.0, most=6)[1] == 0.5  # no size costs enough: it ends


SMALL = SETTINGS.replace(rho=0.1, epochs=1, train_samples=None)


def test_parameters_of_branches(data_file):
  settings = SMALL.replace(data_file=data_file)
  data = nbody_run.load(settings, None)

  def parameters(variant):
    changed = settings.replace(**variant.settings())
    return branch_sizes.count(nbody_run.make_problem(changed, data), changed)

  n = 32  # 8x0e+8x1o; a layer maps 2 n to n and n to n
  assert parameters(Variant("linear")) == 2 * 3 * n * n + 4
  assert parameters(Variant("linear", "channel")) == 2 * 3 * n * n + 4 * n
  assert parameters(Variant("low_rank", size=5)) == 2 * 5 * (3 * n + 2 * n) + 4
  w = 7
  inner = 2 * (w + w * w + w + w * n + n)
  assert parameters(Variant("mlp", size=w)) == 2 * (3 * n * w + inner) + 4
  assert parameters(Variant("spectral_mlp", size=w)) == parameters(Variant("mlp", size=w))


def entry(budget, branch, gamma, size, **more):
  fields = {"budget": budget, "branch": branch, "gamma": gamma, "size": size}
  return {**fields, "parameters": 100, "step_ratio": 1.0, "step_ms": 4.0, **more}


def test_a_variant_of_two_budgets_is_trained_once_and_shown_twice(tmp_path, capsys):
  sizes = [
    entry("parameters", "linear", "layer", None),
    entry("parameters", "linear", "channel", None),
    entry("parameters", "mlp", "layer", 12),
    entry("time", "linear", "layer", None),
    entry("time", "mlp", "layer", None),
    entry("time", "low_rank", "layer", 60),
  ]
  programs = relaxations_run.programs(sizes, (0, 1))
  assert [program.name for program in programs] == [
    *("linear_layer", "mlp_12_layer", "mlp_layer", "low_rank_60_layer", "linear_channel"),
  ]
  assert programs[1].flags()[:3] == (
    "--relaxation=mlp",
    "--gamma=layer",
    "--relaxation_features=12",
  )
  assert programs[3].flags()[2] == "--rank=60"
  trained = [result("resilient", seed, 0.02, 1e-4, rho=0.1) for seed in (0, 1)]
  relaxations_run.write(tmp_path, {}, [{**row, "runs": trained} for row in sizes])
  shown = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert [line[0] for line in shown if line[1:2] == ["linear"]] == ["parameters"] * 2 + ["time"]
  kept = json.loads((tmp_path / "result.json").read_text())["entries"]
  assert [row["runs"][1]["seeds"] for row in kept] == [[1]] * 6
  assert (tmp_path / "relaxations.png").stat().st_size > 10_000


def test_relative_error_of_a_fixed_vector():
  # Of a prediction that does not turn: E norm(e - g e)^2 = 2 norm(e)^2 under Haar measure.
  vector = jnp.array([0.0, 3.0, 4.0])
  learned = task.Task(
    lambda variables, batch, key: (jnp.broadcast_to(vector, batch["x"].shape), {}),
    lambda y, batch: y,
  )
  act = actions.act_on({"x": actions.vector})
  so3 = Symmetry(groups.so3(), act, lambda g, y, batch: actions.vector(g, y))
  measure = gaps.compile_measure(learned, so3, 500)
  metrics = measure({"params": {}}, {"x": jnp.ones((2000, 1, 3))})
  assert metrics["gap"] == pytest.approx(2 * 25 / 3, rel=0.03)
  assert metrics["gap_relative"] == pytest.approx(math.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
  ("experiment", "flags", "says"),
  [
    ("tradeoff", ["--rho=a"], "--rho=a must be different positive numbers"),
    ("tradeoff", ["--epsilon=0,1"], "--epsilon=0,1 must be different positive numbers"),
    ("tradeoff", ["--", "--seeds=1"], "--seeds=1 after the --: the curve sets it itself"),
    ("relaxations", ["--", "--rank=1"], "--rank=1 after the --: the comparison sets it itself"),
    ("relaxations", ["--experiment=mocap", "--", "--model=egno"], "take --model=egnn"),
    ("relaxations", ["--", "--constraint=strict"], "has no choice of branches"),
    ("nbody", ["--rank=2"], "--rank has no meaning with --relaxation=mlp"),
    ("nbody", ["--constraint=strict", "--gamma=channel"], "--gamma has no meaning with"),
    ("mocap", ["--relaxation=linear"], "EGNO's branches are of one published form"),
  ],
)
def test_usage_errors(experiment, flags, says):
  done = run(experiment, *flags)
  assert done.returncode == 2
  assert says in done.stderr
  assert "Traceback" not in done.stderr


TINY = ["--epochs=2", "--batch_size=10", "--hidden_features=4", "--layers=1", "--eval_every=1"]


@pytest.mark.slow
def test_a_curve_end_to_end_repeats_nothing(data_file, tmp_path):
  flags = ["--rho=0.1,1", "--epsilon=0.3", "--seeds=0", "--symmetry_breaking=none"]
  flags += [f"--workdir={tmp_path}", "--", *TINY, f"--data_file={data_file}"]
  flags += ["--train_samples=40"]
  done = run("tradeoff", *flags)
  assert done.returncode == 0, done.stderr
  points = json.loads((tmp_path / "result.json").read_text())["points"]
  assert [p["constant"] for p in points] == [0.1, 1.0, 0.3, None, None]
  finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("none_*/**/result.json")}
  assert len(finished) == 5
  assert run("tradeoff", *flags).returncode == 0
  assert all(path.stat().st_mtime_ns == before for path, before in finished.items())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["nbody", "mocap"])
def test_branches_end_to_end(experiment, data_file, tmp_path):
  data_flags = [f"--data_file={data_file}", "--train_samples=40"]
  data_flags = data_flags if experiment == "nbody" else ["--source=synthetic", "--train_samples=40"]
  flags = [f"--experiment={experiment}", "--branch=linear", "--branch=low_rank", "--seeds=0"]
  done = run("relaxations", *flags, f"--workdir={tmp_path}", "--", *TINY, *data_flags)
  assert done.returncode == 0, done.stderr
  entries = json.loads((tmp_path / "result.json").read_text())["entries"]
  assert len(entries) == 8
  linear, _, low_rank, _ = [row["parameters"] for row in entries[:4]]
  assert abs(low_rank / linear - 1) < 0.3  # these branches are tiny
  assert all(row["step_ms"] > 0 for row in entries)
  assert entries[1]["runs"][0]["settings"]["gamma"] == "channel"
