"""How far are CNNs from translation equivariance? `python -m experiments.images`.

First: networks that subsample, pool or pad, trained on handwritten digits on a torus; how many
predictions flip when the image is shifted. Then: a network that keeps cyclic shifts, with branches
that know the position, under constraints, on data with and without a position bias; what the
misalignment report says of the data. Needs scikit-learn (the extra `images`).
"""

import importlib.util

from absl import flags

from experiments.harness import app, folders, paths, replicas
from experiments.harness.usage import UsageError
from experiments.images.settings import Flags

NETWORKS = ("strided", "pooled", "anti_aliased", "zero_padded", "circular")
PLACINGS = ("centre", "uniform")
CONSTRAINTS = ("strict", "none", "equality", "resilient")
BIASES = ("none", "x", "y")

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", list(NETWORKS), "Networks of the first part; empty leaves it out.")
flags.DEFINE_list("placing", ["centre"], "Where they see digits in training: centre, uniform.")
flags.DEFINE_list("constraint", list(CONSTRAINTS), "Of the second part; empty leaves it out.")
flags.DEFINE_list("bias", ["none", "x"], "Along which axis labels depend on the position.")
flags.DEFINE_list("seeds", ["0"], "Move initial values and the order of samples, by commas.")
flags.DEFINE_integer("data_seed", 0, "Moves splits and positions of the digits.", lower_bound=0)
flags.DEFINE_integer("epochs", 15, "Passes over the 1000 training images.", lower_bound=1)
flags.DEFINE_float("rho", 0.1, "Price of slack of the resilient constraint.")
paths.DEFINE_path(
  "workdir",
  None,
  "Where to write, runs/images_all_TIME by default; what is finished there is not repeated.",
)


def chosen(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the values of a list flag, each once.

  Raises:
    UsageError: one of them does not exist.
  """
  values = tuple(dict.fromkeys(FLAGS[name].value))
  for value in values:
    if value not in known:
      raise UsageError(f"--{name}={value} does not exist; take some of {','.join(known)}.")
  return values


def main() -> None:
  """Runs what the flags ask for.

  Raises:
    UsageError: a name does not exist, rho is not positive, or nothing is left to do.
  """
  settings = Flags(
    networks=chosen("networks", NETWORKS),
    placing=chosen("placing", PLACINGS),
    constraint=chosen("constraint", CONSTRAINTS),
    bias=chosen("bias", BIASES),
    seeds=replicas.parse_seeds(FLAGS.seeds),
    data_seed=FLAGS.data_seed,
    epochs=FLAGS.epochs,
    rho=FLAGS.rho,
  )
  if not 0 < FLAGS.rho < float("inf"):
    raise UsageError(f"--rho={FLAGS.rho:g} must be positive and finite.")
  for name, other in (("networks", "placing"), ("constraint", "bias")):
    if getattr(settings, name) and not getattr(settings, other):
      raise UsageError(f"--{other} is empty; name some, or leave its part out with --{name}=.")
  if not settings.networks and not settings.constraint:
    raise UsageError("nothing to do; leave out one of --networks and --constraint.")
  if importlib.util.find_spec("sklearn") is None:
    raise UsageError("the digits need scikit-learn: pip install 'ace-equivariance[images]'.")
  folder = folders.chosen(FLAGS.workdir, "images_all")
  app.set_up_jax()
  from experiments.images import run as images_run

  images_run.run(settings, folder)


if __name__ == "__main__":
  app.launch(main)
