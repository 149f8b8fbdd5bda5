"""What the site shows of files that live elsewhere: results, cards of weights, notebooks.

Copies are written anew by every build, so that the site says what those files say.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from experiments.harness import constraints
from experiments.weights import cards

_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def pages(root: Path) -> dict[Path, str]:
  """Returns the files that become a page each, and the page's name."""
  notebooks = sorted((root / "notebooks").glob("*.ipynb"))
  speeds = sorted((root / "benchmarks" / "results").glob("*/README.md"))
  return {
    root / "results" / "README.md": "results.md",
    root / "results" / "report" / "report.md": "misalignment.md",
    root / "results" / "tradeoff" / "table.md": "tradeoff.md",
    root / "benchmarks" / "results" / "README.md": "speed_table.md",
    **{source: f"speed_{source.parent.name}.md" for source in speeds},
    **{source: source.name for source in notebooks},
  }


def relinked(markdown: str, source: Path, target: Path, moves: Mapping[Path, Path]) -> str:
  """Returns text whose relative links still lead where they did, after a move to another file.

  Args:
    markdown: The text.
    source: Its file.
    target: The file that it moves to.
    moves: Other files that move too, and where to.
  """

  def moved(match: re.Match[str]) -> str:
    there = Path(os.path.normpath(source.parent / match[2]))
    return match[1] + Path(os.path.relpath(moves.get(there, there), target.parent)).as_posix()

  return _LINK.sub(moved, markdown)


def constraint_table() -> str:
  """Returns the registered constraints as a table that links to their pages, and their toctree."""
  lines = ["| `--constraint` | gamma | predictor | constants |", "|---|---|---|---|"]
  for name in constraints.names():
    entry = constraints.get(name)
    constants = ", ".join(f"`{constant.name}`" for constant in entry.constants)
    gamma = "multipliers" if entry.multipliers else entry.gamma
    lines.append(
      f"| [{name}](../constraints/{name}.md) | {gamma} | {entry.predictor} | {constants} |"
    )
  toctree = "\n".join(f"{name} </constraints/{name}>" for name in constraints.names())
  return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"


def gather(root: Path, folder: Path) -> None:
  """Writes all pages and parts of pages that are made from other files.

  Args:
    root: Of the checkout.
    folder: Of the copies; emptied first.
  """
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  moves = {source: folder / name for source, name in pages(root).items()}
  (folder / "constraints.inc").write_text(constraint_table())
  (folder / "weights.inc").write_text(cards.page())
  for source, target in moves.items():
    if source.suffix == ".md":
      text = source.read_text()
      if text.startswith("# Speed\n"):  # of one processor, or of all: three pages of one name
        text = text.replace(
          "# Speed", f"# Speed: {source.parent.name.replace('results', 'all')}", 1
        )
      if not text.startswith("# "):
        text = f"# {source.parent.name.capitalize()}\n\n{text}"
      target.write_text(relinked(text, source, target, moves))
    else:
      shutil.copy(source, target)
