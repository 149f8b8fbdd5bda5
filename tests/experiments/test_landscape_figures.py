"""Landscapes are drawn from what is kept of them, again and again."""

import json

import numpy as np
import pytest

from data.errors import DataError
from experiments.landscape import figures

A = np.linspace(-1, 1, 3)
NUMBERS = {"top_eigenvalues": [3.0], "trace": 4.0, "trace_standard_error": 1.0, "loss": 0.1}


def kept():
  bowl = (0.1 + A[:, None] ** 2 + A[None] ** 2).astype(np.float32)
  plane = {"a": A, "b": A, "losses": {"gamma = 0": bowl, "gamma = 1": 2 * bowl}}
  twice = {name: np.stack([losses] * 2) for name, losses in plane["losses"].items()}
  surfaces = {
    "end": plane,
    "animation": {**plane, "levels": np.array([1.0, 0.0]), "losses": np.stack([bowl] * 2)},
    "training": {**plane, "losses": twice},
    "trajectory": {**plane, "points": {"training": np.array([[-0.5, 0.5], [0.0, 0.0]])}},
  }
  rows = {"gamma = 0": NUMBERS, "gamma = 1": NUMBERS}
  training = [{"epoch": epoch, **rows} for epoch in (20, 120)]
  return surfaces, {"end": rows, "training": training, "explained_by_plane": [0.9, 0.1]}


def test_surfaces_are_read_as_they_were(tmp_path):
  surfaces, _ = kept()
  figures.write_surfaces(tmp_path, surfaces)
  read = figures.read_surfaces(tmp_path)
  assert read.keys() == surfaces.keys()
  np.testing.assert_allclose(read["end"]["losses"]["gamma = 1"][1], [2.2, 0.2, 2.2], rtol=1e-6)
  np.testing.assert_array_equal(read["trajectory"]["points"]["training"][0], [-0.5, 0.5])


def test_figures_are_drawn_anew_from_what_is_kept(tmp_path):
  surfaces, numbers = kept()
  folder, out = tmp_path / "kept", tmp_path / "out"
  folder.mkdir()
  out.mkdir()
  figures.write_surfaces(folder, surfaces)
  (folder / figures.NUMBERS).write_text(json.dumps(numbers))
  figures.redraw(folder, out)
  drawn = {path.name for path in out.iterdir()}
  assert drawn == {
    *("contours.png", "surface_gamma0.png", "surface_gamma1.png", "gamma.gif", "training.png"),
    *("sharpness.png", "trajectory.png"),
  }
  (folder / figures.NUMBERS).write_text('{"end": {"gamma = 0": {}}}')
  with pytest.raises(DataError, match="are not of one landscape"):
    figures.redraw(folder, out)


def test_what_is_no_landscape_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"cannot read .*surfaces.npz"):
    figures.read_surfaces(tmp_path)
  (tmp_path / figures.SURFACES).write_bytes(b"no archive")
  with pytest.raises(DataError, match=r"cannot read .*surfaces.npz"):
    figures.read_surfaces(tmp_path)
  np.savez(tmp_path / figures.SURFACES, other=A)
  with pytest.raises(DataError, match="holds no surface around the end"):
    figures.read_surfaces(tmp_path)
