"""Times a training step of an older commit against the working tree's, by turns, in one call.

`python -m benchmarks.compare OLD_COMMIT --model=egno` unpacks the commit into a temporary folder
and starts a process in either tree, which compiles the step once and runs an epoch when it is
asked to. The two take turns, and the order turns round from pair to pair. A ratio is the old
time over the new one of the same pair: 1.2 says that the step has become 1.2 times faster. Against
the commit that is checked out, ratio and error say what the method can tell apart. The last line
is JSON.
"""

import contextlib
import dataclasses
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from ace_jax import signals
from benchmarks import launching, steps

FLAGS = flags.FLAGS
flags.DEFINE_list("model", ["segnn"], f"Training steps, of {', '.join(steps.MODELS)}.")
flags.DEFINE_enum("formulation", "auto", ["auto", "fast", "general"], "Of the tensor products.")
flags.DEFINE_integer("replicas", 1, "Runs trained at once.", lower_bound=1)
flags.DEFINE_bool("strict", False, "Time the plain equivariant model instead.")
flags.DEFINE_bool("unconstrained", False, "Leave out multipliers and violations.")
flags.DEFINE_integer("rounds", 12, "Pairs of epochs; the error falls with the root.", lower_bound=4)

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("compare_worker.py")
STEPS = "benchmarks/steps.py"


class CompareError(Exception):
  """There is nothing to compare, or one side failed; its message is one line."""


@dataclasses.dataclass(frozen=True)
class Tree:
  """A tree of sources.

  Attributes:
    name: "old" or "new".
    label: What it is, in words.
    folder: Where it lies.
  """

  name: str
  label: str
  folder: Path


class Side:
  """A process that runs epochs of a step of one tree (`compare_worker`).

  Attributes:
    about: Batch size, seconds of compilation, machine.
    products: Milliseconds of a product, as often as it was taken.
  """

  def __init__(self, tree: Tree, arguments: list[str], says: Path):
    """Starts to compile.

    Args:
      tree: What is timed.
      arguments: Model, formulation, constraint, replicas.
      says: File for what the process writes beside its answers.
    """
    self.about: dict[str, Any] = {}
    self.products: list[float] = []
    self._tree, self._says = tree, says
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}  # two on one GPU
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # compilation is timed
    with says.open("w") as stderr:
      self._process = subprocess.Popen(
        [sys.executable, str(WORKER), *arguments],
        cwd=tree.folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
      )

  def wait(self) -> None:
    """Waits until the step is compiled.

    Raises:
      CompareError: it cannot be.
    """
    self.about = self._answer()
    if "error" in self.about:
      raise CompareError(f"{self._tree.label} cannot be timed: {self.about['error']}")

  def epoch(self) -> float:
    """Runs an epoch; returns milliseconds a step."""
    return self._ask("epoch")

  def product(self) -> None:
    """Times a product."""
    self.products.append(self._ask("product"))

  def stop(self) -> None:
    """Ends the process, whatever it does."""
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()

  def _ask(self, question: str) -> float:
    with contextlib.suppress(OSError):  # it has ended, and will not answer
      self._process.stdin.write(f"{question}\n")
      self._process.stdin.flush()
    return self._answer()

  def _answer(self) -> Any:
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      said = self._says.read_text(errors="replace").split("\n")
      last = next((line for line in reversed(said) if line.strip()), "it said nothing")
      raise CompareError(f"the process of {self._tree.label} ended with code {code}: {last}")
    return json.loads(line)


def git(root: Path, *arguments: str) -> bytes | None:
  """Returns what a command of Git says, None if it fails.

  Raises:
    CompareError: there is no Git.
  """
  try:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
  except FileNotFoundError:
    raise CompareError("git is not installed; it has the older commit.") from None
  return None if done.returncode else done.stdout


def resolve(root: Path, commit: str) -> str:
  """Returns the hash of a commit that can be timed.

  Raises:
    CompareError: there is no such commit, or it has no steps to time.
  """
  output = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
  if output is None:
    raise CompareError(f"{commit!r} is no commit of {root}; `git log --oneline` lists them.")
  name = output.decode().strip()
  if git(root, "cat-file", "-e", f"{name}:{STEPS}") is None:
    raise CompareError(f"{commit} has no {STEPS}, by which steps are timed; take a later commit.")
  return name


def describe(root: Path) -> tuple[str, bool]:
  """Returns the commit that is checked out, and whether the working tree differs from it."""
  head = git(root, "rev-parse", "HEAD")
  if head is None:
    raise CompareError(f"{root} is no checkout of Git with a commit; clone the repository.")
  return head.decode().strip(), bool(git(root, "status", "--porcelain"))


def unpack(root: Path, commit: str, folder: Path) -> None:
  """Writes the tree of a commit into a folder."""
  archive = git(root, "archive", "--format=tar", commit)
  if archive is None:
    raise CompareError(f"git cannot unpack {commit}; `git fsck` says what is missing.")
  with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
    tar.extractall(folder, filter="data")


