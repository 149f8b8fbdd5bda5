import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import nbody
from data.errors import DataError
from data.nbody import physics as simulation
from data.nbody.physics import Breaking, Physics

INDEX = np.arange(6)


@pytest.mark.parametrize("system", ["charged", "gravity"])
def test_published_frames(parity_dir, system):
  arrays = np.load(parity_dir / "nbody_trajectories.npz")
  positions, velocities = (arrays[f"{system}_{name}"] for name in ("positions", "velocities"))
  n, frames, particles, _ = positions.shape
  charges = arrays["charges"] if system == "charged" else np.ones((n, particles))

  def columns(frames):  # [n, frames, particles, 3] -> [3, particles, n * frames]
    return np.transpose(frames, (3, 2, 0, 1)).reshape(3, particles, -1)

  with jax.enable_x64(True):
    begin = simulation.start(columns(positions[:, :-1]), columns(velocities[:, :-1]))
    q = np.repeat(charges.T[:, :, None], frames - 1, axis=2).reshape(particles, -1)
    advance = jax.jit(simulation.advance, static_argnums=(0, 3))
    end = advance(Physics(system), jax.tree.map(jnp.asarray, begin), jnp.asarray(q), 100)
    np.testing.assert_allclose(end.positions, columns(positions[:, 1:]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(end.velocities, columns(velocities[:, 1:]), rtol=1e-9, atol=1e-9)


def test_compensated_float32_is_closer_to_float64_than_plain():
  physics = Physics("gravity")
  with jax.enable_x64(True):
    x, v, m = simulation.initial("gravity", 5, 0, jnp.arange(20))
    x, v, m = (a.astype(jnp.float32).astype(jnp.float64) for a in (x, v, m))
    exact = simulation.advance(physics, simulation.start(x, v), m, 500).positions
    x, v, m = (a.astype(jnp.float32) for a in (x, v, m))
    good = simulation.advance(physics, simulation.start(x, v), m, 500).positions

    def forgetful(motion):  # drops what the compensation remembers
      motion = simulation.advance(physics, motion, m, 1)
      return simulation.start(motion.positions, motion.velocities)

    plain = jax.lax.fori_loop(0, 500, lambda _, s: forgetful(s), simulation.start(x, v)).positions
    errors = [float(np.median(np.abs(a - exact))) for a in (good, plain)]
  assert errors[0] < 0.2 * errors[1]


def test_initial_values():
  x, v, q = simulation.initial("charged", 5, 3, jnp.arange(4000))
  assert abs(float(jnp.std(x)) - 1) < 0.02
  assert float(jnp.max(jnp.abs(x))) <= 5
  np.testing.assert_allclose(jnp.linalg.norm(v, axis=0), 0.5, rtol=1e-5)
  assert set(np.unique(q)) == {-1.0, 1.0}
  assert abs(float(jnp.mean(q))) < 0.03
  x, _, _ = simulation.initial("charged", 40, 3, jnp.arange(400))
  assert abs(float(jnp.std(x)) - 2) < 0.05
  _, v, m = simulation.initial("gravity", 5, 3, jnp.arange(4))
  np.testing.assert_allclose(jnp.mean(v, axis=1), 0, atol=1e-6)
  assert set(np.unique(m)) == {1.0}


def test_a_trajectory_depends_on_seed_and_index_alone():
  together = nbody.simulate(Physics(), 5, INDEX, 0)
  alone = nbody.simulate(Physics(), 5, INDEX[4:5], 0)
  np.testing.assert_allclose(together["positions"][4:5], alone["positions"], rtol=1e-4, atol=1e-4)
  other = nbody.simulate(Physics(), 5, INDEX[4:5], 1)
  assert np.abs(alone["positions"] - other["positions"]).max() > 0.1
  again = nbody.simulate(Physics(), 5, INDEX, 0)
  np.testing.assert_array_equal(together["targets"], again["targets"])


@pytest.mark.parametrize(
  ("breaking", "expected"),
  [("gravity:2", [0, 0, -1.0]), ("wind:4", None), ("anisotropy:0.5", None)],
)
def test_a_field_from_the_input_on_leaves_the_input_alone(breaking, expected):
  plain = nbody.simulate(Physics(), 5, INDEX, 0)
  broken = nbody.simulate(Physics(breaking=Breaking.parse(breaking)), 5, INDEX, 0)
  np.testing.assert_array_equal(plain["positions"], broken["positions"])
  np.testing.assert_array_equal(plain["velocities"], broken["velocities"])
  assert np.abs(plain["targets"] - broken["targets"]).max() > 1e-3
  shift = np.mean(broken["targets"] - plain["targets"], axis=1)
  if expected is not None:  # the centre of mass falls by G t^2 / 2 (one step more or less)
    np.testing.assert_allclose(shift, np.tile(expected, (6, 1)), atol=2e-3)


def test_wind_moves_the_centre_of_mass_as_its_equation_says():
  wind = nbody.simulate(Physics(breaking=Breaking("wind", 4.0)), 5, INDEX, 0)
  begin, speed = (np.mean(wind[k], axis=1) for k in ("positions", "velocities"))
  relative = speed - np.array([4.0, 0, 0])  # v - W e_x decays with rate 0.1
  expected = begin + np.array([4.0, 0, 0]) + relative * (1 - np.exp(-0.1)) / 0.1
  np.testing.assert_allclose(np.mean(wind["targets"], axis=1), expected, atol=1e-3)


def test_a_field_from_the_start_shows_in_the_input():
  gravity = Physics(breaking=Breaking("gravity", 1.0))
  leaking = nbody.simulate(gravity, 5, INDEX, 0, breaking_from="start")
  plain = nbody.simulate(Physics(), 5, INDEX, 0)
  fall = np.mean(leaking["velocities"] - plain["velocities"], axis=1)
  np.testing.assert_allclose(fall, np.tile([0, 0, -3.1], (6, 1)), atol=5e-3)


def test_anisotropy_scales_pair_forces_and_clip_comes_after():
  x = jnp.array([[0.0, 0.05], [0.0, 0.0], [0.0, 0.0]])[..., None]
  q, v = jnp.array([[1.0], [1.0]]), jnp.zeros((3, 2, 1))
  force = simulation.acceleration(Physics(), x, v, q)
  np.testing.assert_allclose(force[:, 0, 0], [-100, 0, 0], atol=1e-4)
  x = 4 * x
  plain = simulation.acceleration(Physics(), x, v, q)
  broken = simulation.acceleration(Physics(breaking=Breaking("anisotropy", 1.0)), x, v, q)
  np.testing.assert_allclose(plain[0, 1, 0], 25, rtol=1e-5)
  np.testing.assert_allclose(broken[:, 1, 0], [50, 0, 0], rtol=1e-5)


def test_the_norm_clip_keeps_directions():
  x = jnp.array([[0.0, 0.03], [0.0, 0.04], [0.0, 0.0]])[..., None]
  q, v = jnp.array([[1.0], [1.0]]), jnp.zeros((3, 2, 1))
  force = simulation.acceleration(Physics(clip="norm"), x, v, q)
  np.testing.assert_allclose(force[:, 1, 0], [60, 80, 0], rtol=1e-4)


@pytest.mark.parametrize("particles", [2, 4, 5])
def test_every_pair_counts_once(particles):
  x, v, q = simulation.initial("gravity", particles, 0, jnp.arange(3))
  x = x[:, :, 0]
  d = x[:, None] - x[:, :, None]
  expected = jnp.sum(d / (jnp.sum(d**2, axis=0) + 0.01) ** 1.5, axis=2)
  acceleration = simulation.acceleration(Physics("gravity"), x[..., None], v[:, :, :1], q[:, :1])
  np.testing.assert_allclose(acceleration[..., 0], expected, rtol=1e-4, atol=1e-5)


def test_energy_of_the_softened_system_is_kept():
  assert np.median(nbody.simulate(Physics("gravity"), 5, np.arange(20), 0)["energy_drift"]) < 1e-3


@pytest.mark.parametrize("text", ["gravity", "gravity:x", "magnet:1", "wind:nan", "wind:inf"])
def test_a_breaking_that_is_not_understood(text):
  with pytest.raises(DataError, match="gravity:G, wind:W or anisotropy:A"):
    Breaking.parse(text)


@pytest.fixture
def small(monkeypatch):
  monkeypatch.setattr("data.nbody.dataset.LARGEST", {"train": 50, "valid": 4, "test": 4})


def test_cache(small, tmp_path):
  first = nbody.load(train=6, cache=tmp_path)
  assert first.summary["source"] == "simulation"
  assert first.train["positions"].shape == (6, 5, 3)
  assert first.paths.shape == (4, 11, 5, 3)
  np.testing.assert_array_equal(first.paths[:, -1], first.test["targets"])
  assert first.summary["energy_drift"]["lower_quartile"] < 1e-3
  second = nbody.load(train=6, cache=tmp_path)
  assert second.summary["source"] == "cache"
  np.testing.assert_array_equal(first.train["targets"], second.train["targets"])
  assert len(list(tmp_path.iterdir())) == 1
  nbody.load(train=6, cache=tmp_path, data_seed=1)
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "text"])
def test_a_damaged_cache_is_simulated_again_with_a_warning(small, tmp_path, damage):
  first = nbody.load(train=6, cache=tmp_path)
  (path,) = tmp_path.iterdir()
  content = bytearray(path.read_bytes())
  if damage == "flip":
    content[400] ^= 1
  path.write_bytes({"truncate": content[:-200], "flip": content, "text": b"hello"}[damage])
  with pytest.warns(UserWarning, match=path.name):
    again = nbody.load(train=6, cache=tmp_path)
  np.testing.assert_array_equal(first.train["targets"], again.train["targets"])
  assert nbody.load(train=6, cache=tmp_path).summary["source"] == "cache"


