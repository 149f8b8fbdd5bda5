"""Checks of flags against the entry of an experiment's model. Imports no JAX."""

from collections.abc import Iterable

from absl import flags

from experiments.harness import branches, constraints, models
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS


def check(experiment: str, default: str, names: Iterable[str]) -> None:
  """Refuses flags that have no meaning with the model that is asked for.

  Args:
    experiment: Its name.
    default: Its model where none is asked for.
    names: Flags that are for some of its models alone.

  Raises:
    UsageError: says which, and what to take.
  """
  name = FLAGS.model or default
  if name not in models.names(experiment):
    return  # `flags.settings` says so
  model = models.get(experiment, name)
  known = [models.get(experiment, other) for other in models.names(experiment)]
  shown = model.name.upper()
  if not model.irreps and constraints.get(FLAGS.constraint).irreps:
    others = [other.name for other in known if other.irreps and other.homotopic]
    take = f"--model={'|'.join(others)}" if others else "another constraint"
    raise UsageError(
      f"--constraint={FLAGS.constraint} penalises linear branches between known representations, "
      f"and {shown}'s branches carry streams without any; take {take}."
    )
  if model.normalised and constraints.get(FLAGS.constraint).penalises_weights:
    others = [other.name for other in known if other.homotopic and not other.normalised]
    raise UsageError(
      f"--constraint={FLAGS.constraint} penalises the size of the branches' weights, and {shown}'s "
      f"branches divide by it; take --model={'|'.join(others)}."
    )
  for flag in ("relaxation", *branches.sizes()):
    if not model.branches and FLAGS[flag].present:
      others = [other.name for other in known if other.branches and other.homotopic]
      take = f", or take --model={'|'.join(others)}" if others else ""
      raise UsageError(
        f"--{flag}: {shown}'s branches are of one published form; leave it out{take}."
      )
  check_names(experiment, name, names)


def check_names(experiment: str, default: str, names: Iterable[str]) -> None:
  """Refuses flags that are for other models of the experiment; arguments as of `check`."""
  model = FLAGS.model or default
  for name in names:
    users = models.with_flag(experiment, name)
    if model in models.names(experiment) and model not in users and FLAGS[name].present:
      raise UsageError(f"--{name} is for --model={'|'.join(users)}; leave out one.")
