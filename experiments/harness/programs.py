"""Programs of a campaign, each a process: over the devices of a machine, or over a cluster.

Imports no JAX: a process that held the devices could not lend them.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from data.errors import first_line
from experiments.harness.usage import UsageError

LOG = "log.txt"
"""What a program said when it ran last, in its folder."""
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of programs that were asked to end, and have saved."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Engine:
  """Where programs run.

  Attributes:
    slots: How many at once.
    submit: Starts `command`, which writes all that it says to `folder`; its exit code will follow.
      A local engine takes the folder to start it in as a third argument.
  """

  slots: int
  submit: Callable[..., Future[int]]


def drive(
  source: Iterable[T], submit: Callable[[T], Future[int]], slots: int
) -> Iterator[tuple[T, int | Exception]]:
  """Runs programs, and yields each with its exit code (or why it has none) as it ends.

  Args:
    source: Programs; the next one is asked for only when a slot is free, and after everything
      that ended has been yielded, so that a search may choose it by what is known by then.
    submit: Starts one.
    slots: How many run at once.
  """
  waiting, flying = iter(source), {}
  while True:
    while len(flying) < slots:
      program = next(waiting, None)
      if program is None:
        break
      flying[submit(program)] = program
    if not flying:
      return
    done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
      error = future.exception()
      code = error if isinstance(error, Exception) else future.result()
      yield flying.pop(future), code


def call(command: list[str], folder: str, cwd: str) -> int:
  """Runs one program to its end and returns its exit code; interrupted, asks it to save."""
  process = _start(command, Path(folder), {}, cwd)
  try:
    return process.wait()
  except BaseException:
    process.terminate()
    process.wait()
    raise


def _start(
  command: list[str], folder: Path, environment: dict[str, str], cwd: str | None = None
) -> subprocess.Popen[bytes]:
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / LOG).open("w", encoding="utf-8") as log:
    return subprocess.Popen(
      command,
      cwd=cwd,
      env={**os.environ, **environment},
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # an interrupt at the terminal reaches it from here, as SIGTERM
    )


def last_words(folder: Path) -> str:
  """Returns the last error, or else the last line, of a program's log."""
  try:
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
  except OSError:
    return "it left no log"
  errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
  return (errors or [line for line in lines if line.strip()] or ["it said nothing"])[-1]


def last_line(said: str, silent: str = "it said nothing") -> str:
  """Returns the last line of what a program said, which names its error; `silent` if it is mute."""
  return (said.strip().splitlines() or [silent])[-1]


@contextlib.contextmanager
def ended_by_signal(
  minutes: float | None = None, left: str = "what ran was asked to save"
) -> Iterator[None]:
  """Raises Interrupted in the main thread when Ctrl-C or SIGTERM comes, or the minutes are over.

  The handlers of before take the next signal.

  Args:
    minutes: From now; None for no limit.
    left: What becomes of what runs.
  """
  from ace_jax import signals
  from ace_jax.errors import Interrupted

  alarm = getattr(signal, "SIGALRM", None)  # Windows has none
  if minutes is not None and alarm is None:
    raise UsageError("--minutes needs an alarm clock that this system lacks; leave it out.")
  with contextlib.ExitStack() as stack:

    def end(number: int, _: Any) -> None:
      stack.close()
      if number == alarm:
        raise Interrupted(f"{minutes:g} minutes are over; {left}")
      raise Interrupted(f"asked to end ({signals.name(number)}); {left}", number)

    numbers = [signal.SIGINT, signal.SIGTERM, *([] if alarm is None else [alarm])]
    stack.enter_context(signals.handling(end, *numbers))
    if minutes is not None:
      stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
      signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    yield


