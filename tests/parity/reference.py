"""PyTorch's side of the comparisons: real texts and weights where they are, a random small BERT always."""

import csv
import os

import jax
import numpy as np

from fjt.core import seeds
from fjt.data import batches, packing, tokenization
from fjt.data.glue import Split
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.models.families import FAMILIES

MINILM = os.environ.get("FJT_MINILM", "")
FILES = tuple(files for family in FAMILIES.values() for files in family.tokenizer)
SHARED = os.environ.get("FJT_SHARED", "")


def real_texts():
    """32 SST-2 sentences and 32 MRPC pairs as they stand in the files."""

    def column(path, *columns):
        with open(os.path.join(SHARED, "data", "glue", path), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:33]
        return [tuple(row[c] for row in rows) for c in columns]

    (single,) = column("SST-2/dev.tsv", 0)
    first, second = column("MRPC/dev.tsv", 3, 4)
    label = np.arange(32, dtype=np.int32) % 2
    return [Split((), single, None, label), Split((), first, second, label)]


def ours(directory, dtype="float32"):
    """(Model, base parameters) as fjt reads a directory, its classifier included."""
    checkpoint = pretrained.read_checkpoint(directory)
    model = Model(checkpoint.config, 2, dtype=dtype)
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, directory, keep_head=model.head)
    assert loaded.missing == () and loaded.unused == ()
    return model, loaded.params


def encode(directory, split, row_length=0):
    """(Examples, packed batch, place, PyTorch inputs) of a split of 32."""
    tokenizer = tokenization.load_tokenizer(directory, FILES)
    examples = tokenization.tokenize(split, tokenizer, 64)
    indices = np.arange(len(examples))[None]
    shape = packing.plan(batches.lengths_of(examples, indices), row_length=row_length, width=64).shapes[0]
    batch, places = batches.build(examples, indices[0], shape)
    pair = None if split.text_pair is None else list(split.text_pair)
    inputs = tokenizer(
        list(split.text), pair, truncation="longest_first", max_length=64, padding=True, return_tensors="pt"
    )
    return examples, batch, places.slots[0], inputs
