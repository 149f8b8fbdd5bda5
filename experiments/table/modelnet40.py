"""The table of ModelNet40: accuracy by rotations and dropout, from result.json files.

No published accuracies stand beside them: those are the best over epochs on the test set, and are
not at hand.
"""

from collections.abc import Sequence

from experiments.harness import result_files
from experiments.table import by_protocol

HEADER = [
  *("model, constraint", "shapes", "rotations", "predictor", "train", "epochs"),
  *("upright %", "turned about the vertical %", "turned in any way %", "not as published"),
]
_SAID = ("rotations", "data_dir")
_TURNED = ("vertical", "random_axes")


def rows(results: Sequence[result_files.Result]) -> list[list[str]]:
  """Returns the rows of the table: one a configuration and predictor.

  An accuracy is mean +- standard deviation over seeds, with their number, of that on test shapes at
  the highest on validation shapes.

  Args:
    results: Contents of result.json files.
  """
  shown = []
  for group in by_protocol.groups(results, "modelnet40"):
    first = group[0]
    for predictor in first["predictors"]:
      errors = [r["predictors"][predictor] for r in group if predictor in r["predictors"]]
      turned = [error.get("test_mse_turned", {}) for error in errors if _is_turned(error)]
      shown.append(
        [
          by_protocol.kind(first),
          "made up" if first["data"].get("made_up") else "ModelNet40",
          str(first["settings"].get("rotations", "")),
          predictor,
          str(first["train_samples"]),
          str(first["epochs"]),
          _accuracy([error["test_mse"] for error in errors]),
          *(_accuracy([error[name] for error in turned]) for name in _TURNED),
          by_protocol.differences(group, _SAID),
        ]
      )
  return shown


def _is_turned(error: result_files.Predictor) -> bool:
  turned = error.get("test_mse_turned")
  return isinstance(turned, dict) and all(result_files.finite(turned.get(n)) for n in _TURNED)


def _accuracy(errors: list[float]) -> str:
  return by_protocol.spread([100 * (1 - error) for error in errors], ".1f")