def test_a_cache_that_cannot_be_written_only_warns(small, tmp_path):
  blocker = tmp_path / "file"
  blocker.write_text("")
  with pytest.warns(UserWarning, match="not cached"):
    assert nbody.load(train=6, cache=blocker).summary["source"] == "simulation"


def test_sizes_out_of_range(tmp_path):
  with pytest.raises(DataError, match="there are 1 to 10000"):
    nbody.load(train=10_001, cache=tmp_path)


def arrays():
  rng = np.random.default_rng(0)
  return {
    f"{split}_{field}": rng.normal(size=(n, 5) if field == "charges" else (n, 5, 3))
    for split, n in (("train", 6), ("valid", 3), ("test", 2))
    for field in ("positions", "velocities", "charges", "targets")
  }


def test_load_file(tmp_path):
  content = arrays()
  np.savez(tmp_path / "a.npz", **content)
  data = nbody.load_file(tmp_path / "a.npz", train=4)
  assert data.summary["sizes"] == {"train": 4, "valid": 3, "test": 2}
  assert data.train["positions"].dtype == np.float32
  error = content["test_positions"] + content["test_velocities"] - content["test_targets"]
  assert data.summary["linear_mse"]["test"] == pytest.approx(np.mean(error**2), rel=1e-5)
  with pytest.raises(DataError, match="7 training trajectories asked for, but there are 6"):
    nbody.load_file(tmp_path / "a.npz", train=7)


