"""The tables of what `benchmarks.all` found: one a processor, and one of all processors."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from experiments.harness import tables

HEADER = ["what", "time", "products", "arithmetic floor", "of matmul rate", "compile", "command"]
BEGIN, END = "<!-- python -m benchmarks.all --speed_page -->", "<!-- end of the table -->"
"""Where docs/speed.md has the table."""

_NAMES = {
  **{"segnn": "SEGNN", "egno": "EGNO", "egnn": "EGNN", "mpnn": "MPNN", "tfn": "TFN"},
  **{"se3_transformer": "SE(3)-Transformer", "radial_field": "radial field"},
  **{"schnet": "SchNet", "vn_dgcnn": "VN-DGCNN"},
}
Row = list[str]


@dataclasses.dataclass(frozen=True)
class Table:
  """What was measured on one processor.

  Attributes:
    title: The processor, or how all that the reports name differ.
    rows: As `HEADER` says.
    about: A line about the machine and its product.
  """

  title: str
  rows: list[Row]
  about: str


def read(paths: Mapping[str, Path]) -> Table:
  """Reads the reports of one processor; there is at least one."""
  rows, titles, machines, products = [], {}, {}, []
  for path in paths.values():
    record = json.loads(path.read_text())
    rows += _ROWS[record["benchmark"]](record)
    products.append(record["product_ms"])
    about = record["machine"]
    titles[machine.title(about)] = None
    label = f"{about['cores']} cores of {about['processor']}, {about['device']}, JAX {about['jax']}"
    machines[label] = None
  about = (
    f"{'; '.join(machines)}. A product, one 2048 x 2048 float32 matrix product in the same "
    f"process, took {min(products):.0f} to {max(products):.0f} ms."
  )
  return Table("; ".join(titles), rows, about)


def read_all(results: Path, names: Sequence[str]) -> dict[str, Table]:
  """Reads the reports of every processor.

  Args:
    results: A folder that has a folder a processor.
    names: Of the reports, in the order of the rows.

  Returns:
    A table for each folder, by its name.
  """
  by_folder = {}
  for folder in sorted(path for path in results.iterdir() if path.is_dir()):
    paths = {name: folder / f"{name}.json" for name in names}
    if there := {name: path for name, path in paths.items() if path.exists()}:
      by_folder[folder.name] = read(there)
  return by_folder


def terminal(table: Table) -> str:
  """Formats the table of a processor as text."""
  return f"{tables.table(HEADER[:-1], [row[:-1] for row in table.rows])}\n\n{table.about}"


def markdown(table: Table) -> str:
  """Formats the table of a processor, and what stands below it, as Markdown."""
  return (
    f"{tables.markdown(HEADER, table.rows)}\n\n{table.about} The floor is the step's operations "
    "(XLA's count) at the rate of that product.\n"
  )


def side_by_side(of_processors: Sequence[Table]) -> str:
  """Formats the times of all processors, a column each, as Markdown.

  A cell is a time, with the products that it is worth and the part of their rate that the
  arithmetic reaches.
  """
  cells: dict[tuple[str, str], dict[str, str]] = {}
  for table in of_processors:
    for what, time, products, _, rate, _, command in table.rows:
      aside = ", ".join(part for part in (products, rate) if part)
      row = cells.setdefault((what, command), {})
      row[table.title] = f"{time} ({aside})" if aside else time
  header = ["what", *(table.title for table in of_processors), "command"]
  rows = [
    [what, *(row.get(table.title, "") for table in of_processors), command]
    for (what, command), row in cells.items()
  ]
  return (
    "\n\n".join([tables.markdown(header, rows), *(table.about for table in of_processors)]) + "\n"
  )


def insert(page: str, table: str) -> str:
  """Returns a text with the table between its two marks.

  Raises:
    ValueError: a mark is not there.
  """
  before, begin, rest = page.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f"docs/speed.md has no line {BEGIN} with {END} below it.")
  return f"{before}{BEGIN}\n{table}{END}{after}"


def _milliseconds(value: float) -> str:
  return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _row(label: str, record: dict[str, Any], time: str | None = None) -> Row:
  """Returns a row; a column that the benchmark does not have is empty."""

  def shown(name: str, form: str) -> str:
    return "" if record.get(name) is None else form.format(record[name])

  return [
    label,
    _milliseconds(record["median_ms"]) if time is None else time,
    shown("products", "{:.2f}"),
    "" if record.get("floor_ms") is None else _milliseconds(record["floor_ms"]),
    shown("fraction_of_matmul_rate", "{:.0%}"),
    shown("compile_seconds", "{:.0f} s"),
    f"`python -m {record['command']}`",
  ]


def _step(record: dict[str, Any]) -> list[Row]:
  form = ", general tensor products" if record.get("formulation") == "general" else ""
  name = _NAMES[record["model"]]
  return [_row(f"{name} step, batch {record['batch']}, {record['constraint']}{form}", record)]


def _replicas(record: dict[str, Any]) -> list[Row]:
  ratio = f"{record['ratio']:.2f} +- {record['ratio_error']:.2f} times one"
  time = f"{_milliseconds(record['median_ms'])}, {ratio}"
  return [
    _row(f"{record['replicas']} replicas of the {_NAMES[record['model']]} step", record, time)
  ]


def _overhead(record: dict[str, Any]) -> list[Row]:
  return [
    _row(
      f"what {name} adds to the relaxed {_NAMES[record['model']]} step",
      {"command": record["command"]},
      f"{cost['percent']:.1f} +- {cost['percent_error']:.1f} %",
    )
    for name, cost in record["overhead"].items()
  ]


def _evaluation(record: dict[str, Any]) -> list[Row]:
  predictors = f"{len(record['predictors'])} predictors"
  label = f"{_NAMES[record['model']]} evaluation, {record['samples']} samples, {predictors}"
  return [_row(label, record)]


def _nbody(record: dict[str, Any]) -> list[Row]:
  products = 1e3 * record["seconds"] / record["product_ms"]
  label = f"{record['trajectories']:,} trajectories of 5 particles"
  return [_row(label, {**record, "products": products}, f"{record['seconds']:.1f} s")]


def _startup(record: dict[str, Any]) -> list[Row]:
  answers, check = record["help_seconds"], record.get("check")
  rows = [
    _row("launch to first steps, nothing cached", _bare(record), f"{record['cold_seconds']:.0f} s"),
    _row(
      "launch to first steps, programs cached", _bare(record), f"{record['warm_seconds']:.0f} s"
    ),
    _row(f"--help of {', '.join(answers)}: slowest", _bare(record), f"{max(answers.values())} s"),
  ]
  if check is not None:  # records of before the check have none
    label = "check at the start of fit, of the time to its first steps (SEGNN)"
    rows.append(_row(label, _bare(record), f"{check['check_percent']} %"))
  return rows


def _bare(record: dict[str, Any]) -> dict[str, Any]:
  return {"command": record["command"]}


_ROWS = {
  **{"step": _step, "replicas": _replicas, "overhead": _overhead, "evaluation": _evaluation},
  **{"nbody": _nbody, "startup": _startup},
}
