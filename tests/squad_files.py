"""Made-up questions and contexts in the layout of SQuAD's files."""

import json

import numpy as np

NAMES = ("ada", "bo", "carl", "dora", "emil")
COLOURS = ("red", "dark blue", "green", "light grey")
PLACES = ("rome", "new oslo")
QUESTIONS = ("which colour ?", "which place ?")
FILLERS = "the people of this town often say that it was late .".split()


def write(path, articles):
    """The path of a file.  articles: {title: [(context, [(question, answers or None)])]}, answers as (text, start)."""
    data, number = [], 0
    for title, paragraphs in articles.items():
        made = []
        for context, asked in paragraphs:
            questions = []
            for question, answers in asked:
                found = {"id": f"q{number}", "question": question}
                if answers is not None:
                    found["answers"] = [{"text": text, "answer_start": start} for text, start in answers]
                questions.append(found)
                number += 1
            made.append({"context": context, "qas": questions})
        data.append({"title": title, "paragraphs": made})
    path.write_text(json.dumps({"version": "made up", "data": data}), encoding="utf-8")
    return str(path)


def paragraph(rng, words, without=False):
    """(context, questions): a colour and a place among fillers, and a question for each.

    Args:
        rng: numpy's generator.
        words: about this many fillers.
        without: whether every other context has no place.
    """
    fillers = [" ".join(rng.choice(FILLERS, max(1, words // 2))) for _ in range(2)]
    colour, place = str(rng.choice(COLOURS)), str(rng.choice(PLACES))
    parts = [f"{rng.choice(NAMES)} has {colour} ,", fillers[0], f"in {place}", fillers[1]]
    there = not without or rng.random() < 0.5
    context = " ".join(parts if there else [*parts[:2], *parts[3:]])
    answers = [[(colour, context.index(colour))], [(place, context.index(place))] if there else []]
    return context, list(zip(QUESTIONS, answers, strict=True))


def write_vocabulary(path):
    """The path of a WordPiece vocabulary with all words of `paragraph`."""
    words = sorted({*NAMES, *FILLERS, *" ".join([*COLOURS, *PLACES, *QUESTIONS]).split(), "has", "in", ","})
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return str(path)


def made(path, seed, contexts, words=8, without=False, longest=0):
    """The path of a file of questions; with `longest`, the last context has that many fillers."""
    rng = np.random.default_rng(seed)
    paragraphs = [paragraph(rng, words, without) for _ in range(contexts)]
    paragraphs += [paragraph(rng, longest)] if longest else []
    return write(path, {f"article {i}": paragraphs[i::4] for i in range(4)})
