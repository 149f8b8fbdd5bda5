"""Loss landscapes of an N-body run: `python -m experiments.landscape --run=runs/a`.

Slices around the end of training along filter-normalised random directions, at gamma = 0 and
gamma = 1, their curvature, and an animation from gamma = 1 to 0. Of a run with --keep_period, the
same along training, and the plane in which it moved most. With --strict=FOLDER the plane through
the strict and the relaxed optimum, and along the trajectory. All surfaces are kept in
surfaces.npz: --redraw=FOLDER draws them anew.
"""

from pathlib import Path

from absl import flags

from experiments.harness import app, folders, paths
from experiments.harness.usage import UsageError

FLAGS = flags.FLAGS
paths.DEFINE_path("run", None, "Folder of a finished N-body run with gamma.")
paths.DEFINE_path("strict", None, "Folder of a finished strict run of the same sizes.")
paths.DEFINE_path("out", None, "Folder of the figures; landscape/ in the run by default.")
paths.DEFINE_path(
  "redraw",
  None,
  "Folder that an earlier call wrote: its figures are drawn anew, from surfaces.npz.",
)
flags.DEFINE_integer("grid", 41, "Points along each direction.", lower_bound=3)
flags.DEFINE_integer("frames", 11, "Values of gamma in the animation.", lower_bound=2)
flags.DEFINE_integer("animation_grid", 15, "Points along each direction there.", lower_bound=3)
flags.DEFINE_integer("snapshots", 5, "Checkpoints at most drawn along training.", lower_bound=3)
flags.DEFINE_integer("samples", 500, "Fixed training samples.", lower_bound=1)
flags.DEFINE_float("extent", 1.0, "Half the width of a slice, in norms of the filters.")
flags.DEFINE_integer("seed", 0, "Draws the directions.")

_COMPUTED = ("grid", "frames", "animation_grid", "snapshots", "samples", "extent", "seed")


def main() -> None:
  """Draws the landscapes.

  Raises:
    UsageError: no run is named, or the extent is not positive.
    DataError: a folder holds no finished run, or no surfaces.
  """
  if FLAGS.redraw:
    _redraw(FLAGS.redraw)
    return
  if not FLAGS.run:
    raise UsageError("name a finished run: --run=FOLDER.")
  if not 0 < FLAGS.extent < float("inf"):
    raise UsageError(f"--extent={FLAGS.extent:g} must be positive and finite.")
  run = folders.only_run(FLAGS.run, "run")
  strict = folders.only_run(FLAGS.strict, "strict") if FLAGS.strict else None
  folders.check_trained(*([run, strict] if strict else [run]))
  target = folders.tried(Path(FLAGS.out or Path(run) / "landscape"), "out")
  app.set_up_jax()
  from experiments.landscape import run as landscape_run

  values = {name: FLAGS[name].value for name in _COMPUTED}
  landscape_run.run(landscape_run.Request(run, strict, str(target), **values))


def _redraw(folder: str) -> None:
  for name in ("run", "strict", *_COMPUTED):
    if FLAGS[name].present:
      raise UsageError(f"--redraw computes nothing; leave out --{name}.")
  kept = folders.existing(folder, "redraw")
  app.set_up_jax()
  from experiments.landscape import figures

  figures.read_surfaces(kept)
  target = folders.tried(Path(FLAGS.out or folder), "out")
  figures.redraw(kept, target)
  print(f"Drawn anew in {target}.")


if __name__ == "__main__":
  app.launch(main)
