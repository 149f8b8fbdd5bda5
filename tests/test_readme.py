"""README, site and notebooks: examples run, and all that they name of the library is public."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ace_jax

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OWN_MODEL = ROOT / "docs" / "own_model.md"


def examples(package="", path=OWN_MODEL):
  """Returns the blocks that run with the library alone, or those that need a further package."""
  return re.findall(rf"```python{package}\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_example_of_the_readme_runs_and_the_readme_takes_two_minutes_to_read():
  assert len(README.read_text().split()) < 900
  (example,) = examples(path=README)
  assert len(example.splitlines()) < 25
  scope = {}
  exec(compile(example, "README.md", "exec"), scope)
  assert scope["fit"].test["relaxed"] < scope["fit"].test["projection"]


def test_links_of_the_readme_lead_somewhere():
  links = re.findall(r"\]\((?!https?:)([^)#\s]+)", README.read_text())
  assert len(links) > 15
  assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_examples_of_an_own_model_run_in_under_30_lines():
  example, of_nnx, of_weights, of_constraint = examples()
  assert len(example.splitlines()) < 30
  scope = {}
  exec(compile(example, "own_model.md", "exec"), scope)
  fit = scope["fit"]
  assert fit.test["relaxed"] < fit.test["projection"]
  exec(compile(of_nnx, "own_model.md", "exec"), scope)
  test, model = scope["test"], scope["model"]
  error = ((model(test[0]) - test[1]) ** 2).mean()
  assert float(error) == pytest.approx(scope["fit"].test["projection"], rel=1e-4)
  exec(compile(of_weights, "own_model.md", "exec"), scope)
  missing = np.isnan(scope["sparse"][1]).mean()
  assert 0.1 < missing < 0.2
  assert np.isfinite(scope["fit"].history[-1]["loss"])
  exec(compile(of_constraint, "own_model.md", "exec"), scope)
  assert float(scope["Budget"]().budget) == 0.2


@pytest.mark.slow
def test_the_example_of_e3x_runs():
  pytest.importorskip("e3x")  # of the extra `models`
  scope = {}
  example, (of_e3x,) = examples()[0], examples(" e3x")
  exec(compile(example.replace("epochs=100", "epochs=1") + of_e3x, "own_model.md", "exec"), scope)
  fit, test = scope["fit"], scope["test"]
  assert list(fit.gamma) == ["Dense_0", "Dense_1", "TensorDense_0/dense"]
  error = ((scope["prediction"] - test[1]) ** 2).mean()
  assert float(error) == pytest.approx(fit.test["projection"], rel=1e-4)


def code_of(path):
  if path.suffix == ".md":
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
  cells = json.loads(path.read_text())["cells"]
  lines = [line for c in cells if c["cell_type"] == "code" for line in [*c["source"], "\n"]]
  return "".join(line for line in lines if not line.startswith("%"))


def named(code):
  """Yields (namespace, name) of everything that code takes from the library."""
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ace_jax"):
      for alias in node.names:
        yield node.module, alias.name
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      if node.value.id == "ace_jax":
        yield "ace_jax", node.attr
      elif re.search(rf"^(?!from flax).*import {node.value.id}$", code, re.MULTILINE) and hasattr(
        ace_jax, node.value.id
      ):
        yield f"ace_jax.{node.value.id}", node.attr


@pytest.mark.parametrize(
  "path", [README, OWN_MODEL, *sorted(ROOT.glob("notebooks/*.ipynb"))], ids=lambda p: p.stem
)
def test_readme_site_and_notebooks_name_public_things_alone(path):
  names = {*named(code_of(path))}
  assert len(names) > 3
  for namespace, name in names:
    module = importlib.import_module(namespace)
    assert name in module.__all__, f"{namespace}.{name}"


def test_every_public_name_is_there():
  for name in ace_jax.__all__:
    value = getattr(ace_jax, name)
    for inner in getattr(value, "__all__", ()):
      assert hasattr(value, inner), f"{name}.{inner}"
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = ace_jax.nothing


def test_without_matplotlib_the_library_is_there_and_figures_name_the_extra():
  code = """
import importlib.util
import sys

find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
import ace_jax

assert callable(ace_jax.export.save_parameters)
late = {"matplotlib", "e3nn_jax", "flax.nnx", "ace_jax.plots", "ace_jax.models"}
assert not late & {*sys.modules}
try:
  ace_jax.plots
except ace_jax.AceError as error:
  print(error)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
  )
  assert done.stderr == ""
  assert done.stdout == "figures need Matplotlib: pip install 'ace-equivariance[plots]'.\n"
