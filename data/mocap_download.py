"""The public source of the motion capture data, its checksums, and its archives."""

import lzma
import shutil
import tarfile
import tempfile
from pathlib import Path

import platformdirs

from data.errors import DataError

_SITE = "http://mocap.cs.cmu.edu/subjects"
# Where a sum is not known it is None: the parser then is the only check.
_SUMS: dict[str, str | None] = {
  "35.asf": "2a8e2eda3c0d7d828566b2a9a8ab36b2b8b3864110574e8b73c8f069fded416c",
  "35_01.amc": "0743f4ea48e7e199cd56b2810b5ce81f8ede08d32ff79aa4e363c44cc4fe33aa",
}
_TRIALS = {9: range(1, 12), 35: [*range(1, 17), *range(28, 35)]}
_LARGEST_ARCHIVE = 512 * 2**20


def files(number: int) -> list[str]:
  """Returns the names of a subject's files."""
  return [f"{number:02d}.asf", *(f"{number:02d}_{trial:02d}.amc" for trial in _TRIALS[number])]


def folder(number: int) -> Path:
  """Returns where a subject's download is kept."""
  return platformdirs.user_cache_path("ace_jax") / "mocap" / f"{number:02d}"


def complete(number: int) -> bool:
  """Whether all of a subject was downloaded before."""
  return all((folder(number) / name).is_file() for name in files(number))


def fetch(number: int) -> Path:
  """Downloads what is missing of a subject from mocap.cs.cmu.edu, and checks it.

  Returns:
    The folder of Acclaim files.

  Raises:
    DataError: the site cannot be reached, or a file is not what it was.
  """
  import pooch

  place = folder(number)
  for name in files(number):
    known = _SUMS.get(name)
    try:
      pooch.retrieve(
        url=f"{_SITE}/{number:02d}/{name}",
        known_hash=f"sha256:{known}" if known else None,
        fname=name,
        path=place,
        progressbar=True,
      )
    except (OSError, ValueError) as error:
      reason = (str(error) or type(error).__name__).splitlines()[0]
      raise DataError(
        f"{_SITE}/{number:02d}/{name}: not downloaded ({reason}); try again, or give a folder "
        "of Acclaim files with --data_dir."
      ) from error
  return place


def unpack(path: Path) -> Path:
  """Unpacks an archive of Acclaim files into the cache, once, and returns the folder.

  Raises:
    DataError: the archive is missing, damaged, or would write outside of its folder.
  """
  try:
    about = path.stat()
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror}); get it again.") from error
  place = platformdirs.user_cache_path("ace_jax") / "mocap" / f"{path.name}_{about.st_size}"
  if place.is_dir():
    return place
  place.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(dir=place.parent))
  try:
    with tarfile.open(path) as file:
      if sum(member.size for member in file) > _LARGEST_ARCHIVE:
        raise DataError(f"{path}: unpacks to more than {_LARGEST_ARCHIVE >> 20} MiB; get it again.")
      file.extractall(temporary, filter="data")
    skeletons = sorted(temporary.rglob("*.asf"))
    if not skeletons:
      raise DataError(f"{path}: holds no .asf file; get it again.")
    skeletons[0].parent.replace(place)
  except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
    raise DataError(f"{path}: damaged ({error}); get it again.") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return place
