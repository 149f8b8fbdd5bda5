import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax.homotopy import Homotopic
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
  one, three = (steps.Epoch(problem.first(n), [begin]) for n in (1, 3))
  assert three.steps == 3
  assert three.gflop < 1.5 * one.gflop  # the order of samples and the last checks grow with it
  products = 2 * 4 * 8 * (1 + 3) * 2e-9  # of both maps, forward and for the weights
  assert products < one.gflop < 20 * products
  three()
  assert int(three.states.step[0]) == 3
  assert three.losses.shape == (1, 3)


def test_ratios_of_rounds_do_not_see_what_disturbs_a_whole_round():
  rng = np.random.default_rng(0)
  base = rng.lognormal(0, 0.5, 200)
  found = steps.ratio([*(1.01 * base * rng.normal(1, 0.02, 200))], [*base])
  assert found["error"] == pytest.approx(1.2533 * 0.02 / 200**0.5, rel=0.3)
  assert abs(found["ratio"] - 1.01) < 4 * found["error"]


def test_programs_take_turns():
  calls = []
  programs = {name: (lambda name=name: calls.append(name) or len(calls)) for name in "ab"}
  times = steps.interleave(programs, 2)
  assert "".join(calls) == "ba" + "ab" + "ba"
  assert times == {"a": [3, 6], "b": [4, 5]}


def test_floor_is_the_time_at_the_products_rate():
  found = machine.floor(machine.PRODUCT_GFLOP / 2, median_ms=100, product_ms=50)
  assert found["floor_ms"] == 25
  assert found["fraction_of_matmul_rate"] == 0.25


def test_table_of_reports(tmp_path):
  about = {"processor": "P", "cores": 2, "device": "cpu", "jax": "0.10.2"}
  shared = {"product_ms": 50.0, "machine": about, "command": "benchmarks.x"}
  step = {"benchmark": "step", "model": "egno", "batch": 12, "constraint": "none"}
  step |= {"median_ms": 150.0, "products": 3.0, **machine.floor(17.0, 150.0, 50.0)}
  cost = {"equality": {"percent": 0.42, "percent_error": 0.1}}
  reports = {
    "step": {**step, "compile_seconds": 12.3},
    "overhead": {"benchmark": "overhead", "model": "segnn", "overhead": cost},
    "nbody": {"benchmark": "nbody", "trajectories": 14000, "seconds": 1.1},
  }
  paths = {name: tmp_path / f"{name}.json" for name in reports}
  for name, path in paths.items():
    path.write_text(json.dumps({**reports[name], **shared}))
  rows, where = speed_table.read(paths)
  command = "`python -m benchmarks.x`"
  assert rows == [
    ["EGNO step, batch 12, none", "150 ms", "3.00", "49.5 ms", "33%", "12 s", command],
    ["what equality adds to the relaxed SEGNN step", "0.4 +- 0.1 %", *[""] * 4, command],
    ["14,000 trajectories of 5 particles", "1.1 s", "22.00", "", "", "", command],
  ]
  assert where.startswith("2 cores of P, cpu, JAX 0.10.2. A product")
  table = speed_table.markdown(rows, where)
  readme = f"a\n{speed_table.BEGIN}\nold\n{speed_table.END}\nb\n"
  assert speed_table.insert(readme, table) == (
    f"a\n{speed_table.BEGIN}\n{table}{speed_table.END}\nb\n"
  )
  with pytest.raises(ValueError, match="no line"):
    speed_table.insert("a\n", table)


def test_rates_of_the_machine_are_positive():
  assert machine.matmul_rate(64) > 0
  assert machine.copy_rate(1000) > 0
  assert jax.config.jax_default_matmul_precision is None
