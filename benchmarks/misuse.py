"""Wrong inputs and interrupts: `python -m benchmarks.misuse`.

Command lines that no command can follow must each end in one line, with exit code 1 or 2, and leave
no file and no folder. Twenty signals, Ctrl-C and SIGTERM in turn and every other two twice in a
row, come at random moments of a small training, from its first import to its last save; each must
end it in one line and with 130 or 143. The same command with --resume goes on, is interrupted again
until it has ended, and begins anew; at last it must end by itself. A signal of the first --earliest
seconds may come before Python has read a line of this project, and is Python's own.

Prints a line a finding and one of JSON; the exit code is 1 if there is any. In parts:
--interrupts=0, then --noinputs --interrupts=5, --noinputs --interrupts=5 --first=5 and so on.
"""

import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from benchmarks import launching

FLAGS = flags.FLAGS
flags.DEFINE_bool("inputs", True, "Try the wrong inputs.")
flags.DEFINE_integer("interrupts", 20, "Signals.", lower_bound=0)
flags.DEFINE_integer("first", 0, "Signals drawn, but left out, before them.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Draws their moments.")
flags.DEFINE_float("earliest", 0.5, "First moment of a signal, in seconds.", lower_bound=0)
flags.DEFINE_float(
  "latest",
  None,
  "Last moment of a signal, in seconds; by default those of a training that nothing interrupts.",
  lower_bound=0,
)

ROOT = Path(__file__).parent.parent
TRAINING = (
  *("--system=charged", "--train_samples=40", "--batch_size=10", "--hidden_features=4"),
  *("--layers=1", "--epochs=30", "--checkpoint_every=5"),
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
    "--keep=axis:w --constraint=strict",
    "--keep=axis:z --constraint=strict --model=mpnn",
    "--symmetry_breaking=gravity:nan",
    "--symmetry_breaking=gravity:1,wind:2",
    "--symmetry_breaking=gravity:1 --data_file=none.npz",
    "--epochs=99999999999999999999",
    "--seed=4294967296",
    "--seeds=0,99999999999999999999",
    "--flagfile=none",
    "--flagfile=docs/nbody_gamma.png",
    f"--dry_run --workdir=runs/{300 * 'a'}",
    "--workdir=runs/\udcff",
  ],
  "mocap": [
    "--data_dir=none --source=acclaim",
    "--subject=foo",
    "--source=acclaim",
    "--keep=axis:y --model=mpnn --constraint=strict",
  ],
  "qm9": [
    "--target=foo",
    "--data_dir=none",
    "--target=alpha --atom_references=isolated",
    "--held_out=99999999",
    "--lmax=3 --model=schnet",
    "--keep=axis:z",
  ],
  "modelnet40": [
    "--dropout=1",
    "--points=3 --neighbours=9",
    "--data_dir=benchmarks",
    "--train_samples=99999999",
    "--constraint=projection_regulariser",
    "--grid=dropout=0.1,0.2",
  ],
  "claims": ["--claims=none.json", "--folder=none", f"--claims={FILE}", "results"],
  "pendulum": ["--damping=-1", "--rho=0", f"--workdir={FILE}/run"],
  "tradeoff": ["--symmetry_breaking=foo"],
  "sweep": ["--grid=foo=1", "--grid=layers=1,2 -- --symmetry_breaking=foo"],
  "detection": ["--gravity=a", "--epochs=0"],
  "reference": ["--reference=none.csv", f"--reference={FILE}", "--reference=/dev/null"],
  "table": ["--folders=none", "--table=foo", "--table=qm9 --folders=results/nbody"],
  "report": [
    *("", "--runs=none", "--suggest", "--runs=results/pendulum --suggest"),
    "--runs=results/pendulum,results/pendulum/",
  ],
  "equivariance": ["--run=none"],
  "landscape": [
    *("--run=none --extent=0", "--redraw=none", "--redraw=results/nbody"),
    "--redraw=results/landscape --run=none",
  ],
  "campaign": [
    "--plan=none.json --workdir=none",
    "--compare=none",
    f"--workdir={FILE} --status",
    "--workdir=none --collect=none",
    "--workdir=none --status --minutes=3",
  ],
  "stream_figures": ["--runs=none"],
}


def command(name: str, *words: str) -> list[str]:
  """Returns the command line of an experiment."""
  return [sys.executable, "-m", f"experiments.{name}", *words]