@contextlib.contextmanager
def local_engine(devices: list[dict[str, str]]) -> Iterator[Engine]:
  """Runs programs as processes of this machine; on the way out, asks those that run to save.

  Args:
    devices: For each slot the environment that shows a program its device.
  """
  free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
  for environment in devices:
    free.put(environment)
  running: set[subprocess.Popen[bytes]] = set()
  lock, ending = threading.Lock(), threading.Event()

  def run(command: list[str], folder: Path, cwd: str | None) -> int:
    environment = free.get()
    try:
      with lock:
        if ending.is_set():
          return -signal.SIGTERM
        process = _start(command, folder, environment, cwd)
        running.add(process)
      code = process.wait()
      with lock:
        running.discard(process)
      return code
    finally:
      free.put(environment)

  pool = concurrent.futures.ThreadPoolExecutor(len(devices))

  def submit(command: list[str], folder: Path, cwd: str | None = None) -> Future[int]:
    return pool.submit(run, command, folder, cwd)

  try:
    yield Engine(len(devices), submit)
  finally:
    with lock:
      ending.set()
      for process in running:
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def ray_engine(jobs: int | None) -> Iterator[Engine]:
  """Runs programs on a Ray cluster: that of RAY_ADDRESS, or else one on this machine alone.

  A program gets a GPU if the cluster has any. All machines must see the workdir and this checkout
  at the same paths.

  Args:
    jobs: How many at once; by default one a GPU, or one a machine where there is none.

  Raises:
    UsageError: Ray does not start, or does not find its cluster.
  """
  import ray

  try:
    ray.init(include_dashboard=False, log_to_driver=False)
  except Exception as error:  # Ray has no base of its errors: ConnectionError, RuntimeError, ...
    raise UsageError(
      f"Ray does not start ({first_line(error)}); see RAY_ADDRESS, or leave out --engine=ray."
    ) from error
  try:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    slots = jobs or gpus or sum(node["Alive"] for node in ray.nodes())
    task = ray.remote(num_cpus=1, num_gpus=min(1, gpus), max_retries=0)(call)
    task = task.options(scheduling_strategy="SPREAD")
    refs: list[Any] = []

    def submit(command: list[str], folder: Path) -> Future[int]:
      refs.append(task.remote(command, str(folder.absolute()), os.getcwd()))
      return refs[-1].future()

    try:
      yield Engine(slots, submit)
    finally:
      for ref in refs:
        ray.cancel(ref)  # nothing, if it has ended; else KeyboardInterrupt in `call`
      ray.wait(refs, num_returns=len(refs), timeout=_PATIENCE)
  finally:
    ray.shutdown()


_PATIENCE = 600.0  # seconds for programs to finish their epoch and save


def require(package: str, extra: str, flag: str) -> None:
  """Refuses what needs a package that is not installed.

  Raises:
    UsageError: says how to install it.
  """
  if importlib.util.find_spec(package) is None:
    raise UsageError(
      f"{flag} needs {package}: pip install -e '.[{extra}]', or pip install {package}."
    )


_VISIBLE = {
  "cuda": "CUDA_VISIBLE_DEVICES",
  "rocm": "HIP_VISIBLE_DEVICES",
  "tpu": "TPU_VISIBLE_CHIPS",
}
# A process that has one chip of several must be told that it is alone.
_ALONE = {"tpu": {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}}
_ASK = """
import jax
device = jax.local_devices()[0]
kind = "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"
print(kind if device.platform == "gpu" else device.platform, jax.local_device_count())
"""


def local_devices() -> tuple[str, int]:
  """Returns what JAX finds on this machine: ("cuda" | "rocm" | "tpu" | "cpu" | ..., how many).

  Another process asks, for one that has seen the devices keeps their memory.

  Raises:
    UsageError: JAX cannot start.
  """
  done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
  if done.returncode:
    raise UsageError(f"JAX finds no device: {last_line(done.stderr)}")
  kind, number = done.stdout.split()[-2:]
  return kind, int(number)


def share(
  kind: str, number: int, jobs: int | None, environment: Mapping[str, str]
) -> list[dict[str, str]]:
  """Returns the environment of each slot: one device each, or nothing on a CPU.

  Args:
    kind: Of the devices.
    number: How many there are.
    jobs: How many programs at once; by default one a device, and one on a CPU.
    environment: Of this process; devices that it already chooses among are shared out.
  """
  variable = _VISIBLE.get(kind)
  if variable is None:
    return [{} for _ in range(jobs or 1)]
  chosen = environment.get(variable, "")
  devices = chosen.split(",") if chosen else list(map(str, range(number)))
  return [
    {variable: devices[i % len(devices)], **_ALONE.get(kind, {})}
    for i in range(jobs or len(devices))
  ]
