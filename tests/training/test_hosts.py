"""Several processes on this machine, which talk over loopback, against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import commands

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**commands.ENVIRONMENT, "PYTHONPATH": str(commands.ROOT)}
_SECONDS = 60  # in which the others must notice that one is gone


def free_port():
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()[1]


def start(*command, **environment):
  return subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    env={**ENVIRONMENT, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run_workers(name, processes, folder, *arguments):
  """Runs so many processes of a worker to their ends."""
  worker, address = ROOT / "tests" / "training" / name, f"127.0.0.1:{free_port()}"
  several = range(processes)
  running = [start(worker, address, processes, i, *arguments, folder) for i in several]
  for process in running:
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-3000:]


def train(processes, replicas, folder):
  """Trains with so many processes; returns the arrays and errors that each of them ended with."""
  run_workers("hosts_worker.py", processes, folder, replicas)
  arrays = [dict(np.load(folder / f"end{i}.npz")) for i in range(processes)]
  return arrays, [json.loads((folder / f"errors{i}.json").read_text()) for i in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """What one process finds, by the number of replicas."""
  return {n: train(1, n, tmp_path_factory.mktemp(f"alone{n}")) for n in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "replicas"), [(2, 1), (4, 1), (2, 2), (4, 2)])
def test_processes_find_the_parameters_of_one(alone, tmp_path, processes, replicas):
  # One replica: the processes share each batch. Two: replicas first, then batches.
  (expected,), (told,) = alone[replicas]
  arrays, errors = train(processes, replicas, tmp_path)
  for parameters, says in zip(arrays, errors, strict=True):
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(parameters[name], value, rtol=1e-9, atol=1e-12)
    for error, other in zip(says["errors"], told["errors"], strict=True):
      assert error == pytest.approx(other, rel=1e-9)
  first = [json.loads(line) for line in (tmp_path / "seed0/metrics.jsonl").read_text().splitlines()]
  assert [record["epoch"] for record in first] == [1, 2, 3, 4]
  assert first[-1]["loss"] == pytest.approx(told["records"][0][-1]["loss"], rel=1e-9)


@pytest.mark.slow
def test_processes_continue_what_one_began_and_one_what_they_began(alone, tmp_path):
  # Checkpoints do not depend on how many processes wrote them.
  expected = alone[2][0][0]
  train(2, 2, tmp_path)
  (tmp_path / "checkpoints/000004/manifest.json").unlink()
  arrays, _ = train(1, 2, tmp_path)
  for name, value in expected.items():
    np.testing.assert_allclose(arrays[0][name], value, rtol=1e-9, atol=1e-12)
  (tmp_path / "checkpoints/000004/manifest.json").unlink()
  for parameters in train(2, 2, tmp_path)[0]:
    for name, value in expected.items():
      np.testing.assert_allclose(parameters[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_each_process_reads_its_share_of_a_loader(tmp_path):
  # Saved after two epochs, and resumed where each loader was.
  folders = {n: tmp_path / f"{n}" for n in (1, 2)}
  for processes, folder in folders.items():
    folder.mkdir()
    run_workers("loader_worker.py", processes, folder)
  expected = dict(np.load(folders[1] / "end0.npz"))
  told = json.loads((folders[1] / "said0.json").read_text())
  assert len(told["records"]) == 4
  for process in range(2):
    parameters = dict(np.load(folders[2] / f"end{process}.npz"))
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(parameters[name], value, rtol=1e-4, atol=1e-6)
    says = json.loads((folders[2] / f"said{process}.json").read_text())
    assert says["test"] == pytest.approx(told["test"], rel=1e-5)
    # Only the first process reads the records of before.
    for record, other in zip(says["records"][-2:], told["records"][-2:], strict=True):
      for name in ("loss", "valid/projection", "valid/relaxed"):
        assert record[name] == pytest.approx(other[name], rel=1e-5)
    assert "different numbers or shapes of batches" in says["uneven"]
    assert says["not_finite"].startswith("batch 1 of train[0] holds 1 values that are not finite")


NBODY = [
  *("-m", "experiments.nbody", "--constraint=equality", "--batch_size=10", "--hidden_features=4"),
  *("--layers=1", "--checkpoint_every=2", "--eval_every=50"),
]


def launch(processes, workdir, data_file, *flags):
  address = f"--coordinator=127.0.0.1:{free_port()}"
  common = [*NBODY, address, f"--processes={processes}", f"--workdir={workdir}", *flags]
  common.append(f"--data_file={data_file}")
  return [start(*common, f"--process={i}") for i in range(processes)]


def wait_for(condition, seconds=300):
  begun = time.monotonic()
  while not condition():
    assert time.monotonic() - begun < seconds, "waited in vain"
    time.sleep(0.2)


def small_data(folder):
  rng = np.random.default_rng(0)
  arrays = {}
  for split, size in {"train": 40, "valid": 10, "test": 10}.items():
    for field in ("positions", "velocities", "targets"):
      arrays[f"{split}_{field}"] = rng.normal(size=(size, 5, 3)).astype(np.float32)
    arrays[f"{split}_charges"] = rng.choice([-1.0, 1.0], (size, 5)).astype(np.float32)
  np.savez(folder / "small.npz", **arrays)
  return folder / "small.npz"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0])
def test_a_killed_process_stops_the_others_and_a_restart_continues(tmp_path, killed):
  data_file, workdir = small_data(tmp_path), tmp_path / "run"
  running = launch(2, workdir, data_file, "--epochs=100000")
  seal = workdir / "checkpoints" / "000004" / "manifest.json"
  wait_for(seal.exists)
  running[killed].send_signal(signal.SIGKILL)
  begun = time.monotonic()
  other = running[1 - killed]
  _, said = other.communicate(timeout=_SECONDS)
  assert time.monotonic() - begun < _SECONDS
  # Without the first process the runtime may be faster to abort than Python to say why.
  says = {1: f"error: process {1 - killed} of 2 lost another one", -signal.SIGABRT: "task died"}
  assert says[other.returncode] in said
  assert killed == 0 or other.returncode == 1
  assert "Traceback" not in said
  saved = max(int(p.parent.name) for p in seal.parent.parent.glob("*/manifest.json"))
  for process in launch(2, workdir, data_file, f"--epochs={saved + 3}", "--resume"):
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
  result = json.loads((workdir / "result.json").read_text())
  assert result["epochs"] == saved + 3
  assert result["environment"]["processes"] == 2


@pytest.mark.slow
def test_slurm_says_who_is_who_and_sigterm_to_one_saves_all(tmp_path):
  data_file, workdir = small_data(tmp_path), tmp_path / "run"
  command = [*NBODY, "--coordinator=auto", f"--workdir={workdir}", f"--data_file={data_file}"]
  slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost"}
  running = [
    start(
      *(*command, "--epochs=100000"),
      **slurm,
      **{"SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
    )
    for i in range(2)
  ]
  wait_for((workdir / "checkpoints" / "000002" / "manifest.json").exists)
  running[1].send_signal(signal.SIGTERM)
  for process in running:
    _, said = process.communicate(timeout=_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert "asked to end (SIGTERM)" in said


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--processes=2"], "need --coordinator"),
    (["--coordinator=h:1", "--processes=2", "--process=0"], "add --workdir"),
    (["--coordinator=h:1", "--workdir=w"], "needs --processes and --process"),
    (["--coordinator=h:1", "--workdir=w", "--processes=2", "--process=2"], "must be below"),
    (["--coordinator=h", "--workdir=w", "--processes=2", "--process=0"], "must be HOST:PORT"),
    (["--coordinator=auto", "--workdir=w"], "coordinator_address should be defined"),
  ],
)
def test_wrong_flags(flags, says):
  clean = {name: "" for name in os.environ if name.startswith("SLURM")}
  running = start("-m", "experiments.nbody", *flags, **clean)
  _, said = running.communicate(timeout=120)
  assert running.returncode == 2
  assert said.splitlines()[-1].startswith("error: ")
  assert says in said.splitlines()[-1]
  assert "Traceback" not in said
