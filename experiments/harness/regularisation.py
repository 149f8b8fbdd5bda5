"""Settings of what regularises f_eq: weight decay, dropout, a finish, a gamma that nobody learns.

Nothing here imports JAX or defines a flag, so that tables may import it.
"""

from typing import Any

from experiments.harness.choices import CONSTRAINTS, PRUNED
from experiments.harness.usage import UsageError

_SWING: dict[str, float | None] = {
  **{"swing_amplitude": 0.4, "swing_initial": 1.0, "swing_period": 2000.0},
  **{"swing_time_constant": 900.0, "swing_phase": 0.0, "swing_start": 0, "swing_epochs": None},
}
_WORDS = {
  **{"swing_amplitude": "amplitude", "swing_period": "period", "swing_initial": "from"},
  **{"swing_time_constant": "time constant", "swing_phase": "phase", "swing_start": "start"},
  "swing_epochs": "0 by epoch",
}
_ALWAYS = ("swing_amplitude", "swing_period")
NUMBERS = ("weight_decay", "dropout", "finish_epochs", *_SWING)
NAMES = (*NUMBERS, "finish_from", "homotopy_draw")
USERS: dict[str, set[str]] = {
  **{"weight_decay": {*CONSTRAINTS}, "dropout": {*CONSTRAINTS}},
  **{"finish_epochs": {*PRUNED}, "finish_from": {*PRUNED}},
  **{"homotopy_draw": {"random_homotopy"}, **{name: {"swing"} for name in _SWING}},
}
"""The constraints with which a setting has a meaning."""
_POSITIVE = ("swing_period", "swing_time_constant")
_NOT_NEGATIVE = ("weight_decay", "swing_amplitude", "swing_initial")


def check(given: dict[str, Any]) -> None:
  """Refuses values out of range.

  Args:
    given: Flags by name, None where left alone; other settings are left alone.

  Raises:
    UsageError: says which flag, and what may stand there.
  """
  for name in _POSITIVE:
    if given[name] is not None and not 0 < given[name] < float("inf"):
      raise UsageError(f"--{name}={given[name]:g} must be positive and finite.")
  for name in _NOT_NEGATIVE:
    if given[name] is not None and not 0 <= given[name] < float("inf"):
      raise UsageError(f"--{name}={given[name]:g} must not be negative, and finite.")
  phase, rate = given["swing_phase"], given["dropout"]
  if phase is not None and not abs(phase) < float("inf"):
    raise UsageError(f"--swing_phase={phase:g} must be finite.")
  if rate is not None and not 0 <= rate < 1:
    raise UsageError(f"--dropout={rate:g} must be at least 0, and below 1.")


def complete(settings: dict[str, Any], patience_given: bool) -> dict[str, Any]:
  """Returns the settings with the defaults of what is asked for, and without the rest of this.

  So runs from before there was a choice are grouped and resumed with those made now.

  Args:
    settings: Of a run, with the preset's values.
    patience_given: Whether --patience was; a preset's does not hold with a finish.

  Raises:
    UsageError: flags contradict each other, or the model.
  """
  settings = dict(settings)
  for name in ("weight_decay", "dropout", "finish_epochs"):
    settings[name] = settings[name] or None
  if settings["dropout"] and settings["model"] != "segnn":
    raise UsageError(
      f"--dropout is for --model=segnn of experiments.nbody, not --model={settings['model']}."
    )
  if settings["constraint"] == "random_homotopy":
    settings["homotopy_draw"] = settings["homotopy_draw"] or "all"
  finish, epochs = settings["finish_epochs"], settings["epochs"]
  if finish:
    if finish >= epochs:
      raise UsageError(f"--finish_epochs={finish} must be below the run's {epochs} epochs.")
    if patience_given:
      raise UsageError("--patience and --finish_epochs contradict each other; leave out one.")
    settings |= {"patience": None, "finish_from": settings["finish_from"] or "best"}
  elif settings["finish_from"]:
    raise UsageError("--finish_from needs --finish_epochs.")
  if settings["constraint"] == "swing":
    for name, default in _SWING.items():
      settings[name] = default if settings[name] is None else settings[name]
    length, constrained = settings["swing_epochs"], epochs - (finish or 0)
    if length and length > constrained:
      raise UsageError(
        f"--swing_epochs={length} is longer than the {constrained} epochs that train gamma; lower "
        "it, or raise --epochs."
      )
  return {k: v for k, v in settings.items() if v is not None or k not in NAMES}


def describe(settings: dict[str, Any]) -> list[str]:
  """Returns what tells a run from one without any of this, for the label of a table.

  Args:
    settings: Of the run; older ones do not name what there was no choice of.
  """
  said = []

  def given(name):
    return settings.get(name) is not None

  said += [
    f"{word} {settings[name]:g}"
    for name, word in _WORDS.items()
    if given(name) and (name in _ALWAYS or settings[name] != _SWING[name])
  ]
  if given("homotopy_draw"):
    said.append(f"gamma of {'all layers' if settings['homotopy_draw'] == 'all' else 'each layer'}")
  said += [
    f"{word} {settings[name]:g}"
    for name, word in (("weight_decay", "weight decay"), ("dropout", "dropout"))
    if given(name)
  ]
  if given("finish_epochs"):
    said.append(f"finish {settings['finish_epochs']:g} from {settings.get('finish_from')}")
  return said
