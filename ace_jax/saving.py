"""A trained model in one file: `Fit.save` and `load`. Nothing in it is ever unpickled."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array

from ace_jax import archives, files, homotopy
from ace_jax.errors import CheckpointError, first_line
from ace_jax.model import as_model

_FORMAT = 1
_ABOUT = "about"  # JSON: format, history, test errors, settings
_DAMAGE = (
  *(zipfile.BadZipFile, zlib.error, EOFError),
  *(ValueError, KeyError, TypeError, RecursionError, NotImplementedError),
)
_PREDICTORS = ("projection", "relaxed")
_BY_LAYER = ("gamma", "multipliers")


class FitSettings(NamedTuple):
  """How `fit` trained.

  Attributes:
    epochs: Passes over the training data that were asked for.
    batch_size: Samples in a batch.
    eval_every: Epochs between evaluations.
    patience: Evaluations without improvement to stop after; None never stopped early.
    constraint: Name of its class.
    constants: Its constants by name.
    lr: Adam step size of theta; here and below None for a block with an optimizer of its own.
    gamma_lr: Adam step size of gamma.
    slack_lr: Adam step size of the slack.
    dual_lr: Step size of the multipliers.
    dual: Optimizer of the multipliers.
    clip_norm: Largest norm of the gradients; None did not clip.
    decays: Whether step sizes followed a schedule.
    seed: Of initial values and order.
    inputs: Shape and type of each of the model's inputs, for two samples; None where one of them is
      no array.
    mode: Whether the lowest ("min") or the highest ("max") metric selected.
    select: Name of the metric that selected; None if there was but one.
    data: Checksums of the training and the validation samples, where they were arrays; of a `Fit`
      without workdir made when they are first asked for (`resuming.Fingerprints`).
    metric: Checksum of the program of the metric that selected (`resuming.program_of`); None
      where there is no workdir, or where the best errors in it may be of another one.
  """

  epochs: int
  batch_size: int
  eval_every: int
  patience: int | None
  constraint: str
  constants: dict[str, float]
  lr: float | None
  gamma_lr: float | None
  slack_lr: float | None
  dual_lr: float
  dual: str
  clip_norm: float | None
  decays: bool
  seed: int
  inputs: list[tuple[list[int], str]] | None
  mode: str = "min"
  select: str | None = None
  data: Mapping[str, str | None] | None = None
  metric: str | None = None

  @classmethod
  def of(cls, **entries: Any) -> "FitSettings":
    """Returns settings whose numbers are Python's, as JSON takes them.

    Args:
      **entries: As the attributes; numbers may be NumPy's or JAX's.
    """
    return cls(**{name: _pythons(value) for name, value in entries.items()})

  def content(self) -> dict[str, Any]:
    """Returns all of it as JSON can hold it."""
    return {**self._asdict(), "data": None if self.data is None else dict(self.data)}


def _pythons(value: Any) -> Any:
  single = isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
  return np.asarray(value).item() if single else value


def input_shapes(inputs: Sequence[Any]) -> list[tuple[list[int], str]] | None:
  """Returns shape and type of each of a model's inputs; None if one of them is no array."""
  shapes = []
  for array in inputs:
    is_array = isinstance(array, np.ndarray | jax.Array)
    if not is_array or jnp.issubdtype(array.dtype, jax.dtypes.extended):
      return None
    shapes.append(([*array.shape], array.dtype.name))
  return shapes


def constants(constraint: Any) -> dict[str, float]:
  """Returns those fields of a constraint that are single numbers."""
  values = {field.name: getattr(constraint, field.name) for field in dataclasses.fields(constraint)}
  return {
    name: float(value)
    for name, value in values.items()
    if isinstance(value, int | float | np.ndarray | jax.Array) and np.ndim(value) == 0
  }


class Saved(NamedTuple):
  """What a file keeps of a `Fit`; attributes as there.

  Attributes:
    projection: Variables of f_{theta,0}, for `model.apply`.
    relaxed: Variables of f_{theta,gamma}, for `model.apply`.
    gamma: Final gamma by layer name.
    multipliers: Final multipliers by layer name.
    history: One record an epoch.
    test: Test error of each predictor.
    settings: How it was trained.
  """

  projection: dict[str, Any]
  relaxed: dict[str, Any]
  gamma: dict[str, Array]
  multipliers: dict[str, Array]
  history: list[dict[str, float]]
  test: dict[str, float]
  settings: FitSettings


