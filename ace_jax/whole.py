"""Whole numbers of any library: Python's, NumPy's, JAX's."""

import math
import operator
from typing import Any


def whole(number: Any) -> int | None:
  """Returns a number as Python's, if it is a whole one such as 3, `np.int64(3)` or 1e3; else None.

  Args:
    number: Anything.
  """
  try:
    return operator.index(number)
  except TypeError:
    pass
  try:
    value = float(number)
  except (TypeError, ValueError):
    return None
  is_text = isinstance(number, str | bytes)
  return int(value) if not is_text and math.isfinite(value) and value.is_integer() else None
