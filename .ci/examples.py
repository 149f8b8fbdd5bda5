"""Runs the Python blocks of a Markdown file, one after the other, in one scope.

python .ci/examples.py FILE
"""

import re
import sys
from pathlib import Path

path = Path(sys.argv[1])
blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
if not blocks:
  sys.exit(f"{path} has no Python block.")
scope: dict[str, object] = {}
for block in blocks:
  exec(compile(block, str(path), "exec"), scope)
