"""Tags of words: the loss, long documents, decoding under constraints, and what is refused or said about files."""

import itertools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import small
from glue_files import refusal, write
from hypothesis import given
from hypothesis import strategies as st

from configs import ner
from fjt.core import seeds
from fjt.core.ragged import Ragged
from fjt.core.settings import from_config
from fjt.data import batches, packing, sources, tokenization, windows
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.data.synthetic import VOCAB
from fjt.experiment import handed
from fjt.models.config_json import parse_config
from fjt.models.encoder import Model
from fjt.tasks import own_metrics, spans
from fjt.tasks.entities import ENTITIES
from fjt.tasks.kinds import find_problem
from fjt.tasks.tagging import TAGGING
from fjt.training import evaluate
from fjt.training.step import eval_step


def test_a_word_without_a_tag_weighs_nothing():
    """Neither in the sum nor in the divisor, with smoothing too: the mean is over the labelled words of the batch."""
    logits = jnp.float32(np.random.default_rng(0).normal(size=(1, 4, 3)))
    label, hyper = jnp.int32([[0, -1, 2, -1]]), small.make_hyper(smoothing=0.3, classes=3)

    def mean(logits):
        value, weight = TAGGING.loss(logits, {"label": label}, hyper)
        return value.sum() / weight.sum(), weight

    (loss, weight), gradient = jax.value_and_grad(mean, has_aux=True)(logits)
    np.testing.assert_array_equal(weight, [[1, 0, 1, 0]])
    logs = scipy.special.log_softmax(np.asarray(logits[0]), axis=-1)
    expected = [-(0.7 * logs[at, tag] + 0.1 * logs[at].sum()) for at, tag in ((0, 0), (2, 2))]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-6)
    assert np.abs(gradient[0, [1, 3]]).max() == 0.0 < np.abs(gradient[0, [0, 2]]).min()


