import csv
import re
import sys

import numpy as np
import pytest

from data import qm9
from data.errors import DataError, RequestError
from data.qm9 import dataset, molecules, readers

METHANE = """5
gdb 1	157.7118	157.70997	157.70699	0.	13.21	-0.3877	0.1171	0.5048	35.3641	0.044749	-40.47893	-40.476062	-40.475117	-40.498597	6.469
C	-0.0126981359	 1.0858041578	 0.0080009958	-0.535689
H	 0.002150416	-0.0060313176	 0.0019761204	 0.133921
H	 1.0117308433	 1.4637511618	 2.765748*^-4	 0.133922
H	-0.540815069	 1.4475266138	-0.8766437152	 0.133923
H	-0.5238136345	 1.4379326443	 0.9063972942	 0.133923
1341.307	1341.3284	1341.365	1562.6731
C	C
InChI=1S/CH4/h1H4	InChI=1S/CH4/h1H4
"""  # noqa: E501
NAMES = [*qm9.TARGETS]


def made(count, first=1):
  """Molecules of 3 to 7 atoms whose U0 is about that of their atoms alone, in hartree."""
  random = np.random.default_rng(first)
  counts = 3 + np.arange(count) % 5
  numbers = random.choice([1, 6, 7, 8, 9], counts.sum())
  ends = np.cumsum(counts)
  ranks = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
  positions = random.uniform(-0.2, 0.2, (len(numbers), 3)) + ranks[:, None] * [1.1, 0, 0]
  targets = random.normal(size=(count, 12))
  table = dict(zip((1, 6, 7, 8, 9), dataset._ISOLATED["U0"], strict=True))
  sums = [sum(table[z] for z in part) for part in np.split(numbers, ends[:-1])]
  for name in ("U0", "U", "H", "G"):
    targets[:, NAMES.index(name)] = np.array(sums) - 0.3
  return {
    "index": first + np.arange(count),
    "counts": counts,
    "numbers": numbers,
    "positions": positions,
    "targets": targets,
  }


def as_padded(arrays):
  joined = molecules.Molecules(**arrays)
  numbers, positions = joined.padded(7)
  columns = dict(zip(NAMES, arrays["targets"].T, strict=True))
  return {
    "num_atoms": arrays["counts"],
    "charges": numbers,
    "positions": positions,
    "index": arrays["index"],
    **columns,
  }


@pytest.fixture
def folder(tmp_path):
  """A folder of .npz files, 60 molecules, of which the list leaves out one, number 58."""
  np.savez(tmp_path / "train.npz", **as_padded(made(40)))
  np.savez(tmp_path / "test.npz", **as_padded(made(20, first=41)))
  return tmp_path


def test_a_public_file_is_read_in_the_units_of_the_literature(tmp_path):
  (tmp_path / "dsgdb9nsd_000001.xyz").write_text(METHANE)
  methane = readers.read_folder(tmp_path)
  assert methane.numbers.tolist() == [6, 1, 1, 1, 1]
  assert methane.positions[2, 2] == pytest.approx(2.765748e-4)
  values = dict(zip(NAMES, methane.targets[0], strict=True))
  assert values["alpha"] == 13.21
  assert values["U0"] == pytest.approx(-1101.4878, abs=1e-3)  # as PyTorch Geometric has it
  assert values["gap"] == pytest.approx(13.7363, abs=1e-3)
  assert values["Cv"] == 6.469


