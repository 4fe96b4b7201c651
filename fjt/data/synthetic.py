"""Text that needs no download: four tasks on one small language, made from a grammar whose structure decides.

A row is drawn as a meaning first (a derivation), worded second; its label is computed from the meaning.  So
every label is right by construction, and no single word gives it away:

    sentiment   polarity of a review: negation turns it, the main clause outweighs the concession
    agreement   does each verb agree with its own subject, whatever nouns stand in between?
    paraphrase  do two sentences mean the same: voice, order and synonyms changed, or roles, negation, one word?
    hearsay     sentiment as others report it: they think so or doubt it; little is new to an encoder of sentiment

The choices are bits of PCG64 and integer arithmetic, nothing else: the same on every machine and NumPy version.
"""

import dataclasses
import functools
import pathlib
import re
import zlib

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.data.glue import Split, Task

VOCAB = str(pathlib.Path(__file__).with_name("vocab.txt"))  # WordPiece, lower case; stems and suffixes stand apart
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


class Draw:
    """A stream of choices.  `random_raw` because NumPy keeps its bits for good, not those of Generator's methods."""

    def __init__(self, *seed):
        self._bits = np.random.PCG64(seed)

    def below(self, n):
        return int(self._bits.random_raw()) % n

    def pick(self, options):
        return options[self.below(len(options))]

    def chance(self, percent):
        return self.below(100) < percent


# --- sentiment

THINGS = "film book song play tale meal show garden hotel poem concert novel".split()
PEOPLE = "doctor lawyer writer teacher guard singer baker pilot farmer nurse judge guest critic painter".split()
PRAISE = "good great clever lovely charming wonderful graceful hopeful careful".split()
BLAME = "bad poor dull silly awful dreadful shameful hopeless careless".split()
LIKE = "enjoy love admire praise".split()
DISLIKE = "detest hate mock despise".split()
ADVERBS = ("", "", "very", "really", "truly", "rather", "quite")

# (as it is, negated)
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


def polarity(verdict):
    """1 for praise, 0 for blame: that of the word, turned by a negation."""
    return (verdict.word in PRAISE or verdict.word in LIKE) ^ verdict.negated


def draw_verdict(draw, wanted):
    """A Verdict of polarity `wanted`."""
    negated = draw.chance(25)
    words = draw.pick(((BLAME, PRAISE), (BLAME, PRAISE), (DISLIKE, LIKE)))[wanted ^ negated]
    return Verdict(draw.pick(words), negated)


def word_verdict(verdict, draw):
    """A clause that says it."""
    clauses = VERB_CLAUSES if verdict.word in LIKE or verdict.word in DISLIKE else ADJECTIVE_CLAUSES
    return draw.pick(clauses)[verdict.negated].format(
        thing=draw.pick(THINGS),
        person=draw.pick(PEOPLE),
        adverb=draw.pick(ADVERBS),
        word=verdict.word,
        past=past(verdict.word),
    )


def sentiment(draw):
    """((text,), label): a verdict, or one that outweighs another of the other polarity."""
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
)  # that believe what they report, that do not


def hearsay(draw):
    """((text,), label): a verdict in somebody's words, who turns it where he doubts it."""
    label, doubted = draw.below(2), draw.chance(40)
    clause = word_verdict(draw_verdict(draw, label ^ doubted), draw)
    return (sentence(draw.pick(REPORTS[doubted]).format(clause=clause, person=draw.pick(PEOPLE))),), label


# --- agreement

PLACES = "near beside behind with".split()
DETERMINERS = (("the", "the", "the", "this", "every"), ("the", "the", "the", "these", "many"))  # by number
VERBS = (
    ("is", "are"), ("was", "were"), ("has been", "have been"), ("seems", "seem"),
    ("looks", "look"), ("remains", "remain"),
)  # fmt: skip
STATES = "tired happy late famous old brave rich angry quiet young".split()


def agrees(verbs):
    """1 when every verb has the number of its own subject; verbs: (number of subject, number of verb) of each."""
    return int(all(subject == verb for subject, verb in verbs))


def draw_noun(draw, lemmas):
    """(a noun with its determiner, 0 for singular or 1 for plural)."""
    number = draw.below(2)
    lemma = draw.pick(lemmas)
    return f"{draw.pick(DETERMINERS[number])} {lemma}{'s' * number}", number


def agreement(draw):
    """((text,), label): a subject, perhaps a phrase or a relative clause with a noun of its own, a verb.

    Of the verbs, one is wrong in half of the rows.
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


def draw_event(draw):
    """An Event between two different people."""
    agent = draw.below(len(ROLES))
    patient = (agent + 1 + draw.below(len(ROLES) - 1)) % len(ROLES)
    qualities = [draw.below(len(QUALITIES)) if draw.chance(20) else 0 for _ in range(2)]
    time = draw.below(len(TIMES)) if draw.chance(30) else 0
    return Event(agent, qualities[0], draw.below(len(DEEDS)), patient, qualities[1], draw.chance(20), time)


def change(event, draw):
    """An event that means something else: roles swapped, negation turned, or another deed."""
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


def word_event(event, draw):
    """A sentence that says it, active or passive, its time first or last, each word or its synonym."""
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


def paraphrase(draw):
    """((text, text_pair), label): an event worded twice, or an event and a changed one."""
    event = draw_event(draw)
    other = event if draw.below(2) else change(event, draw)
    text = text_pair = word_event(event, draw)
    while text_pair == text:
        text_pair = word_event(other, draw)
    return (text, text_pair), int(event == other)


# --- texts and splits


def past(verb):
    """The past tense; every verb here is regular and doubles no letter."""
    return verb + ("d" if verb.endswith("e") else "ed")


def sentence(words):
    """The words with single spaces, 'an' before a vowel, a capital and a full stop."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(words.split()))
    return text[0].upper() + text[1:] + "."


def split_of(text):
    """The split that a sentence belongs to, by its checksum: a fixed share of every kind of sentence for each.

    Splits drawn one after another would leave the later ones what the first had not used up: the rare and long.
    """
    share = zlib.crc32(text.encode()) % 20
    return "test" if share < 4 else "dev" if share < 8 else "train"


@functools.cache
def load(name):
    """{'train' | 'dev' | 'test': Split}, labelled, half of each label; no sentence of one split occurs in another."""
    if name not in TASKS:
        raise UserError(f"config.task={name!r} is no synthetic task.{suggest(name, TASKS)}")
    make = {"sentiment": sentiment, "agreement": agreement, "paraphrase": paraphrase, "hearsay": hearsay}[name]
    draw = Draw(SEED, list(TASKS).index(name))
    rows = {split: {} for split in SIZES}
    wanted = {(split, label): size // 2 for split, size in SIZES.items() for label in (0, 1)}
    while any(wanted.values()):
        texts, label = make(draw)
        split = split_of(texts[0])
        if wanted[split, label] and texts not in rows[split] and all(split_of(text) == split for text in texts):
            rows[split][texts] = label
            wanted[split, label] -= 1
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
