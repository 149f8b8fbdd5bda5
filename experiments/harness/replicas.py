"""Which runs one command trains at once: seeds, and a grid over constants. Imports no JAX.

--seeds=0,1,2 --grid=dual_lr=1e-4,1e-3    six replicas, one device program
"""

import dataclasses
import itertools
from typing import Any, TypeVar

from experiments.harness import constraints
from experiments.harness.settings import Settings
from experiments.harness.usage import LARGEST, UsageError

S = TypeVar("S", bound=Settings)


def exact(value: float) -> str:
  """Returns a number as names of runs have it, different numbers differently.

  As `%g` writes it, and with all digits where six are too few.
  """
  short = f"{value:g}"
  return short if float(short) == value else repr(float(value))


@dataclasses.dataclass(frozen=True)
class Plan:
  """The replicas of a command, and how devices are shared out among them.

  Attributes:
    seeds: Seeds; empty for the one of --seed.
    grid: Values of each setting that replicas differ in.
    mesh: Devices along ("replica", "data"); None takes all, for replicas first.
  """

  seeds: tuple[int, ...] = ()
  grid: tuple[tuple[str, tuple[float, ...]], ...] = ()
  mesh: tuple[int, int] | None = None

  def points(self, seed: int) -> list[tuple[str, dict[str, float]]]:
    """Returns (name, what the plan changes) of every replica; the name of a run alone is "".

    Args:
      seed: Of the command, which a plan without seeds keeps.
    """
    seeds = self.seeds or (seed,)
    names = [name for name, _ in self.grid]
    if len(seeds) == 1 and not names:
      return [("", {"seed": seeds[0]})]
    points = []
    for values in itertools.product(*(values for _, values in self.grid)):
      for seed in seeds:
        point = dict(zip(names, values, strict=True))
        label = "_".join(
          [*(f"{name}{exact(value)}" for name, value in point.items()), f"seed{seed}"]
        )
        points.append((label, {**point, "seed": seed}))
    return points

  def expand(self, settings: S) -> list[tuple[str, S]]:
    """Returns (name, settings) of every replica.

    Args:
      settings: All settings of the command; replicas share what the plan does not change.
    """
    points = self.points(settings.training.seed)
    return [(name, settings.replace(**changes)) for name, changes in points]

  def on_devices(self, settings: Settings) -> int:
    """Returns how many devices the replicas can use if none are asked for."""
    return 1 if self.mesh else len(self.points(settings.training.seed))

  def identity(self) -> dict[str, Any]:
    """Returns what, beside the settings, a resumed command must share: {} for a run alone."""
    seeds = {"seeds": list(self.seeds)} if len(self.seeds) > 1 else {}
    grid = {"grid": {name: list(values) for name, values in self.grid}} if self.grid else {}
    return {**seeds, **grid}


def parse_seeds(words: list[str] | None) -> tuple[int, ...]:
  """Reads --seeds.

  Raises:
    UsageError: not different whole numbers.
  """
  if words is None:
    return ()
  try:
    seeds = tuple(int(word) for word in words)
  except ValueError:
    seeds = ()
  if not seeds or len({*seeds}) < len(seeds):
    raise UsageError(f"--seeds={','.join(words)} must be different whole numbers, by commas.")
  if max(map(abs, seeds)) > LARGEST:
    raise UsageError(f"--seeds={','.join(words)} must not be beyond {LARGEST}.")
  return seeds


def parse_grid(entries: list[str]) -> tuple[tuple[str, tuple[float, ...]], ...]:
  """Reads --grid=NAME=VALUE,VALUE, given any number of times.

  Raises:
    UsageError: says which entry is wrong and what may stand there.
  """
  grid: dict[str, tuple[float, ...]] = {}
  known = constraints.gridded()
  for entry in entries:
    name, _, words = entry.partition("=")
    if name not in known or name in grid:
      raise UsageError(
        f"--grid={entry}: {name!r} {'is there twice' if name in grid else 'cannot be gridded'}; "
        f"take NAME=VALUE,VALUE with NAME one of {', '.join(known)}."
      )
    try:
      values = tuple(float(word) for word in words.split(","))
    except ValueError:
      values = ()
    if not values or len({*values}) < len(values):
      raise UsageError(f"--grid={entry}: the values must be different numbers, by commas.")
    grid[name] = values
  return tuple(grid.items())


def parse_mesh(text: str | None) -> tuple[int, int] | None:
  """Reads --mesh=replica:2,data:4; an axis that is left out has one device.

  Raises:
    UsageError: it is written in another way.
  """
  if text is None:
    return None
  sizes: dict[str, int] = {}
  for part in text.split(","):
    axis, _, number = part.partition(":")
    if (
      axis not in ("replica", "data") or axis in sizes or not number.isdecimal() or not int(number)
    ):
      raise UsageError(f"--mesh={text} must be written as replica:2,data:4.")
    sizes[axis] = int(number)
  return sizes.get("replica", 1), sizes.get("data", 1)
