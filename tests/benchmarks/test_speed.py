import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax.homotopy import Homotopic
from benchmarks import all as benchmarks_all
from benchmarks import machine, speed_table, steps


class Radial(nn.Module):
  """A product of [4, 1] and [1, 8], and its branch."""

  @nn.compact
  def __call__(self, x):
    r = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return Homotopic(nn.Dense, name="layer")(nn.Dense(8)(r), x)


def test_operations_of_a_step_do_not_depend_on_the_length_of_the_epoch():
  x = jax.random.normal(jax.random.key(0), (12, 3))
  data = {"x": x, "targets": jnp.tile(jnp.sum(x, 1, keepdims=True), 8)}
  problem = steps.Problem("radial", Radial(), lambda batch: (batch["x"],), data, 4)
  begin = steps.start(problem, "equality")
  single, three = (steps.Epoch(problem.first(n), [begin]) for n in (1, 3))
  assert three.steps == 3
  assert three.gflop < 1.5 * single.gflop  # the order of samples and the last checks grow with it
  products = 2 * 4 * 8 * (1 + 3) * 2e-9  # of both maps, forward and for the weights
  assert products < single.gflop < 20 * products
  three()
  assert int(three.states.step[0]) == 3
  assert three.losses.shape == (1, 3)
  assert "dot" in three.text()


def test_ratios_of_rounds_do_not_see_what_disturbs_a_whole_round():
  rng = np.random.default_rng(0)
  base = rng.lognormal(0, 0.5, 200)
  estimate = steps.ratio([*(1.01 * base * rng.normal(1, 0.02, 200))], [*base])
  assert estimate["error"] == pytest.approx(1.2533 * 0.02 / 200**0.5, rel=0.3)
  assert abs(estimate["ratio"] - 1.01) < 4 * estimate["error"]


def test_programs_take_turns():
  calls = []
  programs = {name: (lambda name=name: calls.append(name) or len(calls)) for name in "ab"}
  times = steps.interleave(programs, 2)
  assert "".join(calls) == "ba" + "ab" + "ba"
  assert times == {"a": [3, 6], "b": [4, 5]}


def test_floor_is_the_time_at_the_products_rate():
  floor = machine.floor(machine.PRODUCT_GFLOP / 2, median_ms=100, product_ms=50)
  assert floor["floor_ms"] == 25
  assert floor["fraction_of_matmul_rate"] == 0.25


def write_reports(folder, processor="P", product=50.0):
  """Writes a report of a step, of an overhead and of the simulator; returns their files."""
  about = {"processor": processor, "cores": 2, "device": "cpu", "jax": "0.10.2"}
  shared = {"product_ms": product, "machine": about, "command": "benchmarks.x"}
  step = {"benchmark": "step", "model": "egno", "batch": 12, "constraint": "none"}
  step |= {"median_ms": 150.0, "products": 150 / product, **machine.floor(17.0, 150.0, product)}
  cost = {"equality": {"percent": 0.42, "percent_error": 0.1}}
  reports = {
    "step_egno": {**step, "compile_seconds": 12.3},
    "overhead_segnn": {"benchmark": "overhead", "model": "segnn", "overhead": cost},
    "nbody": {"benchmark": "nbody", "trajectories": 14000, "seconds": 1.1},
  }
  folder.mkdir(exist_ok=True)
  paths = {name: folder / f"{name}.json" for name in reports}
  for name, path in paths.items():
    path.write_text(json.dumps({**reports[name], **shared}))
  return paths


def test_table_of_a_processor(tmp_path):
  table = speed_table.read(write_reports(tmp_path))
  command = "`python -m benchmarks.x`"
  assert table.rows == [
    ["EGNO step, batch 12, none", "150 ms", "3.00", "49.5 ms", "33%", "12 s", command],
    ["what equality adds to the relaxed SEGNN step", "0.4 +- 0.1 %", *[""] * 4, command],
    ["14,000 trajectories of 5 particles", "1.1 s", "22.00", "", "", "", command],
  ]
  assert table.title == "P, 2 cores"
  assert table.about.startswith("2 cores of P, cpu, JAX 0.10.2. A product")


