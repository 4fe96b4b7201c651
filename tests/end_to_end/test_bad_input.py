"""Bad input: the message names value, place and remedy, the exit code tells, nothing is lost and no traceback shown."""

import asyncio
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from process import ROOT, Slow, finish, outcome, read_rows, start, tiny, wait_for

import fjt
from fjt.core.errors import UserError
from fjt.training.protocols import Events

HEADER = "key,text,label"
GLUE, CLASSIFY = str(ROOT / "configs" / "glue.py"), str(ROOT / "configs" / "classify.py")


def refused(done, *words):
    """Asserts a user error with these words."""
    assert done.code == 2, f"exit code {done.code}:\n{done.text}"
    assert "Traceback" not in done.text, done.text
    for word in words:
        assert word in done.text, f"{word!r} is not in: {done.text}"


ARGUMENTS = {
    "no config": (["--workdir", "x"], ["--config is missing", "configs/glue.py:rte"]),
    "no workdir": (["--config", CLASSIFY], ["--workdir is missing"]),
    "no config file": (["--config", "configs/gleu.py"], ["configs/gleu.py", "--config"]),
    "no flag": (["--config", CLASSIFY, "--workdri", "x"], ["--workdri", "Did you mean", "workdir"]),
    "no option": (["--config", CLASSIFY, "--config.optim.lerning_rate=1"], ["lerning_rate", "optim.learning_rate"]),
    "a group": (["--config", CLASSIFY, "--config.optim=adamw"], ["config.optim", "optim.name"]),
    "stray word": (["--config", CLASSIFY, "epochs=3"], ["epochs=3", "--config.key=value"]),
    "a misspelt config file": (["--config", "configs/glu.py"], ["configs/glu.py", "no such file", "configs/glue.py"]),
    "no number": (["--config", CLASSIFY, "--config.train.batch_size=abc"], ["train.batch_size", "abc", "whole number"]),
    "no whole number": (
        ["--config", CLASSIFY, "--config.train.batch_size=1.5"], ["train.batch_size", "1.5", "whole number"]
    ),
    "no truth value": (
        ["--config", CLASSIFY, "--config.train.packing=perhaps"], ["train.packing", "perhaps", "True or False"]
    ),
    "a study": (["--config", str(ROOT / "configs" / "freezing.py")], ["python -m fjt.sweep"]),
    "out of range": (["--config", CLASSIFY, "--config.train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
    "no choice": (["--config", CLASSIFY, "--config.optim.name=adamx"], ["'adamx'", "adamw"]),
    "both durations": (
        ["--config", CLASSIFY, "--config.train.steps=5", "--config.train.epochs=5"], ["train.epochs", "train.steps"]
    ),
    "no task": (["--config", f"{GLUE}:ret", "--workdir", "WORK"], ["'ret'", "rte"]),
    "a task elsewhere": (
        ["--config", f"{GLUE}:agreement", "--workdir", "WORK"], ["'agreement'", "--config.data.source=synthetic"]
    ),
    "no kind": (["--config", f"{CLASSIFY}:regresion", "--workdir", "WORK"], ["'regresion'", "regression"]),
    "no folder": (
        ["--config", f"{GLUE}:rte", "--workdir", "WORK", "--config.data.source=files", "--config.data.dir=gone"],
        ["config.data.dir='gone'", "RTE/train.tsv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name, launch, tmp_path):
    arguments, words = ARGUMENTS[name]
    refused(launch(*[str(tmp_path / "run") if a == "WORK" else a for a in arguments]), *words)


def rows(*lines):
    return "\n".join([HEADER, *lines]) + "\n"


GOOD = ("a,one,yes", "b,two,no", "c,three,yes")
# name: (contents of bad.csv, options, words)
FILES = {
    "no file": (None, {}, ["bad.csv", "config.data.files.dev", "does not exist"]),
    "no column": (rows(*GOOD), {"data__columns__text": "review"}, ["csv:1", "'review'", "key, text, label", "columns"]),
    "no label": (rows(*GOOD, "d,four,"), {}, ["bad.csv:5", "no label"]),
    "unknown label": (rows(*GOOD, "d,four,maybe"), {}, ["bad.csv:5", "'maybe'"]),
    "no rows": (rows(), {}, ["bad.csv", "no rows"]),
    "empty file": ("", {}, ["bad.csv", "empty"]),
    "text for a score": (rows("a,one,0.5", "b,two,good"), {"data__kind": "regression"}, ["bad.csv:3", "'good'"]),
    "NaN for a score": (rows("a,one,0.5", "b,two,nan"), {"data__kind": "regression"}, ["bad.csv:3", "'nan'", "score"]),
    "broken UTF-8": (b"key,text,label\na,caf\xe9,yes\n", {}, ["bad.csv:2", "0xe9", "iconv"]),
    "too short": (rows(*GOOD, "d,four"), {}, ["bad.csv:5", "2 fields"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name, launch, tables, tmp_path):
    contents, options, words = FILES[name]
    path, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    if contents is not None:
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    scores = options.get("data__kind") == "regression"
    good.write_text(rows("a,one,0.5", "b,two,1.5") if scores else rows(*GOOD))
    options = {"data__files__train": good, "data__files__dev": path, "data__files__test": "", **options}
    refused(launch(*tiny(tables, **options), "--workdir", tmp_path / "run"), *words)
    assert not (tmp_path / "run" / "config.json").exists()


OPTIONS = {
    "no method": ({"tune__method": "lorra"}, ["'lorra'", "config.tune.method", "Did you mean lora"]),
    "a folder for a file": ({"data__files__dev": "."}, ["config.data.files.dev", "is a directory"]),
    "a file for a model": ({"model__path": "README.md"}, ["config.model.path=README.md", "is a file"]),
    "an adapter of nothing": ({"tune__method": "lora"}, ["config.model.path is empty", "lora"]),
    "a site that is none": (
        {"tune__method": "ia3", "tune__sites": "('keys',)"}, ["config.tune.sites", "Did you mean key"]
    ),
    "a rank above the width": (
        {"tune__method": "lora", "tune__rank": 33}, ["config.tune.rank=33", "between 1 and 32"]
    ),
    "ranks for other sites": (
        {"tune__method": "lora", "tune__ranks": (4, 4, 4)}, ["config.tune.ranks=(4, 4, 4)", "2 ranks", "query, value"]
    ),
    "a rank and ranks": (
        {"tune__method": "lora", "tune__rank": 4, "tune__ranks": (4, 4)}, ["config.tune.ranks", "leave out"]
    ),
    "a rank without bounds": (
        {"tune__method": "vera", "tune__rank": 10**10}, ["config.tune.rank=10000000000", "at most 128"]
    ),
    "scales that never move": ({"tune__method": "vera", "tune__rank": 8, "tune__vera_start": 0.0}, ["vera_start=0"]),
    "a site twice": ({"tune__method": "lora", "tune__sites": ("query", "query")}, ["names a site twice"]),
    "an MLP of nothing": (
        {"tune__method": "p_tuning", "tune__projection": 0, "tune__budget": 5000},
        ["config.tune.projection=0", "--config.tune.method=prompt"],
    ),
    "a bottleneck that does not divide": (
        {"tune__method": "compacter", "tune__bottleneck_width": 6}, ["the bottleneck, 6,", "multiple of 4"]
    ),
    "a rate that is none": ({"tune__method": "gradual", "tune__stage_rates": (1.0, "a")}, ["stage_rates=(1.0, 'a')"]),
    "biases of the pooler": ({"tune__method": "bitfit", "tune__sites": ("pooler",)}, ["bitfit cannot tune"]),
    "a budget beside a rank's bound": (
        {"tune__method": "lora", "tune__budget": 3000, "tune__max_rank": 4}, ["leave out config.tune.max_rank"]
    ),
    "a rank of nothing": ({"tune__method": "lora", "tune__rank": 0}, ["config.tune.rank=0", "at least 1"]),
    "a prefix without room": (
        {"tune__method": "prefix", "tune__prefix_length": 20},
        ["config.tune.prefix_length=20", "config.model.max_length=32", "32 positions"],
    ),
    "a prompt without room": (
        {"tune__method": "prompt", "tune__prompt_length": 20}, ["config.tune.prompt_length=20", "32 positions"]
    ),
    "an activation that is none": (
        {"tune__method": "pfeiffer", "tune__activation": "rleu"}, ["config.tune.activation='rleu'", "relu"]
    ),
    "a bottleneck of nothing": (
        {"tune__method": "houlsby", "tune__reduction": 64}, ["config.tune.reduction=64", "width 32"]
    ),
    "full and something": (
        {"tune__method": "('full','lora')"}, ["full cannot be combined with other methods", "leave it out"]
    ),
    "two of a kind": ({"tune__method": "('lora','dora')"}, ["lora and dora", "give one"]),
    "an option of another method": ({"tune__layers": 1}, ["tune.layers", "full"]),
    "no pattern": ({"tune__method": "pattern"}, ["config.tune.train"]),
    "a pattern of nothing": (
        {"tune__method": "pattern", "tune__train": "('layer_7/',)"}, ["'layer_7/'", "encoder/layer_0"]
    ),
    "too many devices": ({"mesh__data": 99}, ["config.mesh.data=99", "devices"]),
    "too few examples": ({"train__batch_size": 2, "train__accumulation": 4}, ["train.batch_size=2", "accumulation"]),
    "no directory": ({"model__path": "./gone"}, ["config.model.path=./gone", "does not exist"]),
    "no model": ({"model__path": "TABLES"}, ["config.model.path", "config.json"]),
    "not on the hub": ({"model__path": "nobody/nothing"}, ["nobody/nothing", "--config.model.path=DIR"]),
    "weights of classes": ({"loss__class_weights": "(1.0, 2.0, 3.0)"}, ["class_weights", "2 numbers"]),
    "too many rows wanted": ({"data__limit": 1000}, ["data.limit=1000", "96"]),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, launch, tables, tmp_path):
    options, words = OPTIONS[name]
    options = {key: tables if value == "TABLES" else value for key, value in options.items()}
    refused(launch(*tiny(tables, **options), "--workdir", tmp_path / "run"), *words)
    assert not (tmp_path / "run" / "config.json").exists()  # the corrected command may take the directory


@pytest.fixture
def model(finished, tmp_path):
    """A model directory that a test may damage."""
    shutil.copytree(finished[0] / "export", tmp_path / "model")
    return tmp_path / "model"


def configure(model, **values):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_models(model, launch, tables, tmp_path):
    def attempt(**options):
        return launch(*tiny(tables, model__path=model, **options), "--workdir", tmp_path / "run")

    refused(attempt(model__max_length=100), "config.model.max_length=100", "32 positions")
    config = (model / "config.json").read_bytes()
    configure(model, vocab_size=100)
    refused(attempt(), str(model), "vocab_size is 100", "tokenizer")
    (model / "config.json").write_bytes(config)
    configure(model, intermediate_size=128)
    refused(attempt(), str(model), "intermediate.dense.weight", "(64, 32)", "(32, 128)")
    (model / "config.json").write_bytes(config)
    configure(model, model_type="gpt2")
    refused(attempt(), "config.json", "'gpt2'", "bert")
    (model / "config.json").write_bytes(config[:-20])
    refused(attempt(), "config.json", "is damaged")
    (model / "config.json").write_bytes(config)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(attempt(), str(weights), "cut off", f"{weights.stat().st_size:,} bytes")
    weights.unlink()
    refused(attempt(), str(model), "no model.safetensors")
    (model / "pytorch_model.bin").write_bytes(b"")
    refused(attempt(), "pytorch_model.bin", "save_pretrained")


def test_work_directories(launch, tables, tmp_path):
    (tmp_path / "file").write_text("")
    refused(launch(*tiny(tables), "--workdir", tmp_path / "file"), "--workdir", str(tmp_path / "file"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    refused(launch(*tiny(tables), "--workdir", other), "--workdir", str(other), "config.json")


def test_no_hub_within_ten_seconds(tmp_path):
    """A server that accepts and never answers, as a network that drops packets does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = os.environ | {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "no_proxy": "*",
        }
        script = (
            "import time, huggingface_hub\nfrom fjt.models import model_path\nstart = time.monotonic()\n"
            "try: model_path.resolve('some-model', 'main')\n"
            "except model_path.UserError as error: print(error)\nprint(time.monotonic() - start)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
    message, seconds = done.stdout.strip().splitlines()
    assert float(seconds) < 10.0
    for word in ("config.model.path=some-model", "revision main", "--config.model.path=DIR"):
        assert word in message


def test_glue_without_a_network(launch, tmp_path):
    """The first command of a user: data and model are far away, and the ways out are named."""
    begin = time.monotonic()
    done = launch("--config", GLUE, "--workdir", tmp_path / "run", f"--config.cache.dir={tmp_path}", hook=no_network)
    assert time.monotonic() - begin < 60  # ten seconds on a machine of one's own
    refused(done, "--config.model.path=DIR", "--config.data.source=files", "--config.data.dir")


def no_network():
    """Every connection to elsewhere is refused at once."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ[name] = "http://127.0.0.1:9"


# --- while it runs


def test_loss_not_finite(launch, tables, tmp_path):
    options = dict(optim__learning_rate=1e30, optim__schedule="constant", optim__warmup_fraction=0.0)
    options |= dict(checkpoint__every_steps=1, checkpoint__keep=1)
    done = launch(*tiny(tables, **options), "--workdir", tmp_path)
    assert done.code == 3 and "Traceback" not in done.text, done.text
    assert "step 2" in done.text and "learning_rate" in done.text
    assert not (tmp_path / "DONE").exists()
    assert "step 2" in json.loads((tmp_path / "result.json").read_text())["failed"]
    with pytest.raises(UserError, match=r"failed: the loss of step 2.*would fail again"):
        fjt.load_run(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1"}
    assert [row["step"] for row in read_rows(tmp_path / "train.jsonl")] == [1]


@pytest.mark.thorough
def test_predictions_not_finite(launch, tables, tmp_path):
    """The one loss and all parameters are finite, what they predict is not: the run has failed, now and again."""
    options = dict(optim__learning_rate=1e30, optim__schedule="constant", optim__warmup_fraction=0.0)
    arguments = [*tiny(tables, **options, train__epochs=None, train__steps=1), "--workdir", tmp_path]
    for _ in range(2):
        done = launch(*arguments)
        assert done.code == 3 and "90 of the 90 predictions of dev are not finite after step 1" in done.text, done.text
        assert "metrics" not in json.loads((tmp_path / "result.json").read_text())
        assert not (tmp_path / "DONE").exists() and "Traceback" not in done.text


def test_loss_not_finite_later(finished, launch, tables, tmp_path):
    """The last good checkpoint stays, and a run that goes on from it says the same again."""
    arguments = [*tiny(tables, checkpoint__every_steps=3), "--workdir", tmp_path]
    for _ in range(2):
        done = launch(*arguments, events=Spoil(7))
        assert done.code == 3 and "step 8" in done.text and "Traceback" not in done.text, done.text
        assert "6" in {path.name for path in (tmp_path / "checkpoints").iterdir()}
        assert [row["step"] for row in read_rows(tmp_path / "train.jsonl")] == list(range(1, 8))
    done = launch(*arguments)
    assert done.code == 0 and "resuming after step 6" in done.text
    assert outcome(tmp_path) == outcome(finished[0])


@dataclasses.dataclass
class Spoil(Events):
    """What trains is NaN after `step` steps, as a broken kernel would leave it."""

    step: int

    def step_begins(self, step, stepper):
        if step == self.step:
            spoiled = jax.tree.map(lambda x: x * np.float32(np.nan), stepper.state.trainable)
            stepper.state = dataclasses.replace(stepper.state, trainable=spoiled)


def quiet():
    """A save that fails closes its event loop; each array that is done later would print a traceback about it, more
    than the file of the output may hold."""
    asyncio.base_events.BaseEventLoop._check_closed = lambda self: None


@dataclasses.dataclass
class ForbidLargeFiles(Events):
    """Files cannot grow beyond a size once the checkpoint of step `after` is whole, as on a full disk.

    That holds for what is printed as well.
    """

    size: int
    after: int
    folder: pathlib.Path

    def save_begins(self, step):
        if step > self.after:
            while not (self.folder / str(self.after)).exists():
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def test_save_that_fails(finished, launch, tables, tmp_path):
    """A file that cannot be written: the message names the folder, the older checkpoint stays, and the run goes on."""
    done = launch(
        *tiny(tables), "--workdir", tmp_path, events=ForbidLargeFiles(16384, 4, tmp_path / "checkpoints"), hook=quiet
    )
    failed_well(done, tmp_path)
    done = launch(*tiny(tables), "--workdir", tmp_path)
    assert done.code == 0 and "resuming after step 4" in done.text, done.text
    assert outcome(tmp_path) == outcome(finished[0])


def test_no_space_left(finished, cache, tables, launch, tmp_path):
    """A small file system that another file fills once the first checkpoint is there."""
    disk, workdir = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes rights that this user lacks")
    try:
        arguments = [*tiny(tables), "--workdir", workdir]
        process = start(arguments, tmp_path / "out", cache=cache, events=Slow(0.5))
        assert wait_for(lambda: (workdir / "checkpoints" / "4").exists(), process)
        with open(disk / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        failed_well(finish(process, tmp_path / "out"), workdir, "space")
        (disk / "filler").unlink()
        done = launch(*arguments)
        assert done.code == 0 and "resuming after step 4" in done.text, done.text
        assert outcome(workdir) == outcome(finished[0])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def failed_well(done, workdir, *words):
    """Asserts that a run ended for want of room as it should: told, and with its last whole checkpoint kept."""
    # Orbax's own threads print what befell them; fjt's main thread must not.
    assert done.code not in (0, 1) and "fjt/main.py" not in done.text, done.text
    told = [line for line in done.text.splitlines() if line.startswith(("fjt:", "warning:"))]
    assert any(all(word in line for word in (str(workdir), *words)) for line in told), done.text
    assert (workdir / "checkpoints" / "4" / "state").is_dir() and not (workdir / "DONE").exists()
