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

import ace_jax
from ace_jax import signals, state
from ace_jax.errors import CheckpointError, Interrupted, NonFiniteError
from ace_jax.training import checkpoints, epochs, hosts, loop, measuring, parallel
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


def finished(trained: ace_jax.Fit, saved: str) -> ace_jax.Fit:
  """Returns a training that Ctrl-C did not end.

  Args:
    trained: What `fit` returned.
    saved: Where it is, for the message.

  Raises:
    Interrupted: Ctrl-C ended it; the command ends too.
  """
  if trained.interrupted:
    epoch = int(trained.state.epoch)
    said = f"asked to end ({signals.name(signal.SIGINT)}) after epoch {epoch}; {saved}"
    raise Interrupted(said, signal.SIGINT)
  return trained


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
  saved, replicas, index = _locate(folder, settings)
  begin, ending = start(replicas, problem), finish(replicas, problem)
  newest = checkpoints.newest_whole(saved)
  like = ending.after_epochs(begin, int(newest.name)) if ending else begin
  return parallel.select(checkpoints.load(newest, like), index)


def trajectory(folder: Path, settings: Settings, problem: Problem) -> list[state.AceState]:
  """Returns the states of a run at every checkpoint that it kept, the oldest first.

  Arguments as of `restore`; a run keeps more than its newest few with `keep_period`. A finish is
  left out, whose states are of another structure.
  """
  saved, replicas, index = _locate(folder, settings)
  before = settings.training.epochs - (settings.training.finish_epochs or 0)
  states = checkpoints.restore_all(saved, start(replicas, problem), before)
  return [parallel.select(stacked, index) for stacked in states]


def _locate(folder: Path, settings: Settings) -> tuple[Path, list[Settings], int]:
  """Returns a run's checkpoints, settings of all replicas in them, and which of them it is."""
  replicas, index, workdir = [settings], 0, folder
  together = workdirs.read_settings(folder.parent)
  if "epochs" in together and not checkpoints.exists(folder / loop.CHECKPOINTS):
    grid = tuple((name, tuple(values)) for name, values in together.get("grid", {}).items())
    names, several = zip(
      *Plan(tuple(together.get("seeds", ())), grid).expand(type(settings).from_json(together)),
      strict=True,
    )
    if folder.name in names:
      replicas, index, workdir = [*several], names.index(folder.name), folder.parent
  return workdir / loop.CHECKPOINTS, replicas, index


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


def where(folder: Path, contents: Sequence[Result]) -> str:
  """Returns the last line of a run: what is in which folder.

  Args:
    folder: The folder of the command.
    contents: The content of each result.json.
  """
  names = [name for result in contents if (name := result.get("replica"))]
  if not names:
    return f"Everything is in {folder}: {page.PAGE}, result.json, figures/, ..."
  shown = ", ".join(str(folder / name) for name in names[:4])
  more = f", ... ({len(names)} in all)" if len(names) > 4 else ""
  return (
    f"Results are in {shown}{more}: {page.PAGE}, result.json, figures/, ...; checkpoints in "
    f"{folder}."
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
  folder: Path,
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
    folder: Where to write.
    resume: Continue what is there.
    plan: The replicas.
    baseline: See `results.summary_table`, as for `scale`.
    scale: What errors are multiplied by.
    remark: A line below the table; "" is none.
  """
  contents = train(problem, settings, folder, resume, plan)
  print(f"\n{results.summary_table(contents, baseline, scale)}\n")
  if remark:
    print(remark)
  print(where(folder, contents))


def train(
  problem: Problem,
  settings: Settings,
  folder: Path,
  resume: bool,
  plan: Plan = _ALONE,
) -> list[Result]:
  """Trains the replicas of a plan as one device program; writes everything about each.

  A run alone has config.json, metrics, result.json and figures in `folder`; of several replicas
  each has its own folder there, and they share the checkpoints.

  Args:
    problem: Model and data.
    settings: All settings of the command.
    folder: The folder.
    resume: Continue what is there.
    plan: The replicas.

  Returns:
    The content of each result.json; `seconds` and `memory` in it are for all `replicas` together.

  Raises:
    NonFiniteError: a replica met a number that is not finite; the others are written by then.
  """
  names, replicas = zip(*plan.expand(settings), strict=True)
  mesh = _mesh(settings, plan)
  tensorboard = importlib.util.find_spec("tensorboardX") is not None
  if not tensorboard:
    _say_once("tensorboardX is not installed, so nothing is written for TensorBoard.")

  def loggers(name, done):
    return [TensorBoardLogger(folder / name / "tensorboard", done)] if tensorboard else []

  settled = {**settings.to_json(), **plan.identity()}
  with workdirs.opened(folder, settled, resume) if hosts.first() else contextlib.nullcontext():
    begin = start(replicas, problem)
    test_errors = epochs.compile_errors(problem.task, mesh, problem.eval_batch_size)
    measured = parallel.over_replicas(functools.partial(problem.measure, problem.task), mesh)
    measure_gaps = problem.symmetry and gaps.compile_measure(
      problem.task, problem.symmetry, problem.eval_batch_size
    )

    def measure(current):
      numbers = measured(current, problem.measured)
      if settings.training.log_test:
        on_test = test_errors(current.current(), problem.test)
        numbers |= {f"test/{name}": error for name, error in on_test.items()}
      return numbers

    report_memory, peaks = results.keep_memory()
    end, records = loop.train(
      method(replicas[0], problem),
      begin,
      problem.train,
      problem.valid,
      training_settings(settings.training, problem),
      mesh=mesh,
      workdir=folder,
      names=names,
      resume=resume,
      progress=lambda done: ProgressBar(settings.training.epochs, done),
      loggers=loggers,
      measure=measure,
      finish=finish(replicas, problem),
      report_memory=report_memory,
      ends_on=ENDING,
    )
    turned = artifacts.turned(problem.rotations, problem.test)
    tests = measuring.test_errors_of_sets(
      problem.task, end, {"": problem.test, **turned}, problem.eval_batch_size, mesh
    )
    contents, failed = [], []
    for i, name in enumerate(names):
      alone = jax.device_get(parallel.select(end, i))
      if int(alone.failed):
        failed.append(f"{name} in epoch {int(alone.failed)}")
        continue
      errors = {label: tests[label][i] for label in turned}
      result = results.make(problem, replicas[i], alone, records[i], tests[""][i], errors)
      if measure_gaps:
        result = gaps.add(result, measure_gaps, alone, problem.train, problem.test)
      together = {"replica": name, "replicas": len(names), "memory": results.memory(peaks)}
      contents.append({**result, **together})
      if hosts.first():
        _write(folder / name, problem, replicas[i], alone, records[i], contents[-1])
  if hosts.first():
    for written in dict.fromkeys([*(folder / result["replica"] for result in contents), folder]):
      page.write(written)
  if failed:
    raise NonFiniteError(
      f"of {len(names)} replicas, these met numbers that are not finite: {', '.join(failed)}; "
      f"the results of the others are in {folder}. Lower the step sizes or clip gradients."
    )
  return contents


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
