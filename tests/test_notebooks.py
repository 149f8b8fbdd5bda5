"""The notebooks: what is committed is whole and small; executing them passes (slow)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each
def test_committed_outputs_are_of_one_run_from_top_to_bottom(path):
  text = path.read_text()
  assert len(text) < 600_000
  cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
  assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
  outputs = [output for cell in cells for output in cell["outputs"]]
  kinds = {output["output_type"] for output in outputs}
  assert kinds <= {"stream", "display_data", "execute_result"}
  streams = [output for output in outputs if output["output_type"] == "stream"]
  assert all(output["name"] == "stdout" for output in streams)
  assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
  words = "".join("".join(output["text"]) for output in streams)
  assert not re.search(r"/(home|root|tmp|work|usr|Users)/", words)


@pytest.mark.slow
@each
def test_runs(path):
  if "import e3x" in path.read_text():
    pytest.importorskip("e3x")
  flags = os.environ.get("XLA_FLAGS", "").split()
  flags = [flag for flag in flags if "host_platform_device_count" not in flag]
  environment = os.environ | {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(ROOT)}
  environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # they train for long
  # A process of its own, since nbmake's notebooks are collected by path.
  command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=900", str(path)]
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout[-4000:]
