"""Runs the Python blocks of Markdown files, one after the other, in one scope a file.

python .ci/examples.py FILE...
"""

import re
import sys
from pathlib import Path

for path in map(Path, sys.argv[1:]):
  blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
  if not blocks:
    sys.exit(f"{path} has no Python block.")
  scope: dict[str, object] = {}
  for block in blocks:
    exec(compile(block, str(path), "exec"), scope)
