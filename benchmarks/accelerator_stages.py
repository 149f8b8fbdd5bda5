"""The stages of `benchmarks.accelerator`; each yields its findings one by one."""

import dataclasses
import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax import files
from ace_jax.errors import first_line
from ace_jax.training import parallel
from benchmarks import accelerator_training, machine, steps
from experiments.harness.app import matmul_precision

PRECISIONS = ("float32", "tf32", "bfloat16")
REPLICAS = (1, 2, 4, 8, 16, 32)
_SHARES = {"machine": 0.05, "correctness": 0.25, "steps": 0.3, "replicas": 0.4, "training": 1.0}
"""Of the time that is left when a stage begins; one that has used its own begins nothing more."""

_CHECKED_STEPS = 3

Finding = tuple[str, Any]


@dataclasses.dataclass
class Suite:
  """What the stages share.

  Attributes:
    sizes: "published" or "small".
    deadline: When all must have ended, in seconds of `time.monotonic`.
    stage_deadline: When the stage should begin nothing more.
    rates: What the stage "machine" found.
  """

  sizes: str
  deadline: float
  stage_deadline: float = math.inf
  rates: dict[str, float] = dataclasses.field(default_factory=dict)

  def left(self) -> float:
    """Returns the seconds that the stage has left."""
    return self.stage_deadline - time.monotonic()

  def problems(self) -> dict[str, Callable[[], steps.Problem]]:
    """Returns the training steps: N-body first, then motion capture."""
    if self.sizes == "published":
      return {
        "segnn": accelerator_training.segnn,
        "egno": functools.partial(steps.skeleton, "egno"),
      }
    return {
      "segnn": functools.partial(steps.segnn, width=8, layers=1, batch_size=8),
      "egno": functools.partial(steps.skeleton, "egno", hidden_features=8, layers=1, batch_size=4),
    }

  def precisions(self) -> tuple[str, ...]:
    """Returns the precisions that the device has."""
    return PRECISIONS[:1] if jax.default_backend() == "cpu" else PRECISIONS


