from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ace_jax
from ace_jax import errors
from ace_jax.homotopy import Homotopic
from ace_jax.training import loop, memory, parallel

X = jax.random.normal(jax.random.key(0), (400, 3))
DATA = (X, jnp.linalg.norm(X, axis=-1, keepdims=True))
TRAIN, VALID = (jax.tree.map(lambda a: a[:320], DATA), jax.tree.map(lambda a: a[320:], DATA))


class Wide(nn.Module):
  """Few parameters for its activations, so that buffers grow with the batch."""

  @nn.compact
  def __call__(self, x):
    h = jnp.tanh(nn.Dense(1)(x)[..., None] * jnp.arange(256.0))
    h = jnp.sin(h[..., None, :] + h[..., None])
    return Homotopic(nn.Dense, name="layer")(jnp.mean(h, (-1, -2)), x)


def fit(**options):
  def loss(prediction, batch):
    return jnp.square(prediction - batch[1])

  return ace_jax.fit(
    Wide(), loss, TRAIN, VALID, **{"epochs": 2, "batch_size": 80, "eval_batch_size": 8, **options}
  )


def test_peak_of_a_run_and_that_nothing_is_compiled_twice(tmp_path, capfd, caplog):
  mesh = parallel.make_mesh(2)
  with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
    result = fit(workdir=tmp_path, mesh=mesh)
  compiled = [r for r in caplog.messages if "Finished XLA compilation of jit(mapped)" in r]
  assert len(compiled) == 2  # epoch and evaluation, each once
  peak = result.memory
  assert peak.state == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(result.state))
  assert peak.data == 2 * 400 * 4 * 4  # both devices hold all of it
  assert peak.buffers["checkpoint"] == 2 * peak.state
  # Each of two devices keeps two arrays of 40 x 256 x 256 float32 at once, or one.
  array = 2 * 40 * 256 * 256 * 4
  assert 0.9 * array < peak.buffers["epoch"] < 4.2 * array
  assert peak.buffers["epoch"] > 3 * peak.buffers["evaluation"]
  assert peak.total == peak.state + peak.data + peak.buffers["epoch"]
  assert peak.describe() in capfd.readouterr().err
  assert peak.record()["peak"] == peak.total


def test_a_resumed_run_without_epochs_left_compiles_nothing(tmp_path):
  fit(workdir=tmp_path, progress=None)
  assert fit(workdir=tmp_path, resume=True, progress=None).memory is None


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does(monkeypatch):
  mesh = parallel.make_mesh(1)
  seen = []
  monkeypatch.setattr(loop.signals, "asked_to_end", lambda *_: pytest.fail("training began"))
  monkeypatch.setattr(memory, "available", lambda mesh: 20_000_000)
  with pytest.raises(errors.ConfigurationError, match="the epoch's batch of 80 needs") as error:
    fit(mesh=mesh, progress=None)
  said = str(error.value)
  assert "but 19.1 MiB are available" in said
  assert "\n" not in said
  fits = int(said.split("a batch of ")[1].split(" would fit")[0])
  assert 10 < fits < 80
  monkeypatch.undo()
  monkeypatch.setattr(memory, "available", lambda mesh: 20_000_000)
  result = fit(
    mesh=mesh,
    progress=lambda *_: seen.append(1) or SimpleNamespace(log=seen.append, close=list),
    batch_size=fits,
  )
  assert 15_000_000 < result.memory.buffers["epoch"] <= 20_000_000
  assert seen


def test_an_evaluation_that_cannot_fit(monkeypatch):
  monkeypatch.setattr(memory, "available", lambda mesh: 10_000_000)
  mesh = parallel.make_mesh(1)
  with pytest.raises(errors.ConfigurationError, match="lower the evaluation batch size"):
    fit(mesh=mesh, progress=None, batch_size=8, eval_batch_size=80)


