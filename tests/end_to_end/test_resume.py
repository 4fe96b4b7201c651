"""Stopped, killed or damaged, and started again: the run ends with the bits of one that nothing disturbed."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from process import (
    DieInEvaluation,
    Slow,
    StopAfterEvaluation,
    finish,
    outcome,
    phase,
    read_rows,
    saving,
    start,
    tiny,
    wait_for,
)

from fjt.core import console
from fjt.experiment import programs

SLOW = Slow(0.1)
EVALUATIONS = (4, 8, 12)


@pytest.fixture
def begin(tables, cache, tmp_path):
    """begin(events, **options) -> (process, its output) of the tiny run in tmp_path / "run", new or resumed."""

    def function(events=SLOW, **options):
        output = tmp_path / "output"
        arguments = [*tiny(tables, **options), "--workdir", tmp_path / "run"]
        return start(arguments, output, cache=cache, events=events), output

    return function


def same(workdir, finished):
    """Asserts that a run ended as the undisturbed one did."""
    assert (workdir / "DONE").exists()
    got, wanted = outcome(workdir), outcome(finished[0])
    for key in wanted:
        assert got[key] == wanted[key], key
    assert not list((workdir / "checkpoints").glob("*tmp*"))


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_three_kills(begin, finished, tmp_path):
    """During a save, during evaluation, and at a random moment."""
    workdir = tmp_path / "run"
    since = time.time()
    process, _ = begin()
    assert wait_for(lambda: saving(workdir, since), process)
    kill(process)
    assert phase(workdir, EVALUATIONS, since) == "save"

    since = time.time()
    process, output = begin(DieInEvaluation(2))
    assert finish(process, output).code == -signal.SIGKILL
    assert phase(workdir, EVALUATIONS, since) == "evaluation" and read_rows(workdir / "train.jsonl")[-1]["step"] == 8

    process, output = begin()
    wait_for(lambda: "resuming" in output.read_text(), process)
    assert wait_for(lambda: len(read_rows(workdir / "train.jsonl")) > 8, process)
    time.sleep(random.Random(1).uniform(0, 0.4))
    kill(process)
    assert phase(workdir, EVALUATIONS, 0.0) != "done"

    process, output = begin(events=None)
    done = finish(process, output)
    assert done.code == 0 and "resuming after step" in done.text, done.text
    same(workdir, finished)


@pytest.mark.thorough
def test_asked_to_stop(begin, launch, tables, finished, tmp_path):
    """SIGTERM, Ctrl-C, a lost terminal, each with its code and nothing lost; another process is refused meanwhile."""
    workdir = tmp_path / "run"
    for number, code, step in ((signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 5), (signal.SIGHUP, 129, 7)):
        process, output = begin(Slow(0.3))
        assert wait_for(lambda wanted=step: len(read_rows(workdir / "train.jsonl")) >= wanted, process)
        if step == 2:
            second = launch(*tiny(tables), "--workdir", workdir)
            assert process.is_alive() and second.code == 2 and "another process" in second.text
        os.kill(process.pid, number)
        done = finish(process, output)
        assert done.code == code and "Traceback" not in done.text and signal.Signals(number).name in done.text
        stopped = read_rows(workdir / "train.jsonl")[-1]["step"]
        assert step <= stopped < 12
        assert (workdir / "checkpoints" / str(stopped) / "state").is_dir()  # saved where it stood
    process, output = begin(StopAfterEvaluation())
    assert finish(process, output).code == 143  # a signal between an evaluation and the next step is not lost
    stopped = read_rows(workdir / "train.jsonl")[-1]["step"]
    assert stopped in EVALUATIONS and stopped == read_rows(workdir / "eval.jsonl")[-1]["step"]
    process, output = begin(events=None)
    done = finish(process, output)
    assert done.code == 0 and f"resuming after step {stopped}" in done.text
    same(workdir, finished)


COMPILES = 100  # seconds


def slow_compiler():
    """The compiler takes long, and a program may look for signals only afterwards."""
    compile_step = programs._compile_step

    def slow(*arguments):
        console.say("compiling for a long time")
        time.sleep(COMPILES)
        return compile_step(*arguments)

    programs._compile_step = slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_compilation_does_not_wait_for_its_end(tables, cache, tmp_path, number):
    output = tmp_path / "output"
    process = start([*tiny(tables), "--workdir", tmp_path / "run"], output, cache=cache, hook=slow_compiler)
    assert wait_for(lambda: output.exists() and "compiling for a long time" in output.read_text(), process)
    began = time.monotonic()
    os.kill(process.pid, number)
    done = finish(process, output)
    assert done.code == 128 + number and time.monotonic() - began < COMPILES / 2
    assert f"stopped by {signal.Signals(number).name}; there was nothing to save" in done.text


@pytest.mark.thorough
def test_a_reader_that_leaves_stops_the_run_as_a_signal_does(tables, cache, finished, tmp_path):
    """As with `| head`: stdout and stderr lead to a pipe that is closed after the first lines."""
    workdir, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [*tiny(tables, log__every_steps=1), "--workdir", workdir]
    process = start(arguments, pipe, cache=cache, events=SLOW)
    with open(pipe) as reader:
        said = ""
        while not said.endswith("training 3/12"):
            more = reader.read(1)
            assert more, said
            said += more
    process.join(60)
    assert process.exitcode == 128 + signal.SIGPIPE
    last = read_rows(workdir / "train.jsonl")[-1]["step"]
    assert 4 <= last < 12 and (workdir / "checkpoints" / str(last) / "state").is_dir()
    done = finish(start(arguments, tmp_path / "output", cache=cache), tmp_path / "output")
    assert done.code == 0 and f"resuming after step {last}" in done.text
    same(workdir, finished)


@pytest.fixture(scope="module")
def stopped(tables, cache, tmp_path_factory):
    """A work directory of the tiny run, killed after it had saved steps 3, 4, 6, 8 and 9 and kept them."""
    folder = tmp_path_factory.mktemp("stopped")
    workdir = folder / "run"
    arguments = [*tiny(tables, checkpoint__keep=9), "--workdir", workdir]
    events = DieInEvaluation(3, pause=2.0)
    process = start(arguments, folder / "output", cache=cache, events=events)
    assert finish(process, folder / "output").code == -signal.SIGKILL
    assert saved(workdir) == {3, 4, 6, 8, 9}
    return workdir


def saved(workdir):
    """The steps whose checkpoints are whole."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()}


