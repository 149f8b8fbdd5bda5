"""Reading what runs wrote, result.json and config.json, which may be damaged. Imports no JAX.

Both name their `format`. Before 2, in files that name none, `remul` was the rule that is called
`gap_penalty` since then; it is read as that.
"""

import json
import math
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeGuard

from data.errors import DataError, first_line
from experiments.harness import constraints, models, regularisation

FORMAT = 2
"""Of the files that are written now."""
MSE = "MSE"
"""What errors are the mean of, unless a result names another `metric`."""
ERROR = "final_equivariance_error"
"""The last relative equivariance error on validation samples, under the rotations of `test_gap`."""
ERROR_ABOUT_ORIGIN = "final_equivariance_error_about_origin"
"""The same about the origin, where `test_gap` is about another point (motion capture)."""
_FIELDS: dict[str, type | tuple[type, ...]] = {
  **{"model": str, "constraint": str, "seeds": list, "epochs": int, "train_samples": int},
  **{"settings": dict, "data": dict, "predictors": dict, "curve": list},
  "differs_from_published": dict,
}
_ERRORS = ("test_mse", "valid_mse")
_MEASURED = ("test_gap", "test_gap_error", "test_gap_relative", "best_epoch")
"""Of a predictor, numbers that may be left out."""
_SMALLEST = math.ulp(0.0)
"""Above 0."""
_SIZES = ("hidden_features", "layers", "batch_size")
_NULLABLE = ("decay_epochs", "particles", "neighbours", *regularisation.NUMBERS)
"""Settings that may be null, or left out."""


class Predictor(TypedDict):
  """What a training found of one predictor, at its lowest validation error.

  `phase` ("constrained" or "finish") is there after a finish; `test_mse_turned` is the error on
  turned samples, by the name of the rotations; the gaps are mean squared equivariance errors on
  test data, where a symmetry is known.
  """

  valid_mse: float
  best_epoch: int
  test_mse: float
  test_mse_turned: NotRequired[dict[str, float]]
  final_equivariance_error: NotRequired[float | None]
  final_equivariance_error_about_origin: NotRequired[float | None]
  phase: NotRequired[str]
  test_gap: NotRequired[float]
  test_gap_error: NotRequired[float]
  test_gap_relative: NotRequired[float]


class Content(TypedDict):
  """What every result.json holds, of a training (`Result`) or of a comparison of several runs.

  A comparison has, beside it, what it compares. `environment` is what it ran on, from the moment
  that it is written.
  """

  experiment: str
  format: NotRequired[int]
  environment: NotRequired[dict[str, Any]]


class Result(Content):
  """The content of a training's result.json.

  Errors (`valid_mse`, `test_mse`, `linear_mse`) are means of `metric`, of squared errors where none
  is named. `settings` are flat (`experiments.harness.settings`); `curve` has the numbers of every
  evaluation, `final` those of every layer by kind (gamma, multiplier, slack); `seconds` and
  `memory` are of all `replicas` together; `functional` and `finish` are there where the run has
  them. The first files name no `format`, `replica` and `replicas`.
  """

  model: str
  constraint: str
  seeds: list[int]
  epochs: int
  steps: int
  train_samples: int
  metric: NotRequired[str]
  linear_mse: float
  predictors: dict[str, Predictor]
  curve: list[dict[str, Any]]
  final: dict[str, dict[str, float]]
  largest_gamma_in_last_tenth: float
  finish: NotRequired[dict[str, Any]]
  functional: NotRequired[dict[str, Any]]
  seconds: float
  steps_per_second: float
  replica: NotRequired[str]
  replicas: NotRequired[int]
  memory: NotRequired[dict[str, Any] | None]
  settings: dict[str, Any]
  differs_from_published: dict[str, list[Any]]
  data: dict[str, Any]


def read_result(path: Path) -> Content:
  """Reads a result.json; a training's (`is_training`) has what tables and curves need.

  Raises:
    DataError: it cannot be read, or is no result; names what is wrong.
  """
  remedy = "remove it or run again"
  result = read_json(path, remedy)
  if not isinstance(result.get("experiment"), str):
    raise DataError(f"{path}: names no experiment; {remedy}.")
  if result["experiment"] in models.experiments():
    wrong = _wrong(result)
    if wrong:
      raise DataError(f"{path}: {wrong} is missing or no result of a training; {remedy}.")
  if result["experiment"] == "mocap":
    for predictor in result["predictors"].values():
      if ERROR in predictor:  # the name that it had at first
        predictor[ERROR_ABOUT_ORIGIN] = predictor.pop(ERROR)
  return result


