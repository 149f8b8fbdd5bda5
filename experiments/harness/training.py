"""The training of any experiment: one device program for all replicas, a result.json for each."""

import contextlib
import functools
import importlib.util
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from ace_jax import state
from ace_jax.errors import CheckpointError, NonFiniteError
from ace_jax.training import checkpoints, epochs, hosts, loop, parallel
from ace_jax.training.parallel import default_mesh, make_mesh
from ace_jax.training.progress import ProgressBar
from ace_jax.training.sinks import TensorBoardLogger
from experiments.harness import artifacts, gaps, page, results, workdirs
from experiments.harness.problems import Problem, finish, method, start, training_settings
from experiments.harness.replicas import Plan
from experiments.harness.result_files import Result
from experiments.harness.settings import Settings

_ALONE = Plan()
ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals after which a training saves and ends."""


@functools.cache
def _say_once(text: str) -> None:
  sys.stderr.write(f"{text}\n")


def restore(folder: Path, settings: Settings, problem: Problem) -> state.AceState:
  """Returns the final state of a finished run, or of one of the replicas of a command.

  Args:
    folder: The run's own folder.
    settings: Its settings.
    problem: Its model and data.

  Raises:
    CheckpointError: no checkpoint of it is whole.
  """
  place, own, index = _locate(folder, settings)
  begin, ending = start(own, problem), finish(own, problem)
  newest = checkpoints.newest_whole(place)
  like = ending.after_epochs(begin, int(newest.name)) if ending else begin
  return parallel.select(checkpoints.load(newest, like), index)


def trajectory(folder: Path, settings: Settings, problem: Problem) -> list[state.AceState]:
  """Returns the states of a run at every checkpoint that it kept, the oldest first.

  Arguments as of `restore`; a run keeps more than its newest few with `keep_period`. A finish is
  left out, whose states are of another structure.
  """
  place, own, index = _locate(folder, settings)
  before = settings.training.epochs - (settings.training.finish_epochs or 0)
  found = checkpoints.restore_all(place, start(own, problem), before)
  return [parallel.select(one, index) for one in found]


def _locate(folder: Path, settings: Settings) -> tuple[Path, list[Settings], int]:
  """Returns a run's checkpoints, settings of all replicas in them, and which of them it is."""
  own, index, place = [settings], 0, folder
  together = workdirs.read_settings(folder.parent)
  if "epochs" in together and not checkpoints.exists(folder / loop.CHECKPOINTS):
    grid = tuple((name, tuple(values)) for name, values in together.get("grid", {}).items())
    names, several = zip(
      *Plan(tuple(together.get("seeds", ())), grid).expand(type(settings).from_json(together)),
      strict=True,
    )
    if folder.name in names:
      own, index, place = [*several], names.index(folder.name), folder.parent
  return place / loop.CHECKPOINTS, own, index


def check_devices(settings: Settings, plan: Plan) -> None:
  """Refuses what the devices cannot do, before there are data.

  Args:
    settings: Of the command.
    plan: The replicas.

  Raises:
    ConfigurationError: --mesh asks for more devices than there are, or a batch does not divide.
  """
  parallel.check_divides(settings.training.batch_size, _mesh(settings, plan))


def _mesh(settings: Settings, plan: Plan) -> Mesh:
  if plan.mesh:
    replica, data = plan.mesh
    return make_mesh(data, replica)
  return default_mesh(len(plan.expand(settings)))


def where(place: Path, found: Sequence[Result]) -> str:
  """Returns the last line of a run: what is in which folder.

  Args:
    place: The folder of the command.
    found: The content of each result.json.
  """
  names = [result["replica"] for result in found if result["replica"]]
  if not names:
    return f"Everything is in {place}: {page.PAGE}, result.json, figures/, ..."
  shown = ", ".join(str(place / name) for name in names[:4])
  more = f", ... ({len(names)} in all)" if len(names) > 4 else ""
  return (
    f"Results are in {shown}{more}: {page.PAGE}, result.json, figures/, ...; checkpoints in "
    f"{place}."
  )


def say_preset(settings: Settings, extent: str = "minutes on two cores") -> None:
  """Prints what the quick preset is, where it was taken.

  Args:
    settings: All settings.
    extent: How long it takes, and what it leaves out.
  """
  if settings.training.preset == "quick":
    print(f"Preset quick: {extent}. --preset=paper has the published settings.")