def _missing(content, path):
  del content["valid_charges"]
  np.savez(path, **content)


def _shape(content, path):
  np.savez(path, **{**content, "test_targets": content["test_targets"][..., :2]})


def _lengths(content, path):
  np.savez(path, **{**content, "train_charges": content["train_charges"][1:]})


def _empty(content, path):
  np.savez(path, **{k: v[:0] if k.startswith("test") else v for k, v in content.items()})


def _nan(content, path):
  content["train_velocities"][3, 1, 2] = np.nan
  np.savez(path, **content)


def _objects(content, path):
  np.savez(path, **{**content, "train_positions": np.array([{}], object)})


def _strings(content, path):
  np.savez(path, **{**content, "train_charges": np.full((6, 5), "a")})


def _scalar(content, path):
  np.savez(path, **{**content, "train_positions": np.float32(1)})


def _truncated(content, path):
  np.savez(path, **content)
  path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
  ("damage", "says"),
  [
    (_missing, "valid_charges' is missing"),
    (_shape, r"test_targets has shape \[2, 5, 2\]"),
    (_lengths, r"train_charges has shape \[5, 5\]"),
    (_empty, "not empty"),
    (_nan, r"train_velocities\[3, 1, 2\] is not finite; remove entry 3"),
    (_objects, "no plain arrays"),
    (_strings, "train_charges holds <U1"),
    (_scalar, "train_positions has shape"),
    (_truncated, "damaged or not an .npz"),
    (lambda content, path: path.write_text("hello"), "no plain arrays|not an .npz"),
    (lambda content, path: path.mkdir(), "no such file"),
    (lambda content, path: None, "no such file"),
  ],
)
def test_a_bad_file_is_named(tmp_path, damage, says):
  path = tmp_path / "a.npz"
  damage(arrays(), path)
  with pytest.raises(DataError, match=says) as caught:
    nbody.load_file(path)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)


def test_first_is_a_prefix():
  split = {"positions": np.zeros((3, 5, 3)), "velocities": np.ones((3, 5, 3))}
  split |= {"targets": np.zeros((3, 5, 3)), "charges": np.zeros((3, 5))}
  summary = {"sizes": {"train": 3}, "linear_mse": {"train": 1.0}}
  data = nbody.Dataset(split, split, split, summary)
  assert len(nbody.first(data, 2).train["charges"]) == 2
  assert nbody.first(data, 2).summary["sizes"]["train"] == 2
