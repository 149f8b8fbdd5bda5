"""The folder of a run: who may write to it, its configuration, its result."""

import contextlib
import importlib.metadata
import json
import platform
import re
import shlex
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
from experiments.harness import folders, result_files
from experiments.harness.folders import CONFIG, RESULT, differences

__all__ = [
  "CONFIG",
  "RESULT",
  "command",
  "differences",
  "environment",
  "locked",
  "opened",
  "portable",
  "read_settings",
  "write_config",
  "write_result",
]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "e3nn-jax", "orbax-checkpoint", "numpy")


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


def _check_config(path: Path, settings: Mapping[str, Any], resume: bool) -> None:
  try:
    refusal = folders.why_not(path, json.loads(json.dumps(settings)), resume)
  except DataError as error:
    raise ConfigurationError(str(error)) from error
  if refusal:
    raise ConfigurationError(refusal)
  if path.exists() and result_files.read_config(path, "")[1]:
    print(f"{path.parent} holds {folders.EARLIER}: it goes on as that.")


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
    "command": command(),
  }


def command() -> str:
  """Returns the command line of this process, in which absolute paths are portable."""
  return shlex.join(["python", "-m", _module(), *map(_portable_word, sys.argv[1:])])


def _portable_word(word: str) -> str:
  flag, equals, value = word.partition("=")
  return f"{flag}={Path(value).name}" if equals and value.startswith("/") else portable(word)


def portable(value: Any) -> Any:
  """Returns a JSON value in which every absolute path is its last component alone.

  Results are shared; the folders of the machine that made them mean nothing elsewhere.
  """
  if isinstance(value, dict):
    return {key: portable(item) for key, item in value.items()}
  if isinstance(value, list):
    return [portable(item) for item in value]
  if isinstance(value, str) and value.startswith("/") and " -" not in value:
    return Path(value).name or value  # which may hold spaces
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
