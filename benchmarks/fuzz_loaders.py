"""What reads files, how each is given broken ones, and what it may answer.

Every loader either raises its own error, or returns something that holds together; anything else
is a finding.
"""

from pathlib import Path

from benchmarks import fuzz_runs, fuzz_shapes, fuzz_trajectories
from benchmarks.fuzz_loader import Loader


def make(root: Path, real: Path | None) -> dict[str, Loader]:
  """Makes every loader; that of HDF5 files only where h5py is installed.

  Args:
    root: A folder for files.
    real: Folder of real data (ACE_DATA_DIR), from which files are made where it has them.
  """
  outside = root / "outside"
  outside.mkdir(parents=True, exist_ok=True)
  trap = outside / "unpickled"
  makers = fuzz_trajectories.MAKERS | fuzz_runs.MAKERS | fuzz_shapes.MAKERS
  loaders = {}
  for name, maker in makers.items():
    folder = root / name
    folder.mkdir(exist_ok=True)
    loaders[name] = Loader(*maker(folder, real, trap), outside=outside)
  return loaders
