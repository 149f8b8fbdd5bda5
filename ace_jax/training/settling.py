"""Whether a constraint on gamma had the time to act, told from the records of a run.

Measured on short runs of a small model (equality, inequality, resilient): where gamma and
multipliers had settled, after 300 or 600 epochs, the violation was at most 0.04 in the units of
`unsettled`; equality that was still on its way then, 0.11 to 0.7; any after 5 epochs, 0.6 to 0.95.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ace_jax.training import history
from ace_jax.training.history import Record

_MISSED, _MOVED, _BELOW = 0.1, 0.05, 0.1


def unsettled(records: Sequence[Record], constraint: Any) -> str:
  """Returns in a line why a constraint on gamma did not get to act, "" if it did.

  Of every layer, over the last tenth of the epochs and in units of the largest abs(gamma) of the
  run: the constraint is missed if its violation is above 0.1 in the mean, and gamma still moves if
  its mean differs by more than 0.05 from that of the tenth before. Multipliers are far below the
  loss's slope in gamma if their norm is below a tenth of the Lagrangian's gradient for gamma.

  Args:
    records: One an epoch.
    constraint: Its `excess` says how much of a violation counts.
  """
  if not records:
    return ""
  last, tenth = records[-1], max(1, len(records) // 10)
  tail, earlier = records[-tenth:], records[-2 * tenth : -tenth] or records[:1]
  gammas, multipliers = history.of_kind(last, "gamma"), history.of_kind(last, "multiplier")
  missed, moved = {}, {}
  for name in sorted({*gammas} & {*multipliers} & {*history.of_kind(last, "violation")}):
    path = [record[f"gamma/{name}"] for record in records if f"gamma/{name}" in record]
    scale = max(np.max(np.abs(path)), float(np.finfo(np.float32).tiny))
    excess = [_size(constraint.excess(record[f"violation/{name}"])) for record in tail]
    means = [np.mean([record[f"gamma/{name}"] for record in part]) for part in (earlier, tail)]
    missed[name] = float(np.mean(excess)) / scale
    moved[name] = float(abs(means[1] - means[0])) / scale
  if not missed:
    return ""
  worst, fastest = max(missed, key=missed.__getitem__), max(moved, key=moved.__getitem__)
  reasons = []
  if missed[worst] > _MISSED:
    reasons.append(f"gamma of {worst} misses it by {missed[worst]:.2g} of its largest value")
  if moved[fastest] > _MOVED:
    reasons.append(f"gamma of {fastest} still moved by {moved[fastest]:.2g} in the last tenth")
  if not reasons:
    return ""
  norm = float(np.linalg.norm([*multipliers.values()]))
  slope = float(np.mean([record["gradient_norm/gamma"] for record in tail]))
  if norm < _BELOW * slope:
    reasons.append(
      f"multipliers ({norm:.2g}) are far below the loss's slope in gamma ({slope:.2g})"
    )
  return (
    f"the constraint had no time to act: {', '.join(reasons)}; train for more epochs, or with a "
    "larger step size of the multipliers (dual_lr)"
  )


def _size(excess: Any) -> float:
  return max(float(np.abs(leaf)) for leaf in jax.tree.leaves(excess))
