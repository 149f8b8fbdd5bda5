import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.acclaim_sample import MOTION, SKELETON
from data.errors import DataError
from data.mocap import acclaim


def write(folder, skeleton=SKELETON, motion=MOTION, end="\n"):
  (folder / "01.asf").write_text(skeleton.replace("\n", end), newline="")
  (folder / "01_01.amc").write_text(motion.replace("\n", end), newline="")
  parsed = acclaim.read_skeleton(folder / "01.asf")
  return parsed, *acclaim.read_motion(folder / "01_01.amc", parsed)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_positions_of_a_hand_made_motion(tmp_path, end):
  skeleton, numbers, channels = write(tmp_path, end=end)
  assert skeleton.names == ["root", "upper", "lower"]
  assert skeleton.bones.tolist() == [[1, 0], [2, 1]]
  assert numbers.tolist() == [7, 8]
  expected = [
    # Turned about x by 90 degrees, y points along z.
    [[1, 2, 3], [1, 2, 5], [1, 2, 6]],
    # The upper bone points along -x in the body (about z), which the root turns to z (about y);
    # the lower joint's own x axis is the body's y, so that it turns the lower bone out of the line:
    # about the upper bone's y, which lies along -z here.
    [[1, 2, 3], [1, 2, 5], [1, 2, 5]],
  ]
  positions = acclaim.joint_positions(skeleton, channels)
  np.testing.assert_allclose(positions[0], expected[0], atol=1e-12)
  np.testing.assert_allclose(positions[1, :2], expected[1][:2], atol=1e-12)
  assert np.linalg.norm(positions[1, 2] - positions[1, 1]) == pytest.approx(1)


def test_angles_follow_the_documented_product(tmp_path):
  skeleton, _, channels = write(tmp_path)
  positions = acclaim.joint_positions(skeleton, channels)[1]

  def about(axis, degrees):
    a, (i, j) = np.deg2rad(degrees), {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(a)
    matrix[j, i], matrix[i, j] = np.sin(a), -np.sin(a)
    return matrix

  upper = about("y", 90) @ about("z", 90)
  axes = about("z", 90)
  lower = upper @ axes @ about("x", 90) @ axes.T
  np.testing.assert_allclose(positions[2] - positions[1], lower @ [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize(
  ("old", "new", "says"),
  [
    ("length 2\n", "length two\n", r"01\.asf:17: 'two' should be 1 finite numbers"),
    ("length 2\n", "", "a block without length"),
    (":hierarchy", ":nothing", "section :hierarchy is missing"),
    ("direction 0 1 0\n    length 1", "direction 0 nan 0\n    length 1", "finite numbers"),
    ("dof rx rz", "dof rx rx", "listed twice"),
    ("dof rx rz", "dof rw", "does not exist"),
    ("upper lower\n", "upper ankle\n", "names ankle"),
    ("upper lower\n", "", "lower is missing from :hierarchy"),
    ("axis 0 0 90 XYZ", "axis 0 0 90 XXZ", "no permutation"),
  ],
)
def test_damaged_skeletons(tmp_path, old, new, says):
  assert old in SKELETON
  with pytest.raises(DataError, match=says):
    write(tmp_path, skeleton=SKELETON.replace(old, new, 1))


@pytest.mark.parametrize(
  ("old", "new", "says"),
  [
    ("upper 90 0\n", "upper 90\n", r"01_01\.amc:6: joint upper has 1 channels where .* has 2"),
    ("lower 0\n", "", "frame 7 ends without joint lower"),
    ("lower 90\n", "", "frame 8 ends without joint lower"),
    ("lower 0\n", "lower nan\n", "finite numbers"),
    ("lower 0\n", "lower 0\nlower 0\n", "appears twice"),
    ("lower 0\n", "ankle 0\nlower 0\n", "ankle is not in the skeleton"),
    ("\n8\n", "\n9\n", "frame 9 follows frame 7"),
    ("\n8\n", "\nx\n", "'x' is not a frame number"),
    (":DEGREES\n7\n", ":DEGREES\n", "before the first frame"),
    (":DEGREES", ":RADIANS", "not in the unit"),
    (MOTION, ":DEGREES\n", "no frames"),
  ],
)
def test_damaged_motions(tmp_path, old, new, says):
  assert old in MOTION
  with pytest.raises(DataError, match=says):
    write(tmp_path, motion=MOTION.replace(old, new, 1))


def test_missing_files(tmp_path):
  with pytest.raises(DataError, match="cannot be read"):
    acclaim.read_skeleton(tmp_path / "no.asf")


def test_golden_positions(tmp_path):
  folder = Path(os.environ.get("ACE_DATA_DIR", "")) / "cmu_mocap"
  archive = folder / "subject35_acclaim.tar.xz"
  if not archive.exists():
    pytest.skip("ACE_DATA_DIR has no subject35_acclaim.tar.xz")
  with tarfile.open(archive) as file:
    file.extractall(tmp_path, filter="data")
  path = next(tmp_path.rglob("35.asf"))
  skeleton = acclaim.read_skeleton(path)
  golden = np.load(folder / "subject35_positions_golden.npz")
  assert skeleton.names == golden["joint_names"].tolist()
  for name in ("35_01", "35_12", "35_30"):
    _, channels = acclaim.read_motion(path.parent / f"{name}.amc", skeleton)
    positions = acclaim.joint_positions(skeleton, channels)
    np.testing.assert_allclose(positions, golden[f"trial_{name}"], atol=1e-3)
