"""Folders of runs as trainings leave them, made without a training."""

import json
import math
import os
import time

from experiments.harness import result_files

LAYERS = ("layers_0/update_1", "layers_0/update_2")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def result(**changes):
  """Content of the result.json of an N-body run, all that readers ask for."""
  predictors = {
    "projection": {"valid_mse": 0.0123456789, "best_epoch": 3, "test_mse": 0.0234567891},
    "relaxed": {"valid_mse": 0.0112233445, "best_epoch": 4, "test_mse": 0.0198765432},
  }
  for number, predictor in enumerate(predictors.values()):
    predictor["test_mse_turned"] = {"vertical": 0.03 + number, "random_axes": 0.04 + number}
    predictor |= {"final_equivariance_error": 1e-7, "test_gap": 2e-6, "test_gap_error": 1e-7}
  settings = {"constraint": "resilient", "rho": 1.0, "preset": "quick", "model": "segnn"}
  settings |= {"hidden_features": 8, "layers": 2, "batch_size": 20, "dual_lr": 1e-3}
  settings |= {"augmented": 1.0, "seed": 0, "epochs": 4, "train_samples": [200]}
  command = "python -m experiments.nbody --constraint=resilient --rho=1 --epochs 4 --workdir=a b"
  content = {"format": 2, "experiment": "nbody", "model": "segnn", "constraint": "resilient"}
  content |= {"seeds": [0], "epochs": 4, "train_samples": 200, "predictors": predictors}
  content |= {"linear_mse": 0.1, "settings": settings, "seconds": 12.0, "replica": ""}
  content |= {"curve": [{"epoch": 4, "valid/projection": 0.0123}], "replicas": 1}
  content["differs_from_published"] = {"epochs": [4, 2000]}
  content["data"] = {"source": "simulation", "linear_mse": {"valid": 0.1}}
  content["final"] = {
    "gamma": {LAYERS[0]: 0.5, LAYERS[1]: -0.25},
    "multiplier": dict.fromkeys(LAYERS, 0.125),
    "slack": {LAYERS[0]: 0.75, LAYERS[1]: 0.001},
  }
  content["environment"] = {"device": "cpu", "commit": "0123456789ab", "command": command}
  return {**content, **changes}


def record(epoch, **changes):
  """A line of metrics.jsonl."""
  record = {"epoch": epoch, "step": 10 * epoch, "time": time.time(), "seconds": 0.5}
  record |= {"loss": 0.1 / epoch, "lagrangian": 0.2, "steps_per_second": 20.0}
  for number, layer in enumerate(LAYERS):
    record |= {f"gamma/{layer}": 0.5 / epoch + number, f"multiplier/{layer}": 0.1 * epoch}
    record |= {f"slack/{layer}": 0.01 * epoch, f"violation/{layer}": 0.1}
  for predictor in ("projection", "relaxed"):
    record[f"valid/{predictor}"] = (1 + math.sin(epoch) / 4) * 0.1 / epoch
    record[f"equivariance/{predictor}"] = 1e-3 / epoch
  return {**record, **changes}


def write(folder, content=None, records=(), config=True):
  """Makes the folder of a run; one without `content` has no result yet."""
  folder.mkdir(parents=True, exist_ok=True)
  known = content or result()
  if config:
    written = {"format": result_files.FORMAT, "settings": known["settings"]}
    (folder / "config.json").write_text(json.dumps(written))
  if records:
    append(folder, *records)
  if content is not None:
    (folder / "result.json").write_text(json.dumps(content))
  return folder


def append(folder, *records):
  """Adds lines to metrics.jsonl, as a training does."""
  with (folder / "metrics.jsonl").open("a") as file:
    for line in records:
      file.write(json.dumps(line) + "\n")
    file.flush()


def age(folder, seconds):
  """Makes the files of a folder as old as that."""
  then = time.time() - seconds
  for path in folder.iterdir():
    os.utime(path, (then, then))
