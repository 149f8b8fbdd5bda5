"""Acclaim skeletons, .asf files: bones, their axes, channels and parents."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from data import paths
from data.errors import DataError
from data.mocap.words import Reader, shown

ROTATIONS = ("rx", "ry", "rz")
TRANSLATIONS = ("tx", "ty", "tz")
_SECTIONS = (":units", ":root", ":bonedata", ":hierarchy")
_ROOT_FIELDS = ("order", "axis", "position", "orientation")
_BONE_FIELDS = (
  *("begin", "end", "id", "name", "direction", "length", "axis", "dof", "limits"),
  *("bodymass", "cofmass"),
)
_DEGREES = ("deg", "degree", "degrees")
_RADIANS = ("rad", "radian", "radians")


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
    parents: Index of each joint's parent; -1 for the root. A parent may come after its child.
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

  @property
  def descent(self) -> list[int]:
    """Indices of the joints that hang from the root, every parent before its children."""
    children: dict[int, list[int]] = {}
    for joint, parent in enumerate(self.parents):
      children.setdefault(parent, []).append(joint)
    order = list(children[-1])
    for joint in order:  # which grows on the way
      order.extend(children.get(joint, ()))
    return order


def read_skeleton(path: str | Path) -> Skeleton:
  """Parses an .asf file; keywords and names of bones are the same in upper and lower case.

  A section may begin on the line of its name, and several fields may share a line.

  Args:
    path: The file; a leading ~ is the home folder.

  Raises:
    DataError: the file is missing, truncated or inconsistent; names the line.
  """
  path = paths.expanded(path)
  reader = Reader(path)
  degrees, root, bones, parents = True, None, [], None
  seen: set[str] = set()
  for words in reader:
    section = words[0].lower()
    if section not in _SECTIONS:
      continue
    if section in seen:
      raise reader.error(f"section {section} appears twice")
    seen.add(section)
    lines = reader.block(words[1:])
    if section == ":units":
      degrees = _degrees(reader, lines)
    elif section == ":root":
      root = _root(reader, lines)
    elif section == ":bonedata":
      bones = list(_bones(reader, lines))
    else:
      parents = _hierarchy(reader, lines)
  for content, section in ((root, ":root"), (bones, ":bonedata"), (parents, ":hierarchy")):
    if not content:
      raise DataError(f"{path}: section {section} is missing; the file is truncated, get it again.")
  assert root is not None and parents is not None
  joints = (root, *bones)
  skeleton = Skeleton(joints, _indices(path, joints, parents), degrees, path)
  hanging = {*skeleton.descent}
  for i, joint in enumerate(joints):
    if i not in hanging:
      raise DataError(
        f"{path}: bone {joint.name} does not hang from the root: bones of :hierarchy are each "
        "other's parents; mend the file."
      )
  return skeleton


class _Fields:
  """What a block says, by keyword, with the line of each for error messages."""

  def __init__(self, reader: Reader):
    self._reader = reader
    self._words: dict[str, list[str]] = {}
    self._lines: dict[str, int] = {}
    self._repeated: set[str] = set()

  def add(self, words: list[str]) -> None:
    key = words[0].lower()
    if key in self._words:
      self._repeated.add(key)
    self._words[key], self._lines[key] = words[1:], self._reader.line

  def error(self, what: str, key: str) -> DataError:
    return self._reader.error(what, self._lines.get(key))

  def words(self, key: str, default: tuple[str, ...] | None = None) -> list[str]:
    if key in self._repeated:
      raise self.error(f"{key} is there twice in a block", key)
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
      raise self.error(f"axis order {shown(' '.join(words))!r} is no permutation of XYZ", "axis")
    return words[0].upper()

  def channels(self, key: str) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in self.words(key, ()))
    if "l" in channels:
      raise self.error("channel 'l', a length that changes, is not supported", key)
    known = (*TRANSLATIONS, *ROTATIONS)
    bad = [c for c in channels if c not in known or channels.count(c) > 1]
    if bad:
      raise self.error(f"channel {shown(bad[0])!r} does not exist or is listed twice", key)
    return channels


def _degrees(reader: Reader, lines: Iterator[list[str]]) -> bool:
  """Returns whether angles are degrees: pairs of a quantity and its unit, one or more a line."""
  said: set[bool] = set()
  for words in lines:
    lower = [word.lower() for word in words]
    about_angles = any(w.startswith("angle") or w in (*_DEGREES, *_RADIANS) for w in lower)
    if not about_angles:
      continue
    pairs = [*zip(lower[::2], lower[1::2], strict=False)]
    units = [unit for name, unit in pairs if name == "angle"]
    if len(lower) % 2 or not units or not {*units} <= {*_DEGREES, *_RADIANS}:
      raise reader.error(
        f"{shown(' '.join(words))!r} should be pairs such as length 0.45; angle needs one of deg, "
        "rad"
      )
    said |= {unit in _DEGREES for unit in units}
  if len(said) > 1:
    raise reader.error(":units has angles in deg and in rad")
  return said != {False}


def _fields_of(words: list[str], keywords: tuple[str, ...]) -> Iterator[list[str]]:
  """Splits a line before each of some keywords; the word after "name" is a name, whatever it is."""
  begin = 0
  for i in range(1, len(words)):
    if words[i].lower() in keywords and words[i - 1].lower() != "name":
      yield words[begin:i]
      begin = i
  yield words[begin:]


def _root(reader: Reader, lines: Iterator[list[str]]) -> Joint:
  fields = _Fields(reader)
  for words in lines:
    for field in _fields_of(words, _ROOT_FIELDS):
      fields.add(field)
  zeros = ("0", "0", "0")
  return Joint(
    name="root",
    offset=tuple(fields.numbers("position", 3, zeros)),
    axis=tuple(fields.numbers("orientation", 3, zeros)),
    order=fields.order(fields.words("axis", ("XYZ",))),
    channels=fields.channels("order"),
  )


def _bones(reader: Reader, lines: Iterator[list[str]]) -> Iterator[Joint]:
  fields: _Fields | None = None
  for line in lines:
    for words in _fields_of(line, _BONE_FIELDS):
      key = words[0].lower()
      if key == "begin":
        if fields is not None:
          raise reader.error("a bone without its end")
        fields = _Fields(reader)
      elif fields is None:
        raise reader.error(f"{shown(words[0])!r} outside of begin ... end")
      elif key == "end":
        yield _bone(fields)
        fields = None
      elif key[0].isalpha():  # else a further line of limits
        fields.add(words)
  if fields is not None:
    raise reader.error("a bone without its end")


def _bone(fields: _Fields) -> Joint:
  name = fields.words("name")
  if len(name) > 1:
    raise fields.error(f"the name {shown(' '.join(name))!r} is more than a word", "name")
  direction = np.array(fields.numbers("direction", 3))
  length = fields.numbers("length", 1)[0]
  with np.errstate(over="ignore"):  # refused where positions are computed
    offset = direction * length
  return Joint(
    name=name[0],
    offset=tuple(offset.tolist()),
    axis=tuple(fields.numbers("axis", 3)),
    order=fields.order(fields.words("axis")[3:]),
    channels=fields.channels("dof"),
  )


def _hierarchy(reader: Reader, lines: Iterator[list[str]]) -> dict[str, str]:
  """Returns each bone's parent; both in lower case."""
  parents: dict[str, str] = {}
  for words in lines:
    parent, *children = (word.casefold() for word in words)
    if not children and parent in ("begin", "end"):
      continue
    for child, name in zip(children, words[1:], strict=True):
      if child == "root":
        raise reader.error("the root has a parent")
      if child in parents:
        raise reader.error(f"bone {shown(name)} has two parents")
      parents[child] = parent
  return parents


def _indices(path: Path, joints: tuple[Joint, ...], parents: dict[str, str]) -> tuple[int, ...]:
  """Returns the index of each joint's parent."""
  index: dict[str, int] = {}
  for i, joint in enumerate(joints):
    if index.setdefault(joint.name.casefold(), i) != i:
      raise DataError(
        f"{path}: two bones are called {shown(joint.name)} (upper and lower case are the same); "
        "mend the file."
      )
  unknown = [name for name in (*parents, *parents.values()) if name not in index]
  if unknown:
    raise DataError(
      f"{path}: :hierarchy names {shown(unknown[0])}, which has no bone data; mend it."
    )
  for joint in joints[1:]:
    if joint.name.casefold() not in parents:
      raise DataError(
        f"{path}: bone {shown(joint.name)} is missing from :hierarchy; mend the file."
      )
  return (-1, *(index[parents[joint.name.casefold()]] for joint in joints[1:]))
