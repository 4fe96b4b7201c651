"""The Python API: what the commands do, from a program or a notebook, which goes on as before."""

import asyncio
import concurrent.futures
import logging
import os
import pathlib
import re
import signal
import sys
import threading

import jax
import numpy as np
import pandas
import pytest

import fjt
from configs import quickstart_sweep
from fjt import reproduce
from fjt.api import interruptible
from fjt.experiment.finished import Results
from fjt.training.checkpoint import NotFinite
from fjt.training.stop import Stopped

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
TEXTS, LABELS = ["a fine film", "a dull film", "great fun", "no fun"] * 6, ["good", "bad", "good", "bad"] * 6
TINY = dict(
    model__path="", model__max_length=16, model__scratch__layers=1, model__scratch__width=32, model__scratch__heads=2,
    model__scratch__inner=32, optim__learning_rate=3e-3, train__batch_size=8, train__epochs=2, mesh__data=1,
    output__curve=False, log__tensorboard=False,
)  # fmt: skip


def state():
    """What a program would notice of a run afterwards."""
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "jax": dict(jax.config.values),
        "absl": logging.getLogger("absl").level,
        "path": list(sys.path),
        "argv": list(sys.argv),
        "folder": os.getcwd(),
        "environment": {name: os.environ.get(name) for name in ("TF_CPP_MIN_LOG_LEVEL", "TRANSFORMERS_VERBOSITY")},
        "numpy": np.geterr(),
        "threads": threading.active_count(),
    }


def train(workdir, **options):
    return fjt.train(workdir=workdir, train=(TEXTS, LABELS), dev=(TEXTS, LABELS), **(TINY | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fjt.train("quickstart"), r"workdir is missing"),
        (lambda: fjt.train("quickstart_sweep", "run"), r"of a study: run it by fjt.sweep"),
        (lambda: fjt.train(quickstart_sweep.get_config(), "run"), r"of a study: run it by fjt.sweep"),
        (lambda: fjt.sweep("quickstart_sweep", "s3://bucket"), r"files of this machine only"),
        (lambda: fjt.train(7, "run"), r"config is 7. It should be a ConfigDict or a dict"),
        (lambda: fjt.train("quick", "run"), r"The config quick does not exist. Did you mean quickstart"),
        (lambda: fjt.train("quickstart", "run", lr=1e-3), r"lr is not an option. Did you mean optim.learning_rate"),
        (lambda: fjt.train("quickstart", "run", train__epochs="three"), r"config.train.epochs='three' should be"),
        (lambda: fjt.train("quickstart", "run", train=(TEXTS, LABELS[1:])), r"train: 24 of text, 23 of label"),
        (lambda: fjt.train("classify", "run", train="none.csv", dev="none.csv"), r"'none.csv' does not exist"),
        (lambda: fjt.sweep("quickstart", "run"), r"has no study"),
        (lambda: fjt.sweep("quickstart_sweep", "run", study__sed=1), r"study.sed is not an option"),
    ],
)  # fmt: skip
def test_a_mistake_is_an_exception_with_its_sentence_and_leaves_nothing(tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["notebook", "-f", "/kernel.json", "--config.seed=7"])
    before = state()
    with pytest.raises(fjt.UserError, match=message):
        call()
    assert state() == before and not list(tmp_path.rglob("config.json"))


def test_what_is_no_name_of_fjt_is_none():
    assert {"train", "sweep", "load_run", "results", "UserError"} <= set(dir(fjt))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        fjt.trian()


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (Stopped(signal.SIGINT), KeyboardInterrupt),
        (SystemExit(130), KeyboardInterrupt),
        (Stopped(signal.SIGTERM), fjt.Ended),
        (SystemExit(143), SystemExit),
        (NotFinite("the loss is nan"), fjt.Ended),
        (fjt.UserError("no"), fjt.UserError),
    ],
    ids=repr,
)
def test_ctrl_c_is_a_keyboard_interrupt_and_nothing_else_is(raised, seen):
    with pytest.raises(seen), interruptible():
        raise raised


