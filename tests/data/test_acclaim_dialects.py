"""Acclaim files as the format's definition and other programs write them: the same positions."""

import codecs

import numpy as np
import pytest

from benchmarks.acclaim_sample import MOTION, SKELETON
from data import mocap
from data.errors import DataError
from data.mocap import acclaim

UPPER, LOWER = (
  SKELETON[SKELETON.index(f"  begin\n    id {number}") :].partition("  end\n")[0] + "  end\n"
  for number in (1, 2)
)
SPARSE = MOTION.replace(":FULLY-SPECIFIED\n", "")


def positions(folder, skeleton=SKELETON, motion=MOTION):
  for name, text in (("01.asf", skeleton), ("01_01.amc", motion)):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
  bones = acclaim.read_skeleton(folder / "01.asf")
  _, channels = acclaim.read_motion(folder / "01_01.amc", bones)
  return dict(
    zip(bones.names, acclaim.joint_positions(bones, channels).swapaxes(0, 1), strict=True)
  )


@pytest.fixture
def plain(tmp_path_factory):
  return positions(tmp_path_factory.mktemp("plain"))


def assert_equal(joints, expected):
  assert {name.lower(): array.tolist() for name, array in joints.items()} == {
    name.lower(): array.tolist() for name, array in expected.items()
  }


def test_commas_and_parentheses_are_white_space(tmp_path, plain):
  skeleton = SKELETON.replace("direction 0 1 0", "direction (0,1, 0)").replace(
    "(-160.0 20.0)\n           (-70.0 70.0)", "(-160.0, 20.0),\n           (-70.0,\n 70.0)"
  )
  skeleton = skeleton.replace("axis 0 0 90 XYZ", "axis (0, 0, 90), XYZ").replace(
    "dof rx rz", "dof (rx,rz)"
  )
  motion = MOTION.replace("root 1 2 3 0 90 0", "root (1, 2, 3),(0,90,0)")
  assert "(0,1, 0)" in skeleton and "(-70.0,\n" in skeleton and "(0,90,0)" in motion
  assert_equal(positions(tmp_path, skeleton, motion), plain)


@pytest.mark.parametrize("skeleton", [SKELETON.upper(), SKELETON.lower(), SKELETON.title()])
@pytest.mark.parametrize("motion", [MOTION.upper(), MOTION.lower()])
def test_upper_and_lower_case_are_the_same(tmp_path, plain, skeleton, motion):
  joints = positions(tmp_path, skeleton, motion)
  assert_equal(joints, plain)
  assert [*joints][1:] == [w for w in skeleton.split() if w.lower() in ("upper", "lower")][:2]


UNITS = ":units\n  mass 1.0\n  length 0.45\n  angle deg\n"


@pytest.mark.parametrize(
  "units",
  [
    ":units mass 1.0 length 0.45 angle rad\n",
    ":units angle rad\n",
    ":UNITS Angle RADIANS mass 1.0\n  length 0.45\n",
    ":units (mass, 1.0)\n length 0.45 angle radian\n",
    ":units\n angle rad mass 1.0 length 0.45\n",
  ],
)
def test_units_on_any_line_of_their_section(tmp_path, plain, units):
  # Angles of the files in radians: the same positions, if both are read as such.
  def radians(line):
    name, *words = line.split()
    kept = 3 if name == "root" else 0
    turned = [str(np.deg2rad(float(word))) for word in words[kept:]]
    return " ".join([name, *words[:kept], *turned])

  skeleton = SKELETON.replace(UNITS, units).replace("axis 0 0 90", f"axis 0 0 {np.pi / 2}")
  lines = [line if len(line.split()) == 1 else radians(line) for line in MOTION.splitlines()]
  for mark in ("", ":RADIANS"):
    motion = "\n".join(lines).replace(":DEGREES", mark)
    for name, array in positions(tmp_path, skeleton, motion).items():
      np.testing.assert_allclose(array, plain[name], atol=1e-12)
  assert not acclaim.read_skeleton(tmp_path / "01.asf").degrees
  motion = "\n".join(lines).replace(":FULLY-SPECIFIED\n:DEGREES", ":FULLY-SPECIFIED :DEGREES")
  with pytest.raises(DataError, match="angles are not in the unit of"):
    positions(tmp_path, skeleton, motion)


@pytest.mark.parametrize(
  ("units", "line"),
  [
    (":units mass 1.0 angle grad\n", 3),
    (":units\n mass 1.0 angle\n", 4),
    (":units angle=rad\n", 3),
    (":units rad\n", 3),
    (":units length 0.45 inch angle rad\n", 3),
    (":units angle deg\n angle rad\n", 4),
  ],
)
def test_units_of_angles_that_are_unknown(tmp_path, units, line):
  with pytest.raises(DataError, match=rf"01\.asf:{line}: .*(angle needs one of deg|in deg and)"):
    positions(tmp_path, SKELETON.replace(UNITS, units))


