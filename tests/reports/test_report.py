"""A report as a whole: the same bytes from either source, of which runs it is, which folders it is written to."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_study import BEGUN, DIVERGED, MISSING, make_pairs, predictions
from read_report import rows_of

from fjt import report
from fjt.core import files
from fjt.core.errors import UserError
from fjt.reports import archive, gather, publication


def every_file(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_both_sources_give_the_same_bytes(written, tmp_path):
    first = every_file(written[0])
    publication.report(written[0], tmp_path / "again")
    assert every_file(tmp_path / "again") == first
    assert set(first) >= {"report.md", "report.html", "cells.csv", "comparisons.csv", "runs.csv", "predictions.npz"}
    for name in ("scores", "costs", "rates", "curves", "best"):
        assert first[f"figures/choices-{name}.png"].startswith(b"\x89PNG")
        assert b"<svg" in first[f"figures/marks-{name}.svg"]


def test_what_is_committed_names_no_machine(folder, written):
    for name, content in every_file(written[0]).items():
        assert b"somewhere" not in content and b"private" not in content and str(folder).encode() not in content, name
    with np.load(written[0] / "predictions.npz") as arrays:
        assert "private" not in str(arrays["facts"]) and "minilm" in str(arrays["facts"])
    assert "`python -m fjt.sweep --config configs/made.py --workdir DIR --config.model.path=minilm`" in written[1]


def test_a_study_in_progress(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "head", {6: BEGUN, 7: MISSING})
    made.cell("choices", "lora", {seed: MISSING for seed in range(8)})
    made.trials("choices", "lora", "optim.learning_rate", {1e-3: {1000: BEGUN, 1001: MISSING}})
    output, cells = publication.report(made.finish())
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "**12 of 13 reported runs finished**" in text
    assert "10 reported and 2 tuning runs have not ended, 2 of these begun" in text
    table = rows_of(text, "Scores: accuracy")
    assert table["head"]["finished/ started"] == "6/7" and table["lora"]["finished/ started"] == "0/0"
    assert "None of 0 runs has a score" in text and "10 runs of these comparisons have not ended" in text
    assert output.endswith("report") and len(cells) == 3


@pytest.mark.parametrize("outcome", [MISSING, DIVERGED])
def test_a_cell_without_any_scored_run_has_no_dev_set(tmp_path, outcome):
    """Of a task without one, and of a fold, whose rows no other cell has."""
    made = make_pairs(tmp_path / "study", 6)
    made.cell("topics", "full", {seed: outcome for seed in range(6)})
    for method, fold in itertools.product(("full", "head"), range(2)):
        ended = method == "full" or fold == 0
        outcomes = {s: predictions("marks", 0.8, method, fold, s) if ended else outcome for s in range(6)}
        made.cell("marks", method, outcomes, axes={"data.fold": fold})
    folder, _ = publication.report(made.finish())
    text = Path(folder, "report.md").read_text()
    assert "(1 of 2 folds)" in text and "**topics**: no run has a score." in text
    assert len(list(Path(folder, "consistency").iterdir())) == 1
    assert text.count("| always the mean |  | 0.00 |") == 2  # of two scores: folds with equal ones share a row


def test_a_report_is_written_over_a_report_alone(folder, tmp_path):
    new = tmp_path / "new"
    publication.own(str(new))
    (new / "notes.txt").write_text("mine")
    publication.own(str(new))  # it has the marker
    (new / ".fjt").unlink()
    with pytest.raises(UserError, match=r"new is not empty and is not a report of fjt: it has notes\.txt\. Give a new"):
        publication.own(str(new))
    archive.save(gather.read(folder), str(new))
    publication.own(str(new))  # as a committed one, which has no marker
    for name in ("figures", "consistency"):
        (new / name).symlink_to(tmp_path)
        with pytest.raises(UserError, match=f"{name} in it is a symbolic link"):
            publication.own(str(new))
        (new / name).unlink()
    (tmp_path / "of a stranger").mkdir()
    for name in archive.FILES:  # the names alone do not make a report
        (tmp_path / "of a stranger" / name).write_text("theirs")
    with pytest.raises(UserError, match="is not a report of fjt"):
        publication.own(str(tmp_path / "of a stranger"))
    for name, content in (
        ("report.html", "theirs"),
        ("runs.csv", "theirs"),
        (".fjt", "the folder of a study of fjt\n"),
    ):
        theirs = tmp_path / f"their {name}"
        theirs.mkdir()
        (theirs / name).write_text(content)
        with pytest.raises(UserError, match="is not empty and is not a report of fjt: it has"):
            publication.report(folder, str(theirs))
        assert every_file(theirs) == {name: content.encode()}
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(UserError, match="is not a folder"):
        publication.report(folder, str(tmp_path / "file"))


def saved(study, folder):
    """A committed report of a study, without a marker: its two files alone."""
    folder.mkdir()
    archive.save(gather.read(study), str(folder))
    return folder


def test_a_report_replaces_none_of_another_study(tmp_path):
    shorter, same, longer = (make_pairs(tmp_path / str(n), n).finish() for n in (2, 3, 4))
    committed = saved(same, tmp_path / "committed")
    before = every_file(committed)
    for source in (shorter, saved(shorter, tmp_path / "saved")):
        with pytest.raises(UserError, match=r"the report of another study: 2 of its finished runs, such as runs/"):
            publication.report(source, str(committed))
        assert every_file(committed) == before
    publication.check_output(str(committed), gather.read(longer))  # of a study that has gone on


@pytest.mark.parametrize("source", ["study", "saved"])
def test_a_report_without_a_marker_is_written_again_after_a_kill(tmp_path, monkeypatch, source):
    saved(make_pairs(tmp_path / "study", 3).finish(), tmp_path / "saved")
    committed = saved(make_pairs(tmp_path / "part", 2).finish(), tmp_path / "committed")
    writes = []

    def write(path, content):
        writes.append(os.path.basename(path))
        if path.endswith("predictions.npz"):
            raise KeyboardInterrupt
        files.write(path, content)

    for module in (publication, archive):
        monkeypatch.setattr(module, "files", SimpleNamespace(**vars(files) | {"write": write}))
    with pytest.raises(KeyboardInterrupt):
        publication.report(tmp_path / source, str(committed))
    assert writes == [".fjt", "runs.csv", "predictions.npz"]
    publication.check_output(str(committed))


DAMAGES = {"result.json": b"{", "config.json": b"[]", "train.jsonl": b"{}\n", "predictions/dev.npz": b"PK"}


def test_damaged_runs_are_named_and_the_others_are_reported(tmp_path, capsys):
    study = make_pairs(tmp_path / "study", 8).finish()
    for seed, (name, content) in enumerate(DAMAGES.items()):
        (study / f"runs/choices/head/seed={seed}" / name).write_bytes(content)
    assert report.main(["report", str(study)]) == 2
    error, text = capsys.readouterr().err, (study / "report" / "report.md").read_text()
    assert "the report is written without 4 damaged runs:\n" in error
    assert "**12 of 16 reported runs finished**" in text and str(tmp_path) not in text
    assert "have not ended; the tests are computed once, when all have" in text
    for seed, name in enumerate(DAMAGES):
        run = f"runs/choices/head/seed={seed}"
        assert f"\n  {run}/{name} is damaged " in error
        assert f"`{run}` is damaged and not part of this report: {run}/{name} is damaged " in text
    first = every_file(study / "report")
    assert report.main(["report", str(study / "report"), "--output", str(tmp_path / "again")]) == 2
    assert every_file(tmp_path / "again") == first


WRONG = {"collapsed": "x", "train_seconds": "fast", "splits": {"dev": {"accuracy": None}}, "planned_steps": None}


def test_runs_whose_result_has_a_wrong_value_are_named_and_the_others_are_reported(tmp_path, capsys):
    study = make_pairs(tmp_path / "study", 5).finish()
    for seed, (name, value) in enumerate(WRONG.items()):
        path = study / f"runs/choices/full/seed={seed}/result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert report.main(["report", str(study)]) == 2
    error = capsys.readouterr().err
    assert "the report is written without 4 damaged runs:\n" in error
    assert all(f"\n  runs/choices/full/seed={seed}/result.json is damaged (" in error for seed in range(len(WRONG)))
