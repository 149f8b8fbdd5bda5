"""What `experiments.images` does once its flags are checked: both parts, result, figures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ace_jax.symmetry import report
from ace_jax.training.progress import Progress
from experiments.harness import page, tables, workdirs
from experiments.images import bias as images_bias
from experiments.images import shifts as images_shifts
from experiments.images import training as images_training
from experiments.images.settings import Flags


def run(settings: Flags, folder: Path) -> None:
  """Runs the parts that are asked for, and prints, writes and draws what came out.

  Args:
    settings: Networks and placings of the first part, constraints and biases of the second, seeds,
      data_seed, epochs and rho.
    folder: Where to write; what was trained there is not trained again.
  """
  trainings = len(settings.seeds) * (
    len(settings.networks) * len(settings.placing) + len(settings.constraint) * len(settings.bias)
  )
  rows: list[images_shifts.Summary] = []
  results = images_bias.Results([], {}, {}, {})
  # What decides a training and is not in the name of its folder.
  fixed = images_training.SETTINGS.to_json()
  shared = {"data_seed": settings.data_seed, "rho": settings.rho}
  shared |= {name: fixed[name] for name in images_training.RECORDED}
  with workdirs.opened(folder, shared, resume=(folder / workdirs.CONFIG).exists()):
    with Progress(trainings, "training") as shown:

      def progress(what: str) -> None:
        shown.advance(1, {"last": what})

      if settings.networks:
        rows = images_shifts.run(settings, folder / "trainings", progress)
      if settings.constraint:
        results = images_bias.run(settings, folder / "trainings", progress)
    result = {
      "experiment": "images",
      "settings": {**dataclasses.asdict(settings), **shared},
      "networks": rows,
      "constraints": results.rows,
      "reports": [
        {
          "bias": bias,
          "constraint": constraint,
          "verdict": report.verdict(generators),
          "generators": [dataclasses.asdict(generator) for generator in generators],
          "layers": [dataclasses.asdict(layer) for layer in results.layers[bias, constraint]],
        }
        for (bias, constraint), generators in results.reports.items()
      ],
    }
    workdirs.write_result(folder, result)
    (folder / "figures").mkdir(exist_ok=True)
    draw(folder / "figures", rows, results)
    page.write(folder)
  say(rows, results)
  print(f"\nEverything is in {folder}: result.json, {page.PAGE}, figures/")


def say(rows: Sequence[images_shifts.Summary], results: images_bias.Results) -> None:
  """Prints the tables and the verdicts."""
  if rows:
    print(f"\n{tables.table(*images_shifts.table(rows))}")
  if results.rows:
    print(f"\n{tables.table(*images_bias.table(results))}")
  for (bias, constraint), generators in results.reports.items():
    header, lines = report.generator_rows(generators, "error of a step")
    print(f"\nbias {bias}, {constraint}: {report.verdict(generators)}")
    print(tables.table(header, lines))


def draw(folder: Path, rows: Sequence[images_shifts.Summary], results: images_bias.Results) -> None:
  """Draws flips against shift, accuracies, and gammas and report of every constraint."""
  from ace_jax import plots
  from experiments.images import figures as image_plots

  if rows:
    plots.save(image_plots.flips(rows), folder / "flips.png")
  if results.rows:
    plots.save(image_plots.accuracies(results.rows), folder / "accuracy.png")
  for (bias, constraint), generators in results.reports.items():
    if constraint == "none":
      continue
    name = f"{constraint}_bias_{bias}.png"
    records = results.records[bias, constraint]
    plots.save(plots.gamma_and_multipliers(records), folder / f"gamma_{name}")
    figure = plots.misalignment(results.layers[bias, constraint], generators)
    plots.save(figure, folder / f"report_{name}")
