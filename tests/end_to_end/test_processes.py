"""One run in two processes with two devices each is the run of one process: its numbers, its files, its end."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from pair import Pair, free_port
from process import Slow, finish, outcome, read_rows, start, tiny, wait_for

SHARED = dict(mesh__data=0, train__batch_size=24, output__tables=True)
CASES = {
    "full": dict(tune__method="full", train__accumulation=2, train__select="best", train__packing=True),
    "lora": dict(tune__method="lora", optim__learning_rate=1e-2),
    "head": dict(tune__method="head", train__epochs=8, optim__learning_rate=1e-2),
}


@pytest.fixture(scope="module")
def base(finished):
    return finished[0] / "export"


def arguments_of(name, even, base, **options):
    given = SHARED | CASES[name] | dict(model__path=base, cache__dir=None) | options
    return tiny(even, **given)


@pytest.fixture(scope="module", params=list(CASES))
def both(request, even, base, cache, launch, tmp_path_factory):
    """(name, work directory of one process, work directory of two, their outputs)."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    arguments = arguments_of(name, even, base)
    ended = launch(*arguments, f"--config.cache.dir={folder}/cache", "--workdir", folder / "one")
    assert ended.code == 0, ended.text
    own = [[f"--config.cache.dir={folder}/cache-{i}"] for i in (0, 1)]
    done = Pair(arguments, folder / "pair", folder / "two", cache, own).finish()
    assert [one.code for one in done] == [0, 0], "\n".join(one.text for one in done)
    return name, folder / "one", folder / "two", done


def test_losses_are_those_of_one_process(both):
    _, one, two, _ = both
    first, second = read_rows(one / "train.jsonl"), read_rows(two / "train.jsonl")
    assert [row["step"] for row in first] == [row["step"] for row in second] and len(first) >= 12
    for before, now in zip(first, second, strict=True):
        assert (before["examples"], before["shape"]) == (now["examples"], now["shape"])
        np.testing.assert_allclose(now["loss"], before["loss"], rtol=2e-6)
    for split in ("dev", "test"):
        with (
            np.load(one / "predictions" / f"{split}.npz") as before,
            np.load(two / "predictions" / f"{split}.npz") as now,
        ):
            assert before["id"].tolist() == now["id"].tolist()
            np.testing.assert_allclose(now["logits"], before["logits"], atol=2e-5)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    same = ("steps", "selected_step", "trainable_params", "flops_per_step", "token_efficiency", "start_layer")
    assert [results[0][key] for key in same] == [results[1][key] for key in same]


def test_there_is_one_set_of_records_and_one_writer(both):
    """Process 1 writes nothing but its part of Orbax's checkpoints, and its own cache."""
    name, one, two, done = both

    def names(folder):
        return {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and "checkpoints" not in path.parts
        }

    assert names(one) == names(two) and "DONE" in names(two)
    by_second = [path for path in names(two) if not (two / path).stat().st_mode & 0o040]
    assert not by_second
    assert "dev accuracy" in done[0].text
    # Gloo's threads print lines of their own, piece by piece, at times one into another: words and numbers.
    pieces = r"\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : "
    assert not re.sub(r"[\d\s]", "", re.sub(pieces, "", done[1].text))
    assert [json.loads((folder / "env.json").read_text())["devices"] for folder in (one, two)] == [4, 4]
    kept = [list((two.parent / f"cache-{i}").rglob("*.npy")) for i in (0, 1)]
    assert [bool(found) for found in kept] == [name == "head"] * 2


