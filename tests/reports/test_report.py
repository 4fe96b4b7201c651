"""A study's report: its numbers, the same bytes from either source, what it warns of."""

import csv
import dataclasses
import hashlib
import html.parser
import json
import math

import numpy as np
import pytest
from made_study import (
    BEGUN,
    DIVERGED,
    MISSING,
    MadeStudy,
    cells_of,
    make_pairs,
    predictions,
    records_of,
    truth,
    write_study,
)
from scores import pseudo_values

from fjt import report
from fjt.core.errors import UserError
from fjt.reports import archive, document, gather, inference, pages, sections
from fjt.reports.cells import costs, edges, make_cells, make_trials, summarize
from fjt.reports.comparisons import make_comparisons
from fjt.reports.figures import fewer, pareto

SEEDS = range(8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a study of two tasks, whole."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def written(folder):
    """(where its report is, the report's Markdown)."""
    output, _ = report.report(folder)
    return folder / "report", (folder / "report" / "report.md").read_text() if output else ""


def rows_of(markdown, heading, task="choices"):
    """{first column: {column: text}} of the table below a heading of a task's section, folded columns included."""
    part = markdown.split(f"\n## {task}\n")[1].split("\n## ")[0].split(f"### {heading}\n")[1].split("### ")[0]
    rows: dict[str, dict[str, str]] = {}
    for table in part.split("Each class")[0].split("<details>"):
        lines = [line.strip("|")[1:-1].split(" | ") for line in table.splitlines() if line.startswith("|")]
        for line in lines[2:]:
            rows.setdefault(line[0], {}).update(zip(lines[0], line, strict=True))
    return rows


def every_file(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def accuracies(method, *axes, skill):
    return np.array([np.mean(predictions("choices", skill, method, *axes, s) == truth("choices")) for s in SEEDS])


def test_both_sources_give_the_same_bytes(written, tmp_path):
    first = every_file(written[0])
    report.report(written[0], tmp_path / "again")
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


def test_scores_by_hand(written):
    """A collapsed run says 0 alone, and 72 of 120 labels are 0; a diverged one counts as such."""
    table = rows_of(written[1], "Scores: accuracy")
    head = accuracies("head", skill=0.7)
    head[2] = 72 / 120
    row = table["head"]
    assert row["finished/ started"] == "8/8" and (row["collapsed"], row["diverged"]) == ("1", "0")
    assert row["accuracy, points: mean ± sd"] == f"{100 * head.mean():.2f} ± {100 * head.std(ddof=1):.2f}"
    sound = np.delete(head, 2)
    assert row["without failed runs"] == f"{100 * sound.mean():.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
    assert (row["median"], row["best"]) == (f"{100 * np.median(head):.2f}", f"{100 * head.max():.2f}")
    half = 2.4469 * sound.std(ddof=1) / math.sqrt(7)  # Student's t of 6 degrees of freedom
    assert (
        row["95 %: new seeds, this dev set"]
        == f"{100 * (sound.mean() - half):.2f} to {100 * (sound.mean() + half):.2f}"
    )
    lora = accuracies("lora", 4, skill=0.85)
    lora[5] = 72 / 120
    row = table["lora, rank=4"]
    assert row["finished/ started"] == "7/8" and (row["collapsed"], row["diverged"]) == ("0", "1")
    assert row["accuracy, points: mean ± sd"] == f"{100 * lora.mean():.2f} ± {100 * lora.std(ddof=1):.2f}"
    assert row["worst"] == "60.00" and table["full"]["without failed runs"] == "the same"
    assert "`runs/choices/head/seed=2` (always `no`)" in written[1]
    assert "`runs/choices/lora/tune.rank=4/seed=5` (the loss of step 8 is nan" in written[1]
    assert rows_of(written[1], "Scores: f1")["head"]["worst"] == "0.00"
    assert "No run collapsed or diverged." in written[1].split("\n## marks\n")[1]


def test_intervals_are_those_of_statistics(folder, written, tmp_path):
    _, cells = cells_of(folder, tmp_path)
    cell = cells["choices/lora/tune.rank=4"]
    predicted = np.stack([predictions("choices", 0.85, "lora", 4, s) if s != 5 else np.zeros(120, int) for s in SEEDS])
    failed = np.arange(8) == 5
    assert (cell.predicted == predicted).all() and (cell.failed == failed).all()
    for metric in ("accuracy", "f1"):
        table = pseudo_values(metric, predicted, truth("choices"))
        wanted = inference.crossed_interval(cell.scores(metric), table, failed, (0, 1))
        assert summarize(cell, metric)["new_examples"] == wanted
        text = f"{100 * wanted.low:.2f} to {100 * wanted.high:.2f}"
        row = rows_of(written[1], f"Scores: {metric}")["lora, rank=4"]
        assert row["95 %: new seeds, new examples"] == text


def test_comparisons_by_hand(written):
    table = rows_of(written[1], "Against full")
    a, b = accuracies("lora", 2, skill=0.85), accuracies("full", skill=0.9)
    d, row = a - b, table["lora, rank=2"]
    assert (row["minus"], row["n"]) == ("full", "8")
    assert row["accuracy, points: mean ± sd of differences"] == f"{100 * d.mean():+.2f} ± {100 * d.std(ddof=1):.2f}"
    assert row["correlation over seeds"] == f"{np.corrcoef(a, b)[0, 1]:+.2f}"
    wins = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
    assert row["probability of improvement"] == f"{wins:.2f}"
    p = "p, adjusted: new seeds, this dev set"
    # Head and LoRA of rank 4 are worse with all 8 seeds, 2 of 256 signs, and have failed runs; rank 2 is the third.
    assert table["head"][p] == "- ¹" and row[p] == f"{inference.sign_flip(d):.3f}"
    needed = inference.seeds_needed(d, np.zeros(8, bool), 0.01)
    assert row["seeds to see 1 point (95 %)"] == f"{needed.estimate:.0f} ({needed.low:.0f} to {needed.high:.0f})"
    head = accuracies("head", skill=0.7)
    head[2] = 0.6
    sound = np.delete(head - b, 2)
    row = table["head"]
    assert row["without failed runs"] == f"{100 * sound.mean():+.2f} ± {100 * sound.std(ddof=1):.2f}, n 7"
    assert row["95 %: new seeds, this dev set"].startswith(
        f"{100 * (sound.mean() - 2.4469 * sound.std(ddof=1) / 7**0.5):+.2f}"
    )


def test_a_family_is_one_task_or_the_study(folder, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    for family, size in (("task", 3), ("study", 6)):
        study = found.facts["study"] | {"family": family, "alpha": 0.5}
        facts = found.facts | {"study": study, "declared": study}
        comparisons, alone = make_comparisons(list(cells.values()), facts)
        assert not alone and len(comparisons) == 6
        least = min(one.p for one in comparisons if not isinstance(one.p, str))
        assert least == pytest.approx(size * 2 / 256)
        whole = [one for one in comparisons if family == "study" or one.cell.task == "marks"]
        for name, wanted in (
            ("p", inference.sign_flip_family([one.differences for one in whole], 0.5)),
            ("p_examples", inference.t_family([one.all_runs for one in whole])),
        ):
            shown = [(getattr(one, name), p) for one, p in zip(whole, wanted, strict=True) if not one.failed.any()]
            assert len(shown) in (3, 4) and [p for p, _ in shown] == pytest.approx([p for _, p in shown])


def test_what_it_takes(folder, written, tmp_path):
    row = rows_of(written[1], "Costs")["lora, rank=4"]
    assert (row["n"], row["trainable parameters"], row["added parameters"]) == ("7", "410", "400")
    assert (row["steps"], row["GFLOP of all steps"], row["of `full`"]) == ("40", "80.0", "66.7%")
    assert (row["Adam's moments"], row["seconds for hidden states, all runs"]) == ("3.2 KiB", "-")
    assert row["training seconds: median (lowest to highest)"] == "23.0 (20.0 to 27.0)"  # 20 + seed, without seed 5
    assert (row["values"], row["looks at dev per run"]) == ("learning_rate 0.01 (chosen)", "1")
    _, cells = cells_of(folder, tmp_path)
    assert costs(cells["choices/head"], None)["of_full"] is None


def test_trials_and_their_warnings(folder, written, tmp_path):
    found, cells = cells_of(folder, tmp_path)
    trials = make_trials(cells["choices/full"], found)
    assert [trial.values["optim.learning_rate"] for trial in trials] == ["0.0001", "0.001", "0.01"]
    assert [trial.chosen for trial in trials] == [trial.best for trial in trials] == [False, True, False]
    assert edges(trials) == []
    scores = [row["metrics.accuracy"] for row in trials[1].rows]
    assert trials[1].mean == pytest.approx(np.mean(scores)) and trials[1].sd == pytest.approx(np.std(scores, ddof=1))
    assert edges(make_trials(cells["choices/head"], found)) == [("optim.learning_rate", "0.001", "highest", 2)]
    top = written[1].split("## Overview")[0]
    assert "scored on 10% of the training rows, held out: 120 rows of choices, 120 rows of marks." in top
    assert "head (optim.learning_rate 0.001, the highest of 2)" in top and "full (optim" not in top
    assert (
        "unequal numbers of trials, which favours methods with more: 3 for full; 3 for lora, rank=2; "
        "3 for lora, rank=4; 2 for" in top
    )


def test_a_choice_that_was_not_the_best_is_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    made.trials(
        "choices", "full", "optim.learning_rate", {1e-3: {1000: 0.9}, 1e-2: {1000: 0.5}, 1e-1: {1000: DIVERGED}}
    )
    right, rates = predictions("choices", 0.8, 0), (1e-3, 1e-2, 1e-1)
    made.cell("choices", "full", {0: right}, open_={"optim.learning_rate": rates}, chosen={"optim.learning_rate": 1e-2})
    found, cells = cells_of(made.finish(), tmp_path)
    table, warnings = sections.trial_table(list(cells.values()), found, lambda cell: cell.method)
    assert warnings == ["choices: not all reported runs of full use the trial with the best score."]
    assert table.rows[2][2:4] == ("0/1", "- ± -")


def test_a_study_in_progress(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "head", {6: BEGUN, 7: MISSING})
    made.cell("choices", "lora", {seed: MISSING for seed in range(8)})
    made.trials("choices", "lora", "optim.learning_rate", {1e-3: {1000: BEGUN, 1001: MISSING}})
    output, cells = report.report(made.finish())
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "**12 of 13 reported runs finished**" in text
    assert "10 reported and 2 tuning runs have not ended, 2 of these begun" in text
    table = rows_of(text, "Scores: accuracy")
    assert table["head"]["finished/ started"] == "6/7" and table["lora"]["finished/ started"] == "0/0"
    assert "None of 0 runs has a score" in text and "10 runs of these comparisons have not ended" in text
    assert output.endswith("report") and len(cells) == 3


def test_runs_of_earlier_configs_are_reported_and_never_waited_for(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "lora", {0: MISSING, 1: predictions("choices", 0.9, "lora", 1)})
    active = [name for name in made.active if "lora" not in name]
    found = records_of(made.finish(active=active), tmp_path)
    assert [row["run"] for row in found.rows if not row["asked"]] == ["runs/choices/lora/seed=1"]
    assert document.progress(found) == []
    assert "Of these runs, 1 are only in earlier configs" in "".join(document.run_facts(found))


def test_a_step_that_is_chosen_on_dev_itself_is_warned_of(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "full", {seed: predictions("choices", 0.9, seed) for seed in SEEDS}, looks=3)
    folder = made.finish()
    for seed in SEEDS:
        path = folder / f"runs/choices/full/seed={seed}/config.json"
        path.write_text(path.read_text().replace('"select": "last"', '"select": "best"'))
    found = records_of(folder, tmp_path)
    (warning,) = document.chosen_on_dev(found)
    assert "8 reported runs use the step with the best score on dev itself" in warning and "3 looks" in warning
    assert document.chosen_on_dev(records_of(make_pairs(tmp_path / "last", 3).finish(), tmp_path)) == []


def test_environments_that_disagree_are_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for seed in range(3):
        facts = {"device": "another", "jax": "0.10.3"} if seed == 2 else {}
        made.cell("choices", "full", {seed: predictions("choices", 0.9, seed)}, **facts)
    found = records_of(made.finish(), tmp_path)
    assert document.disagreements(found) == [
        "The runs had several kinds of device: a processor (2 runs) and another (1 run); times are not comparable.",
        "The runs had several versions of jax: 0.10.2 (2 runs) and 0.10.3 (1 run); scores may differ by more than "
        "seeds.",
    ]
    assert "jax 0.10.2 (2 runs) and 0.10.3 (1 run)" in "".join(document.run_facts(found))


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
    names = dict.fromkeys(("run", "phase", "cell", "task", "method"), "a")
    archive._check_names("runs.csv", [names, names | {"run": "runs/a/é+0.1,b/seed=3", "cell": "a/b=1e-05"}])
    for key in names:
        for name in ('x"><img src=q>', "a|b", "`a`", r"\g<0>", "$a$", "../../a", "/a", "a b", "..", "", "a\n"):
            with pytest.raises(UserError, match=f"runs.csv: the {key}"):
                archive._check_names("runs.csv", [names, names | {key: name}])
    with pytest.raises(UserError, match=r"runs\.csv: the task"):
        archive._check_names("runs.csv", [names | {"task": "a/b"}])


def test_texts_of_a_strangers_files_are_shown_as_they_are(folder, tmp_path):
    """Models, devices, versions, the command and the reason of a failed run are text, not parts of a page."""
    before, hostile = gather.read(folder), 'a"><img src=q> [x](javascript:y) `b` **c** |'
    free = {"model": hostile, "device": hostile, "failed": hostile, "versions.jax": hostile}
    rows = tuple(dict(row) | free for row in before.rows)
    archive.save(dataclasses.replace(before, rows=rows, facts=before.facts | {"command": hostile}), tmp_path)
    study = archive.load(tmp_path)
    title, blocks = document.build(study, make_cells(study), [], [])
    page = Page()
    page.feed(text := pages.page(title, blocks))
    assert not page.tags & {"img", "a", "script"} and text.count("[x](javascript:y) `b` **c** |") >= 4


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


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href"):
                self.links.append(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(written):
    page = Page()
    page.feed((written[0] / "report.html").read_text())
    assert not page.open and page.tags >= {"svg", "table", "figure", "figcaption"} and "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_the_page_shows_what_the_markdown_says():
    """Bars and angle brackets in texts stay text, and a column of numbers is aligned to the right."""
    table = pages.Table(("name", ">p"), (("a|b `x`", "<0.001"),), notes=("a note",))
    text = pages.page("<1>", [pages.Heading(1, "<1>"), pages.Text("**take** care", warning=True), table])
    for part in (
        "<title>&lt;1&gt;</title>",
        "<h1>&lt;1&gt;</h1>",
        "<blockquote>\n<p><strong>Warning.</strong> <strong>take</strong> care</p>\n</blockquote>",
        '<td style="text-align:left">a|b <code>x</code></td>\n<td style="text-align:right">&lt;0.001</td>',
        "<li>¹ a note</li>",
    ):
        assert part in text


def test_of_many_cells_the_best_of_each_method_is_drawn(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for rank in range(1, 10):
        made.cell("choices", "lora", {0: predictions("choices", 0.5 + 0.04 * rank, rank)}, {"tune.rank": rank})
    cells = make_cells(records_of(made.finish(), tmp_path))
    assert fewer(cells, "accuracy") is cells
    made.cell("choices", "head", {0: DIVERGED, 1: MISSING})
    cells = make_cells(records_of(made.finish(), tmp_path))
    best = max(cells[:9], key=lambda cell: cell.scores("accuracy").mean())
    assert fewer(cells, "accuracy") == [best, cells[9]]


def test_the_front_is_what_nothing_beats_for_less():
    points = [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (4, 0.7), (5, 0.9)]
    assert pareto(points, 1) == [(1, 0.5), (3, 0.7), (5, 0.9)]
    assert pareto(points, -1) == [(1, 0.5), (2, 0.4)]


def test_a_report_is_written_over_a_report_alone(folder, tmp_path):
    new = tmp_path / "new"
    report.own(str(new))
    (new / "notes.txt").write_text("mine")
    report.own(str(new))  # it has the marker
    (new / ".fjt").unlink()
    with pytest.raises(UserError, match=r"new is not empty and is not a report of fjt: it has notes\.txt\. Give a new"):
        report.own(str(new))
    for name in archive.FILES:
        (new / name).write_text("")
    report.own(str(new))  # as a committed one, which has no marker
    for name, content in (
        ("report.html", "theirs"),
        ("runs.csv", "theirs"),
        (".fjt", "the folder of a study of fjt\n"),
    ):
        theirs = tmp_path / f"their {name}"
        theirs.mkdir()
        (theirs / name).write_text(content)
        with pytest.raises(UserError, match="is not empty and is not a report of fjt: it has"):
            report.report(folder, str(theirs))
        assert every_file(theirs) == {name: content.encode()}
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(UserError, match="is not a folder"):
        report.report(folder, str(tmp_path / "file"))


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
        report.report(tmp_path)