def largest(folder):
    """The largest file below a folder."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_damaged_checkpoints_are_passed_over(stopped, begin, finished, tmp_path):
    """The newest cut off, the one before with a flipped bit: the third serves, and both are named."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    cut = largest(workdir / "checkpoints" / "9" / "state")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    flipped = largest(workdir / "checkpoints" / "8" / "state")
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    done = finish(*begin(events=None, checkpoint__keep=9))
    assert done.code == 0, done.text
    assert "checkpoint of step 9 cannot be read" in done.text and "checkpoint of step 8 cannot be read" in done.text
    assert "resuming after step 6" in done.text
    same(workdir, finished)


def test_no_whole_checkpoint(stopped, begin, finished, tmp_path):
    """The run stops and says so; called again it starts over and ends with the same bits, with other options of
    execution by now, and what could not be read still lies beside it."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    for step in saved(workdir):
        (workdir / "checkpoints" / str(step) / "host" / "metadata").write_bytes(b"{")
    steps = saved(workdir)
    done = finish(*begin(events=None))
    assert done.code == 2 and "step 3 cannot be read" in done.text and "starts from step 0" in done.text, done.text
    environment = json.loads((workdir / "env.json").read_text()) | {"cores": 99}  # as on another machine
    (workdir / "env.json").write_text(json.dumps(environment))
    done = finish(*begin(events=None, log__every_steps=1, checkpoint__every_steps=5, checkpoint__keep=1))
    assert done.code == 0 and "resuming" not in done.text, done.text
    assert sorted(int(path.name) for path in (workdir / "checkpoints-unreadable").iterdir()) == sorted(steps)
    changes = json.loads((workdir / "config.json").read_text())["changes"]
    execution = {"log.every_steps", "checkpoint.every_steps", "checkpoint.keep"}
    assert {change["key"] for change in changes} == execution | {"env.cores"}
    same(workdir, finished)