def train_and_say(
  problem: Problem,
  settings: Settings,
  place: Path,
  resume: bool,
  plan: Plan,
  baseline: str,
  scale: float = 1.0,
  remark: str = "",
) -> None:
  """Trains, and prints the table that ends a run and where everything is.

  Args:
    problem: Model, data, loss.
    settings: All settings.
    place: Where to write.
    resume: Continue what is there.
    plan: The replicas.
    baseline: See `results.summary_table`, as for `scale`.
    scale: What errors are multiplied by.
    remark: A line below the table; "" is none.
  """
  found = train(problem, settings, place, resume, plan)
  print(f"\n{results.summary_table(found, baseline, scale)}\n")
  if remark:
    print(remark)
  print(where(place, found))


def train(
  problem: Problem,
  settings: Settings,
  place: Path,
  resume: bool,
  plan: Plan = _ALONE,
) -> list[Result]:
  """Trains the replicas of a plan as one device program; writes everything about each.

  A run alone has config.json, metrics, result.json and figures in `place`; of several replicas
  each has its own folder there, and they share the checkpoints.

  Args:
    problem: Model and data.
    settings: All settings of the command.
    place: The folder.
    resume: Continue what is there.
    plan: The replicas.

  Returns:
    The content of each result.json; `seconds` and `memory` in it are for all `replicas` together.

  Raises:
    NonFiniteError: a replica met a number that is not finite; the others are written by then.
  """
  names, own = zip(*plan.expand(settings), strict=True)
  mesh = _mesh(settings, plan)
  tensorboard = importlib.util.find_spec("tensorboardX") is not None
  if not tensorboard:
    _say_once("tensorboardX is not installed, so nothing is written for TensorBoard.")

  def loggers(name, done):
    return [TensorBoardLogger(place / name / "tensorboard", done)] if tensorboard else []

  settled = {**settings.to_json(), **plan.identity()}
  with workdirs.opened(place, settled, resume) if hosts.first() else contextlib.nullcontext():
    begin = start(own, problem)
    test_errors = epochs.compile_errors(problem.task, mesh, problem.eval_batch_size)
    measured = parallel.over_replicas(functools.partial(problem.measure, problem.task), mesh)
    measure_gaps = problem.symmetry and gaps.compile_measure(
      problem.task, problem.symmetry, problem.eval_batch_size
    )

    def measure(current):
      numbers = measured(current)
      if settings.training.log_test:
        found = test_errors(current.current(), problem.test)
        numbers |= {f"test/{name}": error for name, error in found.items()}
      return numbers

    report_memory, peaks = results.keep_memory()
    end, records = loop.train(
      method(own[0], problem),
      begin,
      problem.train,
      problem.valid,
      training_settings(settings.training, problem),
      mesh=mesh,
      workdir=place,
      names=names,
      resume=resume,
      progress=lambda done: ProgressBar(settings.training.epochs, done),
      loggers=loggers,
      measure=measure,
      finish=finish(own, problem),
      report_memory=report_memory,
      ends_on=ENDING,
    )
    turned = artifacts.turned(problem.rotations, problem.test)
    tests = loop.test_errors_of_sets(
      problem.task, end, {"": problem.test, **turned}, problem.eval_batch_size, mesh
    )
    found, failed = [], []
    for i, name in enumerate(names):
      alone = jax.device_get(parallel.select(end, i))
      if int(alone.failed):
        failed.append(f"{name} in epoch {int(alone.failed)}")
        continue
      errors = {label: tests[label][i] for label in turned}
      result = results.make(problem, own[i], alone, records[i], tests[""][i], errors)
      if measure_gaps:
        result = gaps.add(result, measure_gaps, alone, problem.train, problem.test)
      together = {"replica": name, "replicas": len(names), "memory": results.memory(peaks)}
      found.append({**result, **together})
      if hosts.first():
        _write(place / name, problem, own[i], alone, records[i], found[-1])
  if hosts.first():
    for folder in dict.fromkeys([*(place / result["replica"] for result in found), place]):
      page.write(folder)
  if failed:
    raise NonFiniteError(
      f"of {len(names)} replicas, these met numbers that are not finite: {', '.join(failed)}; "
      f"the results of the others are in {place}. Lower the step sizes or clip gradients."
    )
  return found


def _write(folder, problem, settings, end, records, result) -> None:
  try:
    workdirs.write_config(folder, settings.to_json())
    predictions = problem.predictions(problem.task, end)
    artifacts.write(folder, end, records, predictions)
    (folder / "figures").mkdir(exist_ok=True)
    problem.draw(folder / "figures", end, records, predictions)
    # Last: a folder with a result has everything.
    workdirs.write_result(folder, result)
  except OSError as error:
    raise CheckpointError(
      f"cannot write results to {folder}: {error.strerror}; the checkpoints are whole: mend the "
      "disk and add --resume."
    ) from error
