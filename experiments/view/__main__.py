"""Lists runs and serves their pages on this machine: `python -m experiments.view runs`.

The pages of what still trains grow with it. Nothing but pages made of what lies below the folder is
served, and to this machine alone.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
flags.DEFINE_integer(
  "port", 0, "Of the server; 0 takes one that is free.", lower_bound=0, upper_bound=65535
)
flags.DEFINE_bool("list", False, "Print the runs, and end.")


def main(folder: str = str(folders.RUNS)) -> None:
  """Lists and serves.

  Args:
    folder: Of a run, or with runs below it.

  Raises:
    UsageError: there is no such folder, or the port is taken.
  """
  root = Path(folder).expanduser()
  if not folder or not root.is_dir():
    raise UsageError(
      f"{folder or repr(folder)} is no folder; name one of a run, or one with runs below it."
    )
  if FLAGS.list and FLAGS["port"].present:
    raise UsageError("--list serves nothing; leave out --port.")
  from experiments.view import server

  site = server.Site(root)
  print(server.listing(site))
  if not FLAGS.list:
    server.serve(site, FLAGS.port)


if __name__ == "__main__":
  app.launch(main, words=1)
