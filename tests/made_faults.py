"""A made table without faults, for the tests of inspections, and the calls that plant faults and look for them."""

import csv

import numpy as np

from configs import classify
from fjt.core import console
from fjt.core.settings import from_config
from fjt.data.tokenization import load_tokenizer
from fjt.experiment.inspection import inspect_task

WORDS = [a + b + c for a in "bdfgk" for b in "aeiou" for c in ("lon", "mar", "net", "ris", "tuk", "vos", "zed", "pim")]
SIZES = {"train": 400, "dev": 100, "test": 100}
LENGTH = 14  # words of a text


def make(seed=0):
    """{split: rows {text, label, source}} of random words and random labels: nothing is to be found in them."""
    rng, found = np.random.default_rng(seed), {}
    for split, size in SIZES.items():
        label = rng.permutation(np.arange(size) % 2)
        texts = [" ".join(rng.choice(WORDS, LENGTH)) for _ in range(size)]
        sources = rng.choice(["web", "book", "mail"], size)
        found[split] = [
            {"text": text, "label": "no yes".split()[y], "source": str(source)}
            for text, y, source in zip(texts, label, sources, strict=True)
        ]
    return found


def vocabulary(folder):
    """The path of a WordPiece vocabulary of all words."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "leftover"]), encoding="utf-8")
    return str(path)


def settings(folder, splits, kind="classification", **options):
    """The settings of a run on tables, which are written to a folder, and a model of random weights."""
    config = classify.get_config(kind)
    config.model.path, config.model.scratch.vocab = "", vocabulary(folder)
    for name, rows in splits.items():
        path = folder / f"{name}.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        config.data.files[name] = str(path)
    config.cache.dir = str(folder / "cache")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in options.items()})
    return from_config(config)


def inspect(folder, splits, kind="classification", **options):
    """The facts of an inspection of tables."""
    made = settings(folder, splits, kind, **options).experiment
    return inspect_task(made, load_tokenizer(vocabulary(folder)), "", console.Silent())


def named(facts, finding, split):
    """The finding of that name in a split, or None."""
    found = [one for one in facts["findings"] if one["finding"] == finding and one["split"] == split]
    assert len(found) < 2
    return found[0] if found else None
