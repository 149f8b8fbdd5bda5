"""Triangle meshes: reading OFF files, and sampling points of their surface."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data import content
from data.errors import DataError

LARGEST_FILE = 2**28
"""Bytes of an OFF file; the largest of ModelNet40 has 60 MB."""
MOST = 5_000_000
"""Vertices, or corners of faces, of a mesh."""

_REMEDY = "get the file again, or leave it out"
_FURTHEST = 1e15  # so that areas and their sums are finite


@dataclasses.dataclass(frozen=True)
class Mesh:
  """A surface of triangles. It need not be closed, or a manifold.

  Attributes:
    vertices: Points.
    faces: Three vertices each.
  """

  vertices: Float[np.ndarray, "vertices 3"]
  faces: Int[np.ndarray, "faces 3"]

  def areas(self) -> Float[np.ndarray, " faces"]:
    """Returns the area of every face."""
    a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=-1)


def read_off(path: Path) -> Mesh:
  """Reads an OFF file: its header, counts, vertices, faces.

  The header may stand alone on its line, or be glued to the counts ("OFF490 518 0"), as it is in
  ModelNet. Faces of more than three vertices are cut into triangles, fans about their first
  vertex. Comments start with #; what follows a face's vertices (a colour) is not read. Faces that
  are no surface (a vertex twice) are kept: they have no area, and get no points.

  Raises:
    DataError: the file is missing, damaged, empty, too large, or has no area; names the line.
  """
  lines = _lines(path)
  if not lines:
    raise DataError(f"{path}: is empty; {_REMEDY}.")

  def refuse(line: int, what: str) -> DataError:
    return DataError(f"{path}, line {line}: {what}; {_REMEDY}.")

  (number, first), *rest = lines
  if not first.startswith("OFF"):
    raise refuse(number, "does not begin with OFF")
  if first[3:].strip():
    rest = [(number, first[3:].strip()), *rest]
  if not rest:
    raise refuse(number, "the file ends before its counts")
  number, text = rest[0]
  counts = [_whole(word) for word in text.split()]
  if len(counts) not in (2, 3) or any(count is None for count in counts):
    raise refuse(number, "not the numbers of vertices, faces and edges")
  vertices, faces = counts[0] or 0, counts[1] or 0
  if not 3 <= vertices <= MOST or not 1 <= faces <= MOST:
    raise refuse(
      number,
      f"{vertices} vertices and {faces} faces; there must be 3 and 1 at least, {MOST} at most",
    )
  body = rest[1:]
  if len(body) < vertices + faces:
    last = lines[-1][0]
    raise refuse(last, f"the file ends before its {vertices} vertices and {faces} faces do")
  points = _points(body[:vertices], refuse)
  triangles = _triangles(body[vertices : vertices + faces], vertices, refuse)
  mesh = Mesh(points, triangles)
  if not mesh.areas().sum() > 0:
    raise DataError(f"{path}: its faces have no area; {_REMEDY}.")
  return mesh


def _lines(path: Path) -> list[tuple[int, str]]:
  """Returns numbers and texts of the lines that hold something."""
  raw = content.read(path, LARGEST_FILE, _REMEDY)
  text = raw.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
  stripped = ((i, line.split("#", 1)[0].strip()) for i, line in enumerate(text.split("\n"), 1))
  return [(number, line) for number, line in stripped if line]


def _whole(word: str) -> int | None:
  return int(word) if word.isascii() and word.isdecimal() and len(word) < 10 else None


def _points(lines, refuse) -> Float[np.ndarray, "vertices 3"]:
  rows = [text.split()[:3] for _, text in lines]
  for (number, _), row in zip(lines, rows, strict=True):
    if len(row) != 3:
      raise refuse(number, "a vertex is not three numbers")
  try:
    points = np.array(rows, np.float64)
    wrong = ~(np.abs(points) <= _FURTHEST).all(1)
  except ValueError:
    wrong = np.array([not all(map(_is_number, row)) for row in rows])
  if wrong.any():
    raise refuse(
      lines[int(np.argmax(wrong))][0], f"a vertex is not three numbers within {_FURTHEST:g}"
    )
  return points


def _is_number(word: str) -> bool:
  try:
    return abs(float(word)) <= _FURTHEST
  except ValueError:
    return False


def _triangles(lines, vertices: int, refuse) -> Int[np.ndarray, "faces 3"]:
  triangles, corners = [], 0
  for number, text in lines:
    words = text.split()
    count = _whole(words[0])
    if count is None or count < 3 or len(words) < count + 1:
      raise refuse(number, "a face is not a number of vertices, at least 3, and their indices")
    face = [_whole(word) for word in words[1 : count + 1]]
    if any(index is None or index >= vertices for index in face):
      raise refuse(number, f"a face names a vertex that is none of 0 to {vertices - 1}")
    corners += count
    if corners > MOST:
      raise refuse(number, f"more than {MOST} corners of faces")
    triangles += [(face[0], face[i], face[i + 1]) for i in range(1, count - 1)]
  return np.array(triangles, np.int64)


def sample(mesh: Mesh, count: int, random: np.random.Generator) -> Float[np.ndarray, "count 3"]:
  """Draws points of a surface, uniform by area, and puts them into the unit ball.

  A face is drawn by its area, and a point of it as (1 - sqrt u) a + sqrt u (1 - v) b + sqrt u v c.

  Args:
    mesh: With some area.
    count: How many.
    random: Source of randomness.

  Reference: Osada, Funkhouser, Chazelle, Dobkin, "Shape Distributions", ACM TOG 2002, Sec. 4.2.
  """
  # Scaled first, so that squares of very small or large coordinates neither vanish nor overflow.
  scaled = Mesh(unit_ball(mesh.vertices), mesh.faces)
  areas = scaled.areas()
  chosen = random.choice(len(areas), count, p=areas / areas.sum())
  a, b, c = (scaled.vertices[scaled.faces[chosen, i]] for i in range(3))
  root, v = np.sqrt(random.random((count, 1))), random.random((count, 1))
  return unit_ball((1 - root) * a + root * (1 - v) * b + root * v * c).astype(np.float32)


def unit_ball(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
  """Moves points to their mean, and divides them by the largest distance from it."""
  centred = points - points.mean(0)
  largest = np.linalg.norm(centred, axis=-1).max()
  return centred / largest if largest > 0 else centred
