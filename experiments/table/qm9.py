"""The table of QM9: mean absolute errors by target, from result.json files.

No published errors stand beside them: those of this model and protocol are not at hand.
"""

from collections.abc import Sequence

from experiments.harness.result_files import Result
from experiments.table import by_protocol

_APART = ("target", "atom_references")
_NO_PROTOCOL = ("target", "atom_references", "data_dir")


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
  """Returns header and rows: a row a configuration and predictor, a column a target.

  A cell is mean +- standard deviation over seeds, with their number, of the test error at the
  lowest validation error, in the unit that the header names.

  Args:
    results: Contents of result.json files.
  """
  columns = {_column(result): None for result in results if result["experiment"] == "qm9"}
  targets = sorted(columns)
  header = ["model, constraint", "predictor", "train", "epochs", "split", *targets]
  rows = []
  for group in by_protocol.groups(results, "qm9", _APART):
    first = group[0]
    for predictor in first["predictors"]:
      errors = {
        target: [
          result["predictors"][predictor]["test_mse"]
          for result in group
          if _column(result) == target and predictor in result["predictors"]
        ]
        for target in targets
      }
      rows.append(
        [
          by_protocol.kind(first),
          predictor,
          str(first["train_samples"]),
          str(first["epochs"]),
          str(first["settings"].get("split", "")),
          *(by_protocol.spread(errors[target], ".4g") for target in targets),
          by_protocol.differences(group, _NO_PROTOCOL),
        ]
      )
  return [*header, "not as published"], rows


def _column(result: Result) -> str:
  settings = result["settings"]
  unit = str(result.get("metric", "")).removeprefix("MAE ")
  less = " - atoms" if settings.get("atom_references", "none") != "none" else ""
  return f"{settings.get('target', '')}{less} {unit}".strip()
