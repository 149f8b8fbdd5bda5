"""What the tables of QM9 and ModelNet40 share: runs joined over seeds, what is not published."""

import json
from collections.abc import Iterable, Sequence

from experiments.harness import regularisation, tables
from experiments.harness.result_files import Result


def groups(
  results: Sequence[Result], experiment: str, apart: Iterable[str] = ()
) -> list[list[Result]]:
  """Returns the results of an experiment, those together that differ in the seed alone.

  Args:
    results: Contents of result.json files.
    experiment: Its name.
    apart: Further settings that may differ within a group.
  """
  left_out = {"seed", *apart}
  grouped: dict[str, list[Result]] = {}
  for result in results:
    if result["experiment"] == experiment:
      settings = {k: v for k, v in result["settings"].items() if k not in left_out}
      known = {name: value for name, value in settings.items() if value is not None}
      grouped.setdefault(json.dumps(known, sort_keys=True), []).append(result)
  return [grouped[key] for key in sorted(grouped)]


def kind(result: Result) -> str:
  """Returns model, constraint and what regularises it, of a run."""
  settings = result["settings"]
  return ", ".join([result["model"], result["constraint"], *regularisation.describe(settings)])


def differences(group: Sequence[Result], said: Iterable[str] = ()) -> str:
  """Returns which settings are not the published ones, "none" where all are.

  Args:
    group: Results of one configuration.
    said: Settings that the table says elsewhere.
  """
  names = {name for result in group for name in result["differs_from_published"]}
  return ", ".join(sorted(names - {*said})) or "none"


def spread(values: Sequence[float], digits: str) -> str:
  """Returns mean +- standard deviation over seeds, and how many; "" of none.

  Args:
    values: One a seed.
    digits: Format of both, such as ".3g".
  """
  if not values:
    return ""
  return f"{tables.spread(values, digits, digits)} ({len(values)})"
