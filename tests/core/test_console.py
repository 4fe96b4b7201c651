"""What is shown to a person, names as they are, and what becomes of it when nobody can read it any more."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from fjt.core import console

SAY = """
import sys
from fjt.core import console
for line in range(3):
    console.say("x" * 9000)
print("lost:", console.lost(), file=sys.stderr)
"""
NAMES = ["[/red]no", "x[/b].csv", "[v2] data", "[bold]", ":bug:", "a[link=http://x]b", "100 %", "{name}", "\\[x]", "字"]


@pytest.fixture
def terminal(monkeypatch):
    """What is shown in a terminal, without its colours."""
    shown = io.StringIO()
    made = Console(file=shown, force_terminal=True, width=200, _environ={"TERM": "xterm", "NO_COLOR": "1"})
    for name in ("_markup", "_emoji", "_highlight"):
        setattr(made, name, getattr(console.CONSOLE, name))
    monkeypatch.setattr(console, "CONSOLE", made)
    return shown


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name, terminal):
    console.say(name)
    console.warn(name)
    console.table(name, [f">{name}", name], [(name, name)])
    with console.bar(name, 2) as bar:
        bar.update(1, name)
    text = terminal.getvalue()
    assert text.count(name) >= 8, text


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


def test_a_character_that_the_output_lacks_is_shown_as_a_question_mark():
    program = r"""
from fjt.core import console
console.say("sch\xf6n")
console.table("\xf6", ["\xf6"], [["\xf6"]])
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stderr, done.stdout.split()) == ("", ["sch?n", "?", "?", "?"])
