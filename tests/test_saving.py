"""`Fit.save` and `load`, weights of plain models, files of parameters."""

import json
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ace_jax
from ace_jax import export, saving
from ace_jax.errors import CheckpointError, ConfigurationError
from ace_jax.model import as_model

X = jax.random.normal(jax.random.key(0), (24, 3))


class Plain(nn.Module):
  width: int = 4

  @nn.compact
  def __call__(self, x, train: bool = False):
    h = nn.Dense(self.width, name="hidden")(jnp.linalg.norm(x, axis=-1, keepdims=True))
    h = nn.BatchNorm(use_running_average=not train, name="norm")(h)
    return nn.Dense(1, name="layer_linear")(h)


class Relaxed(nn.Module):
  width: int = 4
  homotopic: str = "layer"

  @nn.compact
  def __call__(self, x, train: bool = False):
    h = nn.Dense(self.width, name="hidden")(jnp.linalg.norm(x, axis=-1, keepdims=True))
    h = nn.BatchNorm(use_running_average=not train, name="norm")(h)
    y = nn.Dense(1, name="layer_linear")(h)
    return ace_jax.Homotopic(nn.Dense, scale="fixed", name=self.homotopic)(y, x)


class OfGraphs(nn.Module):
  @nn.compact
  def __call__(self, graph):
    return nn.Dense(1)(graph.nodes)


def squared_error(prediction, batch):
  return jnp.square(prediction - batch[1])


@pytest.fixture(scope="module")
def trained():
  data = (X, X[:, :1])
  constraint = ace_jax.Resilient(rho=0.1)
  return ace_jax.fit(
    Relaxed(), squared_error, data, data, data, constraint=constraint, epochs=3, batch_size=12,
    gamma_lr=3e-3, seed=2, progress=None,
  )  # fmt: skip


