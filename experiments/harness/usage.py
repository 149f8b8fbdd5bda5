"""The error of flags that make no sense together, and the range of whole numbers."""

LARGEST = 2**31 - 1
"""Of whole numbers of flags: epochs are counted, and seeds become keys, in 32 bits."""


class UsageError(Exception):
  """Flags that contradict each other; its message is one line."""