def files() -> set[str]:
  """Returns what of the checkout git does not know as it is, ignored or an empty folder too."""
  listing = ["git", "status", "--porcelain", "--ignored", "-uall", "--", ".", ":!*.pyc"]
  lines = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
  around = (path for pattern in ("*", "runs/*", "results/*/*") for path in ROOT.glob(pattern))
  return {*lines, *(str(path.relative_to(ROOT)) for path in around if path.is_dir())}


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


def training(folder: Path) -> list[str]:
  """Returns the command line of the training that is interrupted."""
  return command("nbody", *TRAINING, f"--workdir={folder}", "--resume")


def undisturbed(folder: Path) -> float:
  """Returns how long a training takes to its end, in seconds.

  Raises:
    RuntimeError: it fails.
  """
  start = time.monotonic()
  done = subprocess.run(training(folder), cwd=ROOT, capture_output=True, text=True)
  if done.returncode or not (folder / "result.json").exists():
    raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-200:]}")
  return time.monotonic() - start


def interrupt(folder: Path, number: signal.Signals, seconds: float, twice: bool) -> str | None:
  """Returns what is wrong with how a training ends at a signal; "" if nothing is.

  None where it had ended by itself before.

  Args:
    folder: Of the training.
    number: The signal.
    seconds: After how many seconds it comes.
    twice: Whether it comes twice.
  """
  process = subprocess.Popen(
    training(folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  )
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.communicate(timeout=seconds)
  for _ in range(2 if twice else 1):
    process.send_signal(number)
  try:
    said = process.communicate(timeout=120)[1].strip().splitlines()
  except subprocess.TimeoutExpired:
    process.kill()
    return "it did not end within two minutes"
  if not process.returncode and (folder / "result.json").exists():
    return None
  if process.returncode != 128 + number:
    return f"exit code {process.returncode}: {' / '.join(said[-3:])}"
  if SIGNALS[number] not in (said or [""])[-1]:
    return f"its last line does not name the signal: {' / '.join(said[-3:])}"
  if any("Traceback" in line or "Exception" in line for line in said):
    return f"{len(said)} lines, with a traceback"
  return ""


def interrupts(folder: Path, count: int, first: int) -> Iterator[tuple[str, str]]:
  """Yields what was done to a training, and what is wrong with how it ended ("" if nothing).

  Args:
    folder: Where trainings are.
    count: Signals that end one.
    first: Signals that are drawn before them, and left out.
  """
  if not count:
    return
  draw = random.Random(FLAGS.seed)
  latest = undisturbed(folder / "undisturbed") if FLAGS.latest is None else FLAGS.latest
  moments = [draw.random() for _ in range(first + count)][first:]
  started = 0
  for index, moment in enumerate(moments, first):
    number, twice, reason, seconds = [*SIGNALS][index % 2], index % 4 > 1, None, 0.0
    while reason is None:
      seconds = FLAGS.earliest + moment * max(0.0, latest - FLAGS.earliest)
      start = time.monotonic()
      reason = interrupt(folder / f"run{started}", number, seconds, twice)
      if reason is None:  # the training had ended: a new one, which may be as fast
        started, latest = started + 1, min(latest, time.monotonic() - start)
    times = " twice" if twice else ""
    yield f"{SIGNALS[number]}{times} after {seconds:.2f} s", reason or ""
  try:
    undisturbed(folder / f"run{started}")
  except RuntimeError as error:
    yield "the same command after the last of them", str(error)


def main(argv: list[str]) -> None:
  """Tries all of them, prints the findings and the JSON line."""
  del argv
  findings, done, tried = {}, [], 0
  for name, lines in WRONG.items() if FLAGS.inputs else ():
    for line in lines:
      tried += 1
      reason = wrong_input(name, line.split())
      if reason:
        findings[f"{name} {line}"] = reason
        print(f"{name} {line}: {reason}", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    for what, reason in interrupts(Path(folder), FLAGS.interrupts, FLAGS.first):
      done.append(what)
      if reason:
        findings[what] = reason
        print(f"{what}: {reason}", flush=True)
  report = {"benchmark": "misuse", "inputs": tried, "interrupts": done, "seed": FLAGS.seed}
  print(json.dumps({**report, "findings": findings}))
  if findings:
    sys.exit(1)


if __name__ == "__main__":
  launching.launch(main)
