"""The mean squared equivariance errors on test data that result.json reports."""

import warnings
from collections.abc import Callable

import jax

from ace_jax import task
from ace_jax.constraints.on_error import Functional, ResilientFunctional
from ace_jax.homotopy import Variables
from ace_jax.state import AceState
from ace_jax.symmetry import data
from ace_jax.symmetry.data import Symmetry
from experiments.harness.result_files import Result

Measure = Callable[[Variables, task.Batch], dict[str, float]]
"""Maps a predictor's variables and samples to the error and its own."""


def compile_measure(learned: task.Task, symmetry: Symmetry, batch_size: int) -> Measure:
  """Compiles the measurement, once for all replicas and predictors.

  Args:
    learned: Model and loss.
    symmetry: The group and its action on the data.
    batch_size: Samples measured at once.

  Returns:
    A function that returns `gap`, its standard error over samples, `gap_error`, and `gap_relative`,
    the root of the gap over the root mean square of the prediction.
  """

  @jax.jit
  def compiled(variables, samples):
    key = jax.random.key(0)
    measured = data.measure(learned, symmetry, variables, samples, key, batch_size=batch_size)
    return dict(zip(("gap", "gap_error", "gap_relative"), measured, strict=True))

  def measure(variables, samples):
    return {name: float(value) for name, value in compiled(variables, samples).items()}

  return measure


def add(
  result: Result, measure: Measure, end: AceState, train: task.Batch, test: task.Batch
) -> Result:
  """Returns a result with the errors of every predictor, and what a functional constraint reached.

  Warns where the bound of a functional constraint is below what the test samples can resolve.

  Args:
    result: Content of result.json.
    measure: Of `compile_measure`.
    end: Final state of the run.
    train: Training samples.
    test: Test samples.

  Returns:
    The result, with `test_gap`, its standard error and `test_gap_relative` for every predictor;
    under a functional constraint with `functional`: the bound `asked` for (epsilon, or the final
    slack), and the errors reached by the selected parameters and the final ones, of the latter on
    as many training samples too.
  """

  def on_test(variables):
    return {f"test_{name}": value for name, value in measure(variables, test).items()}

  gaps = {name: on_test(variables) for name, variables in end.selected().items()}
  predictors = {name: errors | gaps[name] for name, errors in result["predictors"].items()}
  result = {**result, "predictors": predictors}
  if not isinstance(end.constraint, Functional | ResilientFunctional):
    return result
  name = "relaxed" if end.primal.gamma else "projection"
  asked = float(f"{float(end.constraint.bound(end.primal)):.6g}")  # 0.001, not its float32
  count = min(task.size(test), task.size(train))
  seen = measure(end.current()[name], task.take(train, slice(0, count)))
  final = on_test(end.current()[name]) | {f"train_{name}": value for name, value in seen.items()}
  if asked < final["test_gap_error"]:
    warnings.warn(
      f"the bound {asked:.1e} on the mean squared equivariance error is below its standard error "
      f"{final['test_gap_error']:.1e} on {task.size(test)} test samples: whether it is met "
      "cannot be told.",
      stacklevel=2,
    )
  return {**result, "functional": {"asked": asked, "selected": gaps[name], "final": final}}
