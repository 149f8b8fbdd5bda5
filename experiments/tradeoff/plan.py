"""Which programs the curve is made of. Imports no JAX."""

from collections.abc import Mapping, Sequence

from experiments.harness.replicas import Plan
from experiments.sweep.plan import Program

CONSTANT = {"resilient": "rho", "inequality": "epsilon"}
_ENDS = ("strict", "none")
_RATES: dict[str, tuple[tuple[str, float], ...]] = {"resilient": (("slack_lr", 5e-3),)}


def programs(
  grids: Mapping[str, Sequence[float]], data: Sequence[str], seeds: Sequence[int]
) -> list[Program]:
  """Returns one program a constraint and data set; its replicas are constants and seeds.

  Args:
    grids: Constants of the resilient and of the inequality constraint; may be empty.
    data: Broken symmetries, "none" among them.
    seeds: Seeds of every point.
  """
  program_list = []
  for broken in data:
    for constraint in (*(name for name in CONSTANT if grids[name]), *_ENDS):
      fixed: list[tuple[str, float | str]] = [("constraint", constraint)]
      fixed += _RATES.get(constraint, ())
      fixed += [("symmetry_breaking", broken)] if broken != "none" else []
      if constraint != "strict":
        # With branches of free scale no bound on gamma would bind.
        fixed.append(("relaxation_scale", "fixed"))
      if constraint in CONSTANT:
        plan = Plan(tuple(seeds), ((CONSTANT[constraint], tuple(map(float, grids[constraint]))),))
      else:
        plan = Plan(tuple(seeds))
      name = f"{broken.replace(':', '')}_{constraint}"
      program_list.append(Program(name, tuple(fixed), plan))
  return program_list
