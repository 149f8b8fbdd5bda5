"""Hypothesis strategies of broken and hostile files, made from whole ones."""

import copy
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

NUMBERS = ("nan", "inf", "-1", "0", "1e308", "1e39", "1_0", "9" * 30, "9" * 5000, "0x10", "1e-320")
WORDS = ("", ":root", ":bonedata", "begin", "end", "root", "RX", "XYZ", "#", "\x00", "\u00b5", "(")
_ACCLAIM = (
  *("-1.#IND", "1.#QNAN", "1.#INF", "-1,#IND", "1#INF", "1.#R", "1.$", "1,5", "1.5D+02", "\u0663"),
  *(",", ")", "\t", "\x1a", "\ufeff", ":RADIANS", "ROOT", "Upper", "tx", "l", "zyx", "1e400"),
)
VALUES = (
  None,
  True,
  -1,
  10**400,
  1e308,
  float("nan"),
  float("inf"),
  "",
  "x",
  [],
  {},
  [[]],
  {"a": 1},
)
_DTYPES = (
  "<f4",
  "<f8",
  ">f8",
  "<f2",
  "<i8",
  "<u8",
  "|u1",
  "|b1",
  "<U3",
  "|S2",
  "<c8",
  "|V4",
  "<M8[s]",
)
_SHAPES = (
  *((), (0,), (1,), (10**12,), (-1,), (-2, -3), (2**62, 4), (3, 5, 3), (10**6, 10**6, 0)),
  (1,) * 40,
)


class Trap:
  """Unpickling it writes a file."""

  def __init__(self, path: Path):
    self._path = path

  def __reduce__(self):
    return Path.write_text, (self._path, "unpickled")


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes, most: int = 3) -> bytes:
  """Flips, truncates, removes, repeats and inserts bytes, a few times."""
  data = bytearray(content)
  for _ in range(draw(st.integers(0, most))):
    how = draw(st.sampled_from(["flip", "set", "truncate", "remove", "repeat", "insert", "zero"]))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    length = draw(st.integers(1, 64))
    if how == "flip" and data:
      data[at] ^= 1 << draw(st.integers(0, 7))
    elif how == "set" and data:
      data[at] = draw(st.sampled_from([0, 10, 32, 0x7F, 0xFF]))
    elif how == "truncate":
      del data[at:]
    elif how == "remove":
      del data[at : at + length]
    elif how == "repeat":
      data[at:at] = data[at : at + length]
    elif how == "insert":
      data[at:at] = draw(st.binary(max_size=16))
    else:
      data[at : at + length] = bytes(len(data[at : at + length]))
  return bytes(data)


def broken_text(text: str) -> st.SearchStrategy[bytes]:
  """Replaces words, and drops, repeats, swaps and empties lines; then breaks bytes at times."""
  return _broken_text(text, (*NUMBERS, *WORDS), ("\n", "\r\n", "\n\n"), ("",), ("utf-8",))


def broken_acclaim(text: str) -> st.SearchStrategy[bytes]:
  """Breaks a text as `broken_text` does, with words, ends and encodings of other programs."""
  words = (*NUMBERS, *WORDS, *_ACCLAIM)
  encodings = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be")
  ends = ("", "", "\n", "\x1a", "\x1a\0\0")
  return _broken_text(text, words, ("\n", "\r\n", "\n\n", "\r"), ends, encodings)


@st.composite
def _broken_text(
  draw: st.DrawFn,
  text: str,
  replacements: Sequence[str],
  line_ends: Sequence[str],
  text_ends: Sequence[str],
  encodings: Sequence[str],
) -> bytes:
  lines = text.splitlines()
  for _ in range(draw(st.integers(1, 4))):
    if not lines:
      break
    at = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["word", "word", "drop", "repeat", "swap", "cut", "append"]))
    if how == "word":
      words = lines[at].split(" ")
      words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(replacements))
      lines[at] = " ".join(words)
    elif how == "drop":
      del lines[at]
    elif how == "repeat":
      lines.insert(draw(st.integers(0, len(lines))), lines[at])
    elif how == "swap":
      other = draw(st.integers(0, len(lines) - 1))
      lines[at], lines[other] = lines[other], lines[at]
    elif how == "cut":
      del lines[at:]
    else:
      lines[at] += " " + draw(st.sampled_from(replacements))
  text = draw(st.sampled_from(line_ends)).join(lines) + draw(st.sampled_from(text_ends))
  content = text.encode(draw(st.sampled_from(encodings)), "replace")
  return draw(broken_bytes(content, 1)) if draw(st.booleans()) else content


