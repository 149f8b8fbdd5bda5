"""Stick figures of several runs side by side, as PNG and GIF.

`python -m experiments.mocap_figures --runs=runs/strict,runs/equality,runs/resilient`
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, paths, result_files
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_paths("runs", None, "Folders of finished motion capture runs, by commas.")
paths.DEFINE_path("out", "results/mocap", "Folder of the figures.")
flags.DEFINE_integer("window", 0, "Which of the stored windows the GIF shows.", lower_bound=0)


def main() -> None:
  """Draws poses_*.png and poses_*.gif.

  Raises:
    UsageError: no runs are named, or they show different windows.
    DataError: a run has no predictions, or they are damaged.
  """
  import numpy as np

  from ace_jax import plots
  from data import arrays
  from experiments.harness.artifacts import PREDICTIONS
  from experiments.mocap import figures as skeleton_plots

  if not FLAGS.runs:
    raise UsageError("name finished runs: --runs=FOLDER,FOLDER.")
  predictions, shown, subject = {}, None, ""
  for folder in map(Path, FLAGS.runs):
    remedy = "name the folder of a finished run"
    result = result_files.read_result(folder / "result.json")
    wanted = ["bones", "start", "truth", *result["predictors"]]
    stored = arrays.read(folder / PREDICTIONS, wanted, remedy)
    fixed = [stored[name] for name in ("bones", "start", "truth")]
    if shown is not None and not all(map(np.array_equal, shown, fixed)):
      raise UsageError(f"{folder} shows other windows than {FLAGS.runs[0]}.")
    shown, subject = fixed, result["data"]["subject"]
    for name in result["predictors"]:
      label = f"{result['model']}, {result['constraint']}"
      label += f", {name}" if len(result["predictors"]) > 1 else ""
      predictions[label] = stored[name]
  assert shown is not None
  bones, start, truth = shown
  if FLAGS.window >= len(start):
    raise UsageError(f"--window={FLAGS.window} does not exist; there are {len(start)}.")
  out = Path(FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  figure = skeleton_plots.stick_figures(bones, start, truth, predictions)
  plots.save(figure, out / f"poses_{subject}.png")
  w = FLAGS.window
  window_poses = {label: poses[w] for label, poses in predictions.items()}
  skeleton_plots.save_animation(
    out / f"poses_{subject}.gif", bones, start[w], truth[w], window_poses
  )
  print(f"Wrote {out}/poses_{subject}.png and .gif")


if __name__ == "__main__":
  app.launch(main)
