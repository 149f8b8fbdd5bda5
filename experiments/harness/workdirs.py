"""The folder of a run: who may write to it, its configuration, its result."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from ace_jax import files
from ace_jax.errors import CheckpointError, ConfigurationError
from ace_jax.training import locks
from data.errors import DataError
from data.machine import cores
from experiments.harness import result_files

CONFIG, RESULT = "config.json", "result.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "e3nn-jax", "orbax-checkpoint", "numpy")


def default_workdir(experiment: str, constraint: str) -> Path:
  """Returns runs/EXPERIMENT_CONSTRAINT_TIME, a folder that no earlier run has used."""
  now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  return Path("runs") / f"{experiment}_{constraint}_{now}"


def locked(workdir: Path) -> contextlib.AbstractContextManager[Path]:
  """Makes a folder and locks it for this process, as `ace_jax.training.locks.locked` does."""
  return locks.locked(workdir, "--workdir")


@contextlib.contextmanager
def opened(workdir: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[Path]:
  """Takes a workdir for one run: makes it, locks it, writes or compares its configuration.

  Args:
    workdir: The folder.
    settings: What decides the run, as JSON; must equal what is there when resuming.
    resume: Whether a run that is there may be continued.

  Raises:
    ConfigurationError: another process uses the folder, or it holds another run.
    CheckpointError: the folder cannot be written.
  """
  with locked(workdir):
    _check_config(workdir / CONFIG, settings, resume)
    try:
      write_config(workdir, settings)
    except OSError as error:
      raise CheckpointError(
        f"cannot write to workdir {workdir}: {error.strerror}; choose another with --workdir."
      ) from error
    yield workdir


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
  """Writes config.json: what decides the run, and what it ran on."""
  content = {"format": result_files.FORMAT, "settings": settings, "environment": environment()}
  files.write_json(folder / CONFIG, content)


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
  """Writes the result.json of a run or a comparison: what it found, and what it ran on."""
  content = {"format": result_files.FORMAT, **result, "environment": environment()}
  files.write_json(folder / RESULT, portable(content))


def read_settings(folder: Path) -> dict[str, Any]:
  """Reads the settings of a folder's config.json; {} where there is none that can be read."""
  try:
    return result_files.read_settings(folder / CONFIG, "")
  except DataError:
    return {}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """Returns the names of settings that differ; one that is left out is None."""
  return sorted(name for name in {*there, *here} if there.get(name) != here.get(name))


def _check_config(path: Path, settings: Mapping[str, Any], resume: bool) -> None:
  if not path.exists():
    return
  try:
    there, renamed = result_files.read_config(path, "restore it, or choose another --workdir")
  except DataError as error:
    raise ConfigurationError(str(error)) from error
  here = json.loads(json.dumps(settings))
  # A run may be resumed to a longer one: its past does not depend on where it ends, unless its last
  # epochs are a finish.
  free = () if here.get("finish_epochs") else ("epochs",)
  differing = [name for name in differences(there, here) if name not in free]
  earlier = "a run of an earlier version, whose remul is called gap_penalty since then"
  if differing:
    shown = ", ".join(f"{k}: {there.get(k)} there, {here.get(k)} asked for" for k in differing[:3])
    held = f"{earlier}, with" if renamed else "a run with"
    raise ConfigurationError(
      f"{path.parent} holds {held} another configuration ({shown}); "
      "give the same flags, or choose another --workdir."
    )
  if not resume:
    raise ConfigurationError(
      f"{path.parent} already holds this run; add --resume, or choose another --workdir."
    )
  if renamed:
    print(f"{path.parent} holds {earlier}: it goes on as that.")


def environment() -> dict[str, Any]:
  """Returns versions, device and git commit, for the record."""
  return {
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
    "matmul_precision": jax.config.jax_default_matmul_precision or "the device's",
    "processor": _processor(),
    "cores": cores(),
    "commit": _commit(),
    "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
  }


def portable(value: Any) -> Any:
  """Returns a JSON value in which every absolute path is its last component alone.

  Results are shared; the folders of the machine that made them mean nothing elsewhere.
  """
  if isinstance(value, dict):
    return {key: portable(item) for key, item in value.items()}
  if isinstance(value, list):
    return [portable(item) for item in value]
  if isinstance(value, str):
    return re.sub(r"(?<![\w.])/(?:[^\s/]+/)*([^\s/]+)", r"\1", value)
  return value


def _module() -> str:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def _processor() -> str:
  with contextlib.suppress(OSError):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()


def _commit() -> str | None:
  command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
  try:
    done = subprocess.run(
      command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout.strip() or None