def test_the_layouts_agree(tmp_path):
  arrays = made(12)
  np.savez(tmp_path / "padded.npz", **as_padded(arrays))
  joined = {
    "N": arrays["counts"].astype(np.uint8),
    "Z": arrays["numbers"],
    "R": arrays["positions"],
  }
  factors = [molecules.ELECTRON_VOLTS if t.hartree else 1.0 for t in qm9.TARGETS.values()]
  joined |= dict(zip(NAMES, (arrays["targets"] * factors).T, strict=True))
  np.savez(tmp_path / "joined.npz", **joined, id=arrays["index"] - 1)
  rows = []
  for i, part in enumerate(
    np.split(np.arange(len(arrays["numbers"])), np.cumsum(arrays["counts"]))
  ):
    if i < 12:
      symbols = {number: symbol for symbol, number in molecules.ELEMENTS.items()}
      rows.append(
        {
          "Index": arrays["index"][i],
          "Elements": str([symbols[z] for z in arrays["numbers"][part]]).replace(" ", ""),
          "XYZ_Ang": str(arrays["positions"][part].tolist()).replace(" ", ""),
          **dict(zip(readers.COLUMNS, arrays["targets"][i], strict=True)),
        }
      )
  with (tmp_path / "part.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  padded, flat = (readers.read_npz([tmp_path / f"{name}.npz"]) for name in ("padded", "joined"))
  table = readers.read_csv([tmp_path / "part.csv"])
  for other in (flat, table):
    np.testing.assert_array_equal(padded.index, other.index)
    np.testing.assert_array_equal(padded.numbers, other.numbers)
    np.testing.assert_allclose(padded.positions, other.positions, rtol=1e-6)
    np.testing.assert_allclose(padded.targets, other.targets, rtol=1e-12)


def test_splits_are_fixed_and_share_nothing(folder):
  data = qm9.load("U0", data_dir=folder)
  assert data.summary["left_out"] == 1
  assert data.summary["sizes"] == {"train": 47, "valid": 5, "test": 5}
  index = [split["index"] for split in (data.train, data.valid, data.test)]
  joined = np.concatenate(index)
  assert len({*joined.tolist()}) == 57
  assert 58 not in joined
  fewer = qm9.load("U0", data_dir=folder, train=10, held_out=2)
  np.testing.assert_array_equal(fewer.train["index"], index[0][:10])
  np.testing.assert_array_equal(fewer.test["index"], index[2][:2])


def test_the_splits_of_all_of_qm9():
  assert len(dataset.uncharacterised()) == 3054
  count = 133_885 - 3054
  published = dataset.split_indices("published", count)
  assert [len(part) for part in published.values()] == [104_664, 13_083, 13_083]
  literature = dataset.split_indices("literature", count)
  assert [len(part) for part in literature.values()] == [100_000, 17_748, 13_083]
  # The first of numpy.random.seed(0); numpy.random.permutation(130831), which others use.
  state = np.random.get_state()
  np.random.seed(0)
  order = np.random.permutation(count)
  np.random.set_state(state)
  np.testing.assert_array_equal(np.concatenate([*literature.values()]), order)
  with pytest.raises(RequestError, match="too few for the split 'literature'"):
    dataset.split_indices("literature", 5000)


def test_references_of_atoms_and_padding(folder):
  raw = qm9.load("U0", data_dir=folder)
  less = qm9.load("U0", data_dir=folder, references="isolated")
  assert less.summary["atom_references"] == "isolated"
  # -0.3 hartree is what the made molecules have beyond their atoms.
  np.testing.assert_allclose(less.train["target"], -0.3 * 27.2114, rtol=1e-3)
  assert raw.summary["linear_mse"]["test"] > 100 * less.summary["linear_mse"]["test"]
  numbers, positions = raw.train["numbers"], raw.train["positions"]
  assert numbers.shape[1] == raw.summary["atoms"] == 7
  assert (positions[numbers == 0] == 0).all()
  assert ((numbers > 0).sum(1) == 3 + (raw.train["index"] - 1) % 40 % 5).all()


def test_degrees_count_others_within_the_radius():
  numbers = np.array([[6, 1, 1, 0], [6, 6, 0, 0]])
  positions = np.zeros((2, 4, 3))
  positions[0, :3, 0], positions[1, :2, 0] = [0, 1, 2.5], [0, 3]
  split = {"numbers": numbers, "positions": positions}
  assert [dataset.largest_degree([split], radius) for radius in (0.5, 1.2, 2.6, 5)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ({"target": "mass"}, "target 'mass' does not exist; take mu, alpha"),
    ({"target": "mu", "references": "isolated"}, "mu has no references of atoms"),
    ({"target": "mu", "references": "fitted"}, "take none, isolated"),
    ({"target": "mu", "split": "random"}, "published or literature"),
    ({"target": "mu", "train": 48}, "48 molecules for train asked for; there are 47 of 59"),
    ({"target": "mu", "held_out": 0}, "0 molecules for valid asked for"),
  ],
)
def test_requests_that_cannot_be_met(folder, arguments, says):
  with pytest.raises(RequestError, match=re.escape(says)):
    qm9.load(**arguments, data_dir=folder)


