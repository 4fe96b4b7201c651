"""What of a study's folder goes into its report: no place of this machine, nothing that does not belong together."""

import json
import re
import shlex

import numpy as np
import pytest
from made_study import BEGUN, MISSING, MadeStudy, cells_of, make_pairs, predictions, records_of, truth

from fjt import report
from fjt.reports import gather, inference, publication
from fjt.reports.cells import summarize
from fjt.reports.comparisons import compare
from fjt.tasks.kinds import bounds_of


def test_paths_as_axes_keep_what_tells_them_apart(tmp_path):
    made = MadeStudy(tmp_path / "study")
    for path in ("/home/me/one/base", "/home/me/two/base", "hub/base"):
        made.cell("choices", "full", {0: predictions("choices", 0.9, path)}, {"model.path": path})
    found, cells = cells_of(made.finish(), tmp_path)
    assert list(cells) == [f"choices/full/model.path={name}" for name in ("one_base", "two_base", "hub_base")]
    assert found.rows[0]["run"] == "runs/choices/full/model.path=one_base/seed=0" and found.rows[0]["model"] == "base"
    assert b"/home" not in (tmp_path / "runs.csv").read_bytes()


@pytest.mark.parametrize(
    ("path", "study", "name"),
    [
        ("/home/me/minilm/", {}, "minilm"),
        ("/home/me/runs/mnli/export", {}, "mnli"),
        ("org/name", {}, "org/name"),
        ("", {}, "random weights"),
        ("/home/me/.cache/fjt/bases/0123/export", {"base": "quickstart"}, "the encoder of quickstart"),
    ],
)
def test_the_base_model_is_named_without_its_place(tmp_path, path, study, name):
    made = MadeStudy(tmp_path / "study", baseline="", **study)
    made.cell("choices", "full", {0: predictions("choices", 0.9, 0)}, chosen={"model.path": path})
    assert records_of(made.finish(), tmp_path).rows[0]["model"] == name


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["--config=/home/me/own.py:mrpc", "--workdir=/data/x"], ["--config=own.py:mrpc", "--workdir=DIR"]),
        (
            ["--config", "configs/a.py", "--shard", "1/2", "--workdir", "x"],
            ["--config", "configs/a.py", "--workdir", "DIR"],
        ),
        (["--engine", "ray", "--address=192.0.2.1:6379", "--config.seed=1"], ["--config.seed=1"]),
        (["--shard=1/2", "--config.data.dir=~/glue/data/"], ["--config.data.dir=data"]),
        (["--config.x=('/a/b', 'c/d')"], ["--config.x=('b', 'c/d')"]),
    ],
)
def test_commands_keep_the_last_part_of_paths(typed, kept):
    assert shlex.split(gather.without_paths(shlex.join(typed))) == kept


EDITS = {
    "batch": ("train", "batch_size", "many"),
    "no batch": ("train", "batch_size", ...),
    "subset": ("seeds", "subset", -1),
    "method": ("tune", "method", ["lora", "dance"]),
    "no list": ("tune", "method", None),
    "names": ("tune", "method", [["lora"]]),
}


