"""The parameters of functions in experiments/ say what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OLD_FILES = {"harness/result_files.py": {"_wrong", "_wrong_setting"}}
"""Readers that check results of any age: what they are given may hold anything."""
UNTYPED = "dict[str, Any]"


def untyped(source: str) -> Iterator[tuple[str, str]]:
  """Yields (function, parameter) of every annotation with `UNTYPED`, ("", alias) of every alias."""
  module = ast.parse(source)
  for node in module.body:
    if isinstance(node, ast.Assign) and UNTYPED in ast.unparse(node.value):
      yield "", ast.unparse(node.targets[0])
  for function in ast.walk(module):
    if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
      given = function.args
      parameters = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
      for parameter in filter(None, parameters):
        if parameter.annotation is not None and UNTYPED in _text(parameter.annotation):
          yield function.name, parameter.arg


def _text(annotation: ast.expr) -> str:
  # Of an annotation in quotes, what they hold.
  quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
  return str(annotation.value) if quoted else ast.unparse(annotation)


def test_parameters_that_could_hold_anything_are_seen():
  source = """
Row = list[dict[str, Any]]
KNOWN: dict[str, Any] = {}

def a(x: dict[str, Any] | None, y: dict[str, float]) -> dict[str, Any]: ...
def b(*rows: list[dict[str, Any]], **more: "dict[str, Any]"): ...
class C:
  async def c(self, z: Callable[[dict[str, Any]], bool] = d, *, k: Row = ()): ...
"""
  seen = [("", "Row"), ("a", "x"), ("b", "rows"), ("b", "more"), ("c", "z")]
  assert [*untyped(source)] == seen


def test_parameters_of_experiments_say_what_they_hold():
  files = [*EXPERIMENTS.rglob("*.py")]
  assert len(files) > 100
  assert {
    name: seen
    for file in files
    if (seen := {function for function, _ in untyped(file.read_text())})
    and (name := file.relative_to(EXPERIMENTS).as_posix())
  } == OLD_FILES
