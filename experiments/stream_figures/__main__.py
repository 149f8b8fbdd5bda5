"""Slack by layer and stream, and equivariance error, over epochs, from the records of runs.

python -m experiments.stream_figures --runs=A,B,C --out=results/mocap    # seeds of one row

Published figures 4 and 5 of Manolache et al., NeurIPS 2025; the published figure 4 lists first all
feature gammas and then all position gammas, which this one draws apart.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_paths("runs", None, "Folders of runs, or of what was kept of them: seeds of one row.")
flags.DEFINE_enum(
  "kind",
  "slack",
  ["slack", "gamma", "multiplier"],
  "What is drawn; of runs without a slack of its own, gamma or multiplier.",
)
flags.DEFINE_bool("log", False, "Absolute values over a logarithmic axis.")
paths.DEFINE_path("out", "runs/figures", "Folder for KIND_by_stream.png, equivariance_error.png.")
flags.DEFINE_string("label", "", "Put before the names of the files, such as resilient_.")


def main() -> None:
  """Draws both figures.

  Raises:
    UsageError: no runs are named, or they have nothing of this kind in common.
    DataError: a run has no records, or they are damaged.
  """
  if not FLAGS.runs:
    raise UsageError("name runs: --runs=FOLDER,FOLDER.")
  from ace_jax import plots
  from experiments.harness import artifacts

  runs = folders.runs_in(FLAGS.runs)
  records = [artifacts.read_records(Path(folder)) for folder in runs]
  try:
    streams = plots.by_stream(records, FLAGS.kind, FLAGS.log)
  except ValueError as error:
    raise UsageError(f"--runs={','.join(FLAGS.runs)}: {error}") from error
  curves = {}
  for name in ("projection", "relaxed"):
    key = f"equivariance/{name}"
    series = [[{"epoch": r["epoch"], "error": r[key]} for r in run if key in r] for run in records]
    if all(series):
      curves[name] = series
  out = Path(FLAGS.out)
  written = {f"{FLAGS.label}{FLAGS.kind}_by_stream.png": streams}
  if curves:
    label = "relative equivariance error (rotations)"
    figure = plots.against_reference(curves, {}, "error", label)
    written[f"{FLAGS.label}equivariance_error.png"] = figure
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in written.items():
      plots.save(figure, out / name)
  except OSError as error:
    raise UsageError(f"--out={out} cannot be written: {error.strerror}.") from error
  print(f"Wrote to {out}: {', '.join(written)}")


if __name__ == "__main__":
  app.launch(main)
