"""What `experiments.campaign` does once its flags are checked: clones, programs, copies."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from ace_jax import files
from ace_jax.errors import AceError
from data.errors import DataError
from experiments.campaign import state as campaign_state
from experiments.campaign.plan import Plan, Run
from experiments.campaign.state import Program, State
from experiments.harness import artifacts, page, programs, result_files, tables, workdirs
from experiments.harness.usage import UsageError


def run(
  plan: Plan,
  repository: Path,
  workdir: Path,
  collected: Path,
  jobs: int,
  minutes: float | None,
) -> None:
  """Runs what is missing, in the plan's order.

  Args:
    plan: The plan.
    repository: Where commits are taken from.
    workdir: The campaign's folder.
    collected: Where results of finished runs are kept; those runs are not made again.
    jobs: Programs at once.
    minutes: What cannot end within so many by its estimate is not started, and what still runs
      then is asked to save; None for no limit.

  Raises:
    AceError: a run failed; the others are finished by then.
    ConfigurationError: another process runs this campaign.
    DataError: the plan contradicts what was started, or names a commit that does not exist.
    Interrupted: SIGTERM came, or the minutes are over; what ran has saved.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdirs.locked(workdir))
    (workdir / campaign_state.RUNNER).write_text(str(os.getpid()))
    state = campaign_state.read(workdir)
    state.running = []
    kind, number = programs.local_devices()
    tasks = campaign_state.programs(plan, state, together=kind != "cpu", collected=collected)
    _check_commits(plan, state, repository)
    _fix_comparisons(plan, state)
    stack.enter_context(programs.ended_by_signal(minutes))
    devices = programs.share(kind, number, jobs, os.environ)
    machine = stack.enter_context(programs.local_engine(devices))
    try:
      _Runner(repository, state, tasks, minutes, machine).drive()
    finally:
      page.write(workdir)


