import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_example_of_the_readme_runs_in_under_30_lines():
  (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
  assert len(example.splitlines()) < 30
  scope = {}
  exec(compile(example, "README.md", "exec"), scope)
  found = scope["found"]
  assert found.test["relaxed"] < found.test["projection"]
