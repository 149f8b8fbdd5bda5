"""From a verdict to a model: the rotations that the data keep, and the command that keeps them."""

from collections.abc import Sequence
from typing import Any

from ace_jax.symmetry import report, verdicts
from experiments.harness import constraints, kept
from experiments.nbody import settings as nbody_settings


def suggest(generators: Sequence[report.GeneratorReport], settings: nbody_settings.Settings) -> str:
  """Returns the subgroup of the rotations that the data keep, and a command that trains with it.

  Rotations about two axes generate all others, so that a symmetric law keeps all rotations, those
  about one axis, or none. Of axes that are no coordinate axis nothing is known. Where the report
  cannot tell of a rotation, as of one that the model keeps by construction, none are suggested.

  Args:
    generators: What the report found.
    settings: Of the run that it is about.
  """
  undecided = [
    generator
    for generator in generators
    if generator.name.startswith("rotation_")
    and generator.judgement.verdict == verdicts.Verdict.CANNOT_TELL
  ]
  if undecided:
    names = " and ".join(generator.name for generator in undecided)
    reasons = "; ".join(dict.fromkeys(r for g in undecided for r in g.judgement.reasons))
    return f"Nothing can be told of {names} ({reasons}), so that no rotations are suggested."
  broken = {generator.name for generator in generators if generator.broken}
  unbroken = [axis for axis in kept.AXES if f"rotation_{axis}" not in broken]
  if len(unbroken) == len(kept.AXES):
    said = "No rotation is seen to be broken: keep all of them."
    return f"{said}\n  {command(settings, constraint='strict', keep=None)}"
  if len(unbroken) == 1:
    (axis,) = unbroken
    said = f"The data keep the rotations about {axis}, and break the others: keep those alone."
    return f"{said}\n  {command(settings, constraint='strict', keep=f'axis:{axis}')}"
  if not unbroken:
    return (
      "The data break the rotations about every coordinate axis: there is none to keep. A network "
      f"that may break them all:\n  {command(settings, constraint='none', keep=None)}"
    )
  return (
    f"Rotations about {' and '.join(unbroken)} generate all others, so that not those about one "
    "axis alone can be broken: the verdict is not of one piece. Measure with more --samples, or on "
    "runs of more seeds."
  )


def command(settings: nbody_settings.Settings, **changes: Any) -> str:
  """Returns the command of a run with some of its settings changed.

  Args:
    settings: Of the run.
    **changes: By their flat names, the constraint among them; what has no meaning with it is left
      out.
  """
  preset = settings.training.preset
  without_flags = {**nbody_settings.preset(preset).to_json(), "preset": "quick"}
  left_out = {"seed"} | {
    name for name, users in constraints.meaningful().items() if changes["constraint"] not in users
  }
  words = ["python -m experiments.nbody"]
  for name, value in {**settings.to_json(), **changes}.items():
    if name not in left_out and value is not None and value != without_flags.get(name):
      words.append(_flag(name, value))
  return " ".join(words)


def _flag(name: str, value: Any) -> str:
  if isinstance(value, bool):
    return f"--{name}" if value else f"--no{name}"
  return f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