class _Runner:
  """Starts programs and keeps state.json.

  Args:
    repository: Where commits are taken from.
    state: What was started.
    tasks: All programs.
    minutes: The limit, or None.
    machine: Where they run.
  """

  def __init__(
    self,
    repository: Path,
    state: State,
    tasks: list[Program],
    minutes: float | None,
    machine: programs.Engine,
  ):
    self._repository, self._state, self._tasks = repository, state, tasks
    self._machine = machine
    self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
    self._started: dict[str, float] = {}
    self._left_out: list[str] = []
    self._failed: dict[str, str] = {}

  def drive(self) -> None:
    """Runs everything that is missing.

    Raises:
      AceError: something failed; says what first.
    """
    try:
      self._write()
      for task, code in programs.drive(self._missing(), self._submit, self._machine.slots):
        self._end(task, code)
    finally:
      for name in [*self._started]:
        self._stop(name)
      with contextlib.suppress(OSError):  # of a full disk the error on its way tells
        self._write()
    if self._left_out:
      shown = ", ".join(self._left_out[:3]) + (", ..." if len(self._left_out) > 3 else "")
      print(f"Not started, for lack of time: {len(self._left_out)} ({shown}).")
    if self._failed:
      name, reason = next(iter(self._failed.items()))
      raise AceError(
        f"{len(self._failed)} of {len(self._tasks)} programs failed, {name} by "
        f"{reason.rstrip('.')}; the same command tries them again."
      )

  def _missing(self) -> Iterator[Program]:
    for task in self._tasks:
      if task.ended():
        continue
      left = campaign_state.minutes_left(task, campaign_state.speeds(self._tasks))
      if self._deadline is not None and time.monotonic() + 60 * left > self._deadline:
        self._left_out.append(task.name)
        continue
      yield task

  def _submit(self, task: Program) -> Future[int]:
    try:
      entry = self._entry(task)
      checkout = clone(
        self._repository, entry["commit"], self._state.workdir / campaign_state.COMMITS
      )
      flags = [_expand(word, task.name) for word in task.command()[1:]]
    except AceError as error:
      failed: Future[int] = Future()
      failed.set_exception(error)
      return failed
    command = [
      sys.executable,
      "-m",
      task.command()[0],
      *flags,
      f"--workdir={task.folder.resolve()}",
    ]
    if (task.folder / workdirs.CONFIG).exists():
      command.append("--resume")
    self._started[task.name] = time.monotonic()
    self._state.running.append(task.name)
    self._write()
    left = campaign_state.minutes_left(task, campaign_state.speeds(self._tasks))
    print(
      f"{task.name}: started at commit {entry['commit'][:12]}, about {left:.0f} minutes", flush=True
    )
    return self._machine.submit(command, task.folder, str(checkout))

  def _entry(self, task: Program) -> campaign_state.Started:
    entries = self._state.programs
    if task.name not in entries:
      commit = resolve(self._repository, task.runs[0].commit or "HEAD")
      names, command = [run.name for run in task.runs], list(task.command())
      entries[task.name] = {"runs": names, "command": command, "commit": commit, "seconds": 0.0}
    return entries[task.name]

  def _end(self, task: Program, code: int | Exception) -> None:
    seconds = self._stop(task.name)
    if isinstance(code, Exception):
      reason = str(code)
    elif code and code not in programs.INTERRUPTED:
      reason = f"exit code {code}: {programs.last_words(task.folder)}"
    elif not task.ended():
      reason = f"interruption: {programs.last_words(task.folder)}"
    else:
      reason = None
    if task.name in self._state.programs:
      self._state.programs[task.name]["failure"] = reason
    if reason:
      self._failed[task.name] = reason
    self._write()
    said = (
      f"failed after {seconds / 60:.1f} minutes: {reason}"
      if reason
      else (f"done after {seconds / 60:.1f} minutes")
    )
    print(f"{task.name}: {said}", flush=True)

  def _stop(self, name: str) -> float:
    if name not in self._started:
      return 0.0
    seconds = time.monotonic() - self._started.pop(name)
    self._state.programs[name]["seconds"] += round(seconds, 1)
    self._state.running.remove(name)
    return seconds

  def _write(self) -> None:
    try:
      files.write_json(self._state.workdir / campaign_state.STATE, self._state.content())
    except OSError as error:
      raise AceError(
        f"cannot write {self._state.workdir / campaign_state.STATE}: {error.strerror}; mend "
        "the disk and give the same command: what ran was asked to save."
      ) from error


