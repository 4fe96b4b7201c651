"""Figures whatever the user's Matplotlib is set to."""

import os
import subprocess
import sys

PROGRAM = """
import io, os
from fjt.core import drawing
from matplotlib.figure import Figure
with drawing.style():
    Figure().savefig(io.BytesIO(), format="png")
print(os.environ["MPLBACKEND"])
"""


def test_a_backend_that_matplotlib_does_not_know_is_not_asked_for():
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "nonsense\n"), done.stderr
    plain = PROGRAM.replace("from fjt.core import drawing", "import matplotlib.style")
    refused = subprocess.run([sys.executable, "-c", plain], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1  # the mutant
