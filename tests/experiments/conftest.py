import numpy as np
import pytest

from tests import commands


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
  """A data set of 60 trajectories."""
  from data import nbody
  from data.nbody.physics import Physics

  simulated = nbody.simulate(Physics(), 5, np.arange(60), 0)
  bounds = {"train": slice(0, 40), "valid": slice(40, 50), "test": slice(50, 60)}
  arrays = {
    f"{split}_{field}": simulated[field][part]
    for split, part in bounds.items()
    for field in ("positions", "velocities", "charges", "targets")
  }
  path = tmp_path_factory.mktemp("data") / "small.npz"
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope="module")
def run(request):
  """Starts the experiment that the test's module names EXPERIMENT, with flags."""

  def start(*flags):
    return commands.run(f"experiments.{request.module.EXPERIMENT}", *flags)

  return start