def test_sections_and_fields_that_share_a_line(tmp_path, plain):
  skeleton = SKELETON.replace(":root\n  order", ":root order").replace(UNITS, ":units angle deg\n")
  skeleton = skeleton.replace("axis XYZ\n  position 0 0 0\n  ", "axis XYZ position 0 0 0 ")
  skeleton = skeleton.replace(":bonedata\n  begin\n    id 1", ":bonedata begin id 1")
  skeleton = skeleton.replace("name upper\n    direction", "name upper direction")
  skeleton = skeleton.replace("dof rx rz\n    limits", "limits").replace(
    "(-160.0 20.0)\n           (-70.0 70.0)", "(-160 20) (-70 70) dof rx rz"
  )
  skeleton = skeleton.replace(":hierarchy\n  begin", ":hierarchy begin")
  assert len(skeleton.splitlines()) == len(SKELETON.splitlines()) - 12
  assert_equal(positions(tmp_path, skeleton), plain)
  names = SKELETON.replace("upper", "length").replace("lower", "end")
  motion = MOTION.replace("upper", "length").replace("lower", "end")
  joints = positions(tmp_path, names, motion)
  assert [array.tolist() for array in joints.values()] == [a.tolist() for a in plain.values()]


def test_bones_may_be_listed_before_their_parents(tmp_path, plain):
  skeleton = SKELETON.replace(UPPER + LOWER, LOWER + UPPER).replace(
    "    root upper\n    upper lower\n", "    upper lower\n    root upper\n"
  )
  assert skeleton != SKELETON
  joints = positions(tmp_path, skeleton)
  assert [*joints] == ["root", "lower", "upper"]
  assert_equal(joints, plain)
  assert acclaim.read_skeleton(tmp_path / "01.asf").bones.tolist() == [[1, 2], [2, 0]]


@pytest.mark.parametrize(
  ("hierarchy", "says"),
  [
    ("lower upper\n    upper lower", "bone upper does not hang from the root"),
    ("root upper\n    upper lower lower", "bone lower has two parents"),
    ("root upper\n    upper lower root", "the root has a parent"),
  ],
)
def test_bones_that_hang_from_no_root(tmp_path, hierarchy, says):
  with pytest.raises(DataError, match=says):
    positions(tmp_path, SKELETON.replace("root upper\n    upper lower", hierarchy))


@pytest.mark.parametrize(
  ("dof", "values"),
  [("tx rx", "3 0"), ("rx tx", "0 3"), ("tx ty tz rx", "3 0 0 0"), ("tx ty tz", "3 0 0")],
)
def test_bones_that_move_along_their_axes(tmp_path, dof, values):
  skeleton = SKELETON.replace("90 XYZ\n    dof rx\n", f"90 XYZ\n    dof {dof}\n")
  motion = MOTION.replace("lower 0\n", f"lower {values}\n").replace(
    "lower 90\n", f"lower {' '.join('0' for _ in values.split())}\n"
  )
  joints = positions(tmp_path, skeleton, motion)
  # The bone's own x axis is its parent's y axis, which the parent turns about x to z.
  np.testing.assert_allclose(joints["lower"][0], [1, 2, 3 + 2 + 1 + 3], atol=1e-12)
  # Nothing is shifted here: the upper bone points along z, and so does the lower one.
  np.testing.assert_allclose(joints["lower"][1], [1, 2, 3 + 2 + 1], atol=1e-12)


def test_a_length_that_changes_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"01\.asf:\d+: channel 'l', a length that changes"):
    positions(tmp_path, SKELETON.replace("dof rx\n", "dof rx l\n"))


def test_joints_that_a_frame_does_not_list_stay_as_they_were(tmp_path):
  lines = {7: "upper 90 0", 8: "lower 45", 9: "root 1 2 3 0 0 0", 10: "upper 0 0\nlower 0"}
  sparse = ":DEGREES\n" + "".join(f"{number}\n{line}\n" for number, line in lines.items())
  whole = ":DEGREES\n:FULLY-SPECIFIED\n"
  for number, (root, upper, lower) in {
    7: ("0 0 0", "90 0", "0"),
    8: ("0 0 0", "90 0", "45"),
    9: ("1 2 3", "90 0", "45"),
    10: ("1 2 3", "0 0", "0"),
  }.items():
    whole += f"{number}\nroot {root} 0 0 0\nupper {upper}\nlower {lower}\n"
  joints = positions(tmp_path, motion=sparse)
  np.testing.assert_allclose(
    joints["upper"], [[0, 0, 2], [0, 0, 2], [1, 2, 5], [1, 4, 3]], atol=1e-12
  )
  assert_equal(joints, positions(tmp_path, motion=whole))


