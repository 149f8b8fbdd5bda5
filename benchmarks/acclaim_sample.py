"""A skeleton of two bones and two frames of its motion, as Acclaim files say them."""

SKELETON = """# comment
:version 1.10
:units
  mass 1.0
  length 0.45
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name upper
    direction 0 1 0
    length 2
    axis 0 0 0 XYZ
    dof rx rz
    limits (-160.0 20.0)
           (-70.0 70.0)
  end
  begin
    id 2
    name lower
    direction 0 1 0
    length 1
    axis 0 0 90 XYZ
    dof rx
  end
:hierarchy
  begin
    root upper
    upper lower
  end
"""
MOTION = """#!OML
:FULLY-SPECIFIED
:DEGREES
7
root 1 2 3 0 0 0
upper 90 0
lower 0
8
root 1 2 3 0 90 0
upper 0 90
lower 90
"""
