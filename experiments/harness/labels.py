"""What tells runs apart where several are shown: the settings in which they differ."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.harness.result_files import Result

_SUBJECT = {
  **{"model": "", "subject": "", "source": "", "symmetry_breaking": ""},
  **{"breaking_from": "breaking from", "system": "", "force_clip": "clip by", "data_file": ""},
  **{"data_seed": "data seed", "centring": "centring", "norm": "norm", "height": "height"},
  **{"hidden_features": "features", "layers": "layers", "modes": "modes", "lmax": "lmax"},
  **{"lmax_attributes": "attributes' lmax", "batch_size": "batch"},
}
"""Settings of model and data, which are named wherever they differ, and how."""
_COUNTED = ("hidden_features", "layers", "modes")
"""Those of them whose number stands in front."""
_NEVER = {"seed", "log_test", "checkpoint_every", "keep_period"}
"""Settings that decide nothing which a table shows."""


def distinguished(
  labels: Sequence[str], results: Sequence[Result], shown: Collection[str] = ()
) -> list[str]:
  """Returns labels that name what differs among the runs, and so differ where their runs do.

  Settings of model and data are named in every label of an experiment if they differ among any of
  its runs; others where labels would be the same without them.

  Args:
    labels: One a run, or one a group of runs that differ in the seed alone.
    results: The content of its result.json, or of one of the group.
    shown: Settings that the labels, or a column beside them, name already.
  """
  facts = [_facts(result) for result in results]
  extended = []
  for label, facts_of_run in zip(labels, facts, strict=True):
    alike = [other for other in facts if other["experiment"] == facts_of_run["experiment"]]
    extended.append(_extended(label, facts_of_run, _differing(alike, [*_SUBJECT], shown)))
  others = dict.fromkeys(
    name for facts_of_run in facts for name in facts_of_run if name not in _SUBJECT
  )
  # What one experiment has and another has not, its name says.
  for names in (["experiment"], [*others]):
    extended = _told_apart(extended, facts, names, shown)
  return extended


def _told_apart(
  labels: Sequence[str],
  facts: Sequence[Mapping[str, Any]],
  names: Sequence[str],
  shown: Collection[str],
) -> list[str]:
  """Returns the labels, with those settings in the ones that are the same."""
  extended = []
  for label, facts_of_run in zip(labels, facts, strict=True):
    alike = [other for name, other in zip(labels, facts, strict=True) if name == label]
    extended.append(_extended(label, facts_of_run, _differing(alike, names, shown)))
  return extended


def _facts(result: Result) -> dict[str, Any]:
  mocap = result.get("experiment") == "mocap"
  data = {name: result["data"].get(name) for name in ("subject", "source") if mocap}
  named = {name: result.get(name) for name in ("experiment", "model")}
  settings = {k: v for k, v in result["settings"].items() if k not in _NEVER}
  return {**settings, **data, **named}


def _differing(
  facts: Sequence[Mapping[str, Any]], names: Sequence[str], shown: Collection[str]
) -> list[str]:
  return [
    name
    for name in names
    if name not in shown
    and any(facts_of_run.get(name) != facts[0].get(name) for facts_of_run in facts)
  ]


def _extended(label: str, facts: Mapping[str, Any], names: Sequence[str]) -> str:
  words = label.split(", ")
  told = [name for name in names if facts.get(name) is not None]
  told = [name for name in told if f"{name}={_text(facts[name])}" not in words]
  said = [_said(name, facts[name]) for name in told]
  return ", ".join([label, *(text for text in said if text not in words)])


def _text(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def _said(name: str, value: Any) -> str:
  text = _text(value)
  word = "" if name == "experiment" else _SUBJECT.get(name)
  if word is None:
    return f"{name}={text}"
  if name in _COUNTED:
    return f"{text} {word}"
  return f"{word} {text}".strip()
