"""Cards: what is known of the models in results/weights. Imports no JAX.

NAME.json          the card
NAME.npz           the variables, as `ace_jax.load` reads them
NAME_samples.npz   some test samples, on which the card's second number can be had without data
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError, RequestError
from experiments.harness import result_files, tables

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "weights"
HEADER = ["name", "predictor", "error", "test", "test, 50 samples", "epochs", "MB"]
_REMEDY = "restore it, or add the weights again"


@dataclasses.dataclass(frozen=True)
class Card:
  """What is known of a trained model.

  Attributes:
    run: Folder of what was kept of the run, from the checkout.
    experiment: A package of `experiments`.
    model: Name of the model.
    constraint: Under which it was trained.
    metric: What the errors are the mean of.
    predictors: By name ("projection", "relaxed"), the mean over all test samples ("test") and over
      those that are kept ("samples").
    data: What it was trained on, whose they are, and their licence.
    command: That trained it.
    commit: At which it did.
    epochs: For how many.
    seed: Of the run.
    differs_from_published: By setting, its value here and the published one.
    settings: All settings of the run.
    summary: What is known of its data.
    sha256: Of the file of variables.
    samples_sha256: Of the file of test samples.
  """

  run: str
  experiment: str
  model: str
  constraint: str
  metric: str
  predictors: dict[str, dict[str, float]]
  data: str
  command: str
  commit: str
  epochs: int
  seed: int
  differs_from_published: dict[str, list[Any]]
  settings: dict[str, Any]
  summary: dict[str, Any]
  sha256: str
  samples_sha256: str


def check_name(name: str) -> str:
  """Returns a name of weights.

  Raises:
    RequestError: it would be no name of a file.
  """
  if not re.fullmatch(r"[a-z0-9_]+", name):
    raise RequestError(f"weights cannot be called {name!r}: take small letters, digits and _.")
  return name


def names(folder: Path = FOLDER) -> list[str]:
  """Returns the names of all weights that are kept."""
  return sorted(path.stem for path in folder.glob("*.json"))


def read(name: str, folder: Path = FOLDER) -> Card:
  """Reads a card.

  Raises:
    DataError: there is none of that name, or it is damaged.
  """
  path = folder / f"{name}.json"
  if name not in names(folder):
    raise DataError(
      f"there are no weights {name!r} in {folder}; known: {', '.join(names(folder))}."
    )
  entries = result_files.read_json(path, _REMEDY)
  kinds = {field.name: field.type for field in dataclasses.fields(Card)}
  for key in sorted({*kinds, *entries}):
    if key not in kinds or not isinstance(entries.get(key), _builtin(kinds[key])):
      raise DataError(f"{path}: damaged ({key} is missing, unknown or of another kind); {_REMEDY}.")
  return Card(**entries)


def _builtin(kind: Any) -> type:
  return getattr(kind, "__origin__", kind)


def rows(folder: Path = FOLDER) -> list[list[str]]:
  """Returns a row for each predictor of each model, as `HEADER` has them."""
  lines = []
  for name in names(folder):
    card = read(name, folder)
    size = f"{(folder / f'{name}.npz').stat().st_size / 1e6:.1f}"
    for predictor, errors in card.predictors.items():
      numbers = [f"{errors[which]:.4g}" for which in ("test", "samples")]
      lines.append([name, predictor, card.metric, *numbers, str(card.epochs), size])
  return lines


def page(folder: Path = FOLDER) -> str:
  """Returns the cards as Markdown: the table, and for each what its numbers rest on."""
  parts = [tables.markdown(HEADER, rows(folder))]
  for name in names(folder):
    card = read(name, folder)
    differs = [
      f"`{setting}` is {here} (published: {there})"
      for setting, (here, there) in card.differs_from_published.items()
    ]
    parts.append(
      f"## {name}\n\n"
      f"{card.experiment}, {card.model}, {card.constraint}; {card.epochs} epochs, "
      f"seed {card.seed}, commit {card.commit}:\n\n    {card.command}\n\n"
      f"- Run: `{card.run}`\n- Data: {card.data}\n"
      f"- Differs from the published protocol: {'; '.join(differs) or 'in no setting'}.\n"
      f"- SHA-256: `{card.sha256}`"
    )
  return "\n\n".join(parts) + "\n"


def text(folder: Path = FOLDER) -> str:
  """Returns the table of all weights for a terminal."""
  return tables.table(HEADER, rows(folder))


def pick(predictors: Sequence[str], there: Sequence[str]) -> list[str]:
  """Returns the predictors that are asked for; all where none is.

  Raises:
    RequestError: the run has no such predictor.
  """
  for name in predictors:
    if name not in there:
      raise RequestError(f"the run has no predictor {name!r}; it has {', '.join(there)}.")
  return [name for name in there if not predictors or name in predictors]