def test_a_document_of_three_thousand_words_has_the_loss_of_its_windows():
    """Each word once, with its window's logits: computed here one window at a time, from the tokens alone."""
    tokenizer, rng = tokenization.load_tokenizer(VOCAB), np.random.default_rng(0)
    words = tuple(rng.choice("the dog runs because birds sing unhappily".split(), 3000).tolist())
    names, label = ("a", "b", "c"), Ragged.of([rng.integers(0, 3, 3000)], np.int32)
    task, split = (
        Task("t", "tagging", names, ("accuracy",)),
        Split(("0",), (" ".join(words),), None, label, None, (words,)),
    )
    examples = TAGGING.targets(split, windows.tokenize(split.words, tokenizer, 48), task)
    config = parse_config(small.CONFIG_JSON | {"vocab_size": len(tokenizer)}, "config.json")
    model = Model(config, 3, one_slot=False, head="token")
    params = jax.jit(model.init)(seeds.make_key(0, "init"))
    packed = evaluate.pack_splits({"dev": examples}, groups=1, grid=32, width=32, one_slot=False)["dev"]
    function = jax.jit(lambda params, batch: eval_step(params, batch, model=model, reduce=small.whole))
    found = evaluate.evaluate(function, params, packed, lambda batch: batch)
    logits = TAGGING.by_row(found, examples, split, task)
    assert len(logits) == 1 and len(logits[0]) == 3000

    pieces = [
        tokenizer.backend_tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids for word in words
    ]
    first, ids = np.concatenate([[0], np.cumsum(list(map(len, pieces)))])[:-1], np.concatenate(pieces)
    room, expected, apply = 46, [], jax.jit(model.apply)
    starts = [*range(0, len(ids) - room, room - room // 4), len(ids) - room]
    for at, tag in zip(first, label[0], strict=True):
        context = [min(at - s if s else np.inf, s + room - 1 - at if s + room < len(ids) else np.inf)
                   if s <= at < s + room else -1 for s in starts]  # fmt: skip
        start = starts[int(np.argmax(context))]
        batch = window(apply, params, tuple(ids[start : start + room].tolist()), tokenizer)
        expected.append(-scipy.special.log_softmax(np.float64(batch[at - start + 1]))[tag])
    np.testing.assert_allclose(TAGGING.dev_loss(found, examples, task), np.mean(expected), rtol=1e-5)
    batch, _ = batches.build(examples, np.arange(len(examples)), whole(examples))
    value, weight = TAGGING.loss(model.apply(params, batch), batch, small.make_hyper(dropout=0.0, classes=3))
    held = batch["weight"]
    np.testing.assert_allclose((value * held).sum() / (weight * held).sum(), np.mean(expected), rtol=1e-5)


SEEN = {}


def window(apply, params, ids, tokenizer):
    """f32[L, 3]: the logits of each token of one window, by a batch of its own."""
    if ids not in SEEN:
        tokens = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        place = np.arange(len(tokens), dtype=np.int32)
        one = {
            "token_ids": np.int32(tokens),
            "segment_ids": np.ones_like(place),
            "position_ids": place,
            "type_ids": place * 0,
        }
        batch = {name: array[None, None] for name, array in one.items()} | {"example": np.zeros((1, 1), np.int32)}
        slots = {"slot_token": place[None], "slot_example": place[None] * 0, "slot_position": place[None]}
        SEEN[ids] = np.asarray(apply(params, batch | slots))[0]
    return SEEN[ids]


def whole(examples):
    rows = np.arange(len(examples))[None]
    lengths, slots = batches.lengths_of(examples, rows), batches.slots_of(examples, rows)
    return packing.plan(lengths, slots=slots, most_shapes=1, width=32).shapes[0]


def test_scores_of_tags_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    label, predicted = (Ragged.of([rng.integers(0, 4, n) for n in (5, 1, 9)], np.int32) for _ in range(2))
    flat = label.values, predicted.values
    assert TAGGING.metrics["accuracy"](predicted, label) == sklearn.metrics.accuracy_score(*flat)
    macro = sklearn.metrics.f1_score(*flat, average="macro", zero_division=0.0)
    assert TAGGING.metrics["macro_f1"](predicted, label) == pytest.approx(macro, rel=1e-12)


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
@given(st.integers(0, 2**32 - 1))
def test_the_best_path_is_the_best_of_all_that_the_scheme_allows(scheme, seed):
    tags = [spans.parse(name, "") for name in spans.names_of(("loc", "per"), scheme)]
    scores = np.random.default_rng(seed).normal(size=(3, len(tags)))
    found = spans.best_path(scores, tags)
    outside = spans.parse("O", "")
    allowed = [
        path
        for path in itertools.product(range(len(tags)), repeat=3)
        if all(spans.follows(a, b) for a, b in itertools.pairwise([outside, *(tags[tag] for tag in path)]))
    ]
    assert tuple(found) == max(allowed, key=lambda path: sum(scores[at, tag] for at, tag in enumerate(path)))
    assert spans.read([tags[tag] for tag in found])[1] == 0


def test_tags_are_decoded_under_constraints_on_request():
    names = spans.names_of(("loc",), "bio")
    logits = Ragged.of([[[2, 1.5, 0], [0, 0, 2]]], np.float32)
    for constrained, expected in ((False, ["O", "B-loc"]), (True, ["B-loc", "I-loc"])):
        task = Task("t", "entities", names, (), constrained=constrained)
        assert ENTITIES.decode(logits, task).labels == [expected]


def load(train, dev, kind="entities", **flags):
    config = ner.get_config()
    config.data.files.train, config.data.files.dev, config.data.kind = str(train), str(dev), kind
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in flags.items()})
    return sources.load(from_config(config).experiment, "unused", find_problem)


GOOD = ("a B-x", "b I-x", "", "c O")


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (("a O", "b", "c O"), "entities", ["dev.conll:2", "1 columns", "config.data.columns.label"]),
        (("a B-x", "b I"), "entities", ["dev.conll:1, word 2", "'I'", "neither O nor a type"]),
        (("a O", "", "b B-y"), "entities", ["dev.conll:3, word 1", "type 'y'", "x"]),
        (("a O", "b X-x"), "entities", ["'X-x'", "config.data.kind=tagging"]),
        (("a O", "b NEW"), "tagging", ["dev.conll:1, word 2", "unknown label 'NEW'"]),
        (("# id = 3", ""), "entities", ["dev.conll", "no rows"]),
        (("# nothing", ""), "entities", ["dev.conll:1, word 1", "'nothing'"]),
    ],
)
def test_what_a_file_of_words_may_not_hold(lines, kind, words, tmp_path):
    train, dev = write(tmp_path / "train.conll", *GOOD), write(tmp_path / "dev.conll", *lines)
    refusal(*words, call=lambda: load(train, dev, kind))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": ["a", "b"], "label": ["O"]}, ["dev.jsonl:1", "2 words and 1 tags"]),
        ({"text": [], "label": []}, ["dev.jsonl:1", "no words"]),
        ({"text": "a b", "label": ["O", "O"]}, ["dev.jsonl:1", "not a list of words"]),
        ({"text": ["a", ""], "label": ["O", "O"]}, ["dev.jsonl:1, word 2", "empty"]),
        ({"text": ["a"], "label": "O"}, ["dev.jsonl:1", "not a list of tags"]),
        ({"text": ["a"], "label": None}, ["dev.jsonl:1", "no label"]),
    ],
)
def test_what_lists_of_words_may_not_hold(row, words, tmp_path):
    train = write(tmp_path / "train.jsonl", json.dumps({"text": ["a", "b"], "label": ["B-x", "O"]}))
    dev = write(tmp_path / "dev.jsonl", json.dumps(row))
    columns = {"data__columns__text": "text", "data__columns__label": "label"}
    refusal(*words, call=lambda: load(train, dev, **columns))


