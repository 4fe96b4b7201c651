"""Multiple choice: labels of every spelling, the loss over the choices of a row, scores, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import small
from glue_files import refusal, write
from jax import nn

from configs import choice as config
from fjt.core.ragged import Ragged
from fjt.core.settings import from_config
from fjt.data import batches, packing, sources
from fjt.data.glue import Split, Task
from fjt.tasks.kinds import find_problem
from fjt.tasks.multiple_choice import MULTIPLE_CHOICE

TASK = Task("table", "multiple_choice", ("0", "1", "2", "3"), ("accuracy",))


def test_the_loss_is_the_entropy_over_the_choices_of_each_row():
    examples = small.make_choices(10)
    logits = np.random.default_rng(0).normal(size=(len(examples.slot_token), 1)).astype(np.float32)
    each = []
    for row in range(10):
        slots = slice(examples.slot_offsets[row], examples.slot_offsets[row + 1])
        logs = scipy.special.log_softmax(np.float64(logits[slots, 0]))
        each.append(-logs[np.flatnonzero(examples.label[slots, 0])[0]])
    assert MULTIPLE_CHOICE.dev_loss(logits, examples, TASK) == pytest.approx(np.mean(each), rel=1e-12)
    chosen = np.arange(10)
    (shape,) = packing.plan(
        examples.lengths[None], slots=batches.slots_of(examples, chosen[None]), groups=2, most_shapes=1, width=32
    ).shapes
    batch, places = batches.build(examples, chosen, dataclasses.replace(shape, slots=shape.slots + 5))
    packed = np.full((*batch["weight"].shape, 1), 50.0, np.float32)  # of empty places, which must not count
    packed.reshape(-1, 1)[places.slots[0]] = logits[places.slots[1]]

    def mean(packed):
        value, weight = MULTIPLE_CHOICE.loss(packed, batch, None)
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    loss, gradient = jax.value_and_grad(mean)(jnp.asarray(packed))
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-6)
    found = np.asarray(gradient).reshape(-1)[places.slots[0]][np.argsort(places.slots[1])]
    shares = Ragged(logits[:, 0], examples.slot_offsets)
    expected = np.concatenate([nn.softmax(row) for row in shares]) - examples.label[:, 0]
    np.testing.assert_allclose(found, expected / 10, atol=1e-6)
    assert np.abs(np.asarray(gradient)[batch["weight"] == 0]).max() == 0


def test_the_highest_logit_wins():
    logits = Ragged(np.float32([[1], [3], [2], [5], [4]]), np.array([0, 3, 5]))
    found = MULTIPLE_CHOICE.decode(logits, TASK)
    assert found.values.tolist() == [1, 0] and found.labels == ["1", "0"]
    np.testing.assert_allclose(found.probabilities[1], scipy.special.softmax([5, 4]))
    split = Split.unlabelled("ab", ["x", "y"], choices=[("a", "b", "c"), ("d", "e")])
    assert MULTIPLE_CHOICE.details(logits, found, split, TASK) == {"choice": ["b", "d"]}
    columns = MULTIPLE_CHOICE.columns(logits, TASK)
    assert columns["predicted"] == ["1", "0"] and columns["probability"][1] == pytest.approx(1 / (1 + np.exp(-1)))
    label = np.array([1, 1], np.int32)
    assert MULTIPLE_CHOICE.metrics["accuracy"](found.values, label) == 0.5
    assert MULTIPLE_CHOICE.pseudo_values("accuracy", [found.values], label).tolist() == [[1, 0]]
    assert MULTIPLE_CHOICE.constant(label).tolist() == [1, 1] and MULTIPLE_CHOICE.collapsed(label, np.array([0, 1]))
    assert MULTIPLE_CHOICE.label_column(np.array([2, -1]), TASK) == ["2", ""]


def load(folder, rows, **changes):
    """(Task, {name: Split}) of rows of JSON lines, which train and dev have."""
    file = write(folder / "rows.jsonl", *map(json.dumps, rows))
    made = config.get_config()
    made.data.files.train = made.data.files.dev = file
    made.data.columns.text, made.data.columns.text_pair, made.data.columns.choices = "text", "", ("choices",)
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return sources.load(from_config(made).experiment, str(folder), find_problem)


def rows_of(*labels, choices=("a", "b", "c")):
    return [{"text": f"t{i}", "choices": list(choices), "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([0, 2, 1], "012", [0, 2, 1]),
        (["0", "0", "1"], "012", [0, 0, 1]),
        ([1, 3, 2], "123", [0, 2, 1]),
        (["A", "C", "B"], "ABC", [0, 2, 1]),
        (["c", "a", "a"], "abc", [2, 0, 0]),
    ],
)
def test_labels_are_numbers_or_letters(labels, names, ids, tmp_path):
    task, splits = load(tmp_path, rows_of(*labels))
    assert task.label_names == tuple(names) and splits["dev"].label.tolist() == ids
    assert splits["dev"].choices[0] == ("a", "b", "c") and splits["dev"].text_pair is None


def test_choices_of_several_columns_go_on_from_the_second_text(tmp_path):
    rows = [
        {"sent1": f"t{i}", "sent2": "It", "label": i % 2} | {f"ending{k}": f"e{k}" for k in range(4)} for i in range(3)
    ]
    columns = {"text": "sent1", "text_pair": "sent2", "choices": tuple(f"ending{k}" for k in range(4))}
    _, splits = load(tmp_path, rows, **{f"data__columns__{name}": value for name, value in columns.items()})
    assert splits["train"].choices[2] == ("It e0", "It e1", "It e2", "It e3") and splits["train"].text[2] == "t2"


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        (rows_of(0, 1, "x"), {}, ["rows.jsonl:3", "The label here is 'x', of 3 choices"]),
        (rows_of(0, 1, 3), {}, ["rows.jsonl:3", "The label here is '3', of 3 choices"]),
        (rows_of(1, 2, 1), {}, ["rows.jsonl:1", "no label is 0 or the highest number", "config.data.label_names"]),
        (rows_of(0, 1, None), {}, ["rows.jsonl:3", "the row has no label"]),
        ([*rows_of(0, 2), *rows_of(2, choices="ab")], {}, ["rows.jsonl:3", "The label here is '2', of 2 choices"]),
        (
            [*rows_of("A", "C"), *rows_of("C", choices="ab")],
            {"data__label_names": ("A", "B", "C")},
            ["rows.jsonl:3", "'C' names none of 2 choices"],
        ),
        (rows_of(0, 1), {"data__columns__choices": ("a", "b", "a")}, ["should hold each column once"]),
        (rows_of(0, 1, 5), {"data__label_names": ("0", "1", "2")}, ["rows.jsonl:3", "unknown label '5'"]),
        ([*rows_of(0, 1), {"text": "t", "choices": ["a", None], "label": 0}], {}, ["rows.jsonl:3", "choice 1"]),
        ([*rows_of(0, 1), {"text": "t", "choices": "ab", "label": 0}], {}, ["rows.jsonl:3", "1 choices"]),
        (rows_of(0, 1), {"data__columns__choices": ()}, ["config.data.columns.choices=()", "names the columns"]),
        (rows_of(0, 1), {"data__kind": "classification"}, ["config.data.columns.choices", "leave it out"]),
    ],
)
def test_what_cannot_be_learned_is_refused(rows, changes, words, tmp_path):
    refusal(*words, call=lambda: load(tmp_path, rows, **changes))


def test_the_right_choice_may_be_in_one_place_throughout(tmp_path):
    """Its place is nothing that a model sees."""
    assert load(tmp_path, rows_of(0, 0, 0))[1]["train"].label.tolist() == [0, 0, 0]


def test_labels_are_shuffled_among_rows_of_as_many_choices(tmp_path):
    found = load(tmp_path, rows_of(*[0, 1, 2] * 9), data__shuffle_labels=True)[1]["train"].label
    assert sorted(found) == [0] * 9 + [1] * 9 + [2] * 9 and found.tolist() != [0, 1, 2] * 9
    rows = [*rows_of(0, 1), *rows_of(1, choices="ab")]
    refusal("different numbers of choices", call=lambda: load(tmp_path, rows, data__shuffle_labels=True))


def test_options_of_other_losses_are_refused():
    loss = dataclasses.replace(from_config(config.get_config()).experiment.loss, label_smoothing=0.1)
    refusal("has no label_smoothing", call=lambda: MULTIPLE_CHOICE.check_loss(loss, TASK))
