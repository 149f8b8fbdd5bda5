"""Acclaim skeletons (.asf) and motions (.amc), and the joint positions that follow from them.

Positions are in the file's own length unit (for the CMU files 1 unit = 1/0.45 inch = 5.644 cm),
joints in the order of the .asf: the root first, then the bones.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from data.errors import DataError

_AXES = ("rx", "ry", "rz")
_SHIFTS = ("tx", "ty", "tz")
_LARGEST_FILE = 64 * 2**20
_SHOWN = 40
"""Characters of a file's words that an error message shows."""
_LARGEST_MOTION = 10**7
"""Frames times joints; an hour of 31 joints at 120 Hz has more, no file of CMU a tenth of it."""


@dataclasses.dataclass(frozen=True)
class Joint:
  """One bone and the joint at its end; for the root, the body's origin.

  Attributes:
    name: As in the file.
    offset: From the parent's joint to this one when all angles are 0, [3].
    axis: Euler angles of the joint's own frame, in the file's angle unit.
    order: Axes of these angles, in the order of application: "XYZ" turns about x first.
    channels: What a line of the motion file lists for it: of tx ty tz rx ry rz.
  """

  name: str
  offset: tuple[float, ...] = (0.0, 0.0, 0.0)
  axis: tuple[float, ...] = (0.0, 0.0, 0.0)
  order: str = "XYZ"
  channels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Skeleton:
  """What an .asf file says.

  Attributes:
    joints: The root and the bones, in the file's order.
    parents: Index of each joint's parent; -1 for the root.
    degrees: Whether angles are degrees.
    path: The file.
  """

  joints: tuple[Joint, ...]
  parents: tuple[int, ...]
  degrees: bool
  path: Path

  @property
  def names(self) -> list[str]:
    """Names of the joints."""
    return [joint.name for joint in self.joints]

  @property
  def bones(self) -> Int[np.ndarray, "bones 2"]:
    """Pairs (joint, parent)."""
    return np.array([[i, p] for i, p in enumerate(self.parents) if p >= 0])


def read_skeleton(path: Path) -> Skeleton:
  """Parses an .asf file.

  Raises:
    DataError: the file is missing, truncated or inconsistent; names the line.
  """
  reader = _Reader(path)
  degrees, root, bones, children = True, None, [], None
  for words in reader:
    if words[0] == ":units":
      for words in reader.block():
        if words[0] == "angle":
          degrees = reader.one_of(words, 1, ("deg", "rad")) == "deg"
    elif words[0] == ":root":
      root = _root(reader)
    elif words[0] == ":bonedata":
      bones = list(_bones(reader))
    elif words[0] == ":hierarchy":
      children = _hierarchy(reader)
  for found, section in ((root, ":root"), (bones, ":bonedata"), (children, ":hierarchy")):
    if not found:
      raise DataError(f"{path}: section {section} is missing; the file is truncated, get it again.")
  assert root is not None and children is not None
  joints = (root, *bones)
  return Skeleton(joints, _parents(path, joints, children), degrees, path)


def read_motion(
  path: Path, skeleton: Skeleton
) -> tuple[Int[np.ndarray, " frames"], dict[str, np.ndarray]]:
  """Parses an .amc file.

  Args:
    path: The file.
    skeleton: The skeleton it moves.

  Returns:
    The frame numbers as the file has them (they need not start at 1), and the channels of every
    joint that has some, {name: [frames, channels]}.

  Raises:
    DataError: the file is missing, truncated, has other joints or channels, or frames that do
      not follow one another; names the line.
  """
  reader = _Reader(path)
  expected = {joint.name: len(joint.channels) for joint in skeleton.joints if joint.channels}
  numbers: list[int] = []
  frames: list[dict[str, list[float]]] = []
  degrees = True
  if not expected:
    raise DataError(f"{skeleton.path}: no joint has channels; get the file again.")
  for words in reader:
    if words[0].startswith(":"):
      degrees = {":degrees": True, ":radians": False}.get(words[0].lower(), degrees)
    elif len(words) == 1:
      if frames:
        _check_whole(reader, numbers[-1], frames[-1], expected)
      number = reader.integer(words[0])
      if numbers and number != numbers[-1] + 1:
        raise reader.error(f"frame {number} follows frame {numbers[-1]}")
      numbers.append(number)
      frames.append({})
    else:
      name, values = words[0], words[1:]
      if not frames:
        raise reader.error(f"channels of {name} before the first frame number")
      if name not in expected or name in frames[-1]:
        what = "appears twice in a frame" if name in expected else "is not in the skeleton"
        raise reader.error(f"joint {name} {what}")
      if len(values) != expected[name]:
        raise reader.error(
          f"joint {name} has {len(values)} channels where the skeleton has {expected[name]}"
        )
      frames[-1][name] = reader.numbers(values)
  if not frames:
    raise DataError(f"{path}: no frames; the file is empty or truncated, get it again.")
  _check_whole(reader, numbers[-1], frames[-1], expected)
  if degrees != skeleton.degrees:
    raise DataError(
      f"{path}: angles are not in the unit of {skeleton.path}; take files that belong together."
    )
  return np.array(numbers), {n: np.array([f[n] for f in frames]) for n in expected}