def test_what_is_read_from_the_package_is_cached(tmp_path, monkeypatch):
  paths = [tmp_path / "part.csv"]
  paths[0].write_text("x")
  packaged = molecules.checked("here", made(60), "mend it")
  monkeypatch.setattr(readers, "package_files", lambda: paths)
  monkeypatch.setattr(readers, "read_csv", lambda paths, progress: packaged)
  first = qm9.load("mu", kept=tmp_path / "kept")

  def not_again(paths, progress):
    raise AssertionError

  monkeypatch.setattr(readers, "read_csv", not_again)
  again = qm9.load("mu", kept=tmp_path / "kept")
  np.testing.assert_array_equal(first.train["target"], again.train["target"])
  (cache,) = (tmp_path / "kept").iterdir()
  content = bytearray(cache.read_bytes())
  content[200] ^= 1
  cache.write_bytes(content)
  with pytest.warns(UserWarning, match="damaged"), pytest.raises(AssertionError):
    qm9.load("mu", kept=tmp_path / "kept")


def test_without_the_package_one_line_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "qm9pack", None)
  monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(DataError, match=r"pip install -e '\.\[qm9\]'"):
    qm9.load("mu")


@pytest.mark.parametrize(
  ("old", "new", "says"),
  [
    ("5\n", "4x\n", "line 1: '4x' is no number of atoms"),
    ("5\n", "40\n", "line 1: '40' is no number of atoms, 1 to 29"),
    ("5\n", "6\n", "line 8: not an element"),
    ("gdb 1", "gdb x", "line 2: 'x' is no index"),
    ("\t6.469", "", "line 2: not 'gdb'"),
    ("13.21", "nan", "line 2: 'nan' is no finite number"),
    ("C\t-0.01", "Cl\t-0.01", "line 3: not an element (H, C, N, O, F)"),
    ("1.0858041578", "1_0", "line 3: '1_0' is no finite number"),
    (" 0.0080009958", " 1*^9", "within 1000 Angstrom"),
    ("-0.5238136345\t 1.4379326443\t 0.9063972942", "1.0117308433\t 1.4637511618\t 2.7*^-4", "two"),
    ("-40.47893", "-40.*^400", "no finite number"),
    (METHANE, "", "line 1: '' is no number of atoms"),
    (METHANE, "\xff", "no ASCII"),
    (METHANE, METHANE * 200, "longer than"),
  ],
)
def test_broken_public_files(tmp_path, old, new, says):
  (tmp_path / "a.xyz").write_bytes(METHANE.replace(old, new, 1).encode("latin-1"))
  with pytest.raises(DataError, match=re.escape(says)) as caught:
    readers.read_folder(tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "change", "says"),
  [
    ("charges", lambda a: a * 3, "an atom of number"),
    ("charges", lambda a: a + 0.5, "charges are not whole numbers"),
    ("charges", lambda a: a[:, :4], "positions has shape"),
    ("num_atoms", lambda a: 0 * a, "num_atoms are not 1 to 7"),
    ("num_atoms", lambda a: a + 9, "num_atoms are not 1 to 7"),
    ("positions", lambda a: a * np.nan, "not within 1000 Angstrom"),
    ("positions", lambda a: a * 0, "two atoms within"),
    ("index", lambda a: a * 0 + 3, "molecule 3 is there twice"),
    ("U0", lambda a: np.where(np.arange(10) < 9, a, -2000), "U0 of molecule 10 is in another unit"),
    ("mu", lambda a: a[:-1], "mu has shape"),
    ("mu", lambda a: a * np.inf, "has no mu within 1e+09"),
    ("mu", lambda a: a.astype(str), "mu holds <U"),
    ("gap", None, "array 'gap' is missing"),
  ],
)
def test_broken_archives(tmp_path, name, change, says):
  arrays = as_padded(made(10))
  if change is None:
    del arrays[name]
  else:
    with np.errstate(invalid="ignore"):
      arrays[name] = change(arrays[name])
  np.savez(tmp_path / "a.npz", **arrays)
  with pytest.raises(DataError, match=re.escape(says)) as caught:
    readers.read_folder(tmp_path / "a.npz")
  assert "\n" not in str(caught.value)


def test_folders_that_hold_nothing(tmp_path):
  with pytest.raises(DataError, match="no such folder"):
    qm9.load("mu", data_dir=tmp_path / "none")
  with pytest.raises(DataError, match=r"holds no \.xyz and no \.npz file"):
    qm9.load("mu", data_dir=tmp_path)
  np.savez(tmp_path / "a.npz", **{k: v[:0] for k, v in as_padded(made(3)).items()})
  with pytest.raises(DataError, match="there are no molecules"):
    qm9.load("mu", data_dir=tmp_path)