def test_tables_of_all_processors(tmp_path):
  write_reports(tmp_path / "b")
  (tmp_path / "b" / "nbody.json").unlink()  # not measured there
  write_reports(tmp_path / "a", "Q", 25.0)
  (tmp_path / "faults.json").write_text("{}")
  (tmp_path / "empty").mkdir()
  readme = tmp_path / "A.md"
  readme.write_text(f"a\n{speed_table.BEGIN}\nold\n{speed_table.END}\nb\n")
  tables = benchmarks_all.write_tables(tmp_path, readme)
  assert [*tables] == ["a", "b"]
  lines = readme.read_text().splitlines()
  assert lines[:3] == ["a", speed_table.BEGIN, "| what | Q, 2 cores | P, 2 cores | command |"]
  command = "`python -m benchmarks.x`"
  assert lines[4:7] == [
    f"| EGNO step, batch 12, none | 150 ms (6.00, 16%) | 150 ms (3.00, 33%) | {command} |",
    f"| what equality adds to the relaxed SEGNN step | 0.4 +- 0.1 % | 0.4 +- 0.1 % | {command} |",
    f"| 14,000 trajectories of 5 particles | 1.1 s (44.00) |  | {command} |",
  ]
  assert lines[-2:] == [speed_table.END, "b"]
  above = (tmp_path / "README.md").read_text()
  assert "- [Q, 2 cores](a/README.md)\n- [P, 2 cores](b/README.md)\n" in above
  assert "49.5 ms" in (tmp_path / "b" / "README.md").read_text()
  readme.write_text("a\n")
  with pytest.raises(ValueError, match="no line"):
    benchmarks_all.write_tables(tmp_path, readme)


def test_a_processor_never_replaces_the_numbers_of_another(tmp_path, monkeypatch):
  def measure(processor, number):
    about = {"processor": processor, "cores": 2, "device": "cpu", "jax": "0"}
    code = f"print({json.dumps({'value': number, 'machine': about})!r})"
    command = [sys.executable, "-c", code]
    run = subprocess.run
    with monkeypatch.context() as patch:
      patch.setattr(benchmarks_all.subprocess, "run", lambda _, **more: run(command, **more))
      return benchmarks_all.run("nbody", tmp_path, 60)

  folders = ["intel-xeon-8370c-cpu-2-80ghz-2-cores", "amd-epyc-7763-2-cores"]
  assert measure("Intel(R) Xeon(R) 8370C CPU @ 2.80GHz", 1) == (folders[0], "")
  assert measure("AMD EPYC 7763", 2) == (folders[1], "")
  assert measure("AMD EPYC 7763", 3) == (folders[1], "")
  values = {
    path.parent.name: json.loads(path.read_text())["value"] for path in tmp_path.rglob("*.json")
  }
  assert values == {folders[0]: 1, folders[1]: 3}


@pytest.mark.parametrize(
  ("model", "name"),
  [
    ("AMD EPYC", "AMD EPYC (family 25, model 1, stepping 0)"),
    ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763 64-Core Processor"),
    (
      "Intel(R) Xeon(R) Processor @ 2.600GHz",
      "Intel(R) Xeon(R) Processor @ 2.600GHz (family 25, model 1, stepping 0)",
    ),
  ],
)
def test_a_processor_without_a_model_is_named_by_its_family(model, name):
  lines = ["processor\t: 0", "cpu family\t: 25", "model\t\t: 1", f"model name\t: {model}"]
  core = "\n".join([*lines, "stepping\t: 0"])
  other = core.replace("family\t: 25", "family\t: 26")
  assert machine.processor(f"{core}\n\n{other}\n") == name


def test_a_folder_names_cores_and_accelerator():
  about = {"processor": "AMD EPYC 7763", "cores": 16, "device": "NVIDIA H100 80GB HBM3"}
  assert machine.folder(about) == "amd-epyc-7763-16-cores-nvidia-h100-80gb-hbm3"


def test_rates_of_the_machine_are_positive():
  assert machine.matmul_rate(64) > 0
  assert machine.copy_rate(1000) > 0
  assert jax.config.jax_default_matmul_precision is None