def save(path: str | Path, saved: Saved) -> None:
  """Writes a trained model into one .npz, atomically; `Fit.save` calls it.

  Args:
    path: The file; a leading ~ is the home folder.
    saved: What to keep.

  Raises:
    ConfigurationError: variables are no nested dictionaries of numbers.
    CheckpointError: the file cannot be written.
  """
  arrays: dict[str, Any] = {}
  for name in _PREDICTORS:
    arrays |= {
      f"{name}/{key}": leaf for key, leaf in archives.flatten(getattr(saved, name)).items()
    }
  for name in _BY_LAYER:
    arrays |= {f"{name}/{key}": leaf for key, leaf in getattr(saved, name).items()}
  about = {
    "format": _FORMAT,
    "history": saved.history,
    "test": saved.test,
    "settings": saved.settings.content(),
  }
  try:
    archives.write(path, arrays, {_ABOUT: json.dumps(about)})
  except OSError as error:
    raise CheckpointError(f"cannot write {path}: {error.strerror}; choose another place.") from (
      error
    )


def load(path: str | Path, model: Any, sha256: str | None = None) -> Saved:
  """Reads what `Fit.save` wrote; every number is bit for bit the one that was saved.

  Args:
    path: The file; a leading ~ is the home folder.
    model: The trained model, of any kind that `fit` takes. Its parameters are compared with the
      file's by name and shape, unless one of its inputs was no array.
    sha256: Of the file, as a card names it; None does not compare.

  Raises:
    CheckpointError: the file is missing, damaged, something else, or of another model.
  """
  path = files.expanded(path)
  try:
    if sha256 is not None and files.sha256(path) != sha256.lower():
      raise CheckpointError(f"{path}: its SHA-256 is not {sha256}; get the file again.")
    arrays, texts = archives.read(path, (_ABOUT,))
    about = json.loads(texts[_ABOUT])
    if about["format"] != _FORMAT:
      raise CheckpointError(
        f"{path}: format {about['format']}, where this version reads {_FORMAT}; use the one that "
        "saved it."
      )
    settings = FitSettings(**about["settings"])
    predictors = {name: archives.unflatten(_below(arrays, name)) for name in _PREDICTORS}
    saved = Saved(
      **predictors,
      **{name: _below(arrays, name) for name in _BY_LAYER},
      history=about["history"],
      test=about["test"],
      settings=settings,
    )
  except OSError as error:
    raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
  except _DAMAGE as error:
    raise CheckpointError(
      f"{path}: damaged, or not written by Fit.save ({first_line(error)}); save it again."
    ) from error
  _check_model(path, saved, model)
  return saved


def _below(arrays: dict[str, Any], name: str) -> dict[str, Array]:
  return {
    key.removeprefix(f"{name}/"): leaf for key, leaf in arrays.items() if key.startswith(f"{name}/")
  }


def _check_model(path: Path, saved: Saved, model: Any) -> None:
  if saved.settings.inputs is None:
    return
  inputs = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape, dtype in saved.settings.inputs]
  remedy = "give the model that was trained"
  try:
    expected = dict(jax.eval_shape(as_model(model).init, jax.random.key(0), *inputs))
  except Exception as error:  # the model's, of any kind
    raise CheckpointError(
      f"{path}: the model cannot take its inputs ({first_line(error)}); {remedy}."
    ) from error
  variables = saved.relaxed
  if not saved.gamma:  # branches, if there are any, do nothing
    expected, variables = homotopy.prune(expected), homotopy.prune(variables)
  wanted, there = _shapes(expected), _shapes(variables)
  for key in sorted({**wanted, **there}):
    if key.startswith(f"{homotopy.GAMMA}/"):  # one a layer or one a channel
      continue
    if wanted.get(key) != there.get(key):
      raise CheckpointError(
        f"{path}: {key} has {_shape(there.get(key))} where the model has "
        f"{_shape(wanted.get(key))}; {remedy}."
      )


def _shapes(variables: homotopy.Variables) -> dict[str, tuple[int, ...]]:
  leaves: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep="/")
  return {key: leaf.shape for key, leaf in leaves.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
  return "no array" if shape is None else f"shape {list(shape)}"
