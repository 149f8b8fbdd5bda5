"""Text of Acclaim files as lines of words: encodings, comments, white space, numbers.

As the format's definition has it (Schafer, Acclaim Skeleton File Definition V1.10, 1994): # begins
a comment, commas and parentheses are white space.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import content
from data.errors import DataError

_LARGEST_FILE = 64 * 2**20
_SHOWN = 40
"""Characters of a file's words that an error message shows."""
_ENCODINGS = (
  (codecs.BOM_UTF8, "utf-8"),
  (codecs.BOM_UTF16_LE, "utf-16-le"),
  (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_END_OF_FILE = "\x1a"  # Ctrl-Z, of DOS
_WHITE = str.maketrans(",()", "   ")
# Windows prints numbers that are none as 1.#QNAN, -1.#IND, 1.#INF, rounded as 1.#R, with the
# decimal comma of some languages as 1,#INF: there # begins no comment.
_COMMENT = re.compile(r"(?<![0-9][.,])(?!(?<=[0-9])#(?:INF|IND|[QS]?NAN))#.*", re.IGNORECASE)
# What Python takes beyond that (1_0, nan, digits of other scripts) no other program would.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


def is_integer(word: str) -> bool:
  """Whether a word is a whole number of at most nine digits."""
  return bool(_INTEGER.fullmatch(word))


class Reader:
  """Lines of a text file as words, with their numbers for error messages.

  Args:
    path: The file.

  Raises:
    DataError: it is missing, too large, or no text.
  """

  def __init__(self, path: Path):
    self._path, self._line = path, 0
    whole = content.read(path, _LARGEST_FILE, "take an Acclaim file that can be read")
    text, _, rest = _decode(whole).partition(_END_OF_FILE)
    # Not str.splitlines, which breaks lines where no editor does.
    self._lines = re.split(r"\r\n|\r|\n", text)
    if rest.strip(f"{_END_OF_FILE}\0 \t\r\n"):
      raise self.error("text follows the end-of-file character (Ctrl-Z)", len(self._lines))
    for number, line in enumerate(self._lines, start=1):
      if "\0" in line:
        raise self.error("a zero byte: no plain text, or UTF-16 without its mark", number)

  def __iter__(self) -> Iterator[list[str]]:
    while self._line < len(self._lines):
      words = _COMMENT.sub("", self._lines[self._line]).translate(_WHITE).split()
      self._line += 1
      if words:
        yield words

  def block(self, rest: list[str]) -> Iterator[list[str]]:
    """The lines of a section up to the next one, which stays unread.

    Args:
      rest: What follows its name on the line of that, the first of these lines if there is some.
    """
    if rest:
      yield rest
    for words in self:
      if words[0].startswith(":"):
        self._line -= 1
        return
      yield words

  @property
  def line(self) -> int:
    """Number of the line read last."""
    return self._line

  def error(self, what: str, line: int | None = None) -> DataError:
    """Returns an error that names the file and a line, by default the one read last."""
    return DataError(f"{self._path}:{line or self._line}: {what}; get the file again.")

  def integer(self, word: str) -> int:
    """Returns a frame number.

    Raises:
      DataError: the word is none.
    """
    if not is_integer(word):
      raise self.error(f"{shown(word)!r} is not a frame number")
    return int(word)

  def numbers(
    self, words: list[str], count: int | None = None, line: int | None = None
  ) -> list[float]:
    """Returns words as numbers.

    Raises:
      DataError: a word is no finite number, or there are not `count` of them.
    """
    values = [float(word) for word in words if _NUMBER.fullmatch(word)]
    whole = len(values) == len(words) and count in (None, len(values))
    if not values or not whole or not np.isfinite(values).all():
      wanted = "finite numbers" if count is None else f"{count} finite numbers"
      raise self.error(f"{shown(' '.join(words))!r} should be {wanted}", line)
    return values


def shown(text: str) -> str:
  """Returns the beginning of a text, for an error message."""
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _decode(text: bytes) -> str:
  for mark, encoding in _ENCODINGS:
    if text.startswith(mark):
      return text.removeprefix(mark).decode(encoding, errors="replace")
  try:
    return text.decode("utf-8")
  except UnicodeDecodeError:  # names and comments in an encoding of before; no number is concerned
    return text.decode("latin-1")
