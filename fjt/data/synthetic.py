"""Text that needs no download: four tasks on one small language, generated from a grammar.

A row is first drawn as a meaning (a derivation) and then put into words; its label is computed from the meaning.
Every label is therefore correct by construction, and no single word determines it:

    sentiment   polarity of a review: negation turns it, the main clause outweighs the concession
    agreement   does each verb agree with its own subject, whatever nouns stand in between?
    paraphrase  do two sentences mean the same: voice, order and synonyms changed, or roles, negation, one word?
    hearsay     sentiment as others report it, who agree or doubt; a short step for an encoder that knows sentiment

The choices use only bits of PCG64 and integer arithmetic: they are the same on every machine and NumPy version.
"""

import dataclasses
import functools
import pathlib
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.data.glue import Split, Task

VOCAB = str(pathlib.Path(__file__).with_name("vocab.txt"))  # WordPiece, lower case; stems and suffixes are separate
SIZES = {"train": 8000, "dev": 1000, "test": 500}
SEED = 2026

TASKS = {
    name: Task(name, "classification", labels, ("accuracy",), description)
    for name, labels, description in (
        ("sentiment", ("negative", "positive"), "synthetic reviews: negation and concession decide"),
        ("agreement", ("unacceptable", "acceptable"), "synthetic sentences: does each verb agree with its subject?"),
        ("paraphrase", ("different", "same"), "synthetic pairs: do both sentences say the same?"),
        ("hearsay", ("negative", "positive"), "synthetic reviews that somebody believes or doubts"),
    )
}


Option = TypeVar("Option")
Row = tuple[tuple[str, ...], int]  # (one text or two, label)


class Draw:
    """A stream of choices.

    It uses `random_raw` because NumPy guarantees its bits, but not the bits of Generator's methods.
    """

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return int(self._bits.random_raw()) % n

    def pick(self, options: Sequence[Option]) -> Option:
        """One of the options, all equally likely."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True with a probability of `percent` / 100."""
        return self.below(100) < percent


# --- sentiment

THINGS = "film book song play tale meal show garden hotel poem concert novel".split()
PEOPLE = "doctor lawyer writer teacher guard singer baker pilot farmer nurse judge guest critic painter".split()
PRAISE = "good great clever lovely charming wonderful graceful hopeful careful".split()
BLAME = "bad poor dull silly awful dreadful shameful hopeless careless".split()
LIKE = "enjoy love admire praise".split()
DISLIKE = "detest hate mock despise".split()
ADVERBS = ("", "", "very", "really", "truly", "rather", "quite")

