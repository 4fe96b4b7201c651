"""Several tasks at once: the options and rows of each, and mixtures of their examples."""

import dataclasses
import os

import numpy as np
import pytest
from glue_files import refusal, write

from fjt.core.errors import UserError
from fjt.core.options import DataConfig, ExperimentConfig, FilesConfig, TrainConfig
from fjt.data import batches, several, sources
from fjt.experiment.layout import make_schedule
from fjt.tasks.kinds import find_problem


def options(task, *each, tables=(), **data):
    return ExperimentConfig(task, data=DataConfig(source="files", tables=tables, each=each, **data))


def test_each_task_has_the_common_options_and_its_own():
    given = options(
        "rte+reviews+table",
        ("reviews", "columns.label", "stars"), ("reviews", "kind", "regression"), ("rte", "limit", 5),
        tables=(("reviews", "train", "~/reviews.csv"),),
        dir="glue", limit=9, files=FilesConfig("own.csv", "dev.csv"),
    )  # fmt: skip
    found = several.each(given)
    assert list(found) == ["rte", "reviews", "table"]
    assert [one.task for one in found.values()] == ["rte", "table", "table"]
    assert [one.data.limit for one in found.values()] == [5, 9, 9]
    assert [one.data.files.train for one in found.values()] == ["", os.path.expanduser("~/reviews.csv"), "own.csv"]
    assert [one.data.columns.label for one in found.values()] == ["label", "stars", "label"]
    assert [one.data.kind for one in found.values()] == ["classification", "regression", "classification"]
    assert all(one.data.each == one.data.tables == () and one.data.dir == "glue" for one in found.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (options("rte+rte"), ["two tasks with the name 'rte'", "config.data.tables"]),
        (options("rte+"), ["names of tasks with +"]),
        (options("rte+a.b"), ["names of tasks with +"]),
        (options("rte+mrpc", ("rte", "limits", 5)), ["'limits' is unknown", "Did you mean limit?"]),
        (options("rte+mrpc", ("rte", "each", ())), ["'each' is unknown"]),
        (options("rte+mrpc", ("rte", "files.train", "a.csv")), ["'files.train' is unknown"]),
        (options("rte+mrpc", ("rte", "limit", "many")), ["config.data.each, of rte:", "limit='many'", "int"]),
        (options("rte+mrpc", ("rte", "limit")), ["should be (task, option of config.data, value)"]),
        (options("rte+mrpc", "rte"), ["should be (task, option of config.data, value)"]),
        (options("rte+mrpc", ("rte", "limit", 5), ("rte", "limit", 6)), ["limit of rte is given twice"]),
        (options("rte+a", tables=(("a", "trian", "a.csv"),)), ["'trian' is unknown", "Did you mean train?"]),
        (options("rte+a", tables=(("a", "a.csv"),)), ["should be (task, split, file)"]),
        (
            options("table+rte", tables=(("table", "train", "a.csv"),), files=FilesConfig("own.csv")),
            ["config.data.files.train and config.data.tables both"],
        ),
        (options("rte+mrpc", files=FilesConfig("own.csv")), ["config.data.files is for a task of the name 'table'"]),
        (options("rte+rt", dir="x"), ["config.task='rt' is unknown", "Did you mean rte?"]),
    ],
)
def test_what_does_not_fit_the_tasks_is_refused(given, words):
    def load():
        for one in several.each(given).values():
            sources.find_task(one, find_problem)

    refusal(*words, call=load)


def load(tmp_path, *each, task="pairs+scores", tables=(), **data):
    pairs = write(tmp_path / "pairs.csv", "text,other,label", "a,b,yes", "c,d,no", "e,f,yes", "x,y,no")
    scores = write(tmp_path / "scores.csv", "text,label,from", "g,1.5,x", "h,-2,x", "i,0,y", "j,3,x")
    files = {"pairs": pairs, "scores": scores}
    tables += tuple((name, split, path) for name, path in files.items() for split in ("train", "dev"))
    given = (("pairs", "columns.text_pair", "other"), ("scores", "kind", "regression"))
    return sources.load(options(task, *given, *each, tables=tables, **data), str(tmp_path), find_problem)


