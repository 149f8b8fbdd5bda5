"""What campaigns run in tests: writes the files of a run and learns nothing. Imports no JAX."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

VERSION = 1


def main():
  given = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
  workdir = Path(given["workdir"])
  if given.get("fail"):
    sys.exit(f"error: {given['fail']}")
  asked = []
  signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
  settings = {"epochs": int(given["epochs"]), "data_file": given.get("data_file")}
  (workdir / "config.json").write_text(json.dumps({"settings": settings}))
  seeds = given["seeds"].split(",") if "seeds" in given else [given["seed"]]
  folders = [workdir / f"seed{seed}" if "seeds" in given else workdir for seed in seeds]
  for folder in folders:
    folder.mkdir(exist_ok=True)
  checkpoint = workdir / "checkpoint"
  begin = int(checkpoint.read_text()) if "resume" in given and checkpoint.exists() else 0
  for epoch in range(begin + 1, settings["epochs"] + 1):
    time.sleep(float(given.get("seconds", 0)))
    for folder in folders:
      with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, "time": time.time()}) + "\n")
    cut = "resume" not in given and str(epoch) == given.get("cut")
    if asked or cut:
      checkpoint.write_text(str(epoch))
      print("saved")
      return
  commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
  for folder, seed in zip(folders, seeds, strict=True):
    error = float(given.get("error", 1)) + 0.1 * int(seed)
    result = {"predictors": {"projection": {"test_mse": error}}, "version": VERSION}
    result |= {"began": begin, "commit": commit.strip(), "cores": [*os.sched_getaffinity(0)]}
    for name in ("records.jsonl.gz", "variables_projection.npz", "secret.txt"):
      (folder / name).write_text(name)
    (folder / "result.json").write_text(json.dumps(result))


main()
