"""One process at a time in the folder of a run."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from absl import logging
from filelock import FileLock, Timeout

from ace_jax import files
from ace_jax.errors import CheckpointError, ConfigurationError

LOCK = ".lock"
_NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def locked(folder: str | Path, called: str = "workdir") -> Iterator[Path]:
  """Makes a folder and locks it for this process while the context lasts.

  However the process ends, the lock ends with it. Where the file system has no locks, a warning
  says so, and the folder is used without.

  Args:
    folder: A leading ~ is the home folder.
    called: What chooses another, for error messages.

  Yields:
    The folder.

  Raises:
    ConfigurationError: another process uses the folder.
    CheckpointError: it cannot be written.
  """
  folder = files.expanded(folder)
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      stack.enter_context(FileLock(folder / LOCK, timeout=0))
    except Timeout as error:
      raise ConfigurationError(
        f"another process is running in {folder}; wait for it, or choose another {called}."
      ) from error
    except OSError as error:
      if error.errno not in _NOT_SUPPORTED:
        raise CheckpointError(
          f"cannot write to workdir {folder}: {error.strerror}; choose another {called}."
        ) from error
      logging.warning("%s cannot be locked (%s): start nothing else in it.", folder, error.strerror)
    yield folder