def test_a_table_of_results_needs_pandas_and_says_so(monkeypatch):
    rows = Results([{"workdir": "a", "metrics": {"accuracy": 0.5}, "failed": None}, {"workdir": "b", "failed": "nan"}])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fjt.UserError, match="pip install pandas"):
        rows.to_pandas()
    monkeypatch.undo()
    table = rows.to_pandas()
    assert table["metrics.accuracy"].isna().tolist() == [False, True] and table["workdir"].tolist() == ["a", "b"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(Run, the process before it, the process after it)."""
    folder, before = tmp_path_factory.mktemp("api") / "run", state()
    return train(folder, model__matmul_precision="highest"), before, state()


@pytest.mark.thorough
def test_a_run_gives_its_scores_its_predictions_and_its_model(trained, tmp_path):
    run, _, _ = trained
    assert run.metrics == run.result["metrics"] and set(run.metrics) == {"accuracy", "macro_f1"}
    assert set(run.predict(["a fine film"])["labels"]) <= {"good", "bad"}
    run.export(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(fjt.UserError, match="already exists"):
        run.export(tmp_path / "model")
    with pytest.raises(fjt.UserError, match="only --format=hf has"):
        run.export(tmp_path / "adapter", format="peft")
    with pytest.raises(fjt.UserError, match="--format=onnx is unknown"):
        run.export(tmp_path / "other", format="onnx")
    rows = fjt.results(run.path)
    assert rows[0]["metrics"] == run.metrics
    table = rows.to_pandas()
    assert isinstance(table, pandas.DataFrame) and table["metrics.accuracy"].tolist() == [run.metrics["accuracy"]]


@pytest.mark.thorough
def test_the_process_is_what_it_was(trained):
    _, before, after = trained
    assert after == before


@pytest.mark.thorough
def test_the_same_call_loads_the_run_and_other_data_are_refused(trained, capsys):
    run, _, _ = trained
    again = train(run.path, model__matmul_precision="highest")
    assert again.result == run.result and "already finished" in capsys.readouterr().out
    with pytest.raises(fjt.UserError, match="other data than the given train"):
        fjt.train(workdir=run.path, train=(TEXTS, LABELS[::-1]), dev=(TEXTS, LABELS), **TINY)
    with pytest.raises(fjt.UserError, match="belongs to another experiment"):
        train(run.path, seed=1)


@pytest.mark.thorough
def test_it_is_repeated_from_its_own_folder(trained, tmp_path, capsys):
    run, _, _ = trained
    assert reproduce.main(["reproduce", str(run.path)]) == 0 and "the same bits" in capsys.readouterr().out


def in_a_thread(function):
    """Python gives signals to the main thread alone."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def in_a_loop(function):
    """A notebook's cell runs inside an event loop."""

    async def cell():
        return function()

    return asyncio.run(cell())


@pytest.mark.thorough
@pytest.mark.parametrize("somewhere", [in_a_thread, in_a_loop])
def test_a_run_elsewhere_in_a_program_is_the_same(trained, tmp_path, somewhere):
    run = somewhere(lambda: train(tmp_path / "run", model__matmul_precision="highest"))
    assert run.result["params_sha256"] == trained[0].result["params_sha256"]


@pytest.mark.thorough
def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path, monkeypatch):
    """The signal comes in the first evaluation, by a metric that is called there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stops.py").write_text(
        "import os, signal\n"
        "def when_asked(p, y):\n"
        "    if os.path.exists('now') and not (p == y).all() and os.path.exists('run/train.jsonl'):\n"
        "        os.remove('now')\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return 0.0\n"
    )
    (tmp_path / "now").touch()
    before = state()
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT; the same command goes on from here"):
        train("run", eval__metrics="stops:when_asked")
    assert state() == before and not (tmp_path / "run" / "DONE").exists()
    run = train("run", eval__metrics="stops:when_asked")
    whole = train("whole", eval__metrics="stops:when_asked")
    assert run.result["params_sha256"] == whole.result["params_sha256"]


@pytest.mark.thorough
def test_a_run_without_its_model_has_scores(tmp_path):
    run = train(tmp_path / "run", output__export=False)
    assert run.metrics and run.records["eval"]
    for use in (lambda: run.predict(["a"]), lambda: run.export(tmp_path / "model"), lambda: fjt.load_run(run.path)):
        with pytest.raises(fjt.UserError, match=r"written with config.output.export=True"):
            use()


@pytest.mark.thorough
def test_the_readme_s_example_runs(tmp_path, monkeypatch, capsys):
    """As it stands, after a run like the README's first one and a config of one's own."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    train("runs/quickstart", model__max_length=64)
    small = "".join(f"    config.{key.replace('__', '.')} = {value!r}\n" for key, value in TINY.items())
    (tmp_path / "films_study.py").write_text(
        "from configs import quickstart, study\n\ndef get_config():\n"
        "    config = study.get_config(quickstart.get_config())\n" + small + "    config.data.limit = 16\n"
        '    config.study.products = ({"tune.method": ("head", "full")},)\n'
        "    config.study.seeds = 2\n    return config\n"
    )
    names = {}
    exec(example, names)
    assert (tmp_path / "films-peft" / "adapter_config.json").exists()
    assert sorted(names["table"]["workdir"])[0].endswith("full/seed=0") and len(names["table"]) == 4
    assert (tmp_path / "runs" / "study" / "report" / "report.md").exists()
    (told,) = re.findall(r"fjt.reproduce (\S+) --workdir DIR", capsys.readouterr().out)
    assert fjt.results(told)[0]["metrics"]["accuracy"] == names["table"]["metrics.accuracy"].max()
    assert reproduce.main(["reproduce", told, "--workdir", "again"]) == 0
    assert fjt.load_run("again").result["params_sha256"] == fjt.results(told)[0]["params_sha256"]
