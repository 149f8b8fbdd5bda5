"""The text of a compiled program (HLO): its instructions, their layouts, where they come from."""

import dataclasses
import functools
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_HEADER = re.compile(r"^(?:ENTRY )?%?([^\s(]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?(\S+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([a-z][\w\-]*)\((.*)$"
)
_ARRAY = re.compile(r"^(\w+)\[([\d,]*)\](?:\{([\d,]*))?")
_MOVES = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape", "copy", "slice"),
  *("transpose", "broadcast", "concatenate", "pad", "dynamic-slice", "dynamic-update-slice"),
  *("reverse", "iota", "copy-start", "copy-done"),
}
"""Opcodes that calculate nothing."""


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An instruction; those of the program's loops and calls are kernels.

  Attributes:
    name: Unique in the program; events of a trace have it.
    shape: Element type, dimensions and layout of what it returns.
    opcode: What it does.
    operands: Names.
    calls: The computation that a fusion holds, or "".
    dimensions: Of a transpose: which of its operand's each of its own is.
    op_name: The path through transformations and modules that made it, or "".
    frame: The stack frame that made it, 0 if unknown.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  calls: str
  dimensions: tuple[int, ...]
  op_name: str
  frame: int


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    instructions: By name.
    computations: The names of the instructions of each, the last of which is mostly its result.
    frames: File, line and calling frame of each stack frame.
  """

  instructions: dict[str, Instruction]
  computations: dict[str, list[str]]
  frames: dict[int, tuple[str, int, int]]

  def inside(self, kernel: Instruction) -> Iterator[Instruction]:
    """Yields the instructions that a kernel is made of."""
    if kernel.opcode != "fusion":
      yield kernel
      return
    for name in self.computations.get(kernel.calls, ()):
      yield from self.inside(self.instructions[name])

  def transposes(self, kernel: Instruction) -> bool:
    """Whether a kernel holds a copy or transpose that changes the order of entries in memory."""
    return any(self._reorders(instruction) for instruction in self.inside(kernel))

  def kind(self, kernel: Instruction) -> str:
    """Returns one of `KINDS`."""
    opcodes = {instruction.opcode for instruction in self.inside(kernel)}
    if opcodes & {"dot", "convolution"} or kernel.opcode == "custom-call":
      return "products"
    if opcodes <= _MOVES:
      return "transposes" if self.transposes(kernel) else "copies"
    if self.transposes(kernel):
      return "arithmetic with a transpose"
    if opcodes & {"gather", "scatter"}:
      return "gathers and scatters"
    if opcodes & {"reduce", "reduce-window"}:
      return "reductions"
    return "other fusions" if kernel.opcode == "fusion" else "other"

  def line(self, kernel: Instruction) -> str:
    """Returns FILE:LINE of the innermost caller outside of installed packages, or ""."""
    frame = self._source(kernel).frame
    while frame in self.frames:
      file, line, caller = self.frames[frame]
      if not _installed(file):
        return f"{_relative(file)}:{line}"
      frame = caller
    return ""

  def op_name(self, kernel: Instruction) -> str:
    """Returns the path of transformations and modules that a kernel comes from, or ""."""
    return self._source(kernel).op_name

  def _source(self, kernel: Instruction) -> Instruction:
    """Returns the kernel, or the last instruction in it that says where it comes from."""
    candidates = [kernel, *reversed([*self.inside(kernel)])]
    return next((instruction for instruction in candidates if instruction.frame), kernel)

  def _reorders(self, instruction: Instruction) -> bool:
    if instruction.opcode not in ("copy", "transpose"):
      return False
    before = memory_order(self.instructions[instruction.operands[0]].shape)
    after = memory_order(instruction.shape)
    if instruction.opcode == "transpose":
      after = [instruction.dimensions[d] for d in after]
    return before != after


KINDS = (
  *("products", "transposes", "arithmetic with a transpose", "copies", "gathers and scatters"),
  *("reductions", "other fusions", "other"),
)


def memory_order(shape: str) -> list[int]:
  """Returns the dimensions of an array from the slowest to the fastest, without those of size 1."""
  match = _ARRAY.match(shape)
  if not match:
    return []
  sizes = _numbers(match[2])
  order = _numbers(match[3]) if match[3] else tuple(reversed(range(len(sizes))))
  return [d for d in reversed(order) if sizes[d] != 1]


def parse(text: str) -> Program:
  """Reads what `jax.stages.Compiled.as_text` returns."""
  instructions: dict[str, Instruction] = {}
  computations: dict[str, list[str]] = {}
  current: list[str] = []
  for line in text.splitlines():
    if match := _INSTRUCTION.match(line):
      instruction = _instruction(*match.groups())
      instructions[instruction.name] = instruction
      current.append(instruction.name)
    elif match := _HEADER.match(line):
      current = computations[match[1]] = []
  return Program(instructions, computations, _frames(text))


def _instruction(name: str, shape: str, opcode: str, rest: str) -> Instruction:
  depth, end = 1, 0
  while depth and end < len(rest):
    depth += {"(": 1, ")": -1}.get(rest[end], 0)
    end += 1
  operands, attributes = rest[: end - 1], rest[end:]
  return Instruction(
    name,
    shape,
    opcode,
    tuple(re.findall(r"%([\w.\-]+)", operands)),
    _first(r"\bcalls=%?([\w.\-]+)", attributes),
    _numbers(_first(r"\bdimensions=\{([\d,]*)\}", attributes)),
    _first(r'op_name="([^"]*)"', attributes),
    int(_first(r"stack_frame_id=(\d+)", attributes) or 0),
  )


def _frames(text: str) -> dict[int, tuple[str, int, int]]:
  """Reads the tables of files and stack frames that stand above the instructions."""
  names = {
    int(i): name for i, name in re.findall(r'^(\d+) "(.*)"$', _table(text, "FileNames"), re.M)
  }
  lines = {}
  for location, file, line in re.findall(
    r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", _table(text, "FileLocations"), re.M
  ):
    lines[int(location)] = (names.get(int(file), ""), int(line))
  frames = {}
  for frame, location, caller in re.findall(
    r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}", _table(text, "StackFrames"), re.M
  ):
    # Callers are written one too high: 1 says that there is none, and theirs come before.
    frames[int(frame)] = (*lines.get(int(location), ("", 0)), int(caller) - 1)
  return frames


def _table(text: str, title: str) -> str:
  return _first(rf"^{title}\n((?:\d+ .*\n)*)", text)


def _first(pattern: str, text: str) -> str:
  match = re.search(pattern, text, re.M)
  return match[1] if match else ""


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(number) for number in text.split(",") if number)


@functools.cache
def _installed(file: str) -> bool:
  folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
  return not file or any(Path(file).is_relative_to(folder) for folder in folders)


def _relative(file: str) -> str:
  path = Path(file)
  return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