def is_training(content: Content) -> TypeGuard[Result]:
  """Whether a result.json is of a training, not of a comparison of several runs."""
  return content["experiment"] in models.experiments()


def read_training(path: Path) -> Result:
  """Reads the result.json of a training.

  Raises:
    DataError: it cannot be read, or is of something else.
  """
  content = read_result(path)
  if not is_training(content):
    raise DataError(f"{path}: is of {content['experiment']}, not of a training; name another.")
  return content


def read_settings(path: Path, remedy: str) -> dict[str, Any]:
  """Reads the settings in a config.json.

  Raises:
    DataError: it cannot be read, or has none.
  """
  return read_config(path, remedy)[0]


def read_config(path: Path, remedy: str) -> tuple[dict[str, Any], bool]:
  """Reads the settings in a config.json, and whether one of them has another name since then.

  Raises:
    DataError: it cannot be read, or has no settings.
  """
  config, renamed = _read(path, remedy, dict)
  settings = config.get("settings")
  if not isinstance(settings, dict):
    raise DataError(f"{path}: damaged (no settings); {remedy}.")
  return settings, renamed


def about_origin(predictor: Predictor) -> bool:
  """Whether a predictor's `equivariance_error` is of other rotations than its `test_gap`."""
  return ERROR_ABOUT_ORIGIN in predictor


def equivariance_error(predictor: Predictor) -> float | None:
  """Returns a predictor's last relative equivariance error on validation samples, if there is one.

  Args:
    predictor: What a result.json says of it.
  """
  return predictor.get(ERROR_ABOUT_ORIGIN, predictor.get(ERROR))


def number(result: Any, path: str, file: Path, remedy: str) -> float:
  """Returns a number within a result, such as "predictors/projection/test_mse".

  Args:
    result: Content of result.json.
    path: Keys, by slashes.
    file: Where it is from, for the error message.
    remedy: What to do where there is none.

  Raises:
    DataError: there is no number.
  """
  value = result
  for key in path.split("/"):
    value = value.get(key) if isinstance(value, dict) else None
  if not isinstance(value, int | float) or isinstance(value, bool):
    raise DataError(f"{file}: has no number {path}; {remedy}.")
  return float(value)


def but_for_seed(result: Result) -> str:
  """Returns what the runs of one configuration share: experiment and settings, but for the seed.

  A setting that is None counts as left out, so that runs from before there was a choice are
  grouped with new ones.

  Args:
    result: Content of result.json.
  """
  settings = {k: v for k, v in result["settings"].items() if k != "seed" and v is not None}
  return json.dumps([result["experiment"], settings], sort_keys=True)


def graph_label(result: Result) -> list[str]:
  """Returns what tables say of N-body graphs other than those of 5 particles and all pairs.

  Args:
    result: Content of result.json.
  """
  if result["experiment"] != "nbody":
    return []
  settings, data = result["settings"], result.get("data", {})
  particles = data.get("particles", settings.get("particles")) or 5
  label = [f"{particles} particles"] if particles != 5 else []
  neighbours = settings.get("neighbours")
  return [*label, *([] if neighbours is None else [f"{neighbours} nearest"])]


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
  """Reads a JSON object, or a list; one of an earlier format as if it were written today.

  Args:
    path: The file.
    remedy: What to do about a bad file, for the error message.
    kind: dict or list.

  Raises:
    DataError: it cannot be read, or is something else.
  """
  return _read(path, remedy, kind)[0]


def _read(path: Path, remedy: str, kind: type) -> tuple[Any, bool]:
  """Returns the value of today, and whether it is another than the one written."""
  try:
    written = json.loads(path.read_bytes())
    value = _today(written)
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}.") from error
  except (ValueError, RecursionError) as error:
    raise DataError(f"{path}: damaged ({first_line(error)}); {remedy}.") from error
  if not isinstance(value, kind):
    raise DataError(f"{path}: damaged (no JSON {kind.__name__}); {remedy}.")
  if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
    raise DataError(f"{path}: its format is not {FORMAT}, that of this version; {remedy}.")
  return value, value != written


def _today(written: Any) -> Any:
  if not isinstance(written, dict) or "format" in written:
    return written
  known = {name: written[name] for name in ("constraint", "settings") if name in written}
  return {**written, **_replaced(known)}


