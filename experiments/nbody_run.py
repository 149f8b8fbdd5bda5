"""What `experiments.nbody` does once its flags are checked: data, training, result, figures."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import ace_jax
from ace_jax import epochs, history, homotopy, relaxations, state, task, training
from ace_jax.errors import CheckpointError
from ace_jax.lagrangian import dual_optimizer
from ace_jax.logging import ProgressBar, TensorBoardLogger
from ace_jax.models.segnn import SEGNN, NBodySEGNN
from ace_jax.parallel import DATA, make_mesh
from ace_jax.primal_dual import primal_adam
from ace_jax.symmetry import equivariance_error, random_rotations
from data import nbody
from experiments import runs, text
from experiments.nbody_presets import PRESETS

RELAXATIONS = {
  "mlp": relaxations.MLP,
  "linear": relaxations.Linear,
  "spectral_mlp": relaxations.SpectralMLP,
  "low_rank": relaxations.LowRank,
}
_MEASURED, _ROTATIONS = 100, 4


def run(settings: dict[str, Any], workdir: str | None, resume: bool, devices: int | None) -> None:
  """Runs one training, or a sample-efficiency curve if several training sizes are given.

  Args:
    settings: All settings, from `experiments.flags.settings`.
    workdir: Where to write; a new folder under runs/ by default.
    resume: Continue what is in `workdir`.
    devices: Devices that share a batch; all by default.
  """
  place = Path(workdir) if workdir else runs.default_workdir("nbody", settings["constraint"])
  sizes = settings["train_samples"]
  data = load(settings, max(sizes) if sizes else None)
  say_data(data)
  if settings["preset"] == "quick":
    print("Preset quick: minutes on two cores. --preset=paper has the published settings.")
  if sizes and len(sizes) > 1:
    curve(settings, data, place, resume, devices)
  else:
    result = train(settings, data, place, resume, devices)
    print(f"\n{summary_table([result])}\n\nEverything is in {place}: result.json, figures/, ...")


def load(settings: dict[str, Any], train: int | None) -> nbody.Dataset:
  """Loads the data that the settings name."""
  if settings["data_file"]:
    return nbody.load_file(settings["data_file"], train)
  with tqdm.tqdm(desc="simulating", unit="trajectory", delay=1, leave=False) as bar:

    def progress(done, total):
      bar.total = total
      bar.update(done - bar.n)

    return nbody.load(
      system=settings["system"],
      train=3000 if train is None else train,
      data_seed=settings["data_seed"],
      symmetry_breaking=settings["symmetry_breaking"],
      breaking_from=settings["breaking_from"],
      clip=settings["force_clip"],
      progress=progress,
    )


def say_data(data: nbody.Dataset) -> None:
  """Prints where the data come from and what is known of them."""
  about, sizes = data.summary, data.summary["sizes"]
  place = about.get("file") or (about["cache"] if about["source"] == "cache" else "this machine")
  print(
    f"Data: {sizes['train']} train, {sizes['valid']} valid, {sizes['test']} test trajectories "
    f"({about['source']}: {place}); x + v t has test MSE {about['linear_mse']['test']:.4f}."
  )
  drift = about.get("energy_drift")
  if drift:
    print(
      f"Relative energy drift of the simulation: quartiles {drift['lower_quartile']:.1e}, "
      f"{drift['median']:.1e}, {drift['upper_quartile']:.1e} (near-collisions are clipped)."
    )


def make_model(settings: dict[str, Any]) -> NBodySEGNN:
  """Builds the SEGNN of the settings."""
  network = SEGNN(
    hidden_features=settings["hidden_features"],
    num_layers=settings["layers"],
    lmax_hidden=settings["lmax"],
    lmax_attributes=settings["lmax_attributes"],
    norm=settings["norm"],
    relaxation=RELAXATIONS[settings["relaxation"]],
    relaxation_scale=settings["relaxation_scale"],
    axis_name=DATA,
  )
  return NBodySEGNN(network, centring=settings["centring"])


def make_constraint(settings: dict[str, Any]) -> ace_jax.Formulation:
  """Builds the formulation of the settings."""
  name, augmented = settings["constraint"], settings["augmented"] or 0.0
  return {
    "strict": ace_jax.Unconstrained,
    "none": ace_jax.Unconstrained,
    "equality": lambda: ace_jax.Equality(augmented=augmented),
    "inequality": lambda: ace_jax.Inequality(augmented=augmented, epsilon=settings["epsilon"]),
    "resilient": lambda: ace_jax.Resilient(augmented=augmented, rho=settings["rho"]),
    "one_sided": lambda: ace_jax.OneSided(augmented=augmented),
    "ridge": lambda: ace_jax.Ridge(rho=settings["rho"]),
  }[name]()


def start(settings: dict[str, Any], data: nbody.Dataset) -> state.AceState:
  """Returns the state at the start of training."""
  model = make_model(settings)
  init = homotopy.strict(model.init) if settings["constraint"] == "strict" else model.init
  problem = task.from_model(model, squared_error, model_inputs)
  primal = primal_adam(
    settings["lr"], settings["gamma_lr"], settings["slack_lr"], settings["clip_norm"]
  )
  dual = dual_optimizer(settings["dual_optimizer"], settings["dual_lr"])

  @jax.jit  # one program: op by op, this would be most of the start-up time
  def create(key, batch):
    init_key, run_key = jax.random.split(key)
    variables = init(init_key, *model_inputs(batch))
    return state.create(problem, variables, make_constraint(settings), primal, dual, run_key)

  return create(jax.random.key(settings["seed"]), task.take(data.train, slice(0, 2)))


def model_inputs(batch: nbody.Split) -> tuple[jax.Array, ...]:
  """Returns what the model sees of a batch."""
  return batch["positions"], batch["velocities"], batch["charges"]


def squared_error(prediction: jax.Array, batch: nbody.Split) -> jax.Array:
  """Returns squared errors, [samples, particles, 3]; their mean is the published MSE."""
  return jnp.square(prediction - batch["targets"])


def train(
  settings: dict[str, Any],
  data: nbody.Dataset,
  place: Path,
  resume: bool,
  devices: int | None,
) -> dict[str, Any]:
  """Trains one model and writes config.json, metrics, checkpoints, result.json and figures.

  Args:
    settings: All settings.
    data: Trajectories.
    place: The run's folder.
    resume: Continue what is there.
    devices: Devices that share a batch.

  Returns:
    The content of result.json.
  """
  mesh = make_mesh(devices)

  def loggers(done):
    bar = ProgressBar(settings["epochs"], done)
    try:
      return [bar, TensorBoardLogger(place / "tensorboard", done)]
    except ImportError:
      return [bar]

  def measure(current):
    errors = equivariance(current, task.take(data.valid, slice(0, _MEASURED)))
    if settings["log_test"]:
      found = test_errors(current.current(), data.test)
      errors |= {f"test/{name}": error for name, error in found.items()}
    return {name: float(error) for name, error in errors.items()}

  with runs.opened(place, settings, resume):
    begin = start(settings, data)
    test_errors = epochs.compile_errors(mesh, 500, begin.task)
    options = training.Settings(
      epochs=settings["epochs"],
      batch_size=settings["batch_size"],
      eval_every=settings["eval_every"],
      checkpoint_every=settings["checkpoint_every"],
      patience=settings["patience"],
    )
    end, _ = training.train(
      begin,
      data.train,
      data.valid,
      options,
      mesh=mesh,
      workdir=place,
      resume=resume,
      loggers=loggers,
      measure=measure,
    )
    records = history.read(place / history.FILE)
    result = make_result(settings, data, end, records)
    try:
      history.write_json(place / runs.RESULT, runs.portable(result))
      draw(place / "figures", data, end, records)
    except OSError as error:
      raise CheckpointError(
        f"cannot write results to {place}: {error.strerror}; the checkpoints are whole: mend the "
        "disk and add --resume."
      ) from error
  return result


@jax.jit
def equivariance(current: state.AceState, batch: nbody.Split) -> dict[str, jax.Array]:
  """Returns the relative equivariance error of each predictor under rotations about the origin."""
  rotations = random_rotations(jax.random.key(0), _ROTATIONS)

  def rotate_inputs(rotation, batch):
    turned = {name: batch[name] @ rotation.T for name in ("positions", "velocities")}
    return {**batch, **turned}

  errors = {}
  for name, variables in current.current().items():
    errors[f"equivariance/{name}"] = equivariance_error(
      functools.partial(_predict, current.task, variables),
      batch,
      rotations,
      rotate_inputs,
      lambda rotation, y: y @ rotation.T,
    )
  return errors


def _predict(problem, variables, batch):
  return problem.apply(homotopy.merge(*variables), batch, None)[0]


def make_result(
  settings: dict[str, Any],
  data: nbody.Dataset,
  end: state.AceState,
  records: list[history.Record],
) -> dict[str, Any]:
  """Collects what a run found: the content of result.json."""
  test = training.test_errors(end, data.test, mesh=make_mesh(1))
  last = {k: v for k, v in _last(records).items() if k.startswith("equivariance/")}
  predictors = {
    name: {
      "valid_mse": float(best.error),
      "best_epoch": int(best.epoch),
      "test_mse": test[name],
      "final_equivariance_error": last.get(f"equivariance/{name}"),
    }
    for name, best in end.best.items()
  }
  final = {kind: _of_kind(records[-1], kind) for kind in ("gamma", "multiplier", "slack")}
  tail = records[-max(1, len(records) // 10) :]
  return {
    "experiment": "nbody",
    "model": "segnn",
    "constraint": settings["constraint"],
    "seeds": [settings["seed"]],
    "epochs": int(end.epoch),
    "steps": int(end.step),
    "train_samples": len(data.train["positions"]),
    "linear_mse": data.summary["linear_mse"]["test"],
    "predictors": predictors,
    "curve": [_evaluation(record) for record in records if "valid/projection" in record],
    "final": final,
    "largest_gamma_in_last_tenth": max((history.largest(r, "gamma") or 0.0) for r in tail),
    "seconds": sum(record["seconds"] for record in records),
    "steps_per_second": float(np.median([record["steps_per_second"] for record in records])),
    "settings": settings,
    "differs_from_published": differences(settings),
    "data": data.summary,
    "environment": runs.environment(),
  }


def differences(settings: dict[str, Any]) -> dict[str, list[Any]]:
  """Returns {setting: [ours, published]} for every setting that is not the published one."""
  published = {**PRESETS["paper"], "hidden_features": 64, "layers": 4, "lmax": 1, "norm": "none"}
  published |= {"system": "charged", "centring": "none", "relaxation_scale": "free"}
  published |= {"gamma_lr": None, "clip_norm": None, "patience": None, "relaxation": "mlp"}
  skipped = {"eval_every", "checkpoint_every"}
  return {
    name: [settings[name], value]
    for name, value in published.items()
    if name not in skipped and settings[name] != value
  }


def _last(records: list[history.Record]) -> history.Record:
  return next((r for r in reversed(records) if "valid/projection" in r), {})


def _evaluation(record: history.Record) -> history.Record:
  kept = ("valid/", "test/", "equivariance/")
  numbers = {k: float(f"{v:.6g}") for k, v in record.items() if k.startswith(kept)}
  largest = history.largest(record, "gamma")
  return {"epoch": record["epoch"], **numbers, **({} if largest is None else {"gamma": largest})}


def _of_kind(record: history.Record, kind: str) -> dict[str, float]:
  return {k.removeprefix(f"{kind}/"): v for k, v in record.items() if k.startswith(f"{kind}/")}


def summary_table(results: list[dict[str, Any]]) -> str:
  """Formats results as the table that ends a run."""
  header = ["predictor", "test MSE", "valid MSE", "best epoch", "equiv. error", "x + v t / test"]
  rows = []
  for result in results:
    linear = result["linear_mse"]
    rows.append(["x + v t", f"{linear:.5f}", "", "", "", "1.0"])
    for name, found in result["predictors"].items():
      equivariance = found["final_equivariance_error"]
      rows.append(
        [
          f"{result['constraint']}, {name}",
          f"{found['test_mse']:.5f}",
          f"{found['valid_mse']:.5f}",
          str(found["best_epoch"]),
          "" if equivariance is None else f"{equivariance:.1e}",
          f"{linear / found['test_mse']:.1f}",
        ]
      )
  return text.table(header, rows)


def draw(
  folder: Path, data: nbody.Dataset, end: state.AceState, records: list[history.Record]
) -> None:
  """Draws every figure of a run."""
  from ace_jax import plotting  # Matplotlib is slow to import

  folder.mkdir(exist_ok=True)
  label = json.loads((folder.parent / runs.CONFIG).read_text())["settings"]["constraint"]
  baseline = data.summary["linear_mse"]["valid"]
  curve = plotting.validation_curve({label: records}, baseline=baseline)
  plotting.save(curve, folder / "validation.png")
  plotting.save(plotting.equivariance_error(records), folder / "equivariance_error.png")
  if end.primal.gamma:
    plotting.save(plotting.gamma_and_multipliers(records), folder / "gamma.png")
  shown = task.take(data.test, slice(0, nbody.SHOWN))
  predictions = {
    name: np.asarray(_predict(end.task, variables, shown))
    for name, variables in end.selected().items()
  }
  figure = plotting.trajectories(
    data.paths, shown["positions"], shown["velocities"], shown["targets"], predictions
  )
  plotting.save(figure, folder / "trajectories.png")


def curve(
  settings: dict[str, Any],
  data: nbody.Dataset,
  place: Path,
  resume: bool,
  devices: int | None,
) -> None:
  """Trains on every size of `train_samples`, and strictly too, for the same number of steps.

  Each training has its own folder in `place`; finished ones are not repeated on `--resume`.
  """
  from ace_jax import plotting  # Matplotlib is slow to import

  constraints = dict.fromkeys([settings["constraint"], "strict"])
  results: dict[str, dict[int, list[float]]] = {}
  table = []
  for size in settings["train_samples"]:
    subset = nbody.first(data, size)
    batch_size = min(settings["batch_size"], size)
    full = len(data.train["positions"]) // settings["batch_size"]
    stretch = max(1, full // (size // batch_size))
    for constraint in constraints:
      own = {
        **settings,
        "constraint": constraint,
        "train_samples": [size],
        "batch_size": batch_size,
        "epochs": settings["epochs"] * stretch,
        "eval_every": settings["eval_every"] * stretch,
        "checkpoint_every": settings["checkpoint_every"] * stretch,
      }
      folder = place / f"{constraint}_{size}"
      print(f"\n{constraint}, {size} training trajectories, {own['epochs']} epochs: {folder}")
      if resume and (folder / runs.RESULT).exists():
        result = json.loads((folder / runs.RESULT).read_text())
      else:
        result = train(own, subset, folder, resume and folder.exists(), devices)
      for name, found in result["predictors"].items():
        results.setdefault(f"{constraint}, {name}", {})[size] = [found["test_mse"]]
        table.append([f"{constraint}, {name}", str(size), f"{found['test_mse']:.5f}"])
  history.write_json(place / runs.RESULT, {"experiment": "nbody_samples", "test_mse": results})
  (place / "figures").mkdir(exist_ok=True)
  plotting.save(plotting.sample_efficiency(results), place / "figures" / "sample_efficiency.png")
  print(f"\n{text.table(['predictor', 'trajectories', 'test MSE'], table)}")
  print(f"\nEverything is in {place}: result.json, figures/sample_efficiency.png, ...")