def joint_positions(
  skeleton: Skeleton, channels: dict[str, np.ndarray]
) -> Float[np.ndarray, "frames joints 3"]:
  """Computes joint positions by forward kinematics, for all frames at once.

  .. math:: R_j = R_{p(j)} C_j M_j C_j^{-1}, \\qquad x_j = x_{p(j)} + R_j o_j

  with C the rotation of the joint's frame, M that of the channels, and o its offset.

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
  rotations: list[Rotation] = []
  positions = np.zeros((frames, len(skeleton.joints), 3))
  for i, (joint, parent) in enumerate(zip(skeleton.joints, skeleton.parents, strict=True)):
    frame = Rotation.from_euler(joint.order.lower(), joint.axis, degrees=skeleton.degrees)
    values = channels.get(joint.name, np.zeros((frames, 0)))
    turns = [k for k, channel in enumerate(joint.channels) if channel in _AXES]
    local = Rotation.identity(frames)
    if turns:
      order = "".join(joint.channels[k][1] for k in turns)
      local = Rotation.from_euler(order, values[:, turns], degrees=skeleton.degrees)
    local = frame * local * frame.inv()
    if parent < 0:
      rotations.append(local)
      for k, channel in enumerate(joint.channels):
        if channel in _SHIFTS:
          positions[:, i, _SHIFTS.index(channel)] = values[:, k]
      positions[:, i] += joint.offset
    else:
      rotations.append(rotations[parent] * local)
      with np.errstate(over="ignore", invalid="ignore"):
        positions[:, i] = positions[:, parent] + rotations[i].apply(joint.offset)
    if not np.all(np.abs(positions[:, i]) <= np.finfo(np.float32).max):
      raise DataError(
        f"{skeleton.path}: joint {joint.name} is not at a finite place; get the files again."
      )
  return positions


class _Reader:
  """Lines of a text file as words, with their numbers for error messages."""

  def __init__(self, path: Path):
    self._path, self._line = path, 0
    try:
      if path.stat().st_size > _LARGEST_FILE:
        raise DataError(f"{path}: larger than any Acclaim file ({_LARGEST_FILE >> 20} MiB).")
      text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
      raise DataError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    self._lines = text.splitlines()

  def __iter__(self) -> Iterator[list[str]]:
    while self._line < len(self._lines):
      words = self._lines[self._line].split("#")[0].split()
      self._line += 1
      if words:
        yield words

  def block(self) -> Iterator[list[str]]:
    """The lines up to the next section, which stays unread."""
    for words in self:
      if words[0].startswith(":"):
        self._line -= 1
        return
      yield words

  @property
  def line(self) -> int:
    """Number of the line read last."""
    return self._line

  def error(self, what: str, line: int | None = None) -> DataError:
    return DataError(f"{self._path}:{line or self._line}: {what}; get the file again.")

  def one_of(self, words: list[str], index: int, allowed: tuple[str, ...]) -> str:
    if len(words) <= index or words[index].lower() not in allowed:
      raise self.error(f"{words[0]} needs one of {', '.join(allowed)}")
    return words[index].lower()

  def integer(self, word: str) -> int:
    if not word.isdecimal() or len(word) > 9:
      raise self.error(f"{_short(word)!r} is not a frame number")
    return int(word)

  def numbers(
    self, words: list[str], count: int | None = None, line: int | None = None
  ) -> list[float]:
    try:
      # Python would take 1_0 for 10.
      values = [float(word) for word in words if "_" not in word]
    except ValueError:
      values = []
    whole = len(values) == len(words) and count in (None, len(values))
    if not values or not whole or not np.isfinite(values).all():
      wanted = "finite numbers" if count is None else f"{count} finite numbers"
      raise self.error(f"{_short(' '.join(words))!r} should be {wanted}", line)
    return values


def _short(text: str) -> str:
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class _Fields:
  """What a block says, by keyword, with the line of each for error messages."""

  def __init__(self, reader: _Reader):
    self._reader = reader
    self._words: dict[str, list[str]] = {}
    self._lines: dict[str, int] = {}

  def add(self, words: list[str]) -> None:
    key = words[0].lower()
    self._words[key], self._lines[key] = words[1:], self._reader.line

  def words(self, key: str, default: tuple[str, ...] | None = None) -> list[str]:
    if not self._words.get(key) and default is None:
      raise self._reader.error(f"a block without {key}")
    return self._words.get(key) or list(default or ())

  def numbers(self, key: str, count: int, default: tuple[str, ...] | None = None) -> list[float]:
    words = self.words(key, default)
    # What follows the angles of "axis" is their order.
    words = words[:3] if key == "axis" else words
    return self._reader.numbers(words, count, self._lines.get(key))

  def order(self, words: list[str]) -> str:
    if len(words) != 1 or sorted(words[0].upper()) != ["X", "Y", "Z"]:
      what = f"axis order {' '.join(words)!r} is no permutation of XYZ"
      raise self._reader.error(what, self._lines.get("axis"))
    return words[0].upper()

  def channels(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in self.words(key, ()))
    bad = [c for c in channels if c not in allowed or channels.count(c) > 1]
    if bad:
      what = f"channel {bad[0]!r} does not exist or is listed twice"
      raise self._reader.error(what, self._lines.get(key))
    return channels


def _root(reader: _Reader) -> Joint:
  fields = _Fields(reader)
  for words in reader.block():
    fields.add(words)
  zeros = ("0", "0", "0")
  return Joint(
    name="root",
    offset=tuple(fields.numbers("position", 3, zeros)),
    axis=tuple(fields.numbers("orientation", 3, zeros)),
    order=fields.order(fields.words("axis", ("XYZ",))),
    channels=fields.channels("order", (*_SHIFTS, *_AXES)),
  )


def _bones(reader: _Reader) -> Iterator[Joint]:
  fields: _Fields | None = None
  for words in reader.block():
    key = words[0].lower()
    if key == "begin":
      fields = _Fields(reader)
    elif fields is None:
      raise reader.error(f"{words[0]!r} outside of begin ... end")
    elif key == "end":
      yield _bone(fields)
      fields = None
    elif not key.startswith("("):  # further lines of limits
      fields.add(words)
  if fields is not None:
    raise reader.error("a bone without its end")


def _bone(fields: _Fields) -> Joint:
  name = fields.words("name")[0]
  direction = np.array(fields.numbers("direction", 3))
  length = fields.numbers("length", 1)[0]
  return Joint(
    name=name,
    offset=tuple(direction * length),
    axis=tuple(fields.numbers("axis", 3)),
    order=fields.order(fields.words("axis")[3:]),
    channels=fields.channels("dof", _AXES),
  )


def _hierarchy(reader: _Reader) -> dict[str, str]:
  parents: dict[str, str] = {}
  for words in reader.block():
    if words[0] in ("begin", "end"):
      continue
    for child in words[1:]:
      if child in parents:
        raise reader.error(f"bone {child} has two parents")
      parents[child] = words[0]
  return parents


def _parents(path: Path, joints: tuple[Joint, ...], parents: dict[str, str]) -> tuple[int, ...]:
  index = {joint.name: i for i, joint in enumerate(joints)}
  if len(index) != len(joints):
    raise DataError(f"{path}: two bones have the same name; mend the file.")
  unknown = [n for n in (*parents, *parents.values()) if n not in index]
  if unknown:
    raise DataError(f"{path}: :hierarchy names {unknown[0]}, which has no bone data; mend it.")
  result = [-1]
  for i, joint in enumerate(joints[1:], start=1):
    if joint.name not in parents:
      raise DataError(f"{path}: bone {joint.name} is missing from :hierarchy; mend the file.")
    parent = index[parents[joint.name]]
    if parent >= i:
      raise DataError(f"{path}: bone {joint.name} comes before its parent; reorder the file.")
    result.append(parent)
  return tuple(result)


def _check_whole(reader: _Reader, number: int, frame: dict, expected: dict[str, int]) -> None:
  missing = [name for name in expected if name not in frame]
  if missing:
    raise reader.error(f"frame {number} ends without joint {missing[0]}")
