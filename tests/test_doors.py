"""The commands refuse to write over what they read and over files of others, and to read a damaged base."""

import json
import os

import made_study
import pytest

from fjt import predict, reproduce
from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.experiment import again, finished, new_texts, workdir
from fjt.experiment.finished import Run

TASK = Task("choices", "classification", ("no", "yes"), ())


@pytest.fixture
def folder(tmp_path):
    """A finished run in the folder `run`, a table that it was trained on, and a new input beside it."""
    made_study.write_run(tmp_path / "run", "runs", "choices", "full", made_study.predictions("choices", 0.9, 0), {})
    for name in ("train.tsv", "new.tsv", "other.tsv"):
        (tmp_path / name).write_text("text\nprecious\n")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "new.tsv")
    os.link(tmp_path / "new.tsv", tmp_path / "hard.tsv")
    (tmp_path / "hanging.tsv").symlink_to(tmp_path / "nothing.tsv")
    for name, kind in (("second", workdir.RUN), ("study", workdir.STUDY)):
        workdir.own(str(tmp_path / name), kind)
    for name in ("second/predictions", "study/report"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder.tsv").mkdir()
    return tmp_path


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_in(folder):
    files = {"train": str(folder / "train.tsv"), "dev": "", "test": str(folder / "no.tsv")}
    return Run(str(folder / "run"), {"method": ["full"]}, {"data": {"files": files}}, TASK, False)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("other.tsv", "already exists. Give a new file, or --overwrite"),
        ("hanging.tsv", "already exists"),
        ("second/train.jsonl", "among fjt's own files"),
        ("second/predictions/new.tsv", "among fjt's own files"),
        ("study/report/new.tsv", "among fjt's own files"),
        ("new.tsv", "is also --input="),
        ("link.tsv", "is also --input="),
        ("hard.tsv", "is also --input="),
        ("train.tsv", "is also config.data.files.train of the run"),
        ("run/eval.jsonl", "among fjt's own files"),
        ("run/predictions/dev.npz", "among fjt's own files"),
        ("run/../run/predictions/mine.tsv", "among fjt's own files"),
        ("folder.tsv", "is a folder"),
    ],
)
def test_predictions_never_replace_what_a_run_or_a_prediction_reads(folder, monkeypatch, capsys, output, message):
    monkeypatch.setattr(finished, "load_run", lambda path, base: run_in(folder))
    monkeypatch.setattr(new_texts, "read", pytest.fail)
    monkeypatch.setattr(new_texts, "count", pytest.fail)
    before = tree(folder)
    arguments = ["--run", folder / "run", "--input", folder / "new.tsv", "--output", folder / output]
    assert predict.main(["predict", *map(str, arguments)]) == 2
    assert message in capsys.readouterr().err and tree(folder) == before


def test_other_outputs_are_written(folder):
    for output in ("fresh.tsv", "run/mine.tsv", "no.tsv", "study/mine.tsv"):
        predict._check_output(str(folder / output), str(folder / "new.tsv"), run_in(folder), False)
    predict._check_output(str(folder / "other.tsv"), str(folder / "new.tsv"), run_in(folder), True)
    for output in ("link.tsv", "train.tsv", "second/eval.jsonl"):  # whatever the user asks for
        with pytest.raises(UserError, match=r"is also|own files"):
            predict._check_output(str(folder / output), str(folder / "new.tsv"), run_in(folder), True)


@pytest.mark.parametrize(
    "output",
    ["run/export/more", "run/checkpoints/new", "run/tensorboard", "run", "second/data", "study/report/new", ""],
)
def test_an_export_is_a_new_directory_outside_the_run_s_own(folder, output):
    before = tree(folder)
    with pytest.raises(UserError, match=r"among fjt's own files|already exists|is empty"):
        run_in(folder).export(str(folder / output) if output else "")
    assert tree(folder) == before


def finish(folder, kind):
    """A folder with a run that has ended, under a marker."""
    workdir.own(str(folder), kind)
    made_study.write_run(folder, "runs", "choices", "full", made_study.DIVERGED, {})


@pytest.mark.parametrize("place", ["run", "run/new", "run/export", "link", "other", "theirs", "ended", "study"])
def test_a_repetition_takes_over_nothing(folder, monkeypatch, place):
    (folder / "link").symlink_to(folder / "run")
    finish(folder / "other", workdir.RUN)
    finish(folder / "ended", workdir.REPETITION)
    (folder / "theirs").mkdir()
    (folder / "theirs" / "notes.txt").write_text("precious")
    made_study.make_pairs(folder / "study", 1).finish()
    monkeypatch.setattr(again, "prepare_again", pytest.fail)
    before = tree(folder)
    with pytest.raises(UserError, match="Give a new folder"):
        reproduce.reproduce(str(folder / "run"), str(folder / place))
    assert tree(folder) == before


def test_a_repetition_may_start_in_a_new_folder_and_go_on(folder, monkeypatch):
    class Reached(Exception):
        pass

    def reach(folder, keep):
        raise Reached

    monkeypatch.setattr(again, "prepare_again", reach)
    (folder / "empty").mkdir()
    workdir.own(str(folder / "stopped"), workdir.REPETITION)
    (folder / "stopped" / "config.json").write_text(json.dumps({}))
    for place in ("new", "empty", "stopped"):
        with pytest.raises(Reached):
            reproduce.reproduce(str(folder / "run"), str(folder / place))
