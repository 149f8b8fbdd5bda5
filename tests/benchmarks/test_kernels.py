import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo, kernels

STEPS = 5


class Net(nn.Module):
  """Two dense layers."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(32, use_bias=False, name="first")(x)
    x = nn.silu(x)  # its derivative meets a weight gradient
    return nn.Dense(16, name="second")(x)


def measure(shape):
  """Profiles steps of gradient descent on inputs of a shape."""
  x = jax.random.normal(jax.random.key(0), (STEPS, *shape))
  net = Net()
  params = net.init(jax.random.key(1), x[0])

  def step(params, x):
    gradients = jax.grad(lambda params: jnp.sum(net.apply(params, x)))(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients), None

  @jax.jit
  def epoch(params, x):
    return jax.lax.scan(step, params, x)[0]

  run = epoch.lower(params, x).compile()
  return kernels.profile(run.as_text(), lambda: jax.block_until_ready(run(params, x)), STEPS)


@pytest.fixture(autouse=True)
def lines_of_this_file():
  """A program in the cache may have those of an older version of it."""
  name = "jax_compilation_cache_include_metadata_in_key"
  before = getattr(jax.config, name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


def line(text):
  """Returns where a text stands in this file."""
  lines = Path(__file__).read_text().splitlines()
  return f"test_kernels.py:{1 + next(i for i, line in enumerate(lines) if text in line)}"


def test_a_derivative_in_transposed_order_is_found_with_its_line():
  # Of inputs with more than two dimensions, XLA transposes what the weight gradient multiplies.
  measured, milliseconds = measure((8, 3, 40, 16))
  (transposed,) = [kernel for kernel in measured if kernel.mark == "transpose"]
  assert transposed.name.startswith("copy_bitcast_fusion")
  assert transposed.kind == "arithmetic with a transpose"
  assert transposed.shape == "f32[32,960]{1,0}"
  assert transposed.line.endswith(line("# its derivative"))
  assert transposed.runs == 1
  assert sum(kernel.milliseconds for kernel in measured) == pytest.approx(milliseconds)
  report = json.loads(json.dumps(kernels.report(measured, milliseconds)))
  assert transposed.name in [kernel["name"] for kernel in report["marked"]]
  assert sum(report["kinds"].values()) == pytest.approx(milliseconds, abs=0.01)
  shown = next(
    row for row in kernels.as_tables(measured, milliseconds).split("\n") if "copy_bit" in row
  )
  assert {"transpose", transposed.shape, transposed.line} <= set(shown.split())


def test_two_dimensions_need_no_transpose():
  measured, _ = measure((960, 16))
  assert not [kernel for kernel in measured if kernel.mark == "transpose"]
  products = [kernel for kernel in measured if kernel.kind == "products"]
  lines = {kernel.line.rpartition("/")[2] for kernel in products}
  assert lines == {line("name=" + '"first"'), line("name=" + '"second"')}
  assert all(kernel.runs == 1 for kernel in products)
  paths = [kernels.module_path(kernel.op_name) for kernel in products]
  assert "Net/first/dot_general" in paths


def test_a_moment_is_shared_by_the_kernels_that_run():
  shares = kernels.shares([("a", 0, 10), ("b", 5, 15), ("a", 20, 21)])
  assert shares == {"a": (5 + 2.5 + 1, 2), "b": (2.5 + 5, 1)}


@pytest.mark.parametrize(
  ("instruction", "kind"),
  [
    ("copy(%a)", "copies"),
    ("f32[2,3]{0,1} copy(%a)", "transposes"),
    ("f32[3,2]{1,0} transpose(%a), dimensions={1,0}", "transposes"),
    ("f32[3,2]{0,1} transpose(%a), dimensions={1,0}", "copies"),  # nothing moves
    ("f32[2,3,1]{0,1,2} copy(%a)", "transposes"),
    ("f32[3]{0} reduce(%a, %b), dimensions={0}, to_apply=%add", "reductions"),
    ("f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}", "products"),
    ("add(%a, %a)", "other"),
    ("(f32[2,3]{1,0}, /*index=1*/s32[]) tuple(%a, %b)", "copies"),
  ],
)
def test_kinds_of_instructions(instruction, kind):
  shape = "" if instruction[0] in "f(" else "f32[2,3]{1,0} "
  text = "%main (a: f32[2,3]) -> f32[2,3] {\n  %a = f32[2,3]{1,0} parameter(0)\n  ROOT %c = "
  program = hlo.parse(f"{text}{shape}{instruction}\n}}\n")
  assert program.kind(program.instructions["c"]) == kind


@pytest.mark.parametrize(
  ("op_name", "path"),
  [
    ("jit(f)/while/body/closed_call/jvp(Net)/first/dot_general", "Net/first/dot_general"),
    ("jit(f)/transpose(jvp(Net))/first/add", "Net/first/add, backward"),
    ("jit(f)/transpose(jvp())", "backward"),
    ("", ""),
  ],
)
def test_path_of_modules(op_name, path):
  assert kernels.module_path(op_name) == path
