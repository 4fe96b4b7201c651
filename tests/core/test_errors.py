"""A command of fjt ends with one line and an exit code."""

import errno
import gc
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import jax
import pytest

from fjt import reproduce
from fjt.core.errors import MEMORY_REMEDY, Ended, UserError, exit_code
from fjt.training.stop import Stopped


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such task."), 2, "fjt: no such task."),
        (FileNotFoundError(2, "No such file", "x.csv"), 2, "fjt: No such file: x.csv. Files are kept."),
        (OSError(28, "No space left"), 2, "fjt: No space left: runs/a. Files are kept."),
        (MemoryError("8 TiB"), 2, f"fjt: there is not enough memory (8 TiB). {MEMORY_REMEDY}"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nBuffers: ..."),
            2,
            "fjt: there is not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.). " + MEMORY_REMEDY,
        ),
        (KeyboardInterrupt(), 130, "fjt: stopped by SIGINT; again"),
        (Ended("the loss is not finite", 3), 3, "fjt: the loss is not finite"),
        (Stopped(signal.SIGTERM), 143, "fjt: stopped by SIGTERM; the same command goes on from here"),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_code(error, code, line, capsys):
    def command():
        raise error

    assert exit_code(command, lambda: "runs/a", "; again", " Files are kept.") == code
    assert capsys.readouterr() == ("", f"{line}\n")


def fault_of_xla():
    raise jax.errors.JaxRuntimeError("INTERNAL: a fault of XLA")


def test_a_command_s_own_code_is_kept_and_a_fault_of_fjt_is_not_hidden():
    assert exit_code(lambda: 3, str) == 3
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0, str)
    with pytest.raises(jax.errors.JaxRuntimeError):
        exit_code(fault_of_xla, str)


def test_a_repetition_without_a_temporary_folder_asks_for_one(monkeypatch, capsys):
    def refuse(*arguments):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", refuse)
    assert reproduce.main(["fjt.reproduce", "runs/a"]) == 2
    message = capsys.readouterr().err
    assert "No usable temporary directory found" in message and "Set TMPDIR to a folder" in message


def test_a_repetition_that_is_stopped_says_that_it_is_deleted(monkeypatch, capsys):
    def stopped(run, workdir):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(reproduce, "reproduce", stopped)
    assert reproduce.main(["fjt.reproduce", "runs/a"]) == 143
    assert "deleted (--workdir DIR keeps it)" in capsys.readouterr().err


def test_a_ctrl_c_inside_a_callback_that_drops_it_is_not_lost(capsys):
    """As in JAX's callback of the garbage collector."""
    before, handler = sys.unraisablehook, signal.signal(signal.SIGINT, signal.default_int_handler)

    def drop(phase, info):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    def command():
        gc.callbacks.append(drop)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(drop)
        time.sleep(10)
        return 0

    try:
        assert exit_code(command, str) == 130 and sys.unraisablehook is before
    finally:
        signal.signal(signal.SIGINT, handler)  # which may be to ignore it, in the background
    assert capsys.readouterr().err == "fjt: stopped by SIGINT\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_a_character_does_not_end_a_command(monkeypatch, encoding):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))

    def command():
        print("72.1 \u00b1 0.3 \u4f60 \ud800")
        sys.stdout.flush()
        return 0

    assert exit_code(command, str) == 0
    assert data.getvalue().startswith(b"72.1 ") and data.getvalue().endswith(b" ?\n")


def test_a_current_directory_that_was_removed_is_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert exit_code(lambda: 0, str) == 2
    assert capsys.readouterr().err == (
        "fjt: the current directory was removed. Change to another one, and start again.\n"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("JAX_ENABLE_X64", "environment 'JAX_ENABLE_X64'"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "JAX flag jax_default_matmul_precision"),
    ],
)
def test_an_environment_that_jax_refuses_is_named(name, words):
    command = "import sys; from fjt.core.errors import exit_code; sys.exit(exit_code(lambda: __import__('jax'), str))"
    environment = os.environ | {name: "maybe"}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(rf"refuses the environment: .*maybe.* {words}. Correct or unset", done.stderr)


def test_late_calls_of_a_failed_save_print_nothing_at_the_end_of_a_process():
    program = """
import sys
from fjt.core.errors import UserError, exit_code

class Late:
    def __init__(self, text): self.text = text
    def __del__(self): raise RuntimeError(self.text)

def command(): raise UserError("the disk is full.")

first, second = Late("Event loop is closed"), Late("another error")
sys.exit(exit_code(command, str))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("fjt: the disk is full.\n")
    assert "another error" in done.stderr and "Event loop" not in done.stderr
