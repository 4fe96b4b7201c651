"""What the end-to-end tests share: tables, compiled programs and one finished run."""

import csv
import os
import pathlib
import subprocess
import sys

import process
import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder for compiled programs, the same for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A folder with train.csv, dev.csv and test.csv."""
    folder = tmp_path_factory.mktemp("tables")
    process.write_tables(folder)
    return folder


@pytest.fixture(scope="session")
def even(tmp_path_factory):
    """As `tables`, with 13 tokens in every sentence: a run compiles its step for one shape of batches, not for two."""
    folder = tmp_path_factory.mktemp("even")
    process.write_tables(folder, tokens=13)
    return folder


@pytest.fixture(scope="session")
def texts(even):
    """The texts of dev in `even`."""
    with open(even / "dev.csv", encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.fixture(scope="session")
def launch(tmp_path_factory, cache):
    """launch(*arguments, hook=None, program="fjt.main") -> Done of a process that ends by itself."""
    outputs = tmp_path_factory.mktemp("outputs")

    def function(*arguments, **options):
        output = outputs / str(len(os.listdir(outputs)))
        return process.finish(process.start(arguments, output, cache=cache, **options), output)

    return function


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tables, cache):
    """(work directory, what was printed) of the tiny run, undisturbed, by the command itself."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    command = [
        sys.executable,
        "-m",
        "fjt.main",
        *process.tiny(tables, log__tensorboard=True, output__curve=True),
        "--workdir",
        workdir,
    ]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        command, cwd=process.ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return pathlib.Path(workdir), done.stdout