def broken(folder, change):
    """A study with one thing wrong."""
    made = make_pairs(folder, 2, baseline="none" if change == "baseline" else "full")
    run = folder / "runs/choices/head/seed=1"
    if change == "data":
        made.cell("choices", "head", {2: predictions("choices", 0.9, 2)}, data="f" * 64)
    if change == "predictions":
        (run / "predictions" / "dev.npz").unlink()
    if change in EDITS:
        record = json.loads((run / "config.json").read_text())
        section, name, value = EDITS[change]
        record["config"][section] |= {name: value}
        if value is ...:
            del record["config"][section][name]
        (run / "config.json").write_text(json.dumps(record))
    if change == "scores":
        result = json.loads((run / "result.json").read_text())
        result["splits"]["dev"]["accuracy"] -= 0.01
        (run / "result.json").write_text(json.dumps(result))
    made.finish()
    if change == "plan":
        (folder / "plan.json").write_text('{"runs": ')
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "data",
            r"runs/choices/full/seed=0 and runs/choices/head/seed=2 did not read the same data \(data_sha256 dddd",
        ),
        ("baseline", "config.study.baseline='none' is not a method of this study"),
        ("predictions", "dev.npz is missing"),
        (
            "scores",
            "without 1 damaged runs:\n  runs/choices/head/seed=1 has accuracy .* but its predictions score",
        ),
        ("plan", "plan.json is damaged"),
        ("batch", r"without 1 damaged runs:\n  .*config.json is damaged \(config.train.batch_size='many' should be of"),
        ("no batch", r"config.json is damaged \(its config has no train.batch_size\)"),
        ("subset", r"config.json is damaged \(config.seeds.subset=-1 should be between"),
        ("method", r"config.json is damaged \(no method is called 'dance'\)"),
        ("no list", r"config.json is damaged \(config.tune.method=None should be of type tuple"),
        ("names", r"config.json is damaged \(no method is called \['lora'\]\)"),
    ],
)
def test_refusals(tmp_path, capsys, change, message):
    assert report.main(["report", str(broken(tmp_path / "study", change))]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_dev_set_without_labels_gives_no_scores(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.cell("choices", "full", {0: predictions("choices", 0.9, 0)})
    run = tmp_path / "study/runs/choices/full/seed=0"
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"metrics": {}, "splits": {}}))
    with np.load(run / "predictions" / "dev.npz") as arrays:
        np.savez(run / "predictions" / "dev.npz", **{**arrays, "label": np.full(120, -1, np.int32)})
    output, _ = publication.report(made.finish())
    assert "No run of this task has a score." in (tmp_path / "study/report/report.md").read_text() and output


def test_data_that_an_axis_changes_may_differ(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for limit in (100, 200):
        right = predictions("choices", 0.9, limit)
        made.cell("choices", "full", {0: right}, {"data.limit": limit}, data=f"{limit}" * 16)
    assert len(cells_of(made.finish(), tmp_path)[1]) == 2


def test_folders_that_hold_no_study_are_refused(tmp_path, capsys):
    assert report.main(["report", str(tmp_path)]) == 2
    assert "is not a study: it contains neither plan.json nor runs.csv and predictions.npz" in capsys.readouterr().err
    assert report.main(["report", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "full", {0: BEGUN, 1: MISSING})
    assert report.main(["report", str(made.finish())]) == 2
    assert "none of 2 runs has ended" in capsys.readouterr().err
    assert not (tmp_path / "study" / "report").exists()


def test_examples_that_share_a_source_widen_the_interval_over_new_ones(tmp_path):
    """By hand: `statistics.crossed_interval` over the sources; and the committed files keep them."""
    made = MadeStudy(tmp_path / "study")
    for method, skill in (("full", 0.8), ("lora", 0.85)):
        outcomes = {seed: predictions("choices", skill, method, seed, count=600) for seed in range(8)}
        made.cell("choices", method, outcomes, count=600)
    folder, right = made.finish(), truth("choices", 600)
    order = np.argsort(predictions("choices", 0.8, "full", 0, count=600) == right, kind="stable")
    cluster = np.argsort(order) // 5  # the examples of a source are right or wrong together
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
    alone = summarize(cells_of(folder, tmp_path / "alone")[1]["choices/full"], "accuracy")["new_examples"]
    for path in folder.glob("runs/**/dev.npz"):
        with np.load(path) as arrays:
            np.savez(path, **arrays, cluster=np.array([f"document {n}" for n in cluster]))
    first, second = cells_of(folder, tmp_path / "shared")[1].values()
    assert len(set(zip(cluster, first.cluster, strict=True))) == len(set(first.cluster)) == 120
    found = summarize(first, "accuracy")["new_examples"]
    args = first.scores("accuracy"), first.pseudo_values("accuracy"), first.failed, bounds_of("accuracy")
    assert found == inference.crossed_interval(*args, first.cluster)
    assert found.high - found.low > 1.5 * (alone.high - alone.low)
    tables = second.pseudo_values("accuracy") - first.pseudo_values("accuracy")
    one = compare(second, first, "accuracy")
    assert one.new_examples == inference.crossed_interval(one.differences, tables, one.failed, None, first.cluster)
    assert one.smallest == inference.smallest_difference(tables, one.failed, first.cluster)
    publication.report(str(folder))
    assert "600 dev examples: 360 `no`, 240 `yes`, from 120 sources" in (folder / "report" / "report.md").read_text()
