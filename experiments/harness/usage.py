"""The error of flags that make no sense together."""


class UsageError(Exception):
  """Flags that contradict each other; its message is one line."""