# (affirmative, negated)
ADJECTIVE_CLAUSES = (
    ("the {thing} was {adverb} {word}", "the {thing} was not {adverb} {word}"),
    ("I think that the {thing} was {adverb} {word}", "I doubt that the {thing} was {adverb} {word}"),
    ("it was a {adverb} {word} {thing}", "it was not a {adverb} {word} {thing}"),
    ("every {person} found the {thing} {adverb} {word}", "no {person} found the {thing} {adverb} {word}"),
)
VERB_CLAUSES = (
    ("the {person}s {adverb} {past} the {thing}", "the {person}s did not {adverb} {word} the {thing}"),
    ("every {person} {past} the {thing}", "no {person} {past} the {thing}"),
)
CONTRASTS = (
    "although {other}, {main}",
    "{main}, although {other}",
    "{other}, but {main}",
    "{main} even though {other}",
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A clause that judges something.  word: of PRAISE, BLAME, LIKE or DISLIKE."""

    word: str
    negated: bool


def draw_verdict(draw: Draw, label: int) -> Verdict:
    """A Verdict whose polarity is `label`: 1 for praise, 0 for blame; a negation turns that of the word."""
    negated = draw.chance(25)
    words = draw.pick(((BLAME, PRAISE), (BLAME, PRAISE), (DISLIKE, LIKE)))[label ^ negated]
    return Verdict(draw.pick(words), negated)


def word_verdict(verdict: Verdict, draw: Draw) -> str:
    """A clause that expresses a verdict."""
    clauses = VERB_CLAUSES if verdict.word in LIKE or verdict.word in DISLIKE else ADJECTIVE_CLAUSES
    return draw.pick(clauses)[verdict.negated].format(
        thing=draw.pick(THINGS),
        person=draw.pick(PEOPLE),
        adverb=draw.pick(ADVERBS),
        word=verdict.word,
        past=past(verdict.word),
    )


def sentiment(draw: Draw) -> Row:
    """((text,), label): a verdict, alone or outweighing another one of the opposite polarity."""
    label = draw.below(2)
    main = word_verdict(draw_verdict(draw, label), draw)
    if draw.chance(60):
        return (sentence(main),), label
    other = word_verdict(draw_verdict(draw, 1 - label), draw)
    return (sentence(draw.pick(CONTRASTS).format(main=main, other=other)),), label


# --- hearsay

REPORTS = (
    ("the {person}s think that {clause}", "every {person} was happy that {clause}", "{clause}, the {person} thinks"),
    ("the {person}s doubt that {clause}", "no {person} thinks that {clause}", "{clause}, but the {person} doubts it"),
)  # by whether the reporter doubts the clause


def hearsay(draw: Draw) -> Row:
    """((text,), label): a verdict that somebody reports; a reporter who doubts it turns its polarity."""
    label, doubted = draw.below(2), draw.chance(40)
    clause = word_verdict(draw_verdict(draw, label ^ doubted), draw)
    return (sentence(draw.pick(REPORTS[doubted]).format(clause=clause, person=draw.pick(PEOPLE))),), label


# --- agreement

PLACES = "near beside behind with".split()
DETERMINERS = (("the", "the", "the", "this", "every"), ("the", "the", "the", "these", "many"))  # by number
VERBS = (
    ("is", "are"),
    ("was", "were"),
    ("has been", "have been"),
    ("seems", "seem"),
    ("looks", "look"),
    ("remains", "remain"),
)
STATES = "tired happy late famous old brave rich angry quiet young".split()


def agrees(verbs: Iterable[tuple[int, int]]) -> int:
    """1 when every verb agrees with its subject, else 0.  verbs: (number of the subject, number of the verb)."""
    return int(all(subject == verb for subject, verb in verbs))


def draw_noun(draw: Draw, lemmas: Sequence[str]) -> tuple[str, int]:
    """(a noun with its determiner, 0 for singular or 1 for plural)."""
    number = draw.below(2)
    lemma = draw.pick(lemmas)
    return f"{draw.pick(DETERMINERS[number])} {lemma}{'s' * number}", number


def agreement(draw: Draw) -> Row:
    """((text,), label): a subject, perhaps a phrase or a relative clause with another noun, and a verb.

    In half of the rows one verb does not agree with its subject.
    """
    label = draw.below(2)
    head, number = draw_noun(draw, PEOPLE)
    subjects, phrase, relative = [number], "", ""
    shape = draw.below(4)
    if shape == 1:
        phrase = f"{draw.pick(PLACES)} {draw_noun(draw, PEOPLE + THINGS)[0]}"
    if shape == 2:
        relative, number = draw_noun(draw, PEOPLE)
        subjects.append(number)
    if shape == 3:
        head = f"{draw.pick(PLACES)} {draw_noun(draw, THINGS)[0]}, {head}"
    wrong = None if label else draw.below(len(subjects))
    verbs = [(number, number ^ (i == wrong)) for i, number in enumerate(subjects)]
    if relative:
        phrase = f"that {relative} {draw.pick(LIKE + DISLIKE)}{'' if verbs[1][1] else 's'}"
    predicate = f"{draw.pick(VERBS)[verbs[0][1]]} {draw.pick(ADVERBS)} {draw.pick(STATES)}"
    return (sentence(f"{head} {phrase} {predicate}"),), agrees(verbs)


# --- paraphrase

# Words of one tuple mean the same.
ROLES = (
    ("doctor", "physician"),
    ("lawyer", "attorney"),
    ("boy", "lad"),
    ("pilot",),
    ("farmer",),
    ("nurse",),
    ("judge",),
)
DEEDS = (("help", "aid"), ("phone", "call"), ("trick", "fool"), ("thank",), ("visit",), ("warn",))
QUALITIES = ((), ("brave", "bold"), ("rich", "wealthy"), ("young",))
TIMES = ("", "at night", "after the concert", "when the rain stopped")


@dataclasses.dataclass(frozen=True)
class Event:
    """Who did what to whom: indices into ROLES, QUALITIES, DEEDS and TIMES, so that equal events mean the same."""

    agent: int
    agent_quality: int
    deed: int
    patient: int
    patient_quality: int
    negated: bool
    time: int


def draw_event(draw: Draw) -> Event:
    """An Event between two different people."""
    agent = draw.below(len(ROLES))
    patient = (agent + 1 + draw.below(len(ROLES) - 1)) % len(ROLES)
    qualities = [draw.below(len(QUALITIES)) if draw.chance(20) else 0 for _ in range(2)]
    time = draw.below(len(TIMES)) if draw.chance(30) else 0
    return Event(agent, qualities[0], draw.below(len(DEEDS)), patient, qualities[1], draw.chance(20), time)


def change(event: Event, draw: Draw) -> Event:
    """An event of another meaning: with roles swapped, negation turned, or another deed."""
    kind = draw.below(4)
    if kind < 2:
        return dataclasses.replace(
            event,
            agent=event.patient,
            agent_quality=event.patient_quality,
            patient=event.agent,
            patient_quality=event.agent_quality,
        )
    if kind == 2:
        return dataclasses.replace(event, negated=not event.negated)
    return dataclasses.replace(event, deed=(event.deed + 1 + draw.below(len(DEEDS) - 1)) % len(DEEDS))


def word_event(event: Event, draw: Draw) -> str:
    """A sentence that expresses an event: active or passive, its time first or last, with any synonyms."""
    agent, patient = (
        " ".join(["the", *([draw.pick(QUALITIES[quality])] if quality else []), draw.pick(ROLES[role])])
        for role, quality in ((event.agent, event.agent_quality), (event.patient, event.patient_quality))
    )
    deed = draw.pick(DEEDS[event.deed])
    if draw.below(2):
        text = f"{patient} was {'not ' * event.negated}{past(deed)} by {agent}"
    else:
        text = f"{agent} {'did not ' + deed if event.negated else past(deed)} {patient}"
    time = TIMES[event.time]
    return sentence(f"{time}, {text}" if time and draw.below(2) else f"{text} {time}")


def paraphrase(draw: Draw) -> Row:
    """((text, text_pair), label): an event worded twice, or an event and a changed one."""
    event = draw_event(draw)
    other = event if draw.below(2) else change(event, draw)
    text = text_pair = word_event(event, draw)
    while text_pair == text:
        text_pair = word_event(other, draw)
    return (text, text_pair), int(event == other)


# --- texts and splits


def past(verb: str) -> str:
    """The past tense; every verb here is regular and doubles no letter."""
    return verb + ("d" if verb.endswith("e") else "ed")


def sentence(words: str) -> str:
    """The words with single spaces, 'an' before a vowel, a capital and a full stop."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(words.split()))
    return text[0].upper() + text[1:] + "."


def split_of(text: str) -> str:
    """The split that a sentence belongs to, by its checksum: each split has a fixed share of every kind of sentence.

    If splits were drawn one after another, the first would use up the common short sentences, and the later ones would
    consist of rare and long ones.
    """
    share = zlib.crc32(text.encode()) % 20
    return "test" if share < 4 else "dev" if share < 8 else "train"


@functools.cache
def load(name: str) -> dict[str, Split]:
    """{'train' | 'dev' | 'test': Split}, labelled, half of each label; no sentence of one split occurs in another."""
    if name not in TASKS:
        raise UserError(f"config.task={name!r} is not a synthetic task.{suggest(name, TASKS)}")
    draw_row = {"sentiment": sentiment, "agreement": agreement, "paraphrase": paraphrase, "hearsay": hearsay}[name]
    draw = Draw(SEED, list(TASKS).index(name))
    rows: dict[str, dict[tuple[str, ...], int]] = {split: {} for split in SIZES}
    missing = {(split, label): size // 2 for split, size in SIZES.items() for label in (0, 1)}
    while any(missing.values()):
        texts, label = draw_row(draw)
        split = split_of(texts[0])
        if missing[split, label] and texts not in rows[split] and all(split_of(text) == split for text in texts):
            rows[split][texts] = label
            missing[split, label] -= 1
    splits = {}
    for split, labels in rows.items():
        columns = list(zip(*labels, strict=True))
        splits[split] = Split(
            id=tuple(str(i) for i in range(len(labels))),
            text=columns[0],
            text_pair=columns[1] if len(columns) > 1 else None,
            label=np.array(list(labels.values()), np.int32),
        )
    return splits