def assert_same(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert np.asarray(a).dtype == np.asarray(b).dtype
    np.testing.assert_array_equal(a, b)


def test_a_loaded_model_is_the_saved_one(tmp_path, trained, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  trained.save("~/model.npz")
  loaded = ace_jax.load(str(tmp_path / "model.npz"), Relaxed())
  for name in ("projection", "relaxed", "gamma", "multipliers"):
    assert_same(getattr(loaded, name), getattr(trained, name))
  assert loaded.history == trained.history and len(loaded.history) == 3
  assert loaded.test == trained.test and {*loaded.test} == {"projection", "relaxed"}
  assert loaded.settings._replace(inputs=None) == trained.settings._replace(inputs=None)
  assert loaded.settings.constraint == "Resilient" and loaded.settings.epochs == 3
  assert loaded.settings.constants["rho"] == pytest.approx(0.1)
  assert (loaded.settings.lr, loaded.settings.gamma_lr, loaded.settings.seed) == (1e-3, 3e-3, 2)
  for name in ("projection", "relaxed"):
    prediction = Relaxed().apply(getattr(loaded, name), X)
    np.testing.assert_array_equal(prediction, Relaxed().apply(getattr(trained, name), X))
    error = float(jnp.mean(jnp.square(prediction - X[:, :1])))
    assert error == pytest.approx(loaded.test[name], rel=1e-5)


def test_a_file_of_another_model_is_refused(tmp_path, trained):
  trained.save(tmp_path / "a.npz")
  for model, says in (
    (Relaxed(width=5), r"batch_stats/norm/mean has shape \[4\] where the model has shape \[5\]"),
    (Relaxed(homotopic="other"), "batch_stats/layer/mean_square has shape .* model has no array"),
    (Plain(), "batch_stats/layer/mean_square has shape .* model has no array"),
    (nn.Embed(3, 4), "cannot take its inputs"),
    (OfGraphs(), "cannot take its inputs"),
  ):
    with pytest.raises(CheckpointError, match=says) as error:
      ace_jax.load(tmp_path / "a.npz", model)
    assert "\n" not in str(error.value) and "give the model that was trained" in str(error.value)


class NnxRadial(nnx.Module):
  def __init__(self, width):
    rngs = nnx.Rngs(3)
    layers = (nnx.Linear(1, width, rngs=rngs), nnx.Linear(width, 1, rngs=rngs))
    self.hidden = nnx.List(layers)
    self.layer = ace_jax.nnx.Homotopic(nnx.Linear(3, 1, rngs=rngs))

  def __call__(self, x):
    h = self.hidden[0](jnp.linalg.norm(x, axis=-1, keepdims=True))
    return self.layer(self.hidden[1](h), x)


def test_models_of_nnx(tmp_path, trained):
  model = NnxRadial(4)
  variables = as_model(model).init(jax.random.key(0), X[:2])
  saved = saving.Saved(
    projection=ace_jax.project(variables),
    relaxed=variables,
    gamma=ace_jax.by_name(variables["gamma"]),
    multipliers={},
    history=[],
    test={},
    settings=trained.settings,
  )
  saving.save(tmp_path / "a.npz", saved)
  loaded = ace_jax.load(tmp_path / "a.npz", model)
  assert_same(loaded.relaxed, variables)
  assert loaded.gamma.keys() == {"layer"}
  with pytest.raises(CheckpointError, match=r"has shape \[.*4.*\] where the model has"):
    ace_jax.load(tmp_path / "a.npz", NnxRadial(5))


def _about(path, change):
  with zipfile.ZipFile(path) as file:
    members = {name: file.read(name) for name in file.namelist()}
  with np.load(path) as file:
    about = json.loads(str(file["about"]))
  change(about)
  np.save(path.with_suffix(".npy"), np.array(json.dumps(about)))
  members["about.npy"] = path.with_suffix(".npy").read_bytes()
  with zipfile.ZipFile(path, "w") as file:
    for name, content in members.items():
      file.writestr(name, content)


def _objects(path):
  np.savez(path, about=np.array([{}], object))


@pytest.mark.parametrize(
  ("damage", "says"),
  [
    (lambda path: path.unlink(), "No such file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged, or not written by"),
    (lambda path: path.write_bytes(b""), "damaged, or not written by"),
    (lambda path: path.write_text("text"), "damaged, or not written by"),
    (_objects, "Object arrays cannot be loaded"),
    (lambda path: np.savez(path, a=np.ones(2)), "damaged, or not written by"),
    (lambda path: _about(path, lambda about: about.update(format=9)), "format 9, where this"),
    (lambda path: _about(path, lambda about: about.pop("history")), "'history'"),
    (lambda path: _about(path, lambda about: about["settings"].pop("lr")), "lr"),
  ],
)
def test_damaged_files(tmp_path, trained, damage, says):
  trained.save(tmp_path / "a.npz")
  damage(tmp_path / "a.npz")
  with pytest.raises(CheckpointError, match=says) as error:
    ace_jax.load(tmp_path / "a.npz", Relaxed())
  assert "\n" not in str(error.value)


def test_a_flipped_bit_is_noticed(tmp_path, trained):
  trained.save(tmp_path / "a.npz")
  content = bytearray((tmp_path / "a.npz").read_bytes())
  content[len(content) // 3] ^= 4
  (tmp_path / "a.npz").write_bytes(content)
  with pytest.raises(CheckpointError, match="damaged, or not written by"):
    ace_jax.load(tmp_path / "a.npz", Relaxed())


def test_a_file_that_cannot_be_written(tmp_path, trained):
  with pytest.raises(CheckpointError, match=r"cannot write .*: No such file or directory; choose"):
    trained.save(tmp_path / "missing" / "a.npz")


def test_inputs_that_are_no_arrays_are_not_compared():
  assert saving.input_shapes((X[:2], np.ones((2, 1), np.int8))) == [
    ([2, 3], "float32"),
    ([2, 1], "int8"),
  ]
  assert saving.input_shapes((X, {"a": X})) is None
  assert saving.input_shapes((X, jax.random.split(jax.random.key(0)))) is None


def test_weights_of_a_plain_model():
  plain = Plain().init(jax.random.key(7), X)
  variables = Relaxed().init(jax.random.key(1), X)
  loaded = ace_jax.load_pretrained(variables, plain)
  assert jax.tree.structure(loaded) == jax.tree.structure(variables)
  projected = Relaxed().apply(ace_jax.project(loaded), X)
  np.testing.assert_array_equal(projected, Plain().apply(plain, X))
  assert_same(loaded["gamma"], variables["gamma"])
  assert_same(loaded["params"]["layer"], variables["params"]["layer"])
  # Those of a homotopic model's projection are the same weights.
  again = ace_jax.load_pretrained(variables, ace_jax.project(loaded))
  assert_same(again, loaded)


@pytest.mark.parametrize(
  ("plain", "says"),
  [
    (lambda v: {"params": v["params"]}, "the plain model has no batch_stats/norm/mean"),
    (lambda v: v["params"], "has no batch_stats/norm/mean"),
    (
      lambda v: {**v, "params": {**v["params"], "extra": {"bias": X}}},
      "the homotopic model has no params/extra/bias",
    ),
    (
      lambda v: {**v, "params": {**v["params"], "hidden": {"kernel": X, "bias": X[:, 0]}}},
      r"params/hidden/bias has shape \[24\] in the plain model and \[4\] in the homotopic",
    ),
  ],
)
def test_a_plain_model_that_does_not_fit(plain, says):
  variables = Relaxed().init(jax.random.key(1), X)
  with pytest.raises(ConfigurationError, match=says):
    ace_jax.load_pretrained(variables, plain(dict(Plain().init(jax.random.key(7), X))))


def test_parameters_of_a_relaxed_predictor_are_refused(tmp_path, trained):
  with pytest.raises(ConfigurationError, match="keeps no gamma and no branches"):
    export.save_parameters(tmp_path / "a.npz", trained.relaxed)
  assert not (tmp_path / "a.npz").exists()
  export.save_parameters(str(tmp_path / "a.npz"), trained.projection)
  assert_same(export.load_parameters(tmp_path / "a.npz"), ace_jax.prune(trained.projection))
  export.save_variables(str(tmp_path / "b.npz"), trained.relaxed)
  assert_same(export.load_parameters(tmp_path / "b.npz"), dict(trained.relaxed))


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "uint4"])
def test_types_that_numpy_does_not_know_are_kept_readably(tmp_path, dtype):
  values = jnp.array([0.5, -3, 1.5, 7] if "f" in dtype else [1, 3, 5, 7]).astype(dtype)
  variables = {"params": {"layer": {"kernel": values, "bias": jnp.ones(2)}}}
  export.save_variables(tmp_path / "a.npz", variables)
  with np.load(tmp_path / "a.npz") as file:  # any program's reader
    plain = file["params/layer/kernel"]
  assert plain.dtype.kind in "fiu"
  np.testing.assert_array_equal(plain, np.asarray(values, np.float32))
  assert_same(export.load_parameters(tmp_path / "a.npz"), variables)


def test_bfloat16_of_earlier_files(tmp_path):
  values = np.asarray(jnp.array([0.5, -3.0], jnp.bfloat16))
  np.savez(tmp_path / "a.npz", **{"params/kernel": values.view("V2")})
  loaded = export.load_parameters(tmp_path / "a.npz")["params"]["kernel"]
  assert loaded.dtype == jnp.bfloat16 and loaded.tolist() == [0.5, -3.0]


@pytest.mark.parametrize(
  ("variables", "says"),
  [
    ({"params": {"a/b": X}}, "no name without '/'"),
    ({"params": {0: X}}, "no name without '/'"),
    ({"params": {"a": jax.random.key(0)}}, "params/a is a .*, not an array of numbers"),
    ({"params": {"a": None}}, "params/a is a NoneType, not an array of numbers"),
  ],
)
def test_variables_that_files_cannot_hold(tmp_path, variables, says):
  with pytest.raises(ConfigurationError, match=says):
    export.save_variables(tmp_path / "a.npz", variables)


def test_exported_functions_of_dictionaries_and_lists():
  def apply(variables, graph, parts):
    return {"sum": graph["x"] @ variables["w"] + parts[0], "last": [parts[1]["y"]]}

  variables = {"w": jnp.arange(6.0).reshape(3, 2)}

  def inputs(count):
    return {"x": X[:count]}, [X[:count, :2], {"y": X[:count, 0]}]

  call = export.load_function(export.export_function(apply, variables, *inputs(4)))
  for count in (1, 4, 7):
    assert_same(call(*inputs(count)), apply(variables, *inputs(count)))