def test_tags_that_go_on_with_nothing_are_counted(tmp_path, caplog):
    train = write(tmp_path / "train.conll", *GOOD, "", "d I-x", "e I-x", "", "f O", "g I-x")
    task, splits = load(train, write(tmp_path / "dev.conll", *GOOD))
    assert "2 tags I- or E- in 2 sentences" in caplog.text and "train.conll:6" in caplog.text
    assert splits["train"].label.tolist() == [[1, 2], [0], [1, 2], [0, 1]] and task.label_names == ("O", "B-x", "I-x")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(
            write(tmp_path / "iob1.conll", "a I-x", "b B-x", "", "c O"),
            write(tmp_path / "dev.conll", *GOOD[:2], "", "c O"),
        )
    assert not caplog.text  # of IOB1, that is how spans begin


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": ["a"], "label": []}, ["dev.jsonl:1", "no label"]),
        ({"text": ["a", "b"], "label": ["O", None]}, ["dev.jsonl:1, word 2", "no tag"]),
    ],
)
def test_a_sentence_has_all_its_tags(row, words, tmp_path):
    train = write(tmp_path / "train.jsonl", json.dumps({"text": ["a", "b"], "label": ["B-x", "O"]}))
    dev = write(tmp_path / "dev.jsonl", json.dumps(row))
    refusal(*words, call=lambda: load(train, dev, data__columns__text="text", data__columns__label="label"))


def test_a_second_text_is_refused(tmp_path):
    file = write(tmp_path / "train.jsonl", json.dumps({"text": ["a"], "label": ["B-x"], "b": ["c"]}))
    columns = {"text": "text", "label": "label", "text_pair": "b"}
    flags = {f"data__columns__{role}": column for role, column in columns.items()}
    refusal("config.data.columns.text_pair", "one list of words", call=lambda: load(file, file, **flags))


def test_data_without_an_entity_are_refused(tmp_path):
    file = write(tmp_path / "train.conll", "a O", "b O")
    refusal("No tag of the training file begins an entity", call=lambda: load(file, file))


def test_tags_that_are_signs_are_no_spellings_of_each_other(tmp_path):
    file = write(tmp_path / "train.conll", "a ``", "b ''", "c ,", "d .", "e :")
    assert load(file, file, "tagging")[0].label_names == ("''", ",", ".", ":", "``")


def test_shuffled_entities_are_as_many_words_of_each_type(tmp_path):
    lines = [f"{'ab'[at % 2]} {tag}" for at in range(30) for tag in ("B-x", "I-x", "I-x", "O", "B-y")]
    file = write(tmp_path / "train.conll", *lines)
    task, splits = load(file, write(tmp_path / "dev.conll", *lines), data__shuffle_labels=True)
    tags = ENTITIES.tag_ids(splits["train"].label, task)
    assert [int(np.isin(tags, ids).sum()) for ids in ((0,), (1, 2), (3, 4))] == [30, 90, 30]
    assert tags.tolist() != ENTITIES.tag_ids(splits["dev"].label, task).tolist()