@st.composite
def broken_json(draw: st.DrawFn, value: Any) -> bytes:
  """Replaces or drops nodes of a JSON value, or nests it deeply; then breaks bytes at times."""
  value = json.loads(json.dumps(value))
  for _ in range(draw(st.integers(0, 3))):
    node, parent, key = value, None, None
    while isinstance(node, dict | list) and node and draw(st.integers(0, 5)):
      parent, keys = node, [*node] if isinstance(node, dict) else range(len(node))
      key = draw(st.sampled_from(keys))
      node = node[key]
    new = copy.deepcopy(draw(st.sampled_from(VALUES)))  # the next round may change it
    if parent is None:
      value = new if draw(st.integers(0, 9)) == 0 else value
    elif draw(st.booleans()):
      parent[key] = new
    else:
      del parent[key]
  text = json.dumps(value)
  if draw(st.integers(0, 19)) == 0:
    text = "[" * 100_000 + text
  content = text.encode()
  return draw(broken_bytes(content, 2)) if draw(st.booleans()) else content


@st.composite
def broken_archive(draw: st.DrawFn, arrays: dict[str, np.ndarray], trap: Path) -> bytes:
  """Replaces, drops, renames and forges arrays of an .npz; then breaks bytes at times."""
  members = {name: _npy(array) for name, array in arrays.items()}
  for _ in range(draw(st.integers(0, 3))):
    if not members:
      break
    name = draw(st.sampled_from([*members]))
    how = draw(st.sampled_from(["array", "values", "forged", "objects", "drop", "rename", "bytes"]))
    if how == "array":
      members[name] = _npy(draw(_arrays()))
    elif (
      how == "values" and name in arrays and arrays[name].size and arrays[name].dtype.kind in "fiu"
    ):
      members[name] = _npy(draw(_edited(arrays[name])))
    elif how == "forged":
      members[name] = draw(_forged())
    elif how == "objects":
      members[name] = _npy(np.array([Trap(trap), 1], object))
    elif how == "drop":
      del members[name]
    elif how == "rename":
      members[draw(st.sampled_from(["../x", "/x", "", "edges", "a" * 300]))] = members.pop(name)
    elif how == "bytes":
      members[name] = draw(broken_bytes(members[name], 2))
  file = io.BytesIO()
  methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
  if sum(map(len, members.values())) < 10**5:  # slow
    methods.append(zipfile.ZIP_LZMA)
  with zipfile.ZipFile(file, "w", draw(st.sampled_from(methods)), compresslevel=1) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  content = file.getvalue()
  shape = draw(st.integers(0, 9))
  if shape == 0:  # no .npz at all
    return draw(st.sampled_from([pickle.dumps(Trap(trap)), _npy(np.zeros(3)), b"", b"PK\x03\x04"]))
  return draw(broken_bytes(content)) if shape < 5 else content


@st.composite
def broken_member(draw: st.DrawFn, arrays: Sequence[np.ndarray], trap: Path) -> bytes:
  """Breaks one of several .npy files: the first byte says which, the rest is its content."""
  which = draw(st.integers(0, len(arrays) - 1))
  how = draw(st.sampled_from(["whole", "array", "values", "forged", "objects", "bytes"]))
  if how == "array":
    content = _npy(draw(_arrays()))
  elif how == "values":
    array = draw(_edited(arrays[which]))
    content = _npy(np.asfortranarray(array) if draw(st.booleans()) else array)
  elif how == "forged":
    content = draw(_forged())
  elif how == "objects":
    content = _npy(np.array([Trap(trap), 1], object))
  else:
    content = _npy(arrays[which])
  return bytes([which]) + (draw(broken_bytes(content, 2)) if how == "bytes" else content)


