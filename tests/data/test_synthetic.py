"""The synthetic language: its bits, its splits, its vocabulary, and labels checked by hand."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import BertTokenizer

from fjt.core.errors import UserError
from fjt.data import synthetic
from fjt.data.synthetic import Event, Verdict

# sha256 of all texts and labels; a change of the grammar changes every result that was measured on it.
GOLDEN = {
    "sentiment": "f23f2b38a55af649190847441ab1c2a5e8878e2a0d62cbab49a69a756ca5d038",
    "agreement": "159110552df706b9f10222a779e576eba0635dc88975694b779e1f07824b3354",
    "paraphrase": "78d51213aed8a1a76bda5de098277337834f81d3d0bc7d90af2f649111d45fc0",
    "hearsay": "12d0fc3733fa16ad6601910d1c8d52511198115f36cc26c5bc1adf23f3750a73",
}


class Script(synthetic.Draw):
    """Stands in for Draw: the given answers, in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def below(self, n):
        answer = self.answers.pop(0)
        assert 0 <= answer < n
        return answer

    def pick(self, options):
        return options[self.below(len(options))]

    def chance(self, percent):
        return bool(self.below(2))


def texts_of(split):
    return split.text + (split.text_pair or ())


@pytest.fixture(params=list(synthetic.TASKS))
def name(request):
    return request.param


def test_texts_are_golden(name):
    rows = []
    for split in synthetic.load(name).values():
        rows += zip(split.id, split.text, split.text_pair or split.text, map(str, split.label), strict=True)
    digest = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
    assert digest == GOLDEN[name]


def test_draw_is_pcg64_and_nothing_else():
    draw = synthetic.Draw(1, 2)
    bits = np.random.PCG64((1, 2)).random_raw(3)
    assert [draw.below(10), draw.below(7), draw.chance(50)] == [bits[0] % 10, bits[1] % 7, bits[2] % 100 < 50]


def test_splits_are_disjoint_labelled_and_balanced(name):
    splits = synthetic.load(name)
    assert {k: len(v) for k, v in splits.items()} == synthetic.SIZES
    seen = set()
    for split in splits.values():
        texts = set(texts_of(split))
        assert not seen & texts
        seen |= texts
        assert len(set(zip(split.text, split.text_pair or split.text, strict=True))) == len(split)
        assert len(set(split.id)) == len(split)
        assert split.label.dtype == np.int32 and set(split.label) == {0, 1}
        assert split.label.mean() == 0.5
    assert len(synthetic.TASKS[name].label_names) == 2


def test_vocabulary_is_well_formed():
    with open(synthetic.VOCAB, encoding="ascii", newline="") as file:
        content = file.read()
    lines = content.split("\n")
    assert lines.pop() == "" and "\r" not in content
    assert lines[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(lines)) == len(lines) <= 400
    assert all(re.fullmatch(r"(##)?[a-z0-9]+|[^\sA-Za-z0-9]", line) for line in lines[5:])
    for character in "abcdefghijklmnopqrstuvwxyz0123456789":  # so that no word of theirs is [UNK]
        assert character in lines and "##" + character in lines


def test_no_text_needs_unknown_and_words_split(name):
    tokenizer = BertTokenizer(vocab=synthetic.VOCAB)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    pieces = {}
    longest = 0
    for split in synthetic.load(name).values():
        for row in zip(split.text, split.text_pair or [""] * len(split), strict=True):
            words = re.findall(r"\w+|[^\w\s]", " ".join(row).lower())
            for word in words:
                if word not in pieces:
                    pieces[word] = tokenizer.tokenize(word)
            longest = max(longest, sum(len(pieces[word]) for word in words) + 3)
    assert longest <= 64  # configs/quickstart.py cuts none
    for word, split_word in pieces.items():  # an [UNK] would not spell the word
        assert "".join(piece.removeprefix("##") for piece in split_word) == word
    assert any(len(split_word) > 1 for split_word in pieces.values())
    # stems and suffixes, not letters: `s` and `d` are the only suffixes of one letter
    assert {p for ps in pieces.values() for p in ps if re.fullmatch(r"(##)?[a-z]", p)} <= {"a", "i", "##s", "##d"}


def polarity(verdict):
    """1 for praise, 0 for blame, read off the word and the negation."""
    return (verdict.word in synthetic.PRAISE or verdict.word in synthetic.LIKE) ^ verdict.negated


@pytest.mark.parametrize(
    "word, negated, wanted",
    [
        ("good", False, 1), ("good", True, 0), ("dull", False, 0), ("dull", True, 1),
        ("enjoy", False, 1), ("enjoy", True, 0), ("hate", False, 0), ("hate", True, 1),
    ],
)  # fmt: skip
def test_negation_turns_polarity(word, negated, wanted):
    assert polarity(Verdict(word, negated)) == wanted


@pytest.mark.parametrize("wanted", [0, 1])
def test_drawn_verdict_has_wanted_polarity(wanted):
    draw = synthetic.Draw(5)
    assert all(polarity(synthetic.draw_verdict(draw, wanted)) == wanted for _ in range(500))


