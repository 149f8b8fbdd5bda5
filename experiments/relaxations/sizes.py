"""Sizes of relaxation branches at equal cost: their parameters, or the time of a training step."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypedDict

import jax

from ace_jax import homotopy, task
from ace_jax.training import epochs, parallel
from experiments.harness import branches as registry
from experiments.harness import problems
from experiments.harness.settings import Settings
from experiments.mocap.settings import Settings as MocapSettings
from experiments.nbody.settings import Settings as NBodySettings

_LARGEST = 4096
_STEPS, _ROUNDS = 20, 9


@dataclasses.dataclass(frozen=True)
class Variant:
  """A branch, how many gammas it has, and its size.

  Attributes:
    branch: "linear", "mlp", "spectral_mlp" or "low_rank".
    gamma: "layer" or "channel".
    size: Width of the hidden layers, or rank; None for a linear branch, and for the published MLP
      (2 n and n, where it has n outputs).
  """

  branch: str
  gamma: str = "layer"
  size: int | None = None

  def settings(self) -> dict[str, str | int]:
    """Returns the settings that it stands for."""
    settings: dict[str, str | int] = {"relaxation": self.branch, "gamma": self.gamma}
    setting = registry.get(self.branch).size
    return (
      settings if self.size is None or setting is None else {**settings, setting.name: self.size}
    )

  def label(self) -> str:
    """Returns its name, such as "mlp_12_channel"."""
    size = "" if self.size is None else f"_{self.size}"
    return f"{self.branch}{size}_{self.gamma}"


class Size(TypedDict):
  """The size of a branch that was chosen for a budget, an entry of sizes.json, and its cost.

  `branch`, `gamma` and `size` are those of a `Variant`; `parameters` counts those of all branches,
  gammas included; a step takes `step_ms` milliseconds, `step_ratio` times that of the MLP of
  published size.
  """

  budget: str
  branch: str
  gamma: str
  size: int | None
  parameters: int
  step_ratio: float
  step_ms: float


def nearest(
  cost: Callable[[int], float],
  target: float,
  first: int = 4,
  tolerance: float = 0.0,
  most: int = 40,
) -> tuple[int, float]:
  """Returns the size whose cost is nearest to a target, and that cost.

  Args:
    cost: Of a size from 1 on; grows with it, up to noise.
    target: What it should be.
    first: The size that is tried first.
    tolerance: Relative difference that is near enough.
    most: Sizes to try at most.
  """
  seen: dict[int, float] = {}

  def near() -> int:
    return min(seen, key=lambda size: abs(seen[size] - target))

  def done(size: int) -> bool:
    if size not in seen:
      seen[size] = cost(size)
    return abs(seen[near()] - target) <= tolerance * target or len(seen) >= most

  low, high = 1, first
  while not done(high) and seen[high] < target and high < _LARGEST:
    low, high = high, min(4 * high, _LARGEST)
  if done(high) or done(low):
    return near(), seen[near()]
  while high - low > 1 and seen[low] < target < seen[high]:
    share = (target - seen[low]) / (seen[high] - seen[low])
    guess = round(low + min(max(share, 0.1), 0.9) * (high - low))
    guess = min(max(guess, low + 1), high - 1)
    if done(guess):
      break
    low, high = (guess, high) if seen[guess] < target else (low, guess)
  return near(), seen[near()]


def count(problem: problems.Problem, settings: Settings) -> int:
  """Returns the number of parameters of all branches, gammas included."""
  begin = jax.eval_shape(lambda: problems.start([settings], problem))
  theta = jax.tree_util.tree_leaves_with_path(begin.primal.theta)
  branches = [leaf for path, leaf in theta if jax.tree_util.DictKey(homotopy.RELAXATION) in path]
  return sum(leaf.size for leaf in (*branches, *jax.tree.leaves(begin.primal.gamma)))


class Timed:
  """A training step of one replica, compiled, that can be timed again and again.

  Args:
    problem: Model and data.
    settings: Of the run.
  """

  def __init__(self, problem: problems.Problem, settings: Settings):
    batch = settings.training.batch_size
    steps = min(_STEPS, task.size(problem.train) // batch)
    mesh = parallel.make_mesh(1)
    self._data = parallel.replicate(task.take(problem.train, slice(0, steps * batch)), mesh)
    self._state = parallel.shard_replicas(problems.start([settings], problem), mesh)
    method = problems.method(settings, problem)
    self._epoch, self._steps = epochs.compile_epoch(method, mesh, batch), steps
    self.seconds()  # compiles

  def seconds(self) -> float:
    """Returns the time of a step, the mean over an epoch of a few."""
    begin = time.perf_counter()
    self._state, _ = jax.block_until_ready(self._epoch(self._state, self._data))
    return (time.perf_counter() - begin) / self._steps


def ratio(timed: Timed, other: Timed) -> float:
  """Returns the step time of `timed` over that of `other`: the median of alternating pairs."""
  return statistics.median(timed.seconds() / other.seconds() for _ in range(_ROUNDS))


def choose(
  settings: NBodySettings | MocapSettings,
  branches: Sequence[str],
  gammas: Sequence[str],
  budgets: Sequence[str],
) -> list[Size]:
  """Chooses the size of every branch for every budget, and measures what it costs.

  A size is chosen, and a step timed, with one gamma a layer; both are kept for one a channel.

  Args:
    settings: Of the runs, but for branch, gamma and size.
    branches: Names of branches.
    gammas: "layer", "channel".
    budgets: "parameters" (as many as the linear branch has), "time" (of a step with the MLP of
      published size).

  Returns:
    An entry for each budget, branch and gamma.
  """
  problem = _problem_of(settings)
  reference = Timed(problem(Variant("mlp")), settings)

  @functools.cache
  def parameters(variant: Variant) -> int:
    return count(problem(variant), settings.replace(**variant.settings()))

  @functools.cache
  def step(variant: Variant) -> float:
    if variant == Variant("mlp"):
      return 1.0
    return ratio(Timed(problem(variant), settings.replace(**variant.settings())), reference)

  def size(branch: str, budget: str) -> int | None:
    if registry.get(branch).size is None or (branch, budget) == ("mlp", "time"):
      return None
    if budget == "parameters":
      target = parameters(Variant("linear"))
      return nearest(lambda n: parameters(Variant(branch, size=n)), target)[0]
    target = parameters(Variant("mlp"))  # a first guess, which compiles nothing
    first, _ = nearest(lambda n: parameters(Variant(branch, size=n)), target)
    return nearest(lambda n: step(Variant(branch, size=n)), 1.0, first, 0.04, most=5)[0]

  entries: list[tuple[str, Variant, int, float]] = []
  for budget in budgets:
    for branch in branches:
      chosen = size(branch, budget)
      for gamma in gammas:
        variant = Variant(branch, gamma, chosen)
        step_ratio = round(step(dataclasses.replace(variant, gamma="layer")), 3)
        entries.append((budget, variant, parameters(variant), step_ratio))
  milliseconds = 1e3 * statistics.median(reference.seconds() for _ in range(_ROUNDS))
  return [
    {
      "budget": budget,
      "branch": variant.branch,
      "gamma": variant.gamma,
      "size": variant.size,
      "parameters": branch_parameters,
      "step_ratio": step_ratio,
      "step_ms": round(step_ratio * milliseconds, 2),
    }
    for budget, variant, branch_parameters, step_ratio in entries
  ]


def _problem_of(
  settings: NBodySettings | MocapSettings,
) -> Callable[[Variant], problems.Problem]:
  from experiments.mocap import run as mocap_run
  from experiments.nbody import run as nbody_run

  if isinstance(settings, NBodySettings):
    nbody, sizes = settings, settings.data.train_samples
    trajectories = nbody_run.load(nbody, max(sizes) if sizes else None)
    return lambda variant: nbody_run.make_problem(nbody.replace(**variant.settings()), trajectories)
  mocap, windows = settings, mocap_run.load(settings)
  return lambda variant: mocap_run.make_problem(mocap.replace(**variant.settings()), windows)