def test_an_entity_s_score_is_the_probability_of_its_type():
    names = spans.names_of(("x", "y"), "bio")
    shares = np.array([[0.1, 0.3, 0.4, 0.1, 0.1], [0.2, 0.1, 0.6, 0.1, 0.0]])
    task = Task("t", "entities", names, (), constrained=True)
    logits = Ragged.of([np.log(shares + 1e-9)], np.float64)
    split = Split.unlabelled(["0"], ["ab c"], words=[("ab", "c")])
    (found,) = ENTITIES.details(logits, ENTITIES.decode(logits, task), split, task)["entities"][0]
    assert (found["type"], found["text"], found["score"]) == ("x", "ab c", pytest.approx(0.7, abs=1e-6))


def test_a_metric_of_one_s_own_gets_a_list_of_arrays():
    seen = []
    metric = own_metrics.OwnMetric("m:f", lambda p, y: seen.append((p, y)) or 0.5, "")
    rows = Ragged.of([[1, 2], [0, 0]], np.int32)
    assert metric(rows, rows) == 0.5
    assert [row.tolist() for row in seen[0][0]] == [[1, 2], [0, 0]] and isinstance(seen[0][1], list)


@pytest.mark.parametrize("metric", ENTITIES.metrics)
def test_a_resample_s_score_is_that_of_its_rows(metric):
    rng = np.random.default_rng(1)
    runs = [Ragged.of([spans.to_ids([(0, 2, "x")][: n % 2], 3, ["x"]) for n in rng.integers(0, 2, 8)], np.int32)] * 2
    label = Ragged.of([spans.to_ids([(0, 2, "x")], 3, ["x"])] * 8, np.int32)
    rows = rng.integers(0, 8, 8)
    expected = ENTITIES.metrics[metric](runs[0][rows], label[rows])
    assert ENTITIES.scorer(metric, runs[0], label)(rows) == pytest.approx(expected)


def test_subsets_and_documents_of_sentences(tmp_path):
    rows = [
        line for at in range(20) for line in (*(["-DOCSTART- O", ""] if at % 5 == 0 else []), f"w{at} B-x", "v I-x", "")
    ]
    train, dev = write(tmp_path / "train.conll", *rows), write(tmp_path / "dev.conll", *GOOD)
    _, splits = load(train, dev, data__limit=7)
    assert len(splits["train"]) == len(splits["train"].words) == len(splits["train"].label) == 7
    assert set(splits["train"].cluster) <= {"1", "2", "3", "4"}
    _, splits = load(train, dev, data__holdout=0.25)
    assert (len(splits["train"]), len(splits["dev"])) == (15, 5) and len(splits["dev"].label.values) == 10
    _, splits = load(train, dev, data__shuffle_labels=True)
    assert splits["train"].label.lengths.tolist() == [2] * 20


def test_lists_of_words_and_tags_are_handed_over_from_python(tmp_path):
    words, tags = [["a", "b"], ["c"]], [["B-x", "I-x"], ["O"]]
    options = handed.write(str(tmp_path), {"train": (words, tags), "dev": (words, tags), "test": None}, ())
    config = ner.get_config()
    config.update_from_flattened_dict(options)
    task, splits = sources.load(from_config(config).experiment, "unused", find_problem)
    assert splits["train"].words == (("a", "b"), ("c",)) and splits["dev"].label.tolist() == [[1, 2], [0]]
    assert task.label_names == ("O", "B-x", "I-x")


def test_tags_of_every_token_of_a_word():
    words, tags = (("abc", "the", "bcd"), ("the",), ("abc",)), (("B-x", "I-x", "B-x"), (), ("O",))
    names = spans.names_of(("x",), "bio")
    label = ENTITIES.read_labels([Cell(list(row), "f:1", False) for row in tags], names)
    split = Split(("0", "1", "2"), ("", "", ""), None, label, words=words)
    task = Task("t", "entities", names, ())
    tokenizer = tokenization.load_tokenizer(str(VOCAB))
    found = ENTITIES.targets(split, windows.tokenize(words, tokenizer, 30, every=True), task)
    expected = []
    for row, known in zip(words, tags, strict=True):
        for word, tag in zip(row, known or ["none"] * len(row), strict=True):
            pieces = len(tokenizer.backend_tokenizer.encode(word, add_special_tokens=False).ids)
            expected += [tag] + [tag.replace("B-", "I-")] * (pieces - 1)
    assert [names[i] if i >= 0 else "none" for i in found.label] == expected and "I-x" in expected[1:3]
    plain = TAGGING.targets(split, windows.tokenize(words, tokenizer, 30, every=True), Task("t", "tagging", names, ()))
    assert plain.label[0] == plain.label[1] == label.values[0]
