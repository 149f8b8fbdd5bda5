"""Acclaim motions (.amc), and the joint positions that follow from them and their skeleton (.asf).

Positions are in the file's own length unit (for the CMU files 1 unit = 1/0.45 inch = 5.644 cm),
joints in the order of the .asf: the root first, then the bones.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from data import paths
from data.errors import DataError
from data.mocap.skeleton import ROTATIONS, TRANSLATIONS, Joint, Skeleton, read_skeleton
from data.mocap.words import Reader, is_integer, shown

__all__ = ["Joint", "Skeleton", "joint_positions", "read_motion", "read_skeleton"]

_LARGEST_MOTION = 10**7
"""Frames times joints; an hour of 31 joints at 120 Hz has more, no file of CMU a tenth of it."""


def read_motion(
  path: str | Path, skeleton: Skeleton
) -> tuple[Int[np.ndarray, " frames"], dict[str, np.ndarray]]:
  """Parses an .amc file.

  A joint that a frame does not list stays as it was in the frame before; until it is first listed,
  all its channels are 0. In a file that calls itself :FULLY-SPECIFIED every frame must list the
  same joints. In any other, the last frame counts as cut off if it lists no joint, or if it breaks
  off within a list that all frames but the first, which may be a fuller one, have in common. Where
  the file names no unit, angles are in the skeleton's.

  Args:
    path: The file; a leading ~ is the home folder.
    skeleton: The skeleton it moves.

  Returns:
    The frame numbers as the file has them (they need not start at 1), and the channels of every
    joint that has some, {name: [frames, channels]}.

  Raises:
    DataError: the file is missing, truncated, has other joints or channels, or frames that do
      not follow one another; names the line.
  """
  path = paths.expanded(path)
  reader = Reader(path)
  joints = {joint.name.casefold(): joint for joint in skeleton.joints}
  if not any(joint.channels for joint in skeleton.joints):
    raise DataError(f"{skeleton.path}: no joint has channels; get the file again.")
  numbers: list[int] = []
  frames: list[dict[str, list[float]]] = []
  last_lines: list[int] = []
  units: set[str] = set()
  same_joints = False
  for words in reader:
    key = words[0].casefold()
    if key.startswith(":"):
      marks = {word.casefold() for word in words}
      units |= marks & {":degrees", ":radians"}
      same_joints = same_joints or ":fully-specified" in marks
    elif len(words) == 1 and (is_integer(key) or key not in joints):
      number = reader.integer(words[0])
      if numbers and number != numbers[-1] + 1:
        raise reader.error(f"frame {number} follows frame {numbers[-1]}")
      numbers.append(number)
      frames.append({})
      last_lines.append(reader.line)
    else:
      if not frames:
        raise reader.error(f"channels of {shown(words[0])} before the first frame number")
      _check_joint(reader, words, joints, numbers[-1], frames[-1])
      frames[-1][key] = reader.numbers(words[1:]) if len(words) > 1 else []
      last_lines[-1] = reader.line
  if not any(frames):
    raise DataError(f"{path}: no frames; the file is empty or truncated, get it again.")
  if len(units) > 1:
    raise DataError(f"{path}: says both {' and '.join(sorted(units))}; mend the file.")
  if units and (":degrees" in units) != skeleton.degrees:
    raise DataError(
      f"{path}: angles are not in the unit of {skeleton.path}; take files that belong together."
    )
  if same_joints:
    _check_same_joints(reader, joints, numbers, frames, last_lines)
  else:
    _check_last_frame(reader, joints, numbers, frames, last_lines[-1])
  channels = {
    joint.name: _held(key, len(joint.channels), frames)
    for key, joint in joints.items()
    if joint.channels
  }
  return np.array(numbers), channels


def _check_joint(
  reader: Reader,
  words: list[str],
  joints: dict[str, Joint],
  number: int,
  frame: dict[str, list[float]],
) -> None:
  name, key, count = shown(words[0]), words[0].casefold(), len(words) - 1
  if key not in joints:
    raise reader.error(f"joint {name} is not in the skeleton")
  if key in frame:
    raise reader.error(f"joint {name} appears twice in frame {number}")
  expected = len(joints[key].channels)
  if count != expected:
    raise reader.error(f"joint {name} has {count} channels where the skeleton has {expected}")


def _check_same_joints(
  reader: Reader,
  joints: dict[str, Joint],
  numbers: list[int],
  frames: list[dict[str, list[float]]],
  last_lines: list[int],
) -> None:
  listed = set().union(*frames)
  for number, frame, line in zip(numbers, frames, last_lines, strict=True):
    for key, joint in joints.items():
      if joint.channels and key in listed and key not in frame:
        raise reader.error(f"frame {number} ends without joint {joint.name}", line)


def _check_last_frame(
  reader: Reader,
  joints: dict[str, Joint],
  numbers: list[int],
  frames: list[dict[str, list[float]]],
  line: int,
) -> None:
  """Refuses a last frame that looks cut off in a file whose frames may list some joints only."""
  if len(frames) < 2:
    return
  listed = [[*frame] for frame in frames]
  *before, last = listed
  repeated = all(keys == before[-1] for keys in before[1:])
  cut_off = repeated and len(last) < len(before[-1]) and last == before[-1][: len(last)]
  if cut_off or (not last and all(before)):
    missing = joints[before[-1][len(last)]].name
    raise reader.error(f"frame {numbers[-1]} ends without joint {missing}", line)


def _held(
  key: str, count: int, frames: list[dict[str, list[float]]]
) -> Float[np.ndarray, "frames channels"]:
  """Returns a joint's channels in every frame: those of the frame before where one has none."""
  rows, last = [], [0.0] * count
  for frame in frames:
    last = frame.get(key, last)
    rows.append(last)
  return np.array(rows)