def test_rows_stand_one_task_after_another(tmp_path):
    new = write(tmp_path / "new.csv", "text", "i")
    task, splits = load(tmp_path, ("scores", "columns.cluster", "from"), tables=(("scores", "test", new),))
    assert task.label_names == ("pairs.no", "pairs.yes", "scores")
    train = splits["train"]
    assert train.id == ("pairs/0", "pairs/1", "pairs/2", "pairs/3", *(f"scores/{i}" for i in range(4)))
    assert train.text_pair == ("b", "d", "f", "y", None, None, None, None) and train.pairs and train.singles
    expected = [[0, 1], [0, 0], [0, 1], [0, 0], [1, 1.5], [1, -2], [1, 0], [1, 3]]
    np.testing.assert_array_equal(train.label, expected)
    assert splits["dev"].cluster[3:] == ("pairs/3", "scores/x", "scores/x", "scores/y", "scores/x")
    assert splits["test"].id == ("scores/0",) and splits["test"].text_pair is None
    assert splits["test"].label[0, 0] == 1 and np.isnan(splits["test"].label[0, 1])
    part = train.take([5, 0])
    assert part.text_pair == (None, "b") and part.label.tolist() == [[1, -2], [0, 1]]


def test_limits_and_holdouts_are_of_each_task(tmp_path):
    _, splits = load(tmp_path, ("scores", "holdout", 0.5), ("pairs", "limit", 3))
    assert [splits["train"].label[:, 0].tolist(), splits["dev"].label[:, 0].tolist()] == [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]
    assert "official_dev" not in splits  # reports would score it, without the other task
    _, splits = load(tmp_path, holdout=0.25)
    assert len(splits["official_dev"]) == 8


def test_a_table_of_a_name_is_a_task_alone_as_well(tmp_path, caplog):
    task, splits = load(tmp_path, task="scores")
    assert (task.name, task.kind, len(splits["train"])) == ("scores", "regression", 4)
    assert "'pairs' is not one of the tasks scores" in caplog.text


def test_errors_say_which_task(tmp_path):
    refusal("pairs (its files are in config.data.tables", "config.data.limit=9 is more than the 4",
            call=lambda: load(tmp_path, ("pairs", "limit", 9)))  # fmt: skip
    other = ("pairs", "kind", "multi_label")
    refusal("pairs is of the kind multi_label", "run of its own", call=lambda: load(tmp_path, other))


SIZES = (40, 10, 7)
LABEL = np.stack([np.repeat(np.arange(3), SIZES), np.zeros(57)], axis=-1).astype(np.float32)
PROBLEM = find_problem("+".join(f"{name}:classification:2:accuracy" for name in "abc"))


def schedule(seed=3, **train):
    examples = batches.Examples(np.zeros(57, np.int32), np.zeros(57, np.int8), np.arange(58), LABEL, 0)
    given = dataclasses.replace(ExperimentConfig(), train=TrainConfig(batch_size=8, **train))
    return make_schedule(given, PROBLEM, examples, seed)


def test_without_a_mixture_every_example_is_in_every_epoch_once():
    made = schedule()
    assert made == batches.Schedule(57, 8, 3)
    assert sorted(made.order(0)) == list(range(57))


@pytest.mark.parametrize(
    ("train", "places"),
    [
        ({"task_shares": (0.2, 0.2, 0.6)}, (11, 12, 34)),
        ({"task_shares": (1, 1, 2)}, (14, 14, 29)),
        ({"task_temperature": 1.0}, SIZES),
        ({"task_temperature": 1e6}, (19, 19, 19)),
        ({"task_temperature": 2.0}, (30, 15, 12)),  # sqrt(40) : sqrt(10) : sqrt(7) = 6.32 : 3.16 : 2.65
    ],
)
def test_each_task_has_its_share_of_an_epoch_and_every_example_its_turn(train, places):
    made = schedule(**train)
    counts = np.zeros(57, int)
    for epoch in range(6):
        order = made.order(epoch)
        assert np.bincount(LABEL[order, 0].astype(int)).tolist() == list(places)
        for example in order:
            counts[example] += 1
            for size, end in zip(SIZES, np.cumsum(SIZES), strict=True):
                assert np.ptp(counts[end - size : end]) <= 1  # no second turn before all have had their first
    whole = made.batches(0, 20)
    for first, last in ((0, 3), (7, 9), (15, 20)):
        np.testing.assert_array_equal(schedule(**train).batches(first, last), whole[first:last])
    assert not np.array_equal(whole, schedule(4, **train).batches(0, 20))
    assert len({tuple(made.order(epoch)) for epoch in range(6)}) == 6


