import threading
from concurrent.futures import ThreadPoolExecutor

import e3nn_jax as e3nn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import homotopy, sown
from ace_jax.homotopy import Homotopic
from ace_jax.relaxations import MLP
from ace_jax.training import make_mesh


class Model(nn.Module):
  scale: str = "free"

  @nn.compact
  def __call__(self, x):
    for i in range(2):
      x = Homotopic(MLP, self.scale, name=f"layer_{i}")(nn.Dense(3, name=f"dense_{i}")(x), x)
    return x


X = jax.random.normal(jax.random.key(1), (6, 4))
KEY = jax.random.key(0)


def test_strict_init_gives_the_relaxed_tree_without_branches_bit_for_bit():
  relaxed, strict = Model().init(KEY, X), homotopy.strict(Model().init)(KEY, X)
  pruned = homotopy.prune(relaxed)
  assert set(strict) == {"params"}
  assert jax.tree.structure(pruned) == jax.tree.structure(strict)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, pruned, strict)))


def test_prune_drops_the_running_scale_too():
  pruned = homotopy.prune(Model("fixed").init(KEY, X))
  assert set(pruned) == {"params"}


class Scaled(nn.Module):
  """Has a parameter and a statistic of its own that are called as the layers' scale is."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("mean_square", nn.initializers.ones, ())
    seen = self.variable("batch_stats", "mean_square", lambda: jnp.mean(jnp.square(x)))
    y = Homotopic(nn.Dense, "fixed", name="layer")(nn.Dense(3)(x), x)
    return y * scale / jnp.sqrt(seen.value)


@pytest.mark.parametrize("of", [lambda variables: variables, homotopy.project])
def test_prune_keeps_what_other_modules_call_mean_square(of):
  variables = nn.Sequential([Scaled(), Scaled()]).init(KEY, X)
  pruned = homotopy.prune(of(variables))
  strict = homotopy.strict(nn.Sequential([Scaled(), Scaled()]).init)(KEY, X)
  assert jax.tree.structure(pruned) == jax.tree.structure(strict)
  for name in ("layers_0", "layers_1"):
    assert set(pruned["params"][name]) == {"Dense_0", "mean_square"}
    assert pruned["batch_stats"][name] == {
      "mean_square": variables["batch_stats"][name]["mean_square"]
    }
  model = nn.Sequential([Scaled(), Scaled()])
  expected = model.apply(homotopy.project(variables), X)
  np.testing.assert_array_equal(model.apply(pruned, X), expected)


def test_prune_drops_the_scale_of_a_branch_without_parameters():
  layer = Homotopic(lambda features, name: lambda x: x[..., :features], "fixed")
  variables = layer.init(KEY, X[:, :3], X)
  assert homotopy.prune({"params": {}, **variables}) == {}


def test_projection_has_no_trace_of_the_branch():
  variables = Model().init(KEY, X)
  shorter = jax.make_jaxpr(Model().apply)(homotopy.project(variables), X)
  longer = jax.make_jaxpr(Model().apply)(variables, X)
  products = [str(jaxpr).count("dot_general") for jaxpr in (shorter, longer)]
  assert products == [2, 2 + 2 * 3]


def test_output_is_linear_in_gamma_of_the_last_layer():
  variables = Model().init(KEY, X)

  def output(value):
    gamma = {**variables["gamma"], "layer_1": {"gamma": jnp.float32(value)}}
    return Model().apply({**variables, "gamma": gamma}, X)

  np.testing.assert_allclose(output(3.0) - output(0.0), 3 * (output(1.0) - output(0.0)), rtol=2e-5)


def test_broad_mutable_does_not_relax_a_projection():
  variables = homotopy.project(Model().init(KEY, X))
  output, updated = Model().apply(variables, X, mutable=True)
  np.testing.assert_array_equal(output, Model().apply(variables, X))
  assert "gamma" not in updated


def test_gamma_of_some_layers_relaxes_those_alone():
  variables = Model().init(KEY, X)
  partial = {**variables, "gamma": {"layer_0": variables["gamma"]["layer_0"]}}
  zeroed = {**variables["gamma"], "layer_1": {"gamma": jnp.float32(0)}}
  np.testing.assert_allclose(
    Model().apply(partial, X), Model().apply({**variables, "gamma": zeroed}, X), rtol=1e-6
  )


def test_fixed_scale_has_unit_rms_whatever_the_branch_weights():
  variables = Model("fixed").init(KEY, X)
  scaled = jax.tree_util.tree_map_with_path(
    lambda path, w: 7 * w if "linear_2" in str(path) else w, variables["params"]
  )
  for params in (variables["params"], scaled):
    _, seen = Model("fixed").apply(
      {**variables, "params": params}, X, mutable=["batch_stats", "intermediates"]
    )
    f_neq = seen["intermediates"]["layer_0"]["non_equivariant"][0]
    np.testing.assert_allclose(jnp.mean(f_neq**2), 1, rtol=1e-5)


def test_fixed_scale_uses_the_running_value_in_evaluation():
  variables = Model("fixed").init(KEY, X)
  _, updated = Model("fixed").apply(variables, 10 * X, mutable=["batch_stats"])
  old = variables["batch_stats"]["layer_0"]["mean_square"]
  new = updated["batch_stats"]["layer_0"]["mean_square"]
  assert 1.05 * old < new < 3 * old
  first, batch = Model("fixed").apply(variables, X), X[:2]
  np.testing.assert_allclose(Model("fixed").apply(variables, batch), first[:2], rtol=1e-5)


def test_irreps_arrays_pass_and_keep_their_type():
  class Equivariant(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Homotopic(MLP, name="layer")(e3nn.flax.Linear("2x0e+1x1o")(x), x)

  x = e3nn.IrrepsArray("1x0e+1x1o", X)
  y = Equivariant().apply(Equivariant().init(KEY, x), x)
  assert isinstance(y, e3nn.IrrepsArray)
  assert y.irreps == "2x0e+1x1o"


def test_names_are_paths_and_align_with_leaves():
  gamma = {"layers_0": {"update_1": {"gamma": 1.0}, "update_2": {"gamma": 2.0}}}
  assert homotopy.names(gamma) == ["layers_0/update_1", "layers_0/update_2"]
  assert homotopy.by_name(gamma)["layers_0/update_2"] == 2.0


def test_gamma_a_channel_and_any_linen_branch():
  class PerChannel(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Homotopic(nn.Dense, gamma_shape=(3,), name="h")(nn.Dense(3)(x), x)

  assert PerChannel().init(KEY, X)["gamma"]["h"]["gamma"].shape == (3,)


def test_unknown_scale_and_wrong_branch_shape_are_refused():
  with pytest.raises(ValueError, match="'free' or 'fixed'"):
    Homotopic(MLP, scale="unit").init(KEY, X, X)
  with pytest.raises(ValueError, match="branch returned shape"):
    Homotopic(lambda features, name: nn.Dense(features + 1, name=name)).init(KEY, X, X)


class TwoWidths(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = Homotopic(nn.Dense, name="wide")(nn.Dense(5, name="a")(x), x)
    return Homotopic(nn.Dense, "fixed", name="narrow")(nn.Dense(2, name="b")(x), x)


def test_per_channel_widens_every_gamma_and_nothing_else():
  x = jax.random.normal(jax.random.key(1), (7, 3))
  plain = TwoWidths().init(KEY, x)
  wide = homotopy.per_channel(TwoWidths().init)(KEY, x)
  gammas = homotopy.by_name(wide["gamma"])
  assert {name: leaf.shape for name, leaf in gammas.items()} == {"wide": (5,), "narrow": (2,)}
  assert all((leaf == 1).all() for leaf in gammas.values())
  same = {name: wide[name] for name in ("params", "batch_stats")}
  jax.tree.map(np.testing.assert_array_equal, same, {name: plain[name] for name in same})
  assert wide.keys() == plain.keys()
  relaxed, strict = TwoWidths().apply(wide, x), TwoWidths().apply(homotopy.project(wide), x)
  np.testing.assert_allclose(relaxed, TwoWidths().apply(plain, x), rtol=1e-6)
  # A gamma that is 0 in one channel leaves that channel alone.
  wide["gamma"]["wide"]["gamma"] = jnp.zeros(5)
  wide["gamma"]["narrow"]["gamma"] = jnp.array([0.0, 1.0])
  output = TwoWidths().apply(wide, x)
  np.testing.assert_array_equal(output[:, 0], strict[:, 0])
  assert jnp.abs(output[:, 1] - strict[:, 1]).min() > 1e-4


class Sowing(nn.Module):
  """A plain regression that sows in every way, beside state that it counts with."""

  last: bool = True
  collection: str = "losses"

  @nn.compact
  def __call__(self, x):
    calls = self.variable("counts", "calls", lambda: jnp.zeros(()))
    if self.is_mutable_collection("counts") and not self.is_initializing():
      calls.value += 1
    h = nn.Dense(1)(x)
    if self.last:
      self.sow(self.collection, "h", h, init_fn=lambda: 0.0, reduce_fn=lambda a, b: b)
    one = {"init_fn": lambda: 0.0, "reduce_fn": lambda a, b: a + b}
    self.sow(self.collection, "number", jnp.ones(()), **one)
    self.sow("others", "tree", {"a": jnp.ones(()), "b": h}, init_fn=dict, reduce_fn=lambda a, b: b)
    self.sow("others", "many", h)
    h = self.perturb("h", h)
    h = self.perturb("again", h, "shifts")
    return Homotopic(nn.Dense, name="layer")(h, x)


class Outer(nn.Module):
  @nn.compact
  def __call__(self, x):
    return Sowing(name="inner", collection="counts")(x)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("model", [Sowing(), Sowing(last=False), Outer()])
def test_what_is_sown_is_no_state(model, given):
  x = jax.random.normal(jax.random.key(1), (16, 3))
  sow, perturb = nn.Module.sow, nn.Module.perturb
  options = {"variables": model.init(jax.random.key(0), x)} if given else {}
  trained = ace_jax.fit(
    model, lambda p, b: (p - b[1]) ** 2, (x, x[:, :1]), (x, x[:, :1]), epochs=2, batch_size=8,
    progress=None, mesh=make_mesh(devices=jax.devices()[:1]), **options,
  )  # fmt: skip
  calls = {"calls": 4.0}  # 2 epochs of 2 steps
  expected = {"counts": {"inner": calls} if isinstance(model, Outer) else calls}
  assert jax.tree.map(float, trained.state.model_state) == expected
  assert (nn.Module.sow, nn.Module.perturb) == (sow, perturb)


def test_what_is_sown_is_recorded_in_its_own_thread_alone():
  x, waits = jnp.ones((2, 3)), threading.Barrier(2)

  class Waiting(nn.Module):
    @nn.compact
    def __call__(self, x):
      waits.wait(60)
      self.sow("losses", "sown", x, reduce_fn=lambda a, b: b)
      waits.wait(60)
      return x

  def recorded(_):
    with sown.recorded() as paths:
      Waiting().init(jax.random.key(0), x)
    return paths

  def others(_):
    Waiting().init(jax.random.key(0), x)
    return set()

  original = nn.Module.sow
  with ThreadPoolExecutor(2) as threads:
    assert [*threads.map(recorded, range(2))] == [{("losses", "sown")}] * 2
    jobs = [threads.submit(recorded, 0), threads.submit(others, 0)]
    assert [job.result() for job in jobs] == [{("losses", "sown")}, set()]
  assert nn.Module.sow is original
