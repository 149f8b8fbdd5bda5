"""Published claims beside our numbers: `python -m experiments.claims`.

results/claims.json names for every claim the published number, where it is from, and our runs. A
number is reached where the mean of our seeds is at most the published mean + its standard
deviation. "Lower than" is shown by Welch's one-sided test over seeds at p < 0.05.
"""

from pathlib import Path

from absl import flags

from experiments.claims import claims
from experiments.harness import app, folders, paths, tables

FLAGS = flags.FLAGS
paths.DEFINE_path("claims", "results/claims.json", "The claims: see experiments/claims.")
paths.DEFINE_path("folder", "results", "Where the folders that it names are.")
flags.DEFINE_enum("format", "markdown", ["text", "markdown"], "How to write the table.")


def main() -> None:
  """Prints the table.

  Raises:
    UsageError: --folder is no folder.
    DataError: the list of claims, or a result, is damaged.
  """
  folder = folders.existing(FLAGS.folder, "folder")
  rows = [claims.row(claim, folder) for claim in claims.read(Path(FLAGS.claims))]
  write = tables.markdown if FLAGS.format == "markdown" else tables.table
  print(write(claims.HEADER, rows))


if __name__ == "__main__":
  app.launch(main)
