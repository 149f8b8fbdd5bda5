"""Stick figures of several runs side by side, as PNG and GIF.

`python -m experiments.mocap_figures --runs=runs/strict,runs/equality,runs/resilient`
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, labels, paths, result_files
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_paths("runs", None, "Folders of finished motion capture runs, by commas.")
paths.DEFINE_path("out", "runs/figures", "Folder of the figures.")
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
  from data.errors import DataError
  from experiments.harness.artifacts import PREDICTIONS
  from experiments.mocap import figures as skeleton_plots

  if not FLAGS.runs:
    raise UsageError("name finished runs: --runs=FOLDER,FOLDER.")
  runs, remedy = folders.runs_in(FLAGS.runs), "name the folder of a finished motion capture run"
  contents = [result_files.read_result(Path(folder) / "result.json") for folder in runs]
  results: list[result_files.Result] = []
  for folder, content in zip(runs, contents, strict=True):
    if not result_files.is_training(content) or content["experiment"] != "mocap":
      raise DataError(f"{folder}: holds no motion capture run; {remedy}.")
    results.append(content)
  names = labels.distinguished(
    [f"{result['model']}, {result['constraint']}" for result in results], results, ("model",)
  )
  predictions, shown, subject = {}, None, ""
  for folder, result, label in zip(runs, results, names, strict=True):
    wanted = ["bones", "start", "truth", *result["predictors"]]
    stored = arrays.read(Path(folder) / PREDICTIONS, wanted, remedy)
    fixed = [stored[name] for name in ("bones", "start", "truth")]
    if shown is not None and not all(map(np.array_equal, shown, fixed)):
      raise UsageError(f"{folder} shows other windows than {runs[0]}.")
    shown, subject = fixed, result["data"]["subject"]
    seed = f", seed {result['seeds'][0]}" if names.count(label) > 1 else ""
    for name in result["predictors"]:
      predictor = f", {name}" if len(result["predictors"]) > 1 else ""
      predictions[f"{label}{seed}{predictor}"] = stored[name]
  assert shown is not None
  bones, start, truth = shown
  if FLAGS.window >= len(start):
    raise UsageError(f"--window={FLAGS.window} does not exist; there are {len(start)}.")
  out = folders.tried(Path(FLAGS.out), "out")
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