def resolve(repository: Path, commit: str) -> str:
  """Returns the full hash of a commit.

  Raises:
    AceError: the repository does not have it.
  """
  done = _git(repository, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
  if done.returncode:
    said = f" ({_last(done.stderr)})" if done.stderr.strip() else ""
    raise AceError(f"{repository} has no commit {commit}{said}; mend the plan, or --repository.")
  return done.stdout.strip()


def clone(repository: Path, commit: str, clones: Path) -> Path:
  """Returns a clone of the repository at a commit; made where it is not there yet.

  Args:
    repository: What is cloned.
    commit: A full hash.
    clones: Folder of all clones.

  Raises:
    AceError: git says no, or is not there.
  """
  folder = clones / commit[:12]
  if folder.exists():
    return folder
  clones.mkdir(parents=True, exist_ok=True)
  part = clones / f".{commit[:12]}.{os.getpid()}"
  try:
    for where, *words in (
      (clones, "clone", "--quiet", "--no-checkout", str(repository.resolve()), str(part.resolve())),
      (part, "checkout", "--quiet", "--detach", commit),
    ):
      done = _git(where, *words)
      if done.returncode:
        raise AceError(f"commit {commit[:12]} cannot be cloned: {_last(done.stderr)}.")
    os.replace(part, folder)
  except OSError as error:
    raise AceError(f"commit {commit[:12]} cannot be cloned: {error.strerror}.") from error
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return folder


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
  try:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
  except OSError as error:
    raise AceError(f"git cannot be started in {folder}: {error.strerror}.") from error


def _last(said: str) -> str:
  return programs.last_line(said, "git said nothing").rstrip(".")


def _expand(word: str, name: str) -> str:
  expanded = os.path.expandvars(word)
  if "$" in expanded:
    raise AceError(f"{name}: {word} needs a variable of the environment that is not set.")
  return expanded


def _check_commits(plan: Plan, state: State, repository: Path) -> None:
  begun = {name for entry in state.programs.values() for name in entry["runs"]}
  for commit, name in {
    planned_run.commit: planned_run.name
    for planned_run in plan.runs
    if planned_run.name not in begun
  }.items():
    try:
      resolve(repository, commit or "HEAD")
    except AceError as error:
      raise UsageError(f"run {name}: {error}") from error


def _fix_comparisons(plan: Plan, state: State) -> None:
  """Keeps the comparisons of rows that were started; new rows may bring new ones."""
  # Through JSON, as what was stored.
  now = json.loads(
    json.dumps({comparison.name: dataclasses.asdict(comparison) for comparison in plan.comparisons})
  )
  for name, entry in state.comparisons.items():
    if now.get(name) != entry:
      raise DataError(
        f"comparison {name!r} was fixed when the campaign began, and the plan now says otherwise; "
        "put it back, and add another one beside it."
      )
  state.comparisons = now


def status(plan: Plan, state: State, collected: Path) -> str:
  """Returns a table of all runs: what is done, what runs, how long the rest takes."""
  tasks = campaign_state.programs(plan, state, together=False, collected=collected)
  measured = campaign_state.speeds(tasks)
  alive, rows, total = state.runner() is not None, [], 0.0
  counts = dict.fromkeys(("done", "running", "failed", "saved", "waiting"), 0)
  for task in tasks:
    entry = state.programs.get(task.name)
    left = campaign_state.minutes_left(task, measured)
    total += left
    _, progress = measured.get(task.name, (task, None))
    for planned_run in task.runs:
      how = _how(task, planned_run, entry, alive and task.name in state.running)
      counts[how] += 1
      epochs = f"{progress[0]} of {progress[1]}" if progress and how != "done" else ""
      commit = entry["commit"][:12] if entry else (planned_run.commit or "")
      failure = (entry or {}).get("failure") or ""
      shown = f"{left:.0f}" if how != "done" else ""
      rows.append(
        [
          planned_run.name,
          planned_run.group,
          how,
          epochs,
          shown,
          commit,
          failure[:60] if how == "failed" else "",
        ]
      )
  header = ["run", "group", "state", "epoch", "minutes left", "commit", "failure"]
  if not any(row[-1] for row in rows):
    header, rows = header[:-1], [row[:-1] for row in rows]
  said = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
  return (
    f"{tables.table(header, rows)}\n\n{said}; about {total / 60:.1f} hours are left, one at a time."
  )


def _how(
  task: Program, planned_run: Run, entry: campaign_state.Started | None, running: bool
) -> str:
  if task.finished(planned_run):
    return "done"
  if running:
    return "running"
  if entry is None:
    return "waiting"
  return "failed" if entry.get("failure") else "saved"


def collect(plan: Plan, state: State, folder: Path) -> int:
  """Copies what finished runs leave (`artifacts.FILES`) to FOLDER/RUN; returns how many are there.

  Raises:
    DataError: a result is damaged.
    AceError: a file cannot be written.
  """
  count = 0
  for task in campaign_state.programs(plan, state, together=False, collected=folder):
    for planned_run in task.runs:
      count += task.finished(planned_run)
      if not task.trained(planned_run):
        continue
      for replica, workdir in task.results(planned_run):
        try:
          _copy(workdir, folder / planned_run.name / replica)
        except OSError as error:
          raise AceError(
            f"{planned_run.name} cannot be copied to {folder}: {error.strerror}; mend the disk and "
            "give the same command."
          ) from error
  return count


def _copy(workdir: Path, target: Path) -> None:
  target.mkdir(parents=True, exist_ok=True)
  for name in artifacts.FILES:
    source = workdir / name
    if not source.exists():
      continue
    if source.suffix == ".json":
      value = result_files.read_json(source, "run it again")
      files.write_json(target / name, workdirs.portable(value))
    else:
      data = source.read_bytes()
      files.write_binary(target / name, lambda file, data=data: file.write(data))
