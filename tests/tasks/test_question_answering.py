"""Answers in contexts: scores by hand, the loss of windows, the best spans, no answer, and what is refused."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import small
import squad_files
from glue_files import refusal
from hypothesis import given
from hypothesis import strategies as st

from configs import squad as config
from fjt.core.settings import from_config
from fjt.data import batches, contexts, packing, sources, squad, tokenization
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.synthetic import VOCAB
from fjt.tasks import squad_scores
from fjt.tasks.kinds import find_problem
from fjt.tasks.question_answering import ANSWER, NO_ANSWER, QUESTION_ANSWERING, best_spans, best_threshold

TOKENIZER = tokenization.load_tokenizer(VOCAB)
ALL = Task("table", "question_answering", (ANSWER,), ("f1", "exact_match"))
SOME = dataclasses.replace(ALL, label_names=(ANSWER, NO_ANSWER), threshold=0.0)


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The Broncos!", ["Denver Broncos", "broncos"], 1, 1),  # an article, a sign and case do not count
        ("Denver Broncos", ["Broncos"], 0, 2 / 3),
        ("Santa Clara, California", ["santa clara"], 0, 2 * 2 / (3 + 2)),
        ("New York New York", ["York York"], 0, 2 * 2 / (4 + 2)),  # a word counts as often as both have it
        ("U.S.", ["US"], 1, 1),
        ("well-known", ["wellknown"], 1, 1),
        ("", ["Broncos"], 0, 0),
        ("Broncos", [], 0, 0),
        ("", [], 1, 1),
        ("the", [], 1, 1),  # nothing is left of it
        ("the", ["a"], 1, 1),
        ("18\u00a0th", ["18 th"], 1, 1),
    ],
)
def test_scores_by_the_official_rules(predicted, answers, exact, f1):
    label = squad.labels_of([[(text, 0) for text in answers]])
    found = squad.labels_of([[[predicted]] if predicted else []])
    assert QUESTION_ANSWERING.metrics["exact_match"](found, label) == exact
    assert QUESTION_ANSWERING.metrics["f1"](found, label) == pytest.approx(f1, abs=1e-15)


def made(answers, context="the dog runs because birds sing . " * 20, length=48, task=ALL):
    """(Split, Examples with their labels) of questions about one context."""
    rows = [None if one is None else [(text, start) for text, start in one] for one in answers]
    ids, count = tuple(map(str, range(len(rows)))), len(rows)
    split = Split(ids, ("the dog ?",) * count, (context,) * count, squad.labels_of(rows))
    examples = contexts.tokenize(split.text, split.text_pair, TOKENIZER, length)
    return split, QUESTION_ANSWERING.targets(split, examples, task)


def marked(split, examples, row):
    """[(text from the start to the end that is marked, "" for the first token)] of the windows of a row."""
    found = []
    for window in range(examples.row_offsets[row], examples.row_offsets[row + 1]):
        slots = slice(examples.slot_offsets[window], examples.slot_offsets[window + 1])
        label, chars = examples.label[slots], examples.slot_chars[slots]
        (start,), (end,) = np.flatnonzero(label & 1), np.flatnonzero(label & 2)
        assert start <= end
        found.append(split.text_pair[row][chars[start, 0] : chars[end, 1]])
    return found


def test_the_answer_is_marked_where_a_window_holds_it_whole():
    context = "the dog runs because birds sing . " * 20
    at = context.index("birds sing", 300)
    split, examples = made([[("birds sing", at)], [], [("runs", 8), ("dog", 4)], [("ird", at + 1)]], context)
    texts = marked(split, examples, 0)
    assert set(texts) == {"", "birds sing"} and 0 < texts.count("birds sing") < len(texts)
    for window, text in enumerate(texts):
        slots = slice(examples.slot_offsets[window], examples.slot_offsets[window + 1])
        inside = examples.slot_chars[slots][examples.slot_chars[slots][:, 0] >= 0]
        assert (text != "") == (inside[0, 0] <= at and at + 10 <= inside[-1, 1])
    assert set(marked(split, examples, 1)) == {""}
    assert marked(split, examples, 2)[0] == "runs"  # the first of several answers
    (text,) = set(marked(split, examples, 3)) - {""}
    assert "ird" in text and text in "birds"  # the tokens that hold a part of a word


def test_the_loss_is_the_mean_over_windows_of_both_entropies():
    _, examples = made([[("birds", 21)], None, [], [("sing", 27)]])
    logits = np.random.default_rng(0).normal(size=(len(examples.slot_token), 2)).astype(np.float32)
    each = []
    for window in range(len(examples)):
        slots = slice(examples.slot_offsets[window], examples.slot_offsets[window + 1])
        label = examples.label[slots]
        if not label.any():
            continue
        logs = scipy.special.log_softmax(np.float64(logits[slots]), axis=0)
        each.append(-(logs[np.flatnonzero(label & 1), 0] + logs[np.flatnonzero(label & 2), 1])[0] / 2)
    count = sum(np.diff(examples.row_offsets)[[0, 2, 3]])
    assert len(each) == count
    assert QUESTION_ANSWERING.dev_loss(logits, examples, ALL) == pytest.approx(np.mean(each), rel=1e-12)
    chosen = np.arange(len(examples))
    (shape,) = packing.plan(
        examples.lengths[None], slots=batches.slots_of(examples, chosen[None]), groups=2, most_shapes=1, width=32
    ).shapes
    batch, places = batches.build(examples, chosen, dataclasses.replace(shape, slots=shape.slots + 5))
    packed = np.full((*batch["label"].shape, 2), 50.0, np.float32)  # of empty places, which must not count
    packed.reshape(-1, 2)[places.slots[0]] = logits[places.slots[1]]

    def mean(packed):
        value, weight = QUESTION_ANSWERING.loss(packed, batch, None)
        assert value.shape == weight.shape == batch["label"].shape
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    loss, gradient = jax.value_and_grad(mean)(jnp.asarray(packed))
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-6)
    assert np.isfinite(gradient).all() and np.abs(np.asarray(gradient)[batch["weight"] == 0]).max() == 0


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_the_best_spans_are_those_of_all_spans(count, longest, seed):
    logits = np.random.default_rng(seed).normal(size=(count + 3, 2))
    chars = np.array([(-1, -1), (-1, -1), *((3 * i, 3 * i + 2) for i in range(count)), (-1, -1)])
    every = [
        (logits[i + 2, 0] + logits[j + 2, 1], 3 * i, 3 * j + 2)
        for i in range(count)
        for j in range(i, min(count, i + longest))
    ]
    expected = sorted(every, reverse=True)[:20]
    found = sorted(best_spans(logits, chars, longest), reverse=True)
    assert [place for _, *place in found] == [place for _, *place in expected]
    np.testing.assert_allclose([score for score, *_ in found], [score for score, *_ in expected], atol=1e-6)


def test_a_span_of_tokens_without_characters_is_none():
    """As byte-level tokenizers have them for blanks before signs; within a span they count as tokens."""
    chars = np.array([(-1, -1), (0, 2), (3, 3), (3, 4), (5, 5)])
    found = best_spans(np.zeros((5, 2)), chars, 2)
    assert sorted(place for _, *place in found) == [[0, 2], [0, 3], [3, 4], [3, 4], [3, 5]]
    assert best_spans(np.zeros((2, 2)), np.array([(-1, -1), (0, 0)]), 30) == []


def test_answers_of_all_windows_compete():
    split, examples = made([[], []], context="the dog runs because birds sing . " * 20)
    logits = np.zeros((len(examples.slot_token), 2), np.float32)
    first = examples.slot_offsets[examples.row_offsets[:-1]]
    logits[examples.slot_offsets[:-1]] = 3.0  # no answer: 6, but 2 in one window of the first row
    logits[first[0]] = 1.0
    place = examples.slot_chars[first[1] - 5].tolist()  # near the end of the last window of the first row
    logits[first[1] - 5] = (4.0, 1.5)
    rows = QUESTION_ANSWERING.by_row(logits, examples, split, SOME)
    null, best, *others = json.loads(rows[0])
    assert null == 2.0 and best == [5.5, *place, split.text_pair[0][slice(*place)]] and len(others) == 19
    found = QUESTION_ANSWERING.decode(rows, SOME)
    assert found.labels == [best[3], ""] and found.values.tolist() == [json.dumps([[best[3]]]), "[]"]
    columns = QUESTION_ANSWERING.columns(rows, SOME)
    assert columns["start"] == [place[0], None] and 0.5 < columns["probability"][0] < 1
    every = QUESTION_ANSWERING.details(rows, found, split, SOME)["n_best"]
    assert sum(one["probability"] for one in every[0]) == pytest.approx(1, abs=1e-4) and len(every[0]) == 21
    certain = dataclasses.replace(SOME, threshold=-3.5)  # 2 - 5.5, which is not above it
    assert QUESTION_ANSWERING.decode(rows, certain).labels[0] == best[3]
    assert QUESTION_ANSWERING.decode(rows, dataclasses.replace(SOME, threshold=-3.6)).labels[0] == ""
    assert QUESTION_ANSWERING.decode(rows, ALL).labels[1] != ""  # where every question has an answer
    one = dataclasses.replace(SOME, answer_length=1)
    spans = json.loads(QUESTION_ANSWERING.by_row(logits, examples, split, one)[0])[1:]
    assert all(" " not in text for *_, text in spans)
    assert json.loads(QUESTION_ANSWERING.files(rows, split, SOME)[".json"]) == {"0": best[3], "1": ""}


def test_a_span_that_two_windows_hold_has_its_higher_score():
    split, examples = made([[]])
    first, second = (slice(*examples.slot_offsets[[window, window + 1]]) for window in (0, 1))
    place = examples.slot_chars[second][np.flatnonzero(examples.slot_chars[second][:, 0] >= 0)[0]].tolist()
    at = [part.start + examples.slot_chars[part].tolist().index(place) for part in (first, second)]
    for scores in ((9.0, 1.0), (1.0, 9.0)):
        logits = np.zeros((len(examples.slot_token), 2), np.float32)
        logits[at] = np.array(scores)[:, None]
        assert json.loads(QUESTION_ANSWERING.by_row(logits, examples, split, ALL)[0])[1][:3] == [18.0, *place]


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_the_threshold_is_the_best_of_all(count, seed):
    rng = np.random.default_rng(seed)
    rows, label = [], []
    for _ in range(count):
        rows.append([float(rng.integers(0, 4)), [float(rng.integers(0, 4)), 0, 1, str(rng.choice(["a b", "c"]))]])
        label.append([("b", 0)] if rng.random() < 0.5 else [])
    scores = np.array([json.dumps(row) for row in rows], np.dtypes.StringDType())
    label = squad.labels_of(label)

    def f1(threshold):
        task = dataclasses.replace(SOME, threshold=threshold)
        return squad_scores.f1(QUESTION_ANSWERING.decode(scores, task).values, label)

    found = best_threshold(scores, label)
    assert f1(found) == pytest.approx(max(f1(t) for t in np.arange(-5, 5, 0.5)), abs=1e-12)


def test_the_threshold_is_chosen_where_it_is_open():
    options = from_config(config.get_config()).experiment.eval
    scores = np.array(['[1.0, [0.5, 0, 1, "x"]]', '[1.0, [0.0, 0, 1, "x"]]'], np.dtypes.StringDType())
    label = squad.labels_of([[("x", 0)], []])
    task = QUESTION_ANSWERING.configured(SOME, options)
    assert task.threshold == 0.0 and task.answer_length == 30
    assert QUESTION_ANSWERING.chosen(task, options, scores, label).threshold == 0.5
    assert QUESTION_ANSWERING.chosen(ALL, options, scores, label) == ALL
    unknown = squad.labels_of([None, None])
    assert QUESTION_ANSWERING.chosen(task, options, scores, unknown) == task
    given_ = dataclasses.replace(options, null_threshold=-2.0)
    task = QUESTION_ANSWERING.configured(SOME, given_)
    assert task.threshold == -2.0 and QUESTION_ANSWERING.chosen(task, given_, scores, label) == task


def test_units_constants_and_collapse():
    label = squad.labels_of([[("x", 0)], [], [("b c", 1)], []])
    runs = [squad.labels_of([[["x"]], [["y"]], [["b"]], []]), squad.labels_of([[["x"]]] * 4)]
    for metric, score in QUESTION_ANSWERING.metrics.items():
        table = QUESTION_ANSWERING.pseudo_values(metric, runs, label)
        np.testing.assert_allclose(table.mean(axis=1), [score(run, label) for run in runs])
        rows = np.array([0, 2, 2])
        assert QUESTION_ANSWERING.scorer(metric, runs[0], label)(rows) == pytest.approx(
            score(runs[0][rows], label[rows])
        )
    assert QUESTION_ANSWERING.constant(label).tolist() == ["[]"] * 4
    assert QUESTION_ANSWERING.constant_scores(label, ["f1"]) == {"f1": 0.5}
    assert not QUESTION_ANSWERING.collapsed(runs[0], label) and QUESTION_ANSWERING.collapsed(runs[1], label)
    assert QUESTION_ANSWERING.count_labels(label, SOME).tolist() == [2, 2]
    assert QUESTION_ANSWERING.label_column(squad.labels_of([[("a", 0), ("b", 2), ("a", 5)], [], None]), SOME) == [
        "a | b", "", "",
    ]  # fmt: skip


def load(folder, train, dev=None, **changes):
    """(Task, {name: Split}) of files with these articles."""
    made = config.get_config()
    made.data.files.train = squad_files.write(folder / "train.json", train)
    made.data.files.dev = squad_files.write(folder / "dev.json", dev or train)
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return sources.load(from_config(made).experiment, str(folder), find_problem)


CONTEXT = "Ada met Bo in Paris."
GOOD = [("Who?", [("Ada", 0)]), ("Where?", [("Paris", 14)])]


def test_files_are_read_and_their_classes_found(tmp_path):
    task, splits = load(tmp_path, {"t": [(CONTEXT, GOOD)]})
    assert task.label_names == (ANSWER,) and splits["dev"].cluster == ("t", "t") and splits["dev"].id == ("q0", "q1")
    assert splits["train"].text == ("Who?", "Where?") and splits["train"].text_pair == (CONTEXT, CONTEXT)
    task, splits = load(tmp_path, {"t": [(CONTEXT, [*GOOD, ("Why?", [])])]})
    assert task.label_names == (ANSWER, NO_ANSWER) and splits["train"].label.tolist()[2] == "[]"


def test_what_is_odd_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load(tmp_path, {"t": [(CONTEXT, [("Who?", [("Bo", 3)]), *GOOD])]}, {"t": [(CONTEXT, [*GOOD, ("Why?", [])])]})
    assert "1 answers in 1 rows are not at their answer_start" in caplog.text and "train.json:1" in caplog.text
    assert "1 questions have no answer, the first one in" in caplog.text and "dev.json:3" in caplog.text


@pytest.mark.parametrize(
    ("asked", "changes", "words"),
    [
        ([*GOOD, ("Why?", [("London", 0)])], {}, ["train.json:3", "'London' is not in its context"]),
        ([*GOOD, ("Why?", None)], {}, ["train.json:3", "the row has no label"]),
        ([("Why?", []), ("Who?", [])], {}, ["there should be questions with an answer"]),
        (GOOD, {"data__label_names": ("yes", "no")}, ["labels yes, no", "config.data.label_names"]),
        (GOOD, {"data__label_names": (NO_ANSWER, ANSWER)}, ["labels no answer, answer", "config.data.label_names"]),
        (GOOD, {"data__columns__text_pair": ""}, ["config.data.columns.text_pair is empty", "contexts"]),
        (GOOD, {"data__shuffle_labels": True}, ["config.data.shuffle_labels"]),
        ([*GOOD, ("", [("Bo", 8)])], {}, ["train.json:3", "the text is empty"]),
    ],
)
def test_what_cannot_be_learned_is_refused(asked, changes, words, tmp_path):
    refusal(*words, call=lambda: load(tmp_path, {"t": [(CONTEXT, asked)]}, **changes))


LABEL = np.zeros(4, np.int32)


def test_options_of_other_losses_are_refused():
    for option in ({"label_smoothing": 0.1}, {"class_weights": (1.0, 2.0)}):
        loss = dataclasses.replace(from_config(config.get_config()).experiment.loss, **option)
        refusal(f"has no {next(iter(option))}", call=lambda loss=loss: QUESTION_ANSWERING.check_loss(loss, ALL))


def test_examples_know_their_rows():
    _, examples = made([[], []])
    assert isinstance(examples, Examples) and examples.row_slots.tolist()[-1] == len(examples.slot_token)
    assert small.labelled(np.zeros(3)).row_offsets.tolist() == [0, 1, 2, 3]
