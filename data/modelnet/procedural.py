"""Made-up shapes: closed surfaces of eleven classes with random proportions, standing upright.

They are no ModelNet: they are here so that everything runs where there are no data, and every
result of them says so. z is up, as in ModelNet.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from data.modelnet.mesh import Mesh

_AROUND = 32  # corners of a circle
_ALONG = 16  # steps of a curved profile

Profile = Float[np.ndarray, "steps 2"]
Polygon = Float[np.ndarray, "corners 2"]


def revolve(profile: Profile, around: int = _AROUND) -> Mesh:
  """Turns a profile (radius, height) about the vertical; it begins and ends on the axis.

  Every point of the profile is a ring of vertices; those on the axis are one vertex, the first and
  the last.
  """
  angles = 2 * np.pi * np.arange(around) / around
  inner = profile[1:-1]
  rings = np.stack(
    [
      inner[:, :1] * np.cos(angles),
      inner[:, :1] * np.sin(angles),
      np.broadcast_to(inner[:, 1:], (len(inner), around)),
    ],
    -1,
  ).reshape(-1, 3)
  bottom, top = ([0.0, 0.0, profile[i, 1]] for i in (0, -1))
  vertices = np.concatenate([[bottom], rings, [top]])
  index = 1 + np.arange(len(rings)).reshape(len(inner), around)
  after = np.roll(index, -1, 1)
  faces = [np.stack([np.zeros(around, int), after[0], index[0]], -1)]
  faces += _between(index[:-1], after[:-1], index[1:], after[1:])
  faces += [np.stack([np.full(around, len(vertices) - 1), index[-1], after[-1]], -1)]
  return Mesh(vertices, np.concatenate(faces))


def torus(radius: float, thickness: float, around: int = _AROUND) -> Mesh:
  """Returns a ring that lies flat: circles of a thickness, at a radius from the axis."""
  u, v = np.meshgrid(*[2 * np.pi * np.arange(around) / around] * 2, indexing="ij")
  ring = radius + thickness * np.cos(v)
  vertices = np.stack([ring * np.cos(u), ring * np.sin(u), thickness * np.sin(v)], -1)
  index = np.arange(around**2).reshape(around, around)
  beside, above = np.roll(index, -1, 0), np.roll(index, -1, 1)
  faces = _between(index, beside, above, np.roll(beside, -1, 1))
  return Mesh(vertices.reshape(-1, 3), np.concatenate(faces))


def prism(polygon: Polygon, height: float, top: float = 1.0) -> Mesh:
  """Raises a polygon, counterclockwise and seen whole from the origin, to a height.

  Args:
    polygon: Corners of the floor.
    height: Of the prism.
    top: Size of the ceiling over that of the floor; 0 is a pyramid.
  """
  corners = len(polygon)
  floor = np.concatenate([polygon, np.zeros((corners, 1))], -1)
  middle = [[0.0, 0.0, 0.0], [0.0, 0.0, height]]
  index, after = np.arange(corners), np.roll(np.arange(corners), -1)
  below = np.stack([np.full(corners, 2 * corners), after, index], -1)
  if top == 0:
    vertices = np.concatenate([floor, floor, middle])
    sides = np.stack([index, after, np.full(corners, 2 * corners + 1)], -1)
    return Mesh(vertices, np.concatenate([below, sides]))
  ceiling = np.concatenate([top * polygon, np.full((corners, 1), height)], -1)
  vertices = np.concatenate([floor, ceiling, middle])
  above = np.stack([np.full(corners, 2 * corners + 1), corners + index, corners + after], -1)
  sides = _between(index, after, corners + index, corners + after)
  return Mesh(vertices, np.concatenate([below, above, *sides]))


def _between(a, b, c, d) -> list[np.ndarray]:
  """Cuts the squares a, b (below), c, d (above) into triangles."""
  triangles = (np.stack([a, b, d], -1), np.stack([a, d, c], -1))
  return [triangle.reshape(-1, 3) for triangle in triangles]


def _regular(corners: int, inner: float = 1.0) -> Polygon:
  """Returns a regular polygon, or a star if every second corner is at an inner radius."""
  count = corners if inner == 1.0 else 2 * corners
  angles = 2 * np.pi * np.arange(count) / count
  radius = np.where(np.arange(count) % 2 == 0, 1.0, inner)
  return radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)


def _ball(random):
  angles = np.linspace(-np.pi / 2, np.pi / 2, _ALONG)
  return revolve(np.stack([np.cos(angles), random.uniform(0.5, 2) * np.sin(angles)], -1))


def _cylinder(random):
  height = random.uniform(0.8, 4)
  return revolve(np.array([[0, 0], [1, 0], [1, height], [0, height]], float))


def _cone(random):
  return revolve(np.array([[0, 0], [1, 0], [0, random.uniform(0.8, 4)]], float))


def _capsule(random):
  angles = np.linspace(0, np.pi / 2, _ALONG // 2)
  cap = np.stack([np.cos(angles), np.sin(angles)], -1)
  length = random.uniform(1, 4)
  below = np.stack([cap[::-1, 0], -cap[::-1, 1]], -1)
  return revolve(np.concatenate([below, cap + np.array([0, length])]))


def _hourglass(random):
  height, waist = random.uniform(1.5, 4), random.uniform(0.1, 0.4)
  profile = [[0, 0], [1, 0], [waist, height / 2], [1, height], [0, height]]
  return revolve(np.array(profile, float))


def _goblet(random):
  foot, stem, height = random.uniform(0.5, 0.9), random.uniform(0.1, 0.2), random.uniform(1.5, 3)
  profile = [[0, 0], [foot, 0], [stem, 0.15], [stem, 0.5 * height], [1, height], [0, 0.6 * height]]
  return revolve(np.array(profile, float))


def _torus(random):
  return torus(1.0, random.uniform(0.15, 0.45))


def _box(random):
  square = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
  return prism(square * [1, random.uniform(0.4, 1)], random.uniform(0.4, 4))


def _triangular_prism(random):
  return prism(_regular(3) * [1, random.uniform(0.6, 1.6)], random.uniform(0.4, 4))


def _star_prism(random):
  return prism(_regular(5, random.uniform(0.3, 0.5)), random.uniform(0.2, 2))


def _pyramid(random):
  return prism(_regular(4) * [1, random.uniform(0.6, 1)], random.uniform(0.8, 3), top=0)


CLASSES: dict[str, Callable[[np.random.Generator], Mesh]] = {
  "ball": _ball,
  "cylinder": _cylinder,
  "cone": _cone,
  "capsule": _capsule,
  "hourglass": _hourglass,
  "goblet": _goblet,
  "torus": _torus,
  "box": _box,
  "triangular_prism": _triangular_prism,
  "star_prism": _star_prism,
  "pyramid": _pyramid,
}
"""What makes a mesh of each class."""


def make(name: str, random: np.random.Generator) -> Mesh:
  """Makes a shape of a class: random proportions, turned by a random angle about the vertical."""
  mesh = CLASSES[name](random)
  angle = random.uniform(0, 2 * np.pi)
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
  return Mesh(mesh.vertices * [1, 1, random.uniform(0.9, 1.1)] @ turn.T, mesh.faces)
