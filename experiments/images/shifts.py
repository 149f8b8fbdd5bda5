"""The first part of `experiments.images`: what subsampling and padding do to ordinary CNNs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ace_jax.models import cnn
from ace_jax.symmetry import actions, equivariance_statistics, groups, layer_outputs
from data import digits
from experiments.images import training as images_training
from experiments.images.settings import Flags

CANVAS = images_training.CANVAS
_PLAIN = (1, 1, 1)
_LOGITS = "logits"
_ELEMENTS, _MEASURED = 16, 200

NETWORKS = {
  "strided": cnn.ConvNet(dilations=_PLAIN, downsample=cnn.subsample),
  "pooled": cnn.ConvNet(dilations=_PLAIN, downsample=cnn.max_pool),
  "anti_aliased": cnn.ConvNet(dilations=_PLAIN, downsample=cnn.blur_pool),
  "zero_padded": cnn.ConvNet(padding="SAME"),
  "circular": cnn.ConvNet(),
}
"""Equal numbers of parameters and equal receptive fields. All but zero_padded pad circularly, so
that each differs from `circular` in one thing alone; three of them halve the width three times."""


class Measurement(TypedDict):
  """What `compile_measure` measures of a network: shares of test images, and relative errors.

  `flips_along_x` has an entry for each shift, from 0 pixels on; `equivariance_error` is by layer.
  """

  test_accuracy: float
  uniform_accuracy: float
  flips_one_pixel: float
  flips_random_shift: float
  flips_along_x: list[float]
  invariance_error: float
  equivariance_error: dict[str, float]


class Summary(Measurement):
  """The numbers of one training; `memory` is its expected peak in bytes, if that is known."""

  network: str
  placing: str
  seed: int
  test_loss: float
  memory: dict[str, Any] | None


def run(settings: Flags, folder: Path, progress: Callable[[str], None]) -> list[Summary]:
  """Trains and measures every network.

  Args:
    settings: Of the command.
    folder: Gets a folder a training.
    progress: Called after each training.

  Returns:
    A row of numbers for each network, placing and seed.
  """
  uniform = digits.load(canvas=CANVAS, data_seed=settings.data_seed)["test"]
  rows: list[Summary] = []
  for placing in settings.placing:
    data = digits.load("none", placing, canvas=CANVAS, data_seed=settings.data_seed)
    for name in settings.networks:
      measure = compile_measure(NETWORKS[name])
      for seed in settings.seeds:
        workdir = folder / f"{name}_{placing}_seed{seed}_epochs{settings.epochs}"
        fit = images_training.train(NETWORKS[name], data, "strict", seed, settings, workdir)
        numbers = measure(fit.projection, data["test"], uniform)
        measured: Measurement = jax.tree.map(lambda a: np.asarray(a).tolist(), numbers)
        rows.append(
          {
            "network": name,
            "placing": placing,
            "seed": seed,
            "test_loss": fit.test["projection"],
            "memory": fit.memory and fit.memory.record(),
            **measured,
          }
        )
        progress(f"{name}, trained on {placing} digits, seed {seed}")
  return rows


def stride_of(network: cnn.ConvNet, layer: int) -> int:
  """Returns how many pixels of the image are one pixel of a layer's output."""
  return 1 if network.downsample is cnn.keep else 2**layer


def compile_measure(network: cnn.ConvNet):
  """Compiles the measurements of one network.

  Returns:
    `measure(variables, test, uniform)`, which returns, of the test images as the network was
    trained on them: the accuracy; for every shift along x the share of predictions that differ
    from the unshifted image's; the same of one pixel down or right, and of random shifts; relative
    errors under random shifts, of the invariance of logits and of the equivariance of every
    layer. And the accuracy on uniformly placed images.
  """
  group = groups.cyclic_shifts(CANVAS, CANVAS)
  random = group.sample(jax.random.key(0), _ELEMENTS)
  act_layers = {
    f"layers_{i}": actions.translated((1, 2), stride_of(network, i))
    for i in range(len(network.widths))
  }

  @jax.jit
  def measure(variables, test, uniform):
    def classes(element):
      return jnp.argmax(network.apply(variables, images_training.shifted(element, images)), -1)

    def flips(elements):
      moved = jax.lax.map(classes, elements)
      return jnp.mean(moved != classes(jnp.zeros(2, int)), axis=1)

    def outputs(images):
      logits: Any = network.apply(variables, images)
      return {_LOGITS: logits, **layer_outputs(network, variables, images)}

    images = jnp.asarray(test["image"])
    along_x = flips(jax.vmap(group.generators["shift_x"])(jnp.arange(CANVAS)))
    one_pixel = flips(jnp.array([[1, 0], [0, 1]]))
    errors = equivariance_statistics(
      outputs,
      images[:_MEASURED],
      random,
      images_training.shifted,
      {_LOGITS: actions.invariant, **act_layers},
    )
    return {
      "test_accuracy": images_training.accuracy(network.apply(variables, images), test["label"]),
      "uniform_accuracy": images_training.accuracy(
        network.apply(variables, uniform["image"]), uniform["label"]
      ),
      "flips_one_pixel": jnp.mean(one_pixel),
      "flips_random_shift": jnp.mean(flips(random)),
      "flips_along_x": along_x,
      "invariance_error": errors[_LOGITS].relative,
      "equivariance_error": {name: errors[name].relative for name in act_layers},
    }

  return measure


def table(rows: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
  """Returns header and rows of the table: means over seeds."""
  header = ["network, training digits", "accuracy", "uniform digits", "flips, 1 pixel"]
  header += ["any shift", "logits' error", "layers' errors"]
  keys = list(dict.fromkeys((row["network"], row["placing"]) for row in rows))
  shown = []
  for key in keys:
    of_key = [row for row in rows if (row["network"], row["placing"]) == key]
    layers = [row["equivariance_error"] for row in of_key]
    shown.append(
      [
        ", ".join(key),
        *(f"{100 * mean(row[name] for row in of_key):.1f}%" for name in _SHARES),
        f"{mean(row['invariance_error'] for row in of_key):.1e}",
        " ".join(f"{mean(errors[name] for errors in layers):.0e}" for name in sorted(layers[0])),
      ]
    )
  return header, shown


_SHARES = ("test_accuracy", "uniform_accuracy", "flips_one_pixel", "flips_random_shift")
