"""What this process may use of the machine."""

import os


def cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux: taskset, Slurm and containers give a part
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
