"""A synthetic walker: a kinematic gait on a skeleton of 31 joints, so that no download is needed.

It moves its limbs in sines and stands upright against gravity (y is up), nothing more; errors on
it say nothing about people, and whatever uses it says that the data are synthetic.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.mocap import acclaim

_SIDES = (("l", 1.0), ("r", -1.0))

# (name without side, parent without side, offset in units of 5.644 cm, left side)
_LEG = (
  ("hipjoint", None, (1.8, -1.8, 0.5)),
  ("femur", "hipjoint", (2.4, -6.8, 0.0)),
  ("tibia", "femur", (2.6, -7.2, 0.0)),
  ("foot", "tibia", (0.2, -0.5, 2.2)),
  ("toes", "foot", (0.0, 0.0, 1.1)),
)
_SPINE = (
  ("lowerback", "root", (0.0, 2.0, -0.1)),
  ("upperback", "lowerback", (0.0, 2.0, 0.1)),
  ("thorax", "upperback", (0.0, 2.0, 0.1)),
  ("lowerneck", "thorax", (0.0, 1.6, 0.2)),
  ("upperneck", "lowerneck", (0.0, 1.5, 0.1)),
  ("head", "upperneck", (0.0, 1.6, 0.0)),
)
_ARM = (
  ("clavicle", "thorax", (3.2, 1.5, 0.2)),
  ("humerus", "clavicle", (0.9, -4.8, 0.0)),
  ("radius", "humerus", (0.5, -3.0, 0.4)),
  ("wrist", "radius", (0.2, -1.5, 0.2)),
  ("hand", "wrist", (0.0, -0.7, 0.1)),
  ("fingers", "hand", (0.0, -0.6, 0.1)),
  ("thumb", "wrist", (0.3, -0.6, 0.4)),
)


def _skeleton() -> acclaim.Skeleton:
  joints = [acclaim.Joint("root", channels=("tx", "ty", "tz", "rx", "ry", "rz"))]
  parents, index = [-1], {"root": 0}

  def add(name, parent, offset):
    index[name] = len(joints)
    joints.append(acclaim.Joint(name, offset, channels=("rx",)))
    parents.append(index[parent])

  def limb(parts, side, sign, root):
    for name, parent, (x, y, z) in parts:
      above = parent if parent in index else f"{side}{parent}" if parent else root
      add(f"{side}{name}", above, (sign * x, y, z))

  for side, sign in _SIDES:
    limb(_LEG, side, sign, "root")
  for name, parent, offset in _SPINE:
    add(name, parent, offset)
  for side, sign in _SIDES:
    limb(_ARM, side, sign, "thorax")
  return acclaim.Skeleton(tuple(joints), tuple(parents), True, Path("synthetic"))


SKELETON = _skeleton()
NAMES = tuple(SKELETON.names)
BONES = SKELETON.bones

# Swing of each joint about the transverse axis: (amplitude, mean, phase), degrees and turns.
_SWING = {
  "femur": (30.0, -8.0, 0.0),
  "tibia": (28.0, 30.0, 0.25),
  "foot": (12.0, -4.0, 0.6),
  "humerus": (-25.0, 5.0, 0.0),
  "radius": (-10.0, -30.0, 0.1),
}


def walk(kind: str, seed: int, frames: int = 360) -> Float[np.ndarray, "frames 31 3"]:
  """Makes one trial at 120 frames a second, in units of 5.644 cm.

  Args:
    kind: "walk", or "run": faster, with larger swings.
    seed: Draws speed, cadence, phase, amplitude and heading.
    frames: Length.
  """
  random = np.random.default_rng([seed, 0 if kind == "walk" else 1])
  pace = 1.0 if kind == "walk" else 1.6
  cadence = pace * random.uniform(0.9, 1.1)  # double steps a second
  size = pace**0.7 * random.uniform(0.9, 1.1)
  time = np.arange(frames) / 120
  phase = cadence * time + random.uniform()
  wobble = 0.02 * np.sin(2 * np.pi * (0.3 * time + random.uniform()))

  channels = {}
  for side, sign in _SIDES:
    for name, (amplitude, mean, shift) in _SWING.items():
      turn = phase + shift + wobble + (0.0 if sign > 0 else 0.5)
      angle = size * (mean + amplitude * np.sin(2 * np.pi * turn))
      channels[f"{side}{name}"] = angle[:, None]
  heading = random.uniform(-20, 20) + 3 * np.sin(2 * np.pi * 0.2 * time)
  speed = 22 * pace * size  # units a second
  ahead = speed * (time - time.mean())
  root = np.zeros((frames, 6))
  root[:, 0] = np.sin(np.deg2rad(heading)) * ahead + 0.4 * np.sin(2 * np.pi * phase)
  root[:, 1] = 17 + 0.4 * size * np.cos(4 * np.pi * phase)
  root[:, 2] = np.cos(np.deg2rad(heading)) * ahead
  root[:, 3] = 3 * pace
  root[:, 4] = heading + 5 * np.sin(2 * np.pi * phase)
  channels["root"] = root
  for joint in SKELETON.joints:
    channels.setdefault(joint.name, np.zeros((frames, len(joint.channels))))
  return acclaim.joint_positions(SKELETON, channels)
