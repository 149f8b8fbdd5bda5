"""Set-up of all tests: four CPU devices, quick compilation, its cache, the parity fixtures."""

import ctypes
import gc
import importlib.metadata
import os
import resource
import sys
from pathlib import Path

# Small programs that run once: compiling is most of their time, and LLVM's optimisations most of
# that. XLA's own passes stay, so that fusions and layouts are those of a user's program. For the
# processes that tests start too; `JAX_DISABLE_MOST_OPTIMIZATIONS=0` tests the optimised ones.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def _add_flag(name: str, value: str) -> None:
  """Adds a flag of XLA where it is not given; before JAX is imported, which reads them once."""
  flags = os.environ.get("XLA_FLAGS", "")
  if name not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {name}={value}".strip()


_add_flag("--xla_force_host_platform_device_count", "4")
# The older code generator of fusions compiles in half the time. XLA ends where a flag does not
# exist, so that it is given to versions alone in which it was seen to.
_jax_version = importlib.metadata.version("jax")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and _jax_version.startswith("0.10."):
  _add_flag("--xla_cpu_use_fusion_emitters", "false")

import jax  # noqa: E402
import platformdirs  # noqa: E402
import pytest  # noqa: E402

# In the environment, for the processes that tests start.
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
  _cache = platformdirs.user_cache_path("ace_jax") / "xla_tests"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache)

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
  parser.addoption(
    "--parity_dir", default=str(ROOT / "tests" / "parity"), help="Folder of parity fixtures."
  )


def pytest_configure(config):
  del config
  jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def fixtures(config, family: str) -> list[Path]:
  """All files of a family in --parity_dir."""
  return sorted(Path(config.getoption("--parity_dir")).glob(f"{family}*.npz"))


def pytest_generate_tests(metafunc):
  """Runs a test that takes `segnn_fixture` on every file segnn_*.npz, and so on."""
  for name in metafunc.fixturenames:
    if name.endswith("_fixture"):
      files = fixtures(metafunc.config, name.removesuffix("_fixture"))
      metafunc.parametrize(name, files, ids=[file.stem for file in files])


@pytest.fixture
def parity_dir(request) -> Path:
  folder = Path(request.config.getoption("--parity_dir"))
  assert any(folder.glob("*.npz")), f"{folder} holds no parity fixtures"
  return folder


_MOST = 1.5e9
"""Bytes of a worker after a test, beyond which it frees its compiled programs."""

# glibc keeps what compilers free; other systems have no such call.
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _resident() -> float:
  """Bytes that this process holds; on macOS the most it ever held, which is all that is known."""
  if sys.platform == "linux":
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(autouse=True)
def _programs_of_a_large_worker():
  """Frees them after a test; small workers keep them, since other modules use the same ones."""
  yield
  if _resident() > _MOST:
    jax.clear_caches()
    gc.collect()
    if _TRIM:
      _TRIM(0)
