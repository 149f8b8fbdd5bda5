"""Wrong inputs and interrupts: `python -m benchmarks.misuse`.

Fifty command lines that no command can follow must each end in one line, with exit code 1 or 2, and
leave no file. Twenty signals, Ctrl-C and SIGTERM in turn and every other one twice in a row, come
at random moments of a small training; each must end it in one line and with 130 or 143, and the
same command with --resume must go on. A signal of the first --earliest seconds may come before
Python has read a line of this project, and is Python's own.

Prints a line a finding and one of JSON; the exit code is 1 if there is any.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks import launching

FLAGS = flags.FLAGS
flags.DEFINE_integer("interrupts", 20, "Signals.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Draws their moments.")
flags.DEFINE_float("earliest", 0.5, "First moment of a signal, in seconds.", lower_bound=0)
flags.DEFINE_float("latest", 30.0, "Last moment of a signal, in seconds.", lower_bound=0)

ROOT = Path(__file__).parent.parent
TRAINING = (
  *("--system=charged", "--train_samples=40", "--batch_size=10", "--hidden_features=4"),
  *("--layers=1", "--epochs=100000", "--checkpoint_every=5"),
)
FILE = "README.md"
"""A file, where a folder is asked for."""
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

WRONG: dict[str, list[str]] = {
  "nbody": [
    "--nonsense=1",
    "nonsense",
    "--epochs=0",
    "--epochs=many",
    "--epochs=-3",
    "--batch_size=0",
    "--batch_size=50 --train_samples=40",
    "--train_samples=0",
    "--train_samples=10001",
    "--train_samples=a",
    "--lr=0",
    "--lr=nan",
    "--layers=0",
    "--model=foo",
    "--constraint=foo",
    "--preset=foo",
    "--symmetry_breaking=foo",
    "--symmetry_breaking=gravity:strong",
    "--breaking_from=start",
    "--data_file=none.npz",
    f"--data_file={FILE}",
    "--data_file=none.npz --particles=4",
    "--neighbours=9",
    "--seeds=a",
    "--seeds=1,1",
    "--grid=foo=1,2",
    "--grid=rho",
    "--keep_period=3 --checkpoint_every=2",
    f"--workdir={FILE}",
    f"--workdir={FILE}/run",
    "--dry_run --symmetry_breaking=foo",
    f"--dry_run --workdir={FILE}/run",
  ],
  "mocap": ["--data_dir=none --source=acclaim", "--subject=foo", "--source=acclaim"],
  "qm9": ["--target=foo", "--data_dir=none"],
  "pendulum": ["--damping=-1", "--rho=0", f"--workdir={FILE}/run"],
  "tradeoff": ["--symmetry_breaking=foo"],
  "sweep": ["--grid=foo=1", "--grid=layers=1,2 -- --symmetry_breaking=foo"],
  "detection": ["--gravity=a", "--epochs=0"],
  "reference": ["--reference=none.csv", f"--reference={FILE}", "--reference=/dev/null"],
  "table": ["--folders=none", "--table=foo"],
  "report": ["", "--runs=none"],
  "equivariance": ["--run=none"],
  "landscape": ["--run=none --extent=0"],
  "campaign": ["--plan=none.json --workdir=none"],
  "stream_figures": ["--runs=none"],
}


def command(name: str, *words: str) -> list[str]:
  """Returns the command line of an experiment."""
  return [sys.executable, "-m", f"experiments.{name}", *words]


def files() -> set[str]:
  """Returns the files of the checkout that git does not know as they are, ignored ones too."""
  listing = ["git", "status", "--porcelain", "--ignored", "-uall", "--", ".", ":!*.pyc"]
  return {*subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()}


def wrong_input(name: str, words: list[str]) -> str:
  """Returns what is wrong with how a command refuses its input; "" if nothing is."""
  before = files()
  try:
    done = subprocess.run(command(name, *words), cwd=ROOT, capture_output=True, timeout=120)
  except subprocess.TimeoutExpired:
    return "it did not end within two minutes"
  said = done.stderr.decode(errors="replace").strip().splitlines()
  if done.returncode not in (1, 2):
    return f"exit code {done.returncode}"
  if len(said) != 1 or not said[0].startswith("error: "):
    return f"{len(said)} lines: {' / '.join(said[-3:])}"
  new = files() - before
  return f"it left {', '.join(sorted(new)[:3])}" if new else ""


def interrupt(folder: Path, number: signal.Signals, seconds: float, twice: bool) -> str:
  """Returns what is wrong with how a training ends at a signal; "" if nothing is.

  Args:
    folder: Of the training.
    number: The signal.
    seconds: After how many seconds it comes.
    twice: Whether it comes twice.
  """
  training = command("nbody", *TRAINING, f"--workdir={folder}", "--resume")
  process = subprocess.Popen(
    training, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  )
  time.sleep(seconds)
  for _ in range(2 if twice else 1):
    process.send_signal(number)
  try:
    said = process.communicate(timeout=120)[1].strip().splitlines()
  except subprocess.TimeoutExpired:
    process.kill()
    return "it did not end within two minutes"
  if process.returncode != 128 + number:
    return f"exit code {process.returncode}: {' / '.join(said[-3:])}"
  if SIGNALS[number] not in (said or [""])[-1]:
    return f"its last line does not name the signal: {' / '.join(said[-3:])}"
  if any("Traceback" in line or "Exception" in line for line in said):
    return f"{len(said)} lines, with a traceback"
  return ""


def main(argv: list[str]) -> None:
  """Tries all of them, prints the findings and the JSON line."""
  del argv
  findings = {}
  inputs = [(name, line.split()) for name, lines in WRONG.items() for line in lines]
  for name, words in inputs:
    reason = wrong_input(name, words)
    if reason:
      findings[f"{name} {' '.join(words)}"] = reason
      print(f"{name} {' '.join(words)}: {reason}", flush=True)
  draw = random.Random(FLAGS.seed)
  with tempfile.TemporaryDirectory() as folder:
    for index in range(FLAGS.interrupts):
      number = [*SIGNALS][index % 2]
      seconds = draw.uniform(FLAGS.earliest, FLAGS.latest)
      reason = interrupt(Path(folder) / "run", number, seconds, twice=index % 4 > 1)
      if reason:
        findings[f"{SIGNALS[number]} after {seconds:.2f} s"] = reason
        print(f"{SIGNALS[number]} after {seconds:.2f} s: {reason}", flush=True)
  report = {"benchmark": "misuse", "inputs": len(inputs), "interrupts": FLAGS.interrupts}
  print(json.dumps({**report, "findings": findings}))
  if findings:
    sys.exit(1)


if __name__ == "__main__":
  launching.launch(main)
