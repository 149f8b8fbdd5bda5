import numpy as np
import pytest


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
  """A data set of 60 trajectories."""
  from data import nbody
  from data.nbody_simulation import Physics

  found = nbody.simulate(Physics(), 5, np.arange(60), 0)
  bounds = {"train": slice(0, 40), "valid": slice(40, 50), "test": slice(50, 60)}
  arrays = {
    f"{split}_{field}": found[field][part]
    for split, part in bounds.items()
    for field in ("positions", "velocities", "charges", "targets")
  }
  path = tmp_path_factory.mktemp("data") / "small.npz"
  np.savez(path, **arrays)
  return path
