"""Marks of parameters: some cases of a test are fast, the others slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def with_slow(values: Iterable[Any], *slow: Any) -> list[Any]:
  """Returns the values as parameters of a test, those named in `slow` marked as such."""
  return [pytest.param(v, marks=pytest.mark.slow) if v in slow else v for v in values]