@pytest.mark.parametrize("mark", [":FULLY-SPECIFIED\n", ""])
@pytest.mark.parametrize(
  ("end", "says"),
  [
    ("lower 90\n", "frame 8 ends without joint lower"),
    ("upper 0 90\nlower 90\n", "frame 8 ends without joint upper"),
    ("root 1 2 3 0 90 0\nupper 0 90\nlower 90\n", "frame 8 ends without joint root"),
    (" 90\nlower 90\n", "joint upper has 1 channels where the skeleton has 2"),
    ("er 90\n", "'low' is not a frame number"),
  ],
)
def test_a_last_frame_that_was_cut_off(tmp_path, mark, end, says):
  with pytest.raises(DataError, match=rf"01_01\.amc:\d+: {says}"):
    positions(tmp_path, motion=mark + SPARSE.removesuffix(end))


@pytest.mark.parametrize(
  ("frames", "missing"),
  [
    ([("root", "upper", "lower"), ("upper", "lower"), ("upper", "lower"), ("upper",)], "lower"),
    ([("root", "upper", "lower"), ("root",), ("lower", "upper"), ()], "lower"),
    # These frames have no list in common: none says what the last one should list.
    ([("root", "upper", "lower"), ("root",), ("upper", "lower"), ("upper",)], None),
    ([("root", "upper", "lower"), ("lower",)], None),
  ],
)
def test_a_last_frame_that_lists_some_joints(tmp_path, frames, missing):
  zeros = {"root": " 0" * 6, "upper": " 0 0", "lower": " 0"}
  motion = ":DEGREES\n"
  for number, names in enumerate(frames, start=1):
    motion += f"{number}\n" + "".join(f"{name}{zeros[name]}\n" for name in names)
  if missing:
    with pytest.raises(DataError, match=f"frame {len(frames)} ends without joint {missing}"):
      positions(tmp_path, motion=motion)
  else:
    lower = positions(tmp_path, motion=motion)["lower"]
    np.testing.assert_array_equal(lower, [[0, 3, 0]] * len(frames))


@pytest.mark.parametrize(
  "encoded",
  [
    lambda text: codecs.BOM_UTF8 + text.encode(),
    lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    lambda text: text.encode() + b"\x1a",
    lambda text: text.encode() + b"\x1a\0\0\0",
    lambda text: text.replace("\n", "\r\n").encode() + b"\x1a\r\n",
    lambda text: text.replace("\n", "\r").encode(),
    lambda text: ("# a caf\u00e9\n" + text).encode("latin-1"),
  ],
)
def test_marks_ends_and_encodings(tmp_path, plain, encoded):
  assert_equal(positions(tmp_path, encoded(SKELETON), encoded(MOTION)), plain)


def test_text_after_the_end_of_file_character_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"01_01\.amc:6: text follows the end-of-file character"):
    positions(tmp_path, motion=MOTION.replace("upper 90 0\n", "upper 90 0\x1a\n", 1))


@pytest.mark.parametrize("word", ["-1.#IND", "1.#QNAN", "1.#INF", "-1.#IND00", "1.#R", "1#INF"])
def test_numbers_that_are_none(tmp_path, word):
  with pytest.raises(DataError, match=rf"01_01\.amc:7: '{word}' should be finite numbers"):
    positions(tmp_path, motion=MOTION.replace("lower 0\n", f"lower {word}\n", 1))
  with pytest.raises(DataError, match=rf"01\.asf:17: '{word}' should be 1 finite numbers"):
    positions(tmp_path, SKELETON.replace("length 2\n", f"length {word}\n"))


def test_decimal_commas_are_not_read_as_two_numbers(tmp_path):
  with pytest.raises(DataError, match="joint lower has 2 channels where the skeleton has 1"):
    positions(tmp_path, motion=MOTION.replace("lower 0\n", "lower 1,#INF\n", 1))


def test_comments_after_numbers(tmp_path, plain):
  motion = MOTION.replace("lower 0\n", "lower 0# still\n").replace("lower 90\n", "lower 90. # 1.\n")
  assert_equal(positions(tmp_path, motion=motion), plain)


def test_files_called_in_upper_case_in_the_home_folder(tmp_path, monkeypatch, plain):
  monkeypatch.setenv("HOME", str(tmp_path))
  folder = tmp_path / "walks"
  folder.mkdir()
  (folder / "35.ASF").write_text(SKELETON)
  (folder / "35_01.AMC").write_text(MOTION)
  trials, bones, names, read_from = mocap.read_acclaim("~/walks", 35)
  assert (bones.tolist(), names, read_from) == ([[1, 0], [2, 1]], [*plain], folder)
  np.testing.assert_array_equal(trials["01"], np.stack([*plain.values()], axis=1))
  (folder / "35_01.amc").write_text(MOTION)
  with pytest.raises(DataError, match=r"35_01\.AMC and 35_01\.amc are of one trial; leave one"):
    mocap.read_acclaim("~/walks", 35)
