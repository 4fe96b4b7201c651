"""What is shown to a person, and what becomes of it when nobody can read it any more."""

import os
import subprocess
import sys

import pytest

SAY = """
import sys
from fjt.core import console
for line in range(3):
    console.say("x" * 9000)
print("lost:", console.lost(), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("/dev/full", "this output cannot be written: No space left on device"),
        (None, "the reader of this output has left"),
    ],
)
def test_output_that_cannot_be_written_is_lost_and_ends_nothing(output, why):
    if output is None:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(output, os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", SAY], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, f"lost: {why}\n")
