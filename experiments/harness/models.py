"""The models of the experiments: one entry each, from which flags and checks follow.

Nothing here imports JAX: what makes a model is named as "module:name".
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Model:
  """A model of an experiment.

  Attributes:
    experiment: That has it.
    name: As --model takes it.
    make: "module:name" of a function from the settings to the network.
    homotopic: Whether it has layers that may relax, and so gamma.
    branches: Whether --relaxation chooses its branches; else they have one published form.
    normalised: Whether branches of a published form divide their weights by their norm.
    irreps: Whether its layers name the representations that they map between.
    flags: Of the experiment, that are for models which name them alone.
    predicts: How many frames it predicts (motion capture).
  """

  experiment: str
  name: str
  make: str
  homotopic: bool = True
  branches: bool = True
  normalised: bool = False
  irreps: bool = True
  flags: tuple[str, ...] = ()
  predicts: int = 1


_NBODY, _MOCAP = "experiments.nbody.models", "experiments.mocap.models"
_QM9 = "experiments.qm9.models"
_MODELNET = "experiments.modelnet40.models"
_EQUIVARIANT = ("lmax", "lmax_attributes", "norm", "dropout")
_registered = {
  (entry.experiment, entry.name): entry
  for entry in (
    Model("nbody", "segnn", f"{_NBODY}:segnn", flags=(*_EQUIVARIANT, "keep")),
    Model("nbody", "mpnn", f"{_NBODY}:mpnn", homotopic=False),
    Model("nbody", "transformer", f"{_NBODY}:transformer", homotopic=False),
    Model(
      "mocap",
      "egno",
      f"{_MOCAP}:egno",
      branches=False,
      normalised=True,
      irreps=False,
      flags=("modes", "centring", "keep"),
      predicts=5,
    ),
    Model("mocap", "egnn", f"{_MOCAP}:egnn", flags=("keep",)),
    Model("mocap", "radial_field", f"{_MOCAP}:radial_field"),
    Model("mocap", "tfn", f"{_MOCAP}:tfn", flags=("keep",)),
    Model("mocap", "se3_transformer", f"{_MOCAP}:se3_transformer", flags=("keep",)),
    Model("mocap", "mpnn", f"{_MOCAP}:mpnn", homotopic=False),
    Model("qm9", "schnet", f"{_QM9}:schnet", branches=False, irreps=False, flags=("centring",)),
    Model("qm9", "segnn", f"{_QM9}:segnn", flags=_EQUIVARIANT),
    Model(
      "modelnet40",
      "vn_dgcnn",
      f"{_MODELNET}:vn_dgcnn",
      branches=False,
      irreps=False,
      flags=("dropout",),
    ),
  )
}


def register(entry: Model) -> None:
  """Adds a model of another module, before flags are defined.

  Raises:
    ValueError: the experiment has one of that name.
  """
  if (entry.experiment, entry.name) in _registered:
    raise ValueError(f"model {entry.name!r} of {entry.experiment} is registered already.")
  _registered[entry.experiment, entry.name] = entry


def experiments() -> tuple[str, ...]:
  """Returns the names of the experiments that train one of several models."""
  return tuple(dict.fromkeys(experiment for experiment, _ in _registered))


def names(experiment: str) -> tuple[str, ...]:
  """Returns the names of an experiment's models."""
  return tuple(name for other, name in _registered if other == experiment)


def get(experiment: str, name: str) -> Model:
  """Returns a model's entry."""
  return _registered[experiment, name]


def plain_models() -> set[str]:
  """Returns the names of the models without any equivariant part, and so without gamma."""
  return {entry.name for entry in _registered.values() if not entry.homotopic}


def with_flag(experiment: str, flag: str) -> list[str]:
  """Returns the names of the models that a flag is for; [] for a flag that is for all."""
  return [
    entry.name
    for entry in _registered.values()
    if entry.experiment == experiment and flag in entry.flags
  ]


def all_with_flag(flag: str) -> list[tuple[str, str]]:
  """Returns (experiment, name) of the models of all experiments that a flag is for."""
  return [key for key, entry in _registered.items() if flag in entry.flags]
