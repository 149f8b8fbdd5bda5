"""Text for the terminal."""

import statistics
from collections.abc import Sequence


def table(header: list[str], rows: list[list[str]]) -> str:
  """Formats rows as aligned text: the first column to the left, the others to the right."""
  columns = list(zip(header, *rows, strict=True))
  widths = [max(len(cell) for cell in column) for column in columns]

  def line(cells):
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

  rule = "  ".join("-" * width for width in widths)
  return "\n".join([line(header), rule, *(line(row) for row in rows)])


def markdown(header: list[str], rows: list[list[str]]) -> str:
  """Formats rows as a Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(numbers: Sequence[float], mean: str = ".3g", deviation: str | None = ".1g") -> str:
  """Formats a mean over seeds, with the standard deviation where there are several.

  Args:
    numbers: One a seed; "" of none.
    mean: How the mean is written, such as ".2f".
    deviation: How the deviation is; None leaves it out.
  """
  if not numbers:
    return ""
  several = deviation is not None and len(numbers) > 1
  around = f" +- {statistics.stdev(numbers):{deviation}}" if several else ""
  return f"{statistics.mean(numbers):{mean}}{around}"