def _replaced(value: Any) -> Any:
  # The settings of a sweep hold the flags of its runs.
  if isinstance(value, dict):
    return {key: _replaced(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_replaced(item) for item in value]
  return _RENAMED.get(value, value) if isinstance(value, str) else value


_RENAMED = {"remul": "gap_penalty", "--constraint=remul": "--constraint=gap_penalty"}


def _wrong(result: dict[str, Any]) -> str:
  for name, kind in _FIELDS.items():
    if not isinstance(result.get(name), kind) or isinstance(result[name], bool):
      return name
  for name, pair in result["differs_from_published"].items():
    if not isinstance(pair, list) or len(pair) != 2:
      return f"differs_from_published/{name}"
  setting = _wrong_setting(result)
  if setting:
    return f"settings/{setting}"
  for name, least in (("seconds", 0), ("epochs", 1), ("train_samples", 1)):
    if not _from(least, result.get(name)):
      return name
  for name, least in (("replicas", 1), ("linear_mse", 0)):
    if not _from(least, result.get(name, least)):
      return name
  if not isinstance(result.get("metric", ""), str):
    return "metric"
  if not result["seeds"] or not all(type(seed) is int for seed in result["seeds"]):
    return "seeds"
  mocap = result["experiment"] == "mocap"
  for name in ("subject", "source") if mocap else ():
    if not isinstance(result["data"].get(name), str):
      return f"data/{name}"
  # A network without gamma has one predictor under any constraint.
  if not {"projection"} <= {*result["predictors"]} <= {"projection", "relaxed"}:
    return "predictors"
  for name, predictor in result["predictors"].items():
    if not isinstance(predictor, dict) or not all(_from(0, predictor.get(key)) for key in _ERRORS):
      return f"predictors/{name}"
    error = predictor.get(ERROR, predictor.get(ERROR_ABOUT_ORIGIN, ""))
    if not (error is None or _from(0, error)):
      return f"predictors/{name}"
    turned = predictor.get("test_mse_turned", {})
    measured = [predictor.get(key, 0) for key in _MEASURED]
    if not isinstance(turned, dict) or not all(_from(0, x) for x in (*measured, *turned.values())):
      return f"predictors/{name}"
  bound = result.get("functional", {"asked": 0, "final": {"test_gap": 0}})
  reached = bound.get("final") if isinstance(bound, dict) else None
  if not isinstance(reached, dict) or not _from(0, bound.get("asked")):
    return "functional"
  if not _from(0, reached.get("test_gap")):
    return "functional/final"
  for number, record in enumerate(result["curve"]):
    if not isinstance(record, dict) or not _from(0, record.get("epoch")):
      return f"curve[{number}]"
    errors = [name for name in record if name.startswith(("valid/", "test/"))]
    wrong = [name for name in errors if not _from(0, record[name])]
    if wrong:
      return f"curve[{number}]/{wrong[0]}"
  return ""


def _wrong_setting(result: dict[str, Any]) -> str:
  settings, constraint = result["settings"], result["constraint"]
  if settings.get("constraint") != constraint:
    return "constraint"
  for name, value in settings.items():
    if isinstance(value, float) and not math.isfinite(value):
      return name
  # Results of N-body runs from before there were several models do not name theirs.
  texts = ("preset", "model") if result["experiment"] == "mocap" else ("preset",)
  functional = constraint in constraints.where(on_error=True)
  texts += ("dual_optimizer",) if functional else ()
  for name in texts:
    if not isinstance(settings.get(name), str):
      return name
  # Without multipliers a rate may be null, but it is there; the price of slack is a number.
  given = (*_SIZES, *(("rho",) if constraint == "resilient" else ()))
  given += ("dual_lr",) if functional else ()
  null = () if constraint == "strict" else ("dual_lr", "augmented")
  null = tuple(name for name in null if settings.get(name, "") is not None)
  numbers = [c.name for c in constraints.constants().values() if c.kind is not str]
  left_out = tuple(name for name in (*numbers, *_NULLABLE) if settings.get(name) is not None)
  for name in (*given, *null, *left_out):
    if not _from(1 if name in _SIZES else -math.inf, settings.get(name)):
      return name
  for name, constant in constraints.constants().items():
    value = settings.get(name)
    least = {"positive": _SMALLEST, "not negative": 0.0}.get(constant.domain)
    if not (value is None or least is None or _from(least, value)):
      return name
  return ""


def _from(least: float, value: Any) -> bool:
  """Whether a value is a finite number, and not below the least that it can be."""
  return finite(value) and value >= least


def finite(value: Any) -> bool:
  """Whether a value of a JSON file is a number that statistics can be made of."""
  # A whole number may be too large for a float.
  numeric = isinstance(value, int | float) and not isinstance(value, bool)
  return numeric and abs(value) < 1e300 and math.isfinite(value)
