"""Where the time of a program goes: its kernels, with their kind, shape and line of the model.

Times are those of the trace of a run (`jax.profiler`). Kernels may overlap: of an instant at which
n of them have begun and not ended each gets the n-th part, so that times add up to those of the
run. What a kernel does and where it comes from is read from the compiled program's text.
"""

import collections
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import hlo
from experiments.harness import tables

TOP = 20
"""Kernels that are shown."""

_CONTAINERS = {"while", "call", "conditional", "async-start", "async-done"}
"""Opcodes whose events hold those of other kernels."""


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel of a step.

  Attributes:
    name: In the compiled program.
    kind: One of `hlo.KINDS`.
    mark: "transpose" if it changes the order of an array in memory, "copy" if it only moves
      entries, else "".
    milliseconds: A step.
    runs: A step; kernels around the loop have less than one.
    shape: Of its result, with its layout.
    line: FILE:LINE, or "".
    op_name: Transformations and modules, or "".
  """

  name: str
  kind: str
  mark: str
  milliseconds: float
  runs: float
  shape: str
  line: str
  op_name: str


def profile(program: str, run: Callable[[], Any], steps: int) -> tuple[list[Kernel], float]:
  """Traces a run.

  Args:
    program: Text of the compiled program that `run` runs, and nothing else.
    run: Returns when it has ended.
    steps: Of the run; times are divided by it.

  Returns:
    The kernels, those that take longest first, and the milliseconds of a step in which one ran.
  """
  parsed = hlo.parse(program)
  intervals = trace(run, parsed.instructions)
  times, kernels = shares(intervals), []
  for name, (nanoseconds, runs) in times.items():
    instruction = parsed.instructions[name]
    kind = parsed.kind(instruction)
    mark = "transpose" if parsed.transposes(instruction) else "copy" if kind == "copies" else ""
    kernels.append(
      Kernel(
        name,
        kind,
        mark,
        1e-6 * nanoseconds / steps,
        runs / steps,
        instruction.shape,
        parsed.line(instruction),
        parsed.op_name(instruction),
      )
    )
  kernels.sort(key=lambda kernel: -kernel.milliseconds)
  return kernels, sum(kernel.milliseconds for kernel in kernels)


def trace(
  run: Callable[[], Any], instructions: Mapping[str, hlo.Instruction]
) -> list[tuple[str, float, float]]:
  """Runs, and returns the name, begin and end in nanoseconds of every kernel's run."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      run()
    (file,) = Path(folder).rglob("*.xplane.pb")
    planes = [*jax.profiler.ProfileData.from_file(str(file)).planes]
  begins, ends = collections.defaultdict(list), collections.defaultdict(list)
  for event in (event for plane in planes for line in plane.lines for event in line.events):
    name = event.name.removeprefix("end: ")
    if name not in instructions or instructions[name].opcode in _CONTAINERS:
      continue
    if event.name != name:
      ends[name].append(event.start_ns)
    elif "hlo_op" in dict(event.stats):
      begins[name].append((event.start_ns, event.start_ns + event.duration_ns))
  intervals = []
  for name, spans in begins.items():
    # On a CPU a kernel may be ended by other threads, after the one that began it has left it.
    last = sorted(ends[name]) if len(ends[name]) == len(spans) else [0] * len(spans)
    for (begin, left), end in zip(sorted(spans), last, strict=True):
      intervals.append((name, begin, max(left, end)))
  return intervals


def shares(
  intervals: Iterable[tuple[str, float, float]],
) -> dict[str, tuple[float, int]]:
  """Returns each name's part of the time in which any was running, and how often it ran."""
  edges = []
  for i, (name, begin, end) in enumerate(intervals):
    edges += [(begin, i, name), (end, i, name)]
  edges.sort()
  times: dict[str, float] = collections.defaultdict(float)
  runs: dict[str, int] = collections.Counter()
  running: dict[int, str] = {}
  before = 0.0
  for instant, i, name in edges:
    for other in running.values():
      times[other] += (instant - before) / len(running)
    before = instant
    if running.pop(i, None) is None:
      running[i] = name
      runs[name] += 1
  return {name: (times[name], runs[name]) for name in runs}


def by_kind(kernels: Sequence[Kernel]) -> dict[str, float]:
  """Returns the milliseconds of a step that each kind takes, the longest first."""
  times: dict[str, float] = collections.defaultdict(float)
  for kernel in kernels:
    times[kernel.kind] += kernel.milliseconds
  return dict(sorted(times.items(), key=lambda item: -item[1]))


def module_path(op_name: str) -> str:
  """Returns the modules of a path without JAX's transformations, marked where it is backward.

  `jit(f)/while/body/transpose(jvp(Net))/dense/add` is "Net/dense/add, backward".
  """
  parts = []
  for part in op_name.split(";")[0].split("/"):  # one of several that were merged
    inner = re.sub(
      r"^(?:(?:jvp|transpose|vmap|remat|checkpoint|rematted_computation)\()+", "", part
    )
    inner = inner.rstrip(")") if inner != part else part
    if inner and not re.match(r"^(?:p?jit\(|shard_map|while$|body$|cond$|closed_call$)", inner):
      parts.append(inner)
  backward = ["backward"] if "transpose(jvp" in op_name else []
  return ", ".join([part for part in ("/".join(parts),) if part] + backward)


def report(kernels: Sequence[Kernel], milliseconds: float) -> dict[str, Any]:
  """Returns what the JSON has: milliseconds by kind, and the longest kernels as in `as_tables`."""

  def entries(some: Iterable[Kernel]) -> list[dict[str, Any]]:
    return [
      {
        **dataclasses.asdict(kernel),
        "milliseconds": round(kernel.milliseconds, 4),
        "runs": round(kernel.runs, 3),
        "share": round(kernel.milliseconds / milliseconds, 4),
      }
      for kernel in some
    ]

  return {
    "milliseconds": round(milliseconds, 3),
    "kinds": {kind: round(time, 3) for kind, time in by_kind(kernels).items()},
    "kernels": entries(kernels[:TOP]),
    "marked": entries(marked(kernels)),
  }


def marked(kernels: Sequence[Kernel]) -> list[Kernel]:
  """Returns the longest of those that copy or transpose."""
  return [kernel for kernel in kernels if kernel.mark][: TOP // 2]


def as_tables(kernels: Sequence[Kernel], milliseconds: float) -> str:
  """Formats the time by kind, the longest kernels, and the longest that copy or transpose."""

  def cells(time: float) -> list[str]:
    return [f"{time:.3f} ms", f"{time / milliseconds:.1%}"]

  def longest(some: Iterable[Kernel]) -> str:
    header = ["kernel", "a step", "share", "runs", "kind", "mark", "shape", "line", "from"]
    rows = [
      [
        kernel.name,
        *cells(kernel.milliseconds),
        f"{kernel.runs:.3g}",
        kernel.kind,
        kernel.mark,
        kernel.shape,
        kernel.line,
        module_path(kernel.op_name),
      ]
      for kernel in some
    ]
    return tables.table(header, rows)

  counts = collections.Counter(kernel.kind for kernel in kernels)
  kinds = [[kind, *cells(t), str(counts[kind])] for kind, t in by_kind(kernels).items()]
  kinds.append(["all", *cells(milliseconds), str(len(kernels))])
  parts = [tables.table(["kind", "a step", "share", "kernels"], kinds), longest(kernels[:TOP])]
  if some := marked(kernels):
    parts.append(f"copies and transposes\n{longest(some)}")
  return "\n\n".join(parts)