def test_tasks_of_one_size_have_orders_of_their_own():
    order = batches.Schedule(40, 8, 3, ((20, 20), (20, 20))).order(0)
    one, other = order[order < 20], order[order >= 20] - 20
    assert sorted(one) == sorted(other) == list(range(20)) and one.tolist() != other.tolist()


def test_tasks_are_mixed_all_over_an_epoch():
    first = [LABEL[schedule(seed, task_shares=(1, 1, 1)).order(0)[:19], 0] for seed in range(40)]
    found = np.bincount(np.concatenate(first).astype(int)) / (40 * 19)
    np.testing.assert_allclose(found, 1 / 3, atol=0.06)  # a standard error of 0.015


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"task_shares": (1, 1)}, ["task_shares=(1, 1)", "3 numbers above 0"]),
        ({"task_shares": (1, 0, 1)}, ["3 numbers above 0"]),
        ({"task_shares": (1, 1, "x")}, ["3 numbers above 0"]),
        ({"task_shares": (1000, 1, 1)}, ["0 of the 57 examples", "larger share"]),
        ({"task_shares": (1, 1, 1), "task_temperature": 2.0}, ["not both"]),
    ],
)
def test_shares_that_do_not_fit_are_refused(train, words):
    refusal(*words, call=lambda: schedule(**train))


CLASSES = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (60, 9, 3))).astype(np.int32)


def of_classes(shares, label=CLASSES, kind="classification", seed=3):
    examples = batches.Examples(
        np.zeros(len(label), np.int32), np.zeros(len(label), np.int8), np.arange(len(label) + 1), label, 0
    )
    given = dataclasses.replace(ExperimentConfig(), train=TrainConfig(batch_size=8, class_shares=shares))
    return make_schedule(given, find_problem(kind), examples, seed)


@pytest.mark.parametrize(
    ("shares", "places"), [(("balanced",), (24, 24, 24)), ((2, 1, 1.0), (36, 18, 18)), ((0.5, 0.5, 0), (36, 36, 0))]
)
def test_each_class_has_its_share_of_an_epoch_and_every_example_its_turn(shares, places):
    made, counts = of_classes(shares), np.zeros(72, int)
    assert made.steps_per_epoch == 9
    for epoch in range(6):
        order = made.order(epoch)
        assert np.bincount(CLASSES[order], minlength=3).tolist() == list(places)
        counts += np.bincount(order, minlength=72)
    for label, place in enumerate(places):  # each class is gone through pass by pass
        own = counts[CLASSES == label]
        assert own.sum() == 6 * place and own.max() - own.min() <= 1
    assert made == of_classes(shares) and hash(made) == hash(of_classes(shares))
    assert made != of_classes(shares, label=CLASSES[::-1].copy()) and made != of_classes(shares, seed=4)
    np.testing.assert_array_equal(made.batches(3, 7), made.batches(0, 9)[3:7])


@pytest.mark.parametrize(
    ("shares", "options", "words"),
    [
        ((1.0,), {}, "should be 3 numbers"),
        ((0, 0, 0), {}, "not all 0"),
        ((1, -1, 1), {}, "at least 0"),
        (("even",), {}, "'balanced',"),
        (("balance",), {}, "Did you mean balanced"),
        ((1, 1, 1, 1), {}, "no training row has label id 3"),
        (((1, 2), 3, 4), {}, "should be 3 numbers"),
        ((0.998, 0.001, 0.001), {}, "would have 0 of the 72 examples"),
        (("balanced",), {"label": np.zeros(4, np.float32), "kind": "regression"}, "not regression"),
        (("balanced",), {"label": np.zeros(4, np.int32)}, "one class"),
    ],
)
def test_shares_of_classes_that_do_not_fit(shares, options, words):
    with pytest.raises(UserError, match=words):
        of_classes(shares, **options)
