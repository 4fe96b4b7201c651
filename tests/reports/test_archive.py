"""The two files of a study: what comes back from them, and which files are refused."""

import csv
import hashlib
import json

import numpy as np
import pytest
from made_study import make_pairs

from fjt import report
from fjt.core.errors import UserError
from fjt.reports import archive, gather, publication


def test_rows_come_back_as_they_were(folder, tmp_path):
    before = gather.read(folder)
    archive.save(before, tmp_path)
    after = archive.load(tmp_path)
    with open(tmp_path / "runs.csv", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    for old, new in zip(before.rows, after.rows, strict=True):
        for key in columns:
            if key in old and key not in ("optim.learning_rate", "tune.rank"):  # text there
                assert new[key] == (None if old[key] == "" else old[key]), key
    assert after.facts == before.facts
    for name, parts in before.dev.items():
        assert all((parts[part] == after.dev[name][part]).all() for part in parts)
    assert all(
        (a == b).all() for name in before.curves for a, b in zip(before.curves[name], after.curves[name], strict=True)
    )


def test_files_that_do_not_belong_together_are_refused(folder, written, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "runs.csv").write_bytes((written[0] / "runs.csv").read_bytes())
    assert report.main(["report", str(other)]) == 2
    assert "predictions.npz is missing next to runs.csv" in capsys.readouterr().err
    archive.save(gather.read(make_pairs(tmp_path / "study", 2).finish()), tmp_path)
    whole = (tmp_path / "predictions.npz").read_bytes()
    for content in (b"", b"words", whole[: len(whole) // 2]):
        (other / "predictions.npz").write_bytes(content)
        assert report.main(["report", str(other)]) == 2
        assert "is not of a study" in capsys.readouterr().err
    (other / "predictions.npz").write_bytes(whole)
    assert report.main(["report", str(other), "--output", str(tmp_path / "out")]) == 2
    assert "do not belong together" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_that_no_study_writes_are_refused():
    """They would be paths of figures and parts of the page, and files of studies are given away."""
    names = dict.fromkeys(("run", "phase", "cell", "task", "method", "dev"), "a")
    archive._check_names(
        "runs.csv", [names, names | {"dev": None}, names | {"run": "runs/a/é+0.1,b/seed=3", "cell": "a/b=1e-05"}]
    )
    for key in names:
        for name in ('x"><img src=q>', "a|b", "`a`", r"\g<0>", "$a$", "../../a", "/a", "a b", "..", "", "a\n"):
            with pytest.raises(UserError, match=f"runs.csv: the {key}"):
                archive._check_names("runs.csv", [names, names | {key: name}])
    with pytest.raises(UserError, match=r"runs\.csv: the task"):
        archive._check_names("runs.csv", [names | {"task": "a/b"}])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",full,", ",full\r,", 1),
        lambda text: text.replace("finished", "finished,,,,", 1),
        lambda text: text.replace(",runs,", ",", 1),
        lambda text: text.replace(",finished,1,", ",finished,one,", 1),
        lambda text: text.split("\n")[0],
    ],
    ids=["a bare carriage return", "more fields", "fewer fields", "no number", "no rows"],
)
def test_a_table_of_another_form_is_a_sentence(written, tmp_path, change):
    """Its hash is that of the other file: a stranger can do that."""
    table = change((written[0] / "runs.csv").read_text())
    (tmp_path / "runs.csv").write_text(table, newline="")
    with np.load(written[0] / "predictions.npz") as arrays:
        arrays = dict(arrays)
    facts = json.loads(str(arrays["facts"])) | {"runs_sha256": hashlib.sha256(table.encode()).hexdigest()}
    np.savez(tmp_path / "predictions.npz", **arrays | {"facts": np.array(json.dumps(facts))})
    with pytest.raises(UserError, match=r"is damaged|has characters that no study writes"):
        publication.report(tmp_path)