@st.composite
def _arrays(draw: st.DrawFn) -> np.ndarray:
  shape = draw(st.lists(st.integers(0, 4), max_size=4))
  dtype = np.dtype(draw(st.sampled_from(_DTYPES)))
  size = int(np.prod(shape)) * dtype.itemsize
  return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


@st.composite
def _edited(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
  dtype = np.dtype(draw(st.sampled_from(["<f4", "<f8", "<f2", "<i8", "|u1", "|i1", "<u8"])))
  with np.errstate(all="ignore"):
    array = array.astype(dtype)
  for _ in range(draw(st.integers(0, 2))):
    at = draw(st.integers(0, array.size - 1))
    value = draw(st.sampled_from([np.nan, np.inf, 3e38, -3e38, 1e300, 0.0, -1.0, 1e-45, 120.0]))
    with np.errstate(all="ignore"):
      array.flat[at] = np.array(value).astype(dtype)
  how = draw(st.sampled_from(["keep", "keep", "first", "axis", "transpose", "zero"]))
  if how == "first":
    return array[: draw(st.integers(0, len(array)))]
  if how == "axis":
    return array[..., None]
  if how == "zero":
    return np.zeros_like(array)
  return array.T if how == "transpose" else array


@st.composite
def _forged(draw: st.DrawFn) -> bytes:
  version = draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"]))
  dtype = draw(st.sampled_from([*_DTYPES, "|O", "|S0", "<U0", "<f999", "i4,f8", "[('a','<i4')]"]))
  shape = draw(st.sampled_from(_SHAPES))
  header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
  header = draw(st.sampled_from([header, header[:-3], "(" * 5000, "{1: 2}", "__import__('os')"]))
  encoded = header.encode()
  length = len(encoded).to_bytes(2 if version == b"\x01\x00" else 4, "little")
  return b"\x93NUMPY" + version + length + encoded + draw(st.binary(max_size=64))


def _npy(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  np.lib.format.write_array(file, array, allow_pickle=True)
  return file.getvalue()


@st.composite
def broken_tar(draw: st.DrawFn, files: dict[str, bytes]) -> bytes:
  """Adds members that would escape, links, devices and giants to a tar, and breaks its bytes."""
  out = io.BytesIO()
  mode = draw(st.sampled_from(["w:xz", "w:gz", "w", "w:bz2"]))
  options: dict[str, Any] = {"preset": 0} if mode == "w:xz" else {}
  with tarfile.open(fileobj=out, mode=mode, **options) as file:
    for name, content in files.items():
      if draw(st.integers(0, 5)):
        _add(file, name, content, tarfile.REGTYPE, "")
    for _ in range(draw(st.integers(0, 3))):
      name = draw(
        st.sampled_from(["../escaped", "/tmp/../escaped", "a/../../escaped", "x", "35.asf"])
      )
      kind = draw(
        st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, b"3", b"5", b"9"])
      )
      link = draw(st.sampled_from(["..", "../../escaped", "/etc/passwd", "35.asf", "x", ""]))
      _add(file, name, b"escaped", kind, link)
  content = out.getvalue()
  if mode == "w" and draw(st.booleans()):  # a header that claims a terabyte
    giant = tarfile.TarInfo("giant.asf")
    giant.size = draw(st.sampled_from([2**40, 2**33 - 1, 10**9]))
    content = giant.tobuf(tarfile.GNU_FORMAT) + content
  return draw(broken_bytes(content)) if draw(st.booleans()) else content


def _add(file: tarfile.TarFile, name: str, content: bytes, kind: bytes, link: str) -> None:
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, link
  info.size = len(content) if kind == tarfile.REGTYPE else 0
  file.addfile(info, io.BytesIO(content))
