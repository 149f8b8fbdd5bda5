"""What may be asked of simulated data. Imports no JAX, so that a command can refuse at once."""

import dataclasses

from data.errors import RequestError

LARGEST_TRAIN = 10_000
"""Trajectories of which a training set of N-body data may be the first ones."""


@dataclasses.dataclass(frozen=True)
class Breaking:
  """A field that breaks a known part of the symmetry; `kind` None breaks nothing.

  Attributes:
    kind: "gravity": acceleration -strength e_z. "wind": drag -0.1 (v - strength e_x).
      "anisotropy": the x component of every pair force times 1 + strength.
    strength: G, W or A.
  """

  kind: str | None = None
  strength: float = 0.0

  @classmethod
  def parse(cls, text: str | None) -> "Breaking":
    """Reads "gravity:G", "wind:W" or "anisotropy:A"; None or "" break nothing.

    Raises:
      RequestError: the text has another form.
    """
    if not text:
      return cls()
    kind, _, value = text.partition(":")
    try:
      strength = float(value)
    except ValueError:
      strength = float("nan")
    if kind not in ("gravity", "wind", "anisotropy") or not abs(strength) < float("inf"):
      raise RequestError(
        f"symmetry breaking {text!r} is not understood; write gravity:G, wind:W or anisotropy:A "
        "with a number, such as gravity:0.5."
      )
    return cls(kind, strength)


def check_trajectories(train: int) -> None:
  """Refuses a training set of N-body data that does not exist.

  Raises:
    RequestError: says how many trajectories there are.
  """
  if not 1 <= train <= LARGEST_TRAIN:
    raise RequestError(
      f"{train} training trajectories asked for; there are 1 to {LARGEST_TRAIN}: lower "
      "--train_samples."
    )
