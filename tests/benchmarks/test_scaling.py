import dataclasses
import math

import numpy as np
import pytest

from benchmarks import scaling, scaling_figure, scaling_worker, steps


def point(particles, **measured):
  return {"size": dataclasses.asdict(scaling_worker.Size(particles=particles)), **measured}


def axis(**names):
  points = [point(n, step_ms=3.0 * n**2, gflop=n**1.5, buffers=8 * n, rss=None) for n in (5, 10)]
  points.append(point(20, step_ms=3.0 * 2 * 20**2, gflop=20**1.5, buffers=8 * 20, rss=None))
  return {
    "varied": "particles",
    "points": points,
    "slopes": scaling.slopes("particles", points),
    **names,
  }


def test_slopes_on_logarithmic_axes():
  slopes = axis()["slopes"]
  # The last point is twice as high: a whole unit over the last doubling, half of one over both.
  assert slopes["step_ms"] == {"all": 2.5, "last": 3.0}
  assert slopes["gflop"] == {"all": 1.5, "last": 1.5}
  assert slopes["buffers"] == {"all": 1.0, "last": 1.0}
  assert "rss" not in slopes


def test_every_axis_starts_from_the_published_step_and_varies_one_size():
  base = dataclasses.asdict(scaling_worker.Size())
  for name, (varied, sizes) in scaling.AXES.items():
    made = [dataclasses.asdict(scaling_worker.Size(**size)) for size in sizes]
    moved = {key for size in made for key in size if size[key] != made[0][key]}
    assert moved == {varied}, name
    assert [size[varied] for size in made] == sorted({size[varied] for size in made})
    fixed = {key: value for key, value in made[0].items() if key != varied}
    allowed = {"batch": {25, 100}, "neighbours": {16, None}}
    assert all(value in allowed.get(key, {base[key]}) for key, value in fixed.items()), name


def test_epochs_are_shorter_where_batches_are_larger():
  assert scaling_worker.Size().batches == 10
  assert scaling_worker.Size(batch=1600).batches == 2
  assert scaling_worker.Size(particles=100, batch=25).batches == 2
  assert scaling_worker.Size(samples=3000).batches == 30


def test_figure_and_table():
  report = {"axes": {"particles": axis(), "nearest16": axis()}}
  figure = scaling_figure.growth(report["axes"])
  time, memory = figure.axes
  lines = time.get_lines()
  assert len(lines) == 4
  assert len(memory.get_lines()) == 2
  np.testing.assert_allclose(lines[1].get_ydata(), 75 * np.array([1, 2**1.5, 4**1.5]))
  assert lines[0].get_label() == "all pairs, batch 100: time, slope 2.50"
  assert "2.50 (3.00)  1.50 (1.50)" in scaling.table(report)


@pytest.mark.slow
def test_one_point_measures_what_it_says():
  size = scaling_worker.Size(particles=6, neighbours=2, batch=4, width=8, layers=1, samples=8)
  record = scaling_worker.measure(size, 0.0)
  assert (record["steps"], record["epochs"]) == (2, 3)
  assert record["data"] == 8 * 6 * (3 * 3 + 1 + 2) * 4
  assert record["step_ms"] > 0
  assert record["buffers"] > 0
  assert math.isfinite(record["gflop"])
  assert record["rss"] is None or record["rss"] >= 0


def test_the_peak_of_resident_memory():
  resident = scaling_worker.Resident()
  resident.reset()
  if resident.before is None:
    pytest.skip("/proc/self/clear_refs cannot be written")
  held = np.ones(5_000_000)
  del held
  assert resident.rise() >= 0.9 * 40_000_000
  resident.reset()
  assert resident.rise() < 20_000_000


def test_random_particles_have_the_edges_of_their_nearest():
  problem = steps.segnn(batch_size=2, particles=7, neighbours=3, batches=2)
  assert problem.data["senders"].shape == (4, 7, 3)
  *_, graph = problem.inputs(problem.data)
  assert graph.in_degree == 3
  assert len(steps.segnn(batch_size=2, batches=1).inputs(problem.data)) == 3