def measure(trees: tuple[Tree, Tree], arguments: list[str], rounds: int, says: Path) -> dict:
  """Lets the step of the old tree and that of the new one take turns.

  Args:
    trees: Old, new.
    arguments: Model, formulation, constraint, replicas.
    rounds: Pairs of epochs.
    says: Folder for what the processes write.

  Returns:
    What the JSON has of a model, and the machine.

  Raises:
    CompareError: one side failed.
  """
  with contextlib.ExitStack() as stack:
    sides = {}
    for tree in trees:  # one compiles after the other, and neither is disturbed
      sides[tree.name] = side = Side(tree, arguments, says / f"{tree.name}.txt")
      stack.callback(side.stop)
      side.wait()
    for side in sides.values():
      side.product()
    times = steps.interleave({name: side.epoch for name, side in sides.items()}, rounds)
    for side in sides.values():
      side.product()
    return report(times, sides)


def report(times: dict[str, list[float]], sides: dict[str, Side]) -> dict:
  """Returns ratios, their median with its error, and the times of either side."""
  estimate = steps.ratio(times["old"], times["new"])
  result: dict[str, Any] = {
    "ratio": round(estimate["ratio"], 4),
    "ratio_error": round(estimate["error"], 4),
    "ratios": [round(a / b, 4) for a, b in zip(times["old"], times["new"], strict=True)],
  }
  for name, side in sides.items():
    median, product = statistics.median(times[name]), statistics.mean(side.products)
    result[name] = {
      "median_ms": round(median, 3),
      "fastest_ms": round(min(times[name]), 3),
      "product_ms": round(product, 2),
      "products": round(median / product, 3),
      "times_ms": [round(time, 3) for time in times[name]],
      **{key: side.about[key] for key in ("batch", "compile_seconds")},
    }
  return {**result, "machine": sides["new"].about["machine"]}


def table(record: dict) -> str:
  """Formats what was measured of a model."""
  lines = [f"{'pair':>6}  {'old':>10}  {'new':>10}  old / new"]
  pairs = zip(record["old"]["times_ms"], record["new"]["times_ms"], record["ratios"], strict=True)
  for i, (old, new, ratio) in enumerate(pairs, start=1):
    lines.append(f"{i:>6}  {old:>7.2f} ms  {new:>7.2f} ms  {ratio:>9.3f}")
  old, new = record["old"], record["new"]
  lines.append(
    f"{'median':>6}  {old['median_ms']:>7.2f} ms  {new['median_ms']:>7.2f} ms  "
    f"{record['ratio']:>9.3f} +- {record['ratio_error']:.3f}"
  )
  lines.append(f"products: old {old['products']:.3f}, new {new['products']:.3f}")
  return "\n".join(lines)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
  """Lets SIGTERM end the program as an exception does, so that nothing is left behind."""

  def end(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough; now it cleans up
    sys.exit(128 + signal.SIGTERM)

  with signals.handling(end, signal.SIGTERM):
    yield


def compare(root: Path, commit: str, models: list[str]) -> dict:
  """Measures every model, prints a table of each, and returns what the JSON has.

  Raises:
    CompareError: there is nothing to compare, or one side failed.
  """
  old = resolve(root, commit)
  head, dirty = describe(root)
  state = "with uncommitted changes" if dirty else "without changes"
  print(f"old: {old[:12]}\nnew: the working tree at {head[:12]}, {state}", flush=True)
  measured, machine = {}, None
  with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="compare-") as temporary:
    folder = Path(temporary) / "old"
    unpack(root, old, folder)
    trees = (Tree("old", f"commit {commit}", folder), Tree("new", "the working tree", root))
    for model in models:
      constraint = steps.constraint(model, FLAGS.strict, FLAGS.unconstrained)
      arguments = [model, FLAGS.formulation, constraint, str(FLAGS.replicas)]
      record = measure(trees, arguments, FLAGS.rounds, Path(temporary))
      machine = record.pop("machine")
      measured[model] = {"constraint": constraint, **record}
      print(f"\n{model}, {constraint}, batch {record['new']['batch']}\n{table(record)}", flush=True)
    print(f"\n{machine['cores']} cores of {machine['processor']}, JAX {machine['jax']}", flush=True)
  return {
    "benchmark": "compare",
    "old": {"commit": old},
    "new": {"commit": head, "uncommitted_changes": dirty},
    "formulation": FLAGS.formulation,
    "replicas": FLAGS.replicas,
    "rounds": FLAGS.rounds,
    "models": measured,
    "machine": machine,
  }


def main(argv: list[str], root: Path = ROOT) -> None:
  """Prints the tables and the JSON line."""
  try:
    if len(argv) != 2:
      raise CompareError(f"give one commit to compare with, not {len(argv) - 1}.")
    models = [*dict.fromkeys(FLAGS.model)]
    if not models:
      raise CompareError(f"--model= names none; take some of {', '.join(steps.MODELS)}.")
    for model in models:
      if model not in steps.MODELS:
        raise CompareError(f"--model={model} is none of {', '.join(steps.MODELS)}.")
      refusal = steps.refusal(model, FLAGS.formulation, FLAGS.strict, FLAGS.unconstrained)
      if refusal:
        raise CompareError(refusal)
    print(json.dumps(compare(root, argv[1], models)))
  except CompareError as error:
    sys.exit(f"error: {error}")


if __name__ == "__main__":
  launching.launch(main, arguments=9)
