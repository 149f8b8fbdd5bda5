"""The figures of landscapes, drawn from the surfaces and numbers that a command keeps."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ace_jax import archives, plots
from data.errors import DataError, first_line
from experiments.harness import result_files

SURFACES, NUMBERS = "surfaces.npz", "landscape.json"
_DISTANCES = ("distance in the plane, from strict to relaxed", "distance in the plane, across")
_MEND = "name a folder that experiments.landscape wrote"


def write_surfaces(folder: Path, surfaces: Mapping[str, Any]) -> None:
  """Writes surfaces.npz.

  Args:
    folder: Where.
    surfaces: By figure ("end", "animation", "training", "trajectory", "plane"): coordinates "a"
      and "b", "losses" by label, marked "points" by label.
  """
  archives.write(folder / SURFACES, archives.flatten(surfaces), {})


def read_surfaces(folder: Path) -> dict[str, Any]:
  """Inverse of `write_surfaces`.

  Raises:
    DataError: the file is missing, damaged or of something else.
  """
  path = folder / SURFACES
  try:
    surfaces = archives.unflatten(archives.read(path)[0])
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise DataError(f"cannot read {path}: {first_line(error)}; {_MEND}.") from error
  if not isinstance(surfaces.get("end"), dict):
    raise DataError(f"{path} holds no surface around the end of a training; {_MEND}.")
  return surfaces


def redraw(folder: Path, out: Path) -> None:
  """Draws the figures of a folder anew, from what is kept there.

  Raises:
    DataError: the folder holds no surfaces, or other numbers than those of a landscape.
  """
  surfaces = read_surfaces(folder)
  numbers = result_files.read_json(folder / NUMBERS, _MEND)
  try:
    draw(surfaces, numbers, out)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise DataError(
      f"{folder}: {NUMBERS} and {SURFACES} are not of one landscape; {_MEND}."
    ) from error


def draw(surfaces: Mapping[str, Any], numbers: Mapping[str, Any], folder: Path) -> None:
  """Draws every figure of which there are surfaces.

  Args:
    surfaces: As in `write_surfaces`.
    numbers: As in landscape.json: "end" and "training" have loss and curvature.
    folder: Of the figures.
  """
  end, notes = surfaces["end"], {}
  for label, row in numbers["end"].items():
    top, trace, error = row["top_eigenvalues"][0], row["trace"], row["trace_standard_error"]
    notes[label] = f"top eigenvalue {top:.3g}, trace {trace:.3g} +- {error:.1g}"
  plane = (end["losses"], end["a"], end["b"])
  marks = {"end of training": np.zeros((1, 2))}
  plots.save(plots.contours(*plane, marks, notes), folder / "contours.png")
  for label, losses in end["losses"].items():
    name = label.replace(" = ", "").replace(" ", "_")
    plots.save(plots.surface(losses, end["a"], end["b"], label), folder / f"surface_{name}.png")
  if movie := surfaces.get("animation"):
    frames = (movie["levels"].tolist(), movie["losses"], movie["a"], movie["b"])
    plots.save_animation(folder / "gamma.gif", *frames)
  if training := surfaces.get("training"):
    epochs = [entry["epoch"] for entry in numbers["training"]]
    rows = (training["losses"], epochs, training["a"], training["b"])
    plots.save(plots.along_training(*rows), folder / "training.png")
    plots.save(plots.sharpness(numbers["training"]), folder / "sharpness.png")
  if path := surfaces.get("trajectory"):
    labels = [
      f"distance along principal direction {i} ({100 * share:.0f} % of the path)"
      for i, share in enumerate(numbers["explained_by_plane"], start=1)
    ]
    plane = (path["losses"], path["a"], path["b"])
    figure = plots.contours(*plane, path["points"], None, (labels[0], labels[1]))
    plots.save(figure, folder / "trajectory.png")
  if through := surfaces.get("plane"):
    plane = (through["losses"], through["a"], through["b"])
    figure = plots.contours(*plane, through["points"], None, _DISTANCES)
    plots.save(figure, folder / "plane.png")
