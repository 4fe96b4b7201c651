"""Questions of SQuAD: FJT_SHARED names the folder with data/, FJT_MINILM the model's directory."""

import os
from pathlib import Path

import numpy as np
import pytest

from fjt.data import contexts, squad, tokenization
from fjt.data.glue import Split, Task
from fjt.tasks.question_answering import ANSWER, NO_ANSWER, QUESTION_ANSWERING
from tests.benchmarks.squad import read_questions, score

SHARED, MINILM = os.environ.get("FJT_SHARED", ""), os.environ.get("FJT_MINILM", "")
pytestmark = pytest.mark.skipif(not (SHARED and MINILM), reason="FJT_SHARED and FJT_MINILM are not set")


def read(file):
    return read_questions(Path(SHARED) / "data" / "squad" / file)


def guesses(rng, questions):
    """An answer to each question: a true one, with words lost or won, or none, or another part of the text."""
    found = {}
    for name, _, context, answers in questions:
        text = answers[rng.integers(len(answers))][0] if answers else ""
        words, draw = text.split(), rng.random()
        if draw < 0.3:
            text = " ".join(words[: rng.integers(len(words) + 1)])
        elif draw < 0.6:
            start = rng.integers(len(context))
            text = f"{text} {context[start : start + 30]}".strip()
        elif draw < 0.7:
            text = ""
        found[name] = text
    return found


@pytest.mark.parametrize("file", ["dev-v1.1.json", "dev-v2.0.json"])
def test_scores_of_a_whole_dev_set_are_those_of_another_implementation(file):
    questions = read(file)
    predicted = guesses(np.random.default_rng(0), questions)
    expected = score(questions, predicted)
    label = squad.labels_of([answers for *_, answers in questions])
    found = squad.labels_of([[[text]] if text else [] for text in predicted.values()])
    assert len(predicted) == len(questions) > 10_000 and 0.2 < expected["exact_match"] < expected["f1"] < 0.9
    for name, value in expected.items():
        assert QUESTION_ANSWERING.metrics[name](found, label) == pytest.approx(value, abs=1e-12), name


def test_the_marked_tokens_of_a_thousand_questions_hold_their_answers():
    questions = read("train-v1.1.json")[::87] + [row for row in read("dev-v2.0.json")[::100] if not row[3]]
    tokenizer = tokenization.load_tokenizer(MINILM)
    names, asked, texts, answers = zip(*questions, strict=True)
    split = Split(names, asked, texts, squad.labels_of(answers))
    examples = contexts.tokenize(asked, texts, tokenizer, 128)
    task = Task("t", "question_answering", (ANSWER, NO_ANSWER), ("f1",))
    examples = QUESTION_ANSWERING.targets(split, examples, task)
    held = 0
    for row, context in enumerate(texts):
        found = set()
        for window in range(examples.row_offsets[row], examples.row_offsets[row + 1]):
            slots = slice(examples.slot_offsets[window], examples.slot_offsets[window + 1])
            (first,), (last,) = (np.flatnonzero(examples.label[slots] & bit) for bit in (1, 2))
            if first:
                found.add(context[examples.slot_chars[slots][first, 0] : examples.slot_chars[slots][last, 1]])
        assert len(found) <= 1, "the same place in all windows"
        held += bool(found)
        for text in found:
            assert answers[row][0][0] in text and len(text) < len(answers[row][0][0]) + 30
    assert held > 0.99 * sum(map(bool, answers))
    assert np.diff(examples.row_offsets).max() > 4
