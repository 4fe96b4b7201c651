"""Large pages: asked for once, only where they can be had, and never against the user's own setting."""

import os
import subprocess
import sys

import pytest

from fjt.core import memory

PROGRAM = """
import os, sys
from fjt.core import memory
memory.large_pages_help = lambda environ: memory.VARIABLE not in environ
memory.use_large_pages()
print(os.getpid(), os.environ[memory.VARIABLE], *sys.argv[1:])
"""


def run(**environ):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "a b", "--c"], stdout=subprocess.PIPE, text=True, env=environ
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return process.pid, output.split(maxsplit=2)


def test_the_program_starts_again_as_the_same_process_with_its_arguments():
    pid, found = run()
    assert found == [str(pid), memory.SETTING, "a b --c\n"]


def test_a_setting_of_the_user_stays():
    assert run(GLIBC_TUNABLES="glibc.malloc.check=0")[1][1] == "glibc.malloc.check=0"


@pytest.mark.parametrize("library", ["glibc 2.36", "glibc 2.34", "musl 1.2"])
def test_large_pages_are_asked_for_only_where_the_system_offers_them(tmp_path, monkeypatch, library):
    monkeypatch.setattr(os, "confstr", lambda name: library)
    pages = tmp_path / "enabled"
    assert not memory.large_pages_help({}, str(pages))
    for text, helps in (
        ("always [madvise] never", library == "glibc 2.36"),
        ("[always] madvise never", False),
        ("[never]", False),
    ):
        pages.write_text(text)
        assert memory.large_pages_help({}, str(pages)) is helps
        assert not memory.large_pages_help({memory.VARIABLE: ""}, str(pages))
