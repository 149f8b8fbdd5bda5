"""What a benchmark refuses is refused before anything is measured, in one line."""

import pytest

from benchmarks import steps
from tests import commands


@pytest.mark.parametrize(
  ("name", "flags", "says"),
  [
    ("step", ["--model=egno", "--formulation=fast"], "--formulation is SEGNN's alone; egno has no"),
    ("step", ["--trace=README.md"], "cannot write to trace README.md: File exists; choose another"),
    ("scaling", ["--axes="], "--axes= names none; take some of particles, particles_batch25"),
    ("scaling", ["--records=README.md", "--axes=layers"], "cannot write to records README.md/"),
    ("all", ["--only=", "--results=README.md"], "cannot write to results README.md: File exists"),
    ("overhead", ["--constraints=soft"], "--constraints=soft is none of equality, resilient"),
    ("fuzz", ["--out=results"], "--out=results is a folder; name a file in it."),
    ("faults", ["--out=README.md/faults.json"], "cannot write to out README.md: File exists"),
    ("misuse", ["--latest=nan"], "--latest=nan must be finite."),
    ("accelerator", ["--minutes=inf"], "--minutes=inf must be finite."),
    ("overhead", ["--constraints="], "--constraints= is none of equality, resilient"),
  ],
)
def test_what_cannot_be_measured_is_said_in_one_line(name, flags, says):
  done = commands.run(f"benchmarks.{name}", *flags)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith(f"error: {says}")
  assert done.stderr.count("\n") == 1


def test_flags_that_ask_for_no_step():
  assert "contradict each other" in steps.refusal("segnn", "fast", strict=True, unconstrained=True)
  for strict, unconstrained in ((True, False), (False, True), (False, False)):
    assert steps.refusal("segnn", "fast", strict, unconstrained) == ""
    assert steps.refusal("egno", "auto", strict, unconstrained) == ""