def joint_positions(
  skeleton: Skeleton, channels: dict[str, np.ndarray]
) -> Float[np.ndarray, "frames joints 3"]:
  """Computes joint positions by forward kinematics, for all frames at once.

  .. math:: R_j = R_{p(j)} C_j M_j C_j^{-1}, \\qquad x_j = x_{p(j)} + R_{p(j)} C_j t_j + R_j o_j

  with C the rotation of the joint's frame, M and t the rotation and the translation of its
  channels, and o its offset. A joint's translation is not turned by its own rotation, whatever the
  order of its channels; the root's is along the axes of the world.

  Args:
    skeleton: The skeleton.
    channels: Of `read_motion`.

  Raises:
    DataError: the motion is too long, or a position is not a finite float32.
  """
  frames = len(next(iter(channels.values())))
  if frames * len(skeleton.joints) > _LARGEST_MOTION:
    raise DataError(
      f"{skeleton.path}: {frames} frames of {len(skeleton.joints)} joints are more than "
      f"{_LARGEST_MOTION} positions; cut the motion into parts."
    )
  rotations: dict[int, Rotation] = {}
  positions = np.zeros((frames, len(skeleton.joints), 3))
  for i in skeleton.descent:
    joint, parent = skeleton.joints[i], skeleton.parents[i]
    frame = Rotation.from_euler(joint.order.lower(), joint.axis, degrees=skeleton.degrees)
    values = channels.get(joint.name, np.zeros((frames, 0)))
    turns = [k for k, channel in enumerate(joint.channels) if channel in ROTATIONS]
    local = Rotation.identity(frames)
    if turns:
      order = "".join(joint.channels[k][1] for k in turns)
      local = Rotation.from_euler(order, values[:, turns], degrees=skeleton.degrees)
    local = frame * local * frame.inv()
    shifts = np.zeros((frames, 3))
    for k, channel in enumerate(joint.channels):
      if channel in TRANSLATIONS:
        shifts[:, TRANSLATIONS.index(channel)] = values[:, k]
    with np.errstate(over="ignore", invalid="ignore"):
      if parent < 0:
        rotations[i] = local
        positions[:, i] = shifts + joint.offset
      else:
        rotations[i] = rotations[parent] * local
        positions[:, i] = positions[:, parent] + rotations[i].apply(joint.offset)
        if shifts.any():
          positions[:, i] += rotations[parent].apply(frame.apply(shifts))
    if not np.all(np.abs(positions[:, i]) <= np.finfo(np.float32).max):
      raise DataError(
        f"{skeleton.path}: joint {joint.name} is not at a finite place; get the files again."
      )
  return positions