def test_where_nothing_would_fit(monkeypatch):
  peak = memory.Peak(1000, 10, {"epoch": 5000}, 900)
  mesh = parallel.make_mesh(1)
  with pytest.raises(errors.ConfigurationError, match="no batch would fit: take a smaller model"):
    memory.check_programs(peak, {"epoch": 8}, mesh)
  memory.check_programs(peak._replace(available=None), {"epoch": 8}, mesh)
  memory.check_programs(peak._replace(buffers={"epoch": None}), {"epoch": 8}, mesh)
  checkpoint = memory.Peak(1000, 10, {"epoch": 500, "checkpoint": 2000}, 900)
  with pytest.raises(errors.ConfigurationError, match=r"a checkpoint needs 2\.0 KiB"):
    memory.check_programs(checkpoint, {"epoch": 8}, mesh)


def test_what_would_fit_divides_over_the_devices():
  # Of 5000 bytes 1000 do not depend on the batch: 2000 are left for it, half of what 16 take.
  peak = memory.Peak(1000, 10, {"epoch": 5000}, 3000)
  for devices, fits in ((1, 8), (4, 8)):
    with pytest.raises(errors.ConfigurationError, match=f"a batch of {fits} would fit"):
      memory.check_programs(peak, {"epoch": 16}, parallel.make_mesh(devices))
  with pytest.raises(errors.ConfigurationError, match="a batch of 4 would fit"):
    memory.check_programs(peak._replace(available=2900), {"epoch": 16}, parallel.make_mesh(4))


def test_data_that_cannot_fit_are_refused_before_anything_is_compiled(monkeypatch):
  def refuse(*_):
    raise AssertionError("placed")

  monkeypatch.setattr(parallel, "shard_replicas", refuse)
  monkeypatch.setattr(memory, "available", lambda mesh: 80 * 16 + 100 * 16)
  with pytest.raises(errors.ConfigurationError, match="100 of 320 training samples would fit"):
    fit(mesh=parallel.make_mesh(1), progress=None)


def test_memory_that_an_accelerator_can_give():
  def device(**statistics):
    return SimpleNamespace(platform="gpu", memory_stats=lambda: statistics)

  def mesh(*devices):
    return SimpleNamespace(devices=np.array(devices), local_devices=devices)

  first, other = device(bytes_limit=100, bytes_in_use=30), device(bytes_limit=100, bytes_in_use=60)
  assert memory.available(mesh(first, other)) == 40
  assert memory.available(mesh(device())) is None


def lay_out(root, files):
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  return memory.host_memory(root)


MEMINFO = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   8 kB\n"}
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
  ("files", "expected"),
  [
    ({}, None),
    (MEMINFO, 8192),
    ({"proc/meminfo": "MemAvailable: ?\n"}, None),
    (
      {
        **MEMINFO,
        "proc/self/cgroup": "0::/a/b\n",
        f"{V2}/a/memory.max": "5000",
        f"{V2}/a/memory.current": "1000",
        f"{V2}/a/memory.stat": "anon 1\ninactive_file 24\n",
        f"{V2}/a/b/memory.max": "max",
        f"{V2}/a/b/memory.current": "0",
        f"{V2}/a/b/memory.stat": "anon 1\n",
      },
      4024,
    ),
    (
      {
        **MEMINFO,
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/y\n",
        f"{V1}/y/memory.limit_in_bytes": "3000",
        f"{V1}/y/memory.usage_in_bytes": "3500",
        f"{V1}/y/memory.stat": "total_inactive_file 100\n",
      },
      0,
    ),
    (
      {
        **MEMINFO,
        "proc/self/cgroup": "0::/../elsewhere\n",
        f"{V2}/memory.max": "2000",
        f"{V2}/memory.current": "500",
        f"{V2}/memory.stat": "",
      },
      1500,
    ),
  ],
)
def test_memory_of_the_host(tmp_path, files, expected):
  assert lay_out(tmp_path, files) == expected


def test_sizes_are_readable():
  sizes = [None, 12, 2048, 3 * 1024**2, int(1.5 * 1024**3)]
  assert [*map(memory.readable, sizes)] == ["unknown", "12 B", "2.0 KiB", "3.0 MiB", "1.5 GiB"]
