"""Programs that are kept: an equal one is not compiled, and none is taken for another."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ace_jax import compiling
from ace_jax.compiling import Jitted
from ace_jax.training import make_mesh, parallel

X = jnp.array([1.0, -2.0, 3.0])
FACTOR = 2.0


@pytest.fixture
def compiled():
  """Names of the programs that a test compiles."""
  names = []

  def listen(event: str, duration_secs: float, **details: str | int):
    del duration_secs
    if event == "/jax/core/compile/backend_compile_duration":
      names.append(details.get("fun_name"))

  jax.monitoring.register_event_duration_secs_listener(listen)
  compiling.clear()
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


def test_equal_functions_are_one_program(compiled):
  for _ in range(3):

    def scaled(x):
      return {"y": 3 * x, "norm": jnp.sum(jnp.square(x))}

    result = Jitted(scaled)(X)
  assert compiled == ["jit(scaled)"]
  np.testing.assert_array_equal(result["y"], [3, -6, 9])
  assert float(result["norm"]) == 14


def test_what_a_function_reads_is_part_of_its_program(compiled, monkeypatch):
  table = np.arange(100_000, dtype=np.float32)

  def shifted(x):
    return FACTOR * x + table[70_000:].reshape(3, -1)[:, 1000] - 71_000

  def run():
    return Jitted(shifted)(X).tolist()

  assert run() == run() == [2, 9_996, 20_006] and len(compiled) == 1
  monkeypatch.setitem(globals(), "FACTOR", 3.0)
  assert run() == [3, 9_994, 20_009]
  table[81_000] += 7
  assert run() == [3, 10_001, 20_009] and len(compiled) == 3


@pytest.mark.parametrize("pair", [(1, 1.0), (0.0, -0.0), (True, 1)])
def test_constants_that_python_calls_equal(pair):
  whole = jnp.arange(1, 3)
  results = [Jitted(lambda x, c=c: (x * c, jnp.copysign(1.0, c * 1.0)))(whole) for c in pair]
  expected = [(whole * c, jnp.copysign(1.0, c * 1.0)) for c in pair]
  for result, right in zip(results, expected, strict=True):
    for a, b in zip(result, right, strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)


def test_functions_of_one_text_that_differ():
  # Which of two arguments is used, what a tree says beside arrays, and the type of a key.
  assert Jitted(lambda a, b: a)(X, -X)[0] == 1
  assert Jitted(lambda a, b: b)(X, -X)[0] == -1
  for name in ("loss", "metric"):
    assert [*Jitted(lambda x, name=name: {name: x})(X)] == [name]
  data = jax.random.key_data(jax.random.key(3))
  assert Jitted(lambda x: x)(data).dtype == jnp.uint32
  key = Jitted(jax.random.wrap_key_data)(data)
  assert jax.random.normal(key) == jax.random.normal(jax.random.key(3))


def test_arguments_of_other_kinds(compiled):
  double = Jitted(lambda x: x + x)
  few = X[:2]
  assert float(double(np.float32(2))) == 4
  assert double(np.int32(2)).dtype == jnp.int32
  assert double(2).weak_type and not double(np.int32(2)).weak_type
  assert double(few).shape == (2,)
  with jax.enable_x64(True):
    assert double(np.float64(2)).dtype == jnp.float64
  assert compiled.count("jit(<lambda>)") == 5


def test_precision_is_part_of_a_program(compiled):
  counts = []
  for precision in ("bfloat16", "float32", "bfloat16", "float32"):
    with jax.default_matmul_precision(precision):
      Jitted(lambda a, b: a @ b)(X, X)
    counts.append(len(compiled))
  assert counts == [1, 2, 3, 3]  # under a new precision JAX traces anew, which clears once


def test_donated_arguments(compiled):
  for donates in (True, False):
    x = jnp.copy(X)
    y = Jitted(lambda x: x + 1, (0,) if donates else ())(x)
    assert x.is_deleted() == donates and y[0] == 2


def test_programs_that_call_python_are_not_kept():
  for factor in (2, 3):

    def on_the_host(x, factor=factor):
      return np.asarray(factor * x)

    def run(x, function=on_the_host):
      return jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    assert Jitted(run)(X).tolist() == [factor, -2 * factor, 3 * factor]


def test_each_mesh_has_its_own():
  def total(x):
    return jax.lax.psum(jnp.sum(x), parallel.DATA)

  for devices in (jax.devices()[:2], jax.devices()[2:4], jax.devices()[:1]):
    mesh = make_mesh(devices=devices)
    y = parallel.over_replicas(total, mesh)(X[None])
    assert y.devices() == {*devices} and float(y[0]) == 2 * len(devices)


def test_under_transformations_and_without_compiling():
  square = Jitted(lambda x: jnp.sum(x**2))
  assert jax.grad(square)(X).tolist() == [2, -4, 6]
  assert float(jax.jit(square)(X)) == 14
  with jax.disable_jit():
    assert float(square(X)) == 14


def test_few_are_kept_until_caches_are_cleared(compiled):
  def run(n):
    Jitted(lambda x: x * np.float32(n))(X)

  run(0)
  for n in range(1, compiling.MOST + 1):
    run(n)
  assert len(compiled) == compiling.MOST + 1
  run(compiling.MOST)
  assert len(compiled) == compiling.MOST + 1
  run(0)
  assert len(compiled) == compiling.MOST + 2
  jax.clear_caches()
  before = len(compiled)
  run(0)
  assert compiled[before:] == ["jit(<lambda>)"]


def test_nothing_but_the_program_is_kept():
  class Weights:
    def __init__(self):
      self.array = np.arange(3, dtype=np.float32)

  def compiled(weights):
    return Jitted(lambda x: x + weights.array)

  weights, data = Weights(), jnp.copy(X)
  assert compiled(weights)(data).tolist() == [1, -1, 5]
  ends = weakref.ref(weights), weakref.ref(weights.array), weakref.ref(data)
  del weights, data
  gc.collect()
  assert [end() for end in ends] == [None] * 3
