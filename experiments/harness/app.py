"""How every experiment binary starts and ends: flags first, JAX later, errors in one line."""

import contextlib
import errno
import faulthandler
import functools
import importlib.util
import io
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from data.machine import cores
from experiments.harness import interrupts
from experiments.harness.usage import LARGEST, UsageError

FLAGS = flags.FLAGS
_DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM}
_PATH = {errno.ENAMETOOLONG, errno.ELOOP}

_PACKAGES = ("jinja2", "matplotlib", "platformdirs")
"""Of the extra `experiments`; figures and pages are made last."""


def launch(
  main: Callable[..., Any],
  argv: list[str] | None = None,
  packages: Sequence[str] = _PACKAGES,
  words: int = 0,
) -> None:
  """Parses the flags, runs `main`, and turns errors that a user can mend into an exit code.

  Exit codes: 0 done; 1 the run failed; 2 wrong usage; 130 and 143 ended by Ctrl-C and SIGTERM.

  Args:
    main: Imports JAX and does the work; raises errors with a one-line message.
    argv: The command line; sys.argv if None.
    packages: What it cannot do without, of which no other package brings them.
    words: How many arguments that are no flags `main` takes at most.
  """
  open_streams()

  def guarded(argv: list[str]) -> None:
    given, rest = argv[1 : 1 + words], argv[1 + words :]
    if rest:
      _end(f"unexpected argument {rest[0]!r}; flags start with --.", 2)
    logging.set_verbosity(logging.WARNING)
    warnings.showwarning = _warn
    for package in packages:
      if importlib.util.find_spec(package) is None:
        _end(f"experiments need {package}: pip install -e '.[experiments]'.", 2)
    try:
      main(*given)
      if not _several():
        interrupts.ignore()  # all is written
    except UsageError as error:
      _end(str(error), 2)
    except KeyboardInterrupt:
      interrupts.end(interrupts.line("interrupted (Ctrl-C)"), 128 + signal.SIGINT)
    except BrokenPipeError:
      raise  # for `_until_nobody_reads`
    except OSError as error:
      if error.errno in _PATH:
        _end(f"{error.filename}: {error.strerror}; give another path.", 2)
      if error.errno not in _DISK:
        _defect()
      target = error.filename or "to disk"
      _end(f"cannot write {target}: {error.strerror}; mend the disk, then add --resume.", 1)
    except Exception as error:
      # The libraries' own errors carry an exit code or are DataErrors; anything else is a defect
      # and keeps its traceback.
      code = _exit_code(error)
      if code is None:
        _defect()
      elif code in (1, 2):
        _end(str(error), code)
      else:
        interrupts.end(interrupts.line(str(error)), code)

  with _until_nobody_reads():
    app.run(guarded, argv, flags_parser=parse)


def open_streams() -> None:
  """Makes stdout and stderr streams that take any path, also where they are closed."""
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, name) is None:  # as after >&-; else the next file would take its number
      opened = os.open(os.devnull, os.O_RDWR)
      if opened != number:
        os.dup2(opened, number)
        os.close(opened)
      setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
  for stream in (sys.stdout, sys.stderr):
    # A path may hold what the terminal's encoding has no sign for.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _until_nobody_reads() -> Iterator[None]:
  """Ends the process without a word once stdout is a pipe that nobody reads, as before `| head`."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    if not hasattr(select, "poll"):  # Windows
      raise
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
      raise  # another pipe, to a program that has ended
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
    sys.exit(128 + signal.SIGPIPE)


def launch_with_rest(main: Callable[[list[str]], Any]) -> None:
  """Launches a program whose command line ends with flags of another one, after a --.

  Args:
    main: Called with those flags.
  """
  end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
  launch(functools.partial(main, sys.argv[end + 1 :]), sys.argv[:end])


def set_up_jax(precision: str = "float32", replicas: int = 1) -> None:
  """Turns on the persistent compilation cache (JAX_COMPILATION_CACHE_DIR has precedence).

  With --coordinator, joins the other processes too; only the first then writes to stdout.

  Args:
    precision: Of matrix products, as in `set_precision`.
    replicas: That are trained at once: a CPU becomes as many devices as they and its cores allow.

  Raises:
    ConfigurationError: the coordinator is unclear.
    HostError: the other processes did not come.
  """
  import jax
  import platformdirs

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    folder = platformdirs.user_cache_path("ace_jax") / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  if _several():
    from ace_jax.training import hosts

    hosts.join(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
    # If the first process dies, the runtime aborts the others with a message of its own, which the
    # traceback of every thread would bury.
    faulthandler.disable()
    if not hosts.first():
      sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)
  elif "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", min(replicas, cores()))
  set_precision(precision)


def _several() -> bool:
  # Flags that could not be parsed cannot be read either.
  return FLAGS.is_parsed() and getattr(FLAGS, "coordinator", None) is not None


def set_precision(precision: str) -> None:
  """Sets what the factors of all matrix products are rounded to; starts JAX's devices.

  Without a call JAX leaves it to the device, and a recent GPU takes tf32.

  Args:
    precision: "float32", "tf32" or "bfloat16"; products are summed in float32. A CPU has float32
      alone: another choice is warned of, and changes nothing.
  """
  import jax

  platform = jax.default_backend()
  if platform == "cpu":
    if precision != "float32":
      warnings.warn(
        f"--precision={precision} changes nothing on a CPU, which multiplies in float32.",
        stacklevel=2,
      )
    return
  jax.config.update("jax_default_matmul_precision", matmul_precision(precision, platform))


def matmul_precision(precision: str, platform: str) -> str:
  """Returns JAX's name of a precision: what `jax.default_matmul_precision` takes.

  Args:
    precision: "float32", "tf32" or "bfloat16".
    platform: "cpu", "gpu", "tpu", ...; the short name of bfloat16 is tf32 to a GPU.
  """
  names = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
  if (precision, platform) == ("bfloat16", "gpu"):
    return "BF16_BF16_F32"
  return names[precision]


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
  sys.stderr.write(f"warning: {message}\n")


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; --help ends with 0, and what is wrong with one line and 2.

  Args:
    argv: The command line.

  Returns:
    The name of the program, and what is no flag.
  """
  try:
    rest = FLAGS(argv)
    for name in FLAGS:
      number = FLAGS[name].value
      if type(number) is int and abs(number) > LARGEST:
        raise flags.IllegalFlagValueError(f"flag --{name}={number}: must not be beyond {LARGEST}.")
  except SystemExit:  # after --help, which absl ends with 1
    sys.exit(0)
  except UnicodeDecodeError as error:
    return _end(f"--flagfile names a file that is no text: {error.reason}.", 2)
  except flags.Error as error:
    words = " ".join(str(error).removeprefix("ERROR::").split())
    return _end(f"{words} (--help lists the flags)", 2)
  return rest


def _exit_code(error: Exception) -> int | None:
  from data.errors import DataError, RequestError

  if isinstance(error, RequestError):
    return 2
  if isinstance(error, DataError):
    return 1
  from ace_jax.errors import AceError  # imports JAX

  return error.exit_code if isinstance(error, AceError) else None


def _defect() -> None:
  """Raises the exception that is being handled; of several processes, ends this one at once."""
  if not _several():
    raise
  traceback.print_exc()
  _end("the traceback above is of a defect.", 1)


def _end(message: str, code: int) -> Any:
  sys.stderr.write(f"error: {message}\n")
  if not _several():
    interrupts.ignore()
  if _several():
    # At the exit of Python the runtime waits for all processes, and this one may be why they hang.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