def run(names: Sequence[str], suite: Suite, absent: Sequence[str], path: Path) -> dict[str, Any]:
  """Runs stages and writes the report after every finding.

  Args:
    names: Of the stages.
    suite: Sizes and time.
    absent: Packages that are missing.
    path: Of the report; its folder is made if missing.

  Returns:
    The report. `not_done` says of a stage, or of one of its parts, why.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  report: dict[str, Any] = {
    "benchmark": "accelerator",
    "finished": [],
    "not_done": {},
    "sizes": suite.sizes,
    "absent_packages": [*absent],
    "machine": {**machine.describe(), "devices": jax.device_count()},
    "stages": {},
  }
  for name in names:
    begin = time.monotonic()
    share = _SHARES[name] * (suite.deadline - begin)
    suite.stage_deadline = begin + max(0.0, share)
    findings = report["stages"][name] = {}
    try:
      for key, value in _STAGES[name](suite):
        if isinstance(value, NotDone):
          value = report["not_done"][f"{name}/{key}"] = value.reason
        else:
          findings[key] = value
        files.write_json(path, report)
        print(f"{name}/{key}: {value}", flush=True)
      report["finished"].append(name)
    except Exception as error:  # the next stage may do without
      report["not_done"][name] = _reason(error)
      print(f"{name}: {report['not_done'][name]}", flush=True)
    findings["seconds"] = round(time.monotonic() - begin, 1)
    files.write_json(path, report)
  return report


@dataclasses.dataclass(frozen=True)
class NotDone:
  """Why a part of a stage has no finding."""

  reason: str


def _reason(error: Exception) -> str:
  return f"{type(error).__name__}: {first_line(error)}"[:300]


def _attempt(suite: Suite, key: str, work: Callable[[], Any]) -> Finding:
  """Returns what `work` finds, or why it does not: no time, a missing package, a refusal."""
  if suite.left() <= 0:
    return key, NotDone("no time left")
  try:
    return key, work()
  except Exception as error:  # other parts may do without
    return key, NotDone(_reason(error))


def rates(suite: Suite) -> Iterator[Finding]:
  """Measures the rate of matrix products in every precision, and of copies."""
  small = suite.sizes == "small"
  for precision in suite.precisions():
    with jax.default_matmul_precision(_jax_name(precision)):
      rate = machine.matmul_rate(512 if small else 8192)
    suite.rates[precision] = rate
    yield f"matmul_gflops_{precision}", round(rate, 1)
  suite.rates["copy"] = machine.copy_rate(2**20 if small else 2**28)
  yield "copy_gigabytes_a_second", round(suite.rates["copy"], 1)


def correctness(suite: Suite) -> Iterator[Finding]:
  """Compares losses and gradients of the first steps with float64 on the CPU."""
  for name, make in suite.problems().items():
    expected: dict[str, Any] = {}

    def reference(make=make, expected=expected):
      problem = make().first(_CHECKED_STEPS)
      expected["problem"], expected["begin"] = problem, steps.start(problem, "equality")
      cpu = jax.local_devices(backend="cpu")[0]
      with jax.enable_x64(True), jax.default_device(cpu):
        expected["exact"] = _first_steps(problem, _wide(expected["begin"]), cpu, np.float64)
      return {"loss": float(expected["exact"][0][0])}

    key, value = _attempt(suite, f"{name}/reference", reference)
    yield key, value
    if isinstance(value, NotDone):
      continue
    share, suite.stage_deadline = suite.stage_deadline, suite.deadline  # the dear part is done
    for precision in suite.precisions():

      def compare(expected=expected, precision=precision):
        with jax.default_matmul_precision(_jax_name(precision)):
          computed = _first_steps(
            expected["problem"], expected["begin"], jax.devices()[0], np.float32
          )
        return differences(computed, expected["exact"])

      yield _attempt(suite, f"{name}/{precision}", compare)
    suite.stage_deadline = share


def _first_steps(problem, begin, device, dtype) -> tuple[np.ndarray, Any]:
  """Returns the losses of the first steps, and the gradients for theta and gamma at the first."""

  method = steps.method(problem)

  def losses(state, data):
    def step(state, batch):
      computed = method.gradients(state, batch, parallel.DATA)
      state, output = method.apply_gradients(state, computed)
      return state, (output.loss, (computed.primal.theta, computed.primal.gamma))

    batched = jax.tree.map(lambda x: x.reshape(_CHECKED_STEPS, -1, *x.shape[1:]), data)
    losses, gradients = jax.lax.scan(step, state, batched)[1]
    return losses, jax.tree.map(lambda x: x[0], gradients)

  mesh = parallel.make_mesh(1, devices=[device])
  data = parallel.replicate(_of(problem.data, dtype), mesh)
  stacked = jax.tree.map(lambda x: np.asarray(x)[None], begin)
  outputs = parallel.over_replicas(losses, mesh)(parallel.shard_replicas(stacked, mesh), data)
  losses, gradients = jax.device_get(parallel.select(outputs, 0))
  return losses, gradients


def _wide(tree: Any) -> Any:
  return _of(tree, np.float64)


def _of(tree: Any, dtype: Any) -> Any:
  def convert(x):
    x = np.asarray(x)
    return x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x

  return jax.tree.map(convert, tree)


def differences(computed: tuple[Any, Any], expected: tuple[Any, Any]) -> dict[str, Any]:
  """Returns relative differences of losses (by step) and gradients (norms; the worst leaf).

  Args:
    computed: Losses [steps] and a tree of gradients.
    expected: The same, exact.
  """
  losses = np.abs(np.asarray(computed[0], np.float64) - expected[0]) / np.abs(expected[0])
  pairs = [
    (np.asarray(a, np.float64), np.asarray(b, np.float64))
    for a, b in zip(jax.tree.leaves(computed[1]), jax.tree.leaves(expected[1]), strict=True)
  ]
  total = math.sqrt(sum(np.sum(b**2) for _, b in pairs))
  error = math.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs))
  largest = max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6 * total) for a, b in pairs)
  return {
    "loss": [float(f"{x:.3g}") for x in losses],
    "gradient": float(f"{error / total:.3g}"),
    "gradient_of_the_worst_parameter": float(f"{largest:.3g}"),
  }


def step_times(suite: Suite) -> Iterator[Finding]:
  """Times the training steps in every precision, and the loss that each comes to."""
  for name, make in suite.problems().items():
    for precision in suite.precisions():

      def measure(make=make, precision=precision):
        return _measure(suite, make(), precision)

      yield _attempt(suite, f"{name}/{precision}", measure)


def _measure(suite: Suite, problem: steps.Problem, precision: str) -> dict[str, Any]:
  with jax.default_matmul_precision(_jax_name(precision)):
    epoch = steps.Epoch(problem, [steps.start(problem, "equality")])
  epoch()
  median = statistics.median([epoch() for _ in range(9)])
  rate, copy = suite.rates.get(precision, math.nan), suite.rates.get("copy", math.nan)
  arithmetic, traffic = 1e3 * epoch.gflop / rate, 1e3 * epoch.gigabytes / copy
  numbers = {
    "median_ms": median,
    "compile_seconds": epoch.compile_seconds,
    "gflop": epoch.gflop,
    "gigabytes": epoch.gigabytes,
    "arithmetic_ms": arithmetic,
    "traffic_ms": traffic,
    "fraction_of_matmul_rate": arithmetic / median,
    "fraction_of_copy_rate": traffic / median,
    "loss_after_10_epochs": float(jnp.mean(epoch.losses)),
  }
  return {key: _rounded(value) for key, value in numbers.items()}


def _rounded(value: float) -> float | None:
  """Returns four digits; None for a NaN, which JSON does not have."""
  return float(f"{value:.4g}") if math.isfinite(value) else None


def replica_times(suite: Suite) -> Iterator[Finding]:
  """Times a step of 1, 2, ... replicas, over all devices."""
  counts = REPLICAS if suite.sizes == "published" else REPLICAS[:3]
  for name, make in suite.problems().items():
    times: dict[int, float] = {}
    for count in counts:

      def measure(make=make, count=count, times=times):
        problem = make().first(10)
        mesh = parallel.make_mesh(1, min(count, jax.device_count()))
        with jax.default_matmul_precision(_jax_name("float32")):
          epoch = steps.Epoch(problem, [steps.start(problem, "equality")] * count, mesh)
        epoch()
        times[count] = statistics.median([epoch() for _ in range(7)])
        ratio = times[count] / times[1] if 1 in times else math.nan
        return {"median_ms": _rounded(times[count]), "times_one": _rounded(ratio)}

      yield _attempt(suite, f"{name}/{count}", measure)


def trainings(suite: Suite) -> Iterator[Finding]:
  """Trains five replicas with the published settings, as far as the time goes."""
  makers = accelerator_training.makers(suite.sizes, os.environ.get("ACE_DATA_DIR"))
  for i, (name, make) in enumerate(makers.items()):
    budget = suite.left() / (len(makers) - i)
    try:
      with jax.default_matmul_precision(_jax_name("float32")):
        yield name, accelerator_training.train(make, time.monotonic() + budget)
    except Exception as error:  # the other may do
      yield name, NotDone(_reason(error))


def _jax_name(precision: str) -> str:
  return matmul_precision(precision, jax.default_backend())


_STAGES: dict[str, Callable[[Suite], Iterator[Finding]]] = {
  "machine": rates,
  "correctness": correctness,
  "steps": step_times,
  "replicas": replica_times,
  "training": trainings,
}