@pytest.mark.parametrize("both", ["lora"], indirect=True)
def test_all_stop_at_the_same_step_and_go_on_to_the_same_bits(both, even, base, cache, tmp_path):
    _, _, undisturbed, _ = both
    arguments = arguments_of("lora", even, base, cache__dir=f"{even}/cache")
    workdir = tmp_path / "run"
    first = Pair(arguments, tmp_path / "first", workdir, cache, events=(Slow(0.4), Slow(0.4)))
    assert wait_for(lambda: len(read_rows(workdir / "train.jsonl")) > 4, first.processes[0])
    os.kill(first.processes[0].pid, signal.SIGINT)
    done = first.finish()
    assert [one.code for one in done] == [130, 143], done[0].text
    assert "the same command goes on from here" in done[0].text
    steps = len(read_rows(workdir / "train.jsonl"))
    assert 4 < steps < 12 and (workdir / "checkpoints" / str(steps)).is_dir()
    again = Pair(arguments, tmp_path / "second", workdir, cache).finish()
    assert [one.code for one in again] == [0, 0], again[0].text
    assert f"resuming after step {steps} " in again[0].text
    assert outcome(workdir) == outcome(undisturbed)
    over = Pair(arguments, tmp_path / "third", workdir, cache).finish()
    assert [one.code for one in over] == [0, 0] and "is already finished" in over[0].text


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(even, base, cache, tmp_path):
    """Stopped in one with four devices and continued in two, whose parameters are spread."""
    arguments = arguments_of("full", even, base, cache__dir=f"{even}/cache")
    spread = [["--config.mesh.shard_params=True", "--config.mesh.model=2"]] * 2
    workdir, other, output = tmp_path / "run", tmp_path / "other", tmp_path / "output"

    def alone(folder, **options):
        return start([*arguments, "--workdir", folder], output, cache=cache, **options)

    assert finish(alone(other), output).code == 0
    one = alone(workdir, events=Slow(0.05))
    assert wait_for(lambda: len(read_rows(workdir / "train.jsonl")) > 4, one)
    os.kill(one.pid, signal.SIGTERM)
    assert finish(one, output).code == 143
    again = Pair(arguments, tmp_path / "pair", workdir, cache, spread).finish()
    assert {one.code for one in again} == {0} and "resuming after step" in again[0].text, again[0].text
    found, wanted = ([row["loss"] for row in read_rows(folder / "train.jsonl")] for folder in (workdir, other))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def stop_saved(arguments, folder, cache):
    """The steps whose checkpoints a run in `folder` has after a SIGTERM to its second process."""
    workdir = folder / "run"
    pair = Pair(arguments, folder / "first", workdir, cache, events=(Slow(0.2), Slow(0.2)))
    assert wait_for(lambda: len(read_rows(workdir / "train.jsonl")) > 4, pair.processes[0])
    os.kill(pair.processes[1].pid, signal.SIGTERM)
    assert [one.code for one in pair.finish()] == [143, 143]
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped_by_all(even, base, cache, tmp_path):
    arguments = arguments_of("lora", even, base, cache__dir=f"{even}/cache")
    workdir, steps = tmp_path / "run", stop_saved(arguments, tmp_path, cache)
    for path in (workdir / "checkpoints" / str(steps[-1]) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    again = Pair(arguments, tmp_path / "second", workdir, cache).finish()
    assert [one.code for one in again] == [0, 0], again[0].text
    assert "cannot be read" in again[0].text and f"resuming after step {steps[-2]} " in again[0].text


@pytest.mark.slow
@pytest.mark.parametrize("both", ["lora"], indirect=True)
def test_a_checkpoint_whose_checksums_do_not_fit_is_skipped_by_all(both, even, base, cache, tmp_path):
    arguments = arguments_of("lora", even, base, cache__dir=f"{even}/cache")
    workdir, steps = tmp_path / "run", stop_saved(arguments, tmp_path, cache)
    about = workdir / "checkpoints" / str(steps[-1]) / "host" / "metadata"
    host = json.loads(about.read_text())
    host["sums"] = {name: value + 1 for name, value in host["sums"].items()}
    about.write_text(json.dumps(host))
    again = Pair(arguments, tmp_path / "second", workdir, cache).finish()
    text = "".join(one.text for one in again)
    assert "does not give its checksum" in text, text
    assert [one.code for one in again] == [0, 0] and f"resuming after step {steps[-2]} " in again[0].text, text
    assert outcome(workdir) == outcome(both[2])


@pytest.mark.slow
def test_the_other_process_ends_when_one_is_killed(even, base, cache, tmp_path):
    arguments = arguments_of("lora", even, base, cache__dir=f"{even}/cache")
    pair = Pair(arguments, tmp_path / "pair", tmp_path / "run", cache, events=(Slow(0.05), Slow(0.05)))
    assert wait_for(lambda: len(read_rows(tmp_path / "run" / "train.jsonl")) > 4, pair.processes[0])
    pair.processes[1].kill()
    pair.processes[0].join(15)
    assert pair.processes[0].exitcode not in (None, 0)  # by an error of its computation, or by JAX's heartbeat


# A long compilation, as far as signals are concerned: a call of C that lets no handler of Python run.
COMPILING = """
import hashlib, sys, threading
from fjt.core import errors
from fjt.training import processes
from fjt.training.stop import Stop
errors.in_command = lambda: True
processes.start("2", int(sys.argv[1]), sys.argv[2])
with Stop() as stop, stop.at_once():
    threading.Timer(0.5, print, ["ready"], {"flush": True}).start()  # when the call has begun
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "to", "codes"), [(signal.SIGTERM, 0, [143, 143]), (signal.SIGINT, 1, [143, 130])])
def test_a_signal_to_one_ends_all_while_they_compile(number, to, codes):
    address = f"127.0.0.1:{free_port()}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILING, str(i), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    try:
        assert [one.stdout.readline() for one in pair] == ["ready\n"] * 2
        pair[to].send_signal(number)
        texts = [one.communicate(timeout=8)[1] for one in pair]
    finally:
        for one in pair:
            one.kill()
            one.wait()
    assert [one.returncode for one in pair] == codes
    assert "there was nothing to save" in texts[0] and "fjt:" not in texts[1]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([[], ["--config.train.batch_size=12"]], ["the same options", "train.batch_size: 24 in process 0, 12 in"]),
        ([[], ["--workdir", "ELSEWHERE"]], ["is not seen by process 1", "a folder that all share"]),
        ([["--config.mesh.data=2"]] * 2, ["config.mesh.data=2", "have 4 devices", "all of them take part"]),
    ],
)
def test_processes_that_differ_are_refused_by_all(even, base, cache, tmp_path, own, words):
    own = [[str(tmp_path / "other") if word == "ELSEWHERE" else word for word in flags] for flags in own]
    arguments = arguments_of("lora", even, base, cache__dir=f"{even}/cache")
    done = Pair(arguments, tmp_path / "pair", tmp_path / "run", cache, own).finish()
    assert [one.code for one in done] == [2, 2], done[0].text
    assert all(word in done[0].text for word in words), done[0].text
    assert not (tmp_path / "run" / "train.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--processes=2"], ["--processes=2 needs --process=I, from 0 to 1, and --coordinator=HOST:PORT"]),
        (["--processes=2", "--process=2", "--coordinator=127.0.0.1:1"], ["--process=2", "from 0 to 1"]),
        (["--processes=two"], ["--processes=two", "a number or auto"]),
        (["--processes=auto", "--process=0"], ["--processes=auto detects"]),
        (["--processes=auto"], ["--processes=auto: JAX cannot start", "--coordinator=HOST:PORT"]),
        (["--processes=2", "--process=0", "--coordinator=here"], ["--coordinator=here", "HOST:PORT"]),
    ],
)
def test_flags_of_processes_that_do_not_fit(launch, even, tmp_path, flags, words):
    ended = launch(*tiny(even), "--workdir", tmp_path / "run", *flags)
    assert ended.code == 2 and all(word in ended.text for word in words), ended.text
    assert ended.text.count("\n") == 1