def test_verdict_is_worded_as_meant():
    # clause, thing, person, adverb
    cases = {
        "The film was not very bad.": (Verdict("bad", True), (0, 0, 0, 2)),
        "I doubt that the book was good.": (Verdict("good", True), (1, 1, 0, 0)),
        "It was an awful song.": (Verdict("awful", False), (2, 2, 0, 0)),
        "No lawyer found the film dull.": (Verdict("dull", True), (3, 0, 1, 0)),
        "The lawyers loved the film.": (Verdict("love", False), (0, 0, 1, 0)),
        "The doctors did not really enjoy the film.": (Verdict("enjoy", True), (0, 0, 0, 3)),
    }
    for wanted, (verdict, answers) in cases.items():
        assert synthetic.sentence(synthetic.word_verdict(verdict, Script(*answers))) == wanted


def test_main_clause_outweighs_concession():
    wanted = (
        "Although the film was good, the film was bad.",
        "The film was bad, although the film was good.",
        "The film was good, but the film was bad.",
        "The film was bad even though the film was good.",
    )
    clause = (0, 0, 0, 0, 0, 0, 0)  # not negated, adjectives, the first of them; "the _ was", film, doctor, no adverb
    for contrast, text in enumerate(wanted):
        draw = Script(0, *clause, 0, *clause, contrast)  # label, main clause, not alone, concession
        assert synthetic.sentiment(draw) == ((text,), 0)


def test_a_verdict_is_turned_by_who_doubts_it():
    # label, doubted; clause: not negated, adjectives, word; its wording, thing, person, adverb; report, person
    believed = Script(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert synthetic.hearsay(believed) == (("The lawyers think that the film was bad.",), 0)
    doubted = Script(0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    assert synthetic.hearsay(doubted) == (("No doctor thinks that the film was good.",), 0)
    doubted = Script(1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0)  # negated, and doubted: turned twice
    assert synthetic.hearsay(doubted) == (("The film was not good, but the doctor doubts it.",), 1)


@pytest.mark.parametrize(
    "verbs, wanted",
    [(((0, 0),), 1), (((0, 1),), 0), (((1, 1), (0, 0)), 1), (((1, 1), (0, 1)), 0), (((1, 0), (0, 0)), 0)],
)
def test_every_verb_must_agree(verbs, wanted):
    assert synthetic.agrees(verbs) == wanted


def test_agreement_is_worded_as_meant():
    # label; head: number, lemma, determiner; shape ...
    attractor = Script(
        1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0
    )  # place; noun: plural, lemma, determiner; verb, adverb, state
    assert synthetic.agreement(attractor) == (("The doctor near the doctors is tired.",), 1)
    attractor = Script(0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)  # the same with the only verb wrong
    assert synthetic.agreement(attractor) == (("The doctor near the doctors are tired.",), 0)
    relative = Script(0, 1, 0, 3, 2, 0, 1, 0, 1, 0, 0, 0, 0)  # noun; wrong: the inner verb; its lemma; verb, ...
    assert synthetic.agreement(relative) == (("These doctors that the lawyer enjoy are tired.",), 0)


EVENT = Event(agent=0, agent_quality=0, deed=0, patient=3, patient_quality=0, negated=False, time=0)


def test_event_is_worded_as_meant():
    # agent, patient, deed, voice
    assert synthetic.word_event(EVENT, Script(0, 0, 0, 0)) == "The doctor helped the pilot."
    assert synthetic.word_event(EVENT, Script(1, 0, 1, 1)) == "The pilot was aided by the physician."
    denied = dataclasses.replace(EVENT, negated=True, agent_quality=1, time=1)
    # quality, agent, patient, deed, voice, place of the time
    assert (
        synthetic.word_event(denied, Script(0, 0, 0, 0, 0, 1)) == "At night, the brave doctor did not help the pilot."
    )
    assert (
        synthetic.word_event(denied, Script(1, 0, 0, 0, 1, 0))
        == "The pilot was not helped by the bold doctor at night."
    )


def test_change_always_changes_the_meaning():
    swapped = synthetic.change(EVENT, Script(0))
    assert (swapped.agent, swapped.patient) == (3, 0)
    assert synthetic.change(EVENT, Script(2)).negated
    draw = synthetic.Draw(6)
    for _ in range(500):
        event = synthetic.draw_event(draw)
        assert event.agent != event.patient and synthetic.change(event, draw) != event


def test_words_alone_do_not_decide(name):
    splits = synthetic.load(name)
    vectorizer = CountVectorizer(token_pattern=r"\w+").fit(texts_of(splits["train"]))

    def features(split):
        first = vectorizer.transform(split.text)
        if split.text_pair is None:
            return first
        return scipy.sparse.hstack([first, abs(first - vectorizer.transform(split.text_pair))])

    model = LogisticRegression(max_iter=100, C=0.3).fit(features(splits["train"]), splits["train"].label)
    score = model.score(features(splits["dev"]), splits["dev"].label)
    assert score <= 0.75
    if name == "sentiment":
        assert score >= 0.55  # the words are a first foothold: without it training stays on a plateau for long


def test_unknown_task_is_named():
    with pytest.raises(UserError, match="Did you mean sentiment"):
        synthetic.load("sentimant")
