"""Settings of what regularises f_eq under any constraint: weight decay, dropout, a finish.

Nothing here imports JAX or defines a flag, so that tables may import it.
"""

from collections.abc import Mapping
from typing import Any

from experiments.harness import constraints, kept, models
from experiments.harness.usage import UsageError

NUMBERS = ("weight_decay", "dropout", "finish_epochs")
NAMES = (*NUMBERS, "finish_from")


def complete(given: Mapping[str, Any], patience_given: bool) -> dict[str, Any]:
  """Returns the settings with the defaults of what is asked for, and without the rest of this.

  So runs from before there was a choice are grouped and resumed with those made now.

  Args:
    given: Values of flags, with the preset's.
    patience_given: Whether --patience was; a preset's does not hold with a finish.

  Raises:
    UsageError: flags contradict each other, or the model.
  """
  settings = dict(given)
  for name in NUMBERS:
    settings[name] = settings[name] or None
  dropping = models.all_with_flag("dropout")
  if settings["dropout"] and settings["model"] not in [name for _, name in dropping]:
    users = ", ".join(f"{name} ({experiment})" for experiment, name in dropping)
    raise UsageError(f"--dropout is for --model={users}, not --model={settings['model']}.")
  finish, epochs = settings["finish_epochs"], settings["epochs"]
  if finish:
    if finish >= epochs:
      raise UsageError(f"--finish_epochs={finish} must be below the run's {epochs} epochs.")
    if patience_given:
      raise UsageError("--patience and --finish_epochs contradict each other; leave out one.")
    settings |= {"patience": None, "finish_from": settings["finish_from"] or "best"}
  elif settings["finish_from"]:
    raise UsageError("--finish_from needs --finish_epochs.")
  return {k: v for k, v in settings.items() if v is not None or k not in NAMES}


def describe(settings: Mapping[str, Any]) -> list[str]:
  """Returns what tables say of a run beside its constraint: --keep, constants, what regularises.

  Args:
    settings: Of the run; older ones do not name what there was no choice of.
  """
  said = [*kept.labels(settings), *constraints.labels(settings, rivals=False)]
  said += [
    f"{word} {settings[name]:g}"
    for name, word in (("weight_decay", "weight decay"), ("dropout", "dropout"))
    if settings.get(name) is not None
  ]
  if settings.get("finish_epochs") is not None:
    said.append(f"finish {settings['finish_epochs']:g} from {settings.get('finish_from')}")
  return said
